"""The dataset stage: files in, files out; what is left out is named; runs can be repeated."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.core.errors import ClassContractError, DataError, LeakError
from pipelines.core.records import read_samples, write_annotations, write_manifest
from pipelines.core.tables import MANIFEST_SCHEMA
from pipelines.core.types import Annotation, Box
from pipelines.dataset.assignments import read_assignments
from pipelines.stages.dataset import work
from tests.images import jpeg

PARAMS = "classes: [{name: bolt}, {name: nut}]\n"


def row(name: str, **values: Any) -> dict[str, Any]:
    kept = values.get("status", "kept") == "kept"
    start = {
        "origin": f"cam/{name}.jpg",
        "image_id": name,
        "path": f"images/{name[:2]}/{name}.jpg" if kept else None,
        "status": "kept",
        "source": "cam",
    }
    return {**dict.fromkeys(MANIFEST_SCHEMA), **start, "width_px": 100, "height_px": 80, "brightness": 99.5, **values}


def label(name: str, *boxes: tuple[str, float], state: str | None = None, width: int = 100) -> Annotation:
    found = tuple(Box(class_name, (0.0, 0.0, side, side)) for class_name, side in boxes)
    return Annotation(name, state or ("labeled" if boxes else "verified_empty"), width, 80, found, "team")  # type: ignore[arg-type]


def build(folder: Path, rows: list[dict[str, Any]], labels: list[Annotation], params: str = PARAMS) -> dict[str, Any]:
    (folder / "params.yaml").write_text(params)
    write_manifest(folder / "manifest.parquet", pl.DataFrame(rows, schema=MANIFEST_SCHEMA))
    write_annotations(folder / "annotations.jsonl", labels)
    for entry in rows:
        if entry["path"] is not None and not (folder / "raw" / entry["path"]).exists():
            (folder / "raw" / entry["path"]).parent.mkdir(parents=True, exist_ok=True)
            (folder / "raw" / entry["path"]).write_bytes(jpeg(int.from_bytes(entry["image_id"].encode(), "big"), (100, 80)))
    names = {
        "manifest": "manifest.parquet",
        "annotations": "annotations.jsonl",
        "raw": "raw",
        "assignments": "splits/assignments.jsonl",
        "rounds": "splits/rounds.jsonl",
        "work": "work",
        "metrics": "dataset.json",
    }
    work(argparse.Namespace(params=folder / "params.yaml", dataset=folder / "dataset", **{key: folder / name for key, name in names.items()}))
    metrics: dict[str, Any] = json.loads((folder / "dataset.json").read_text())
    return metrics


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_states_go_where_they_belong(tmp_path: Path) -> None:
    rows = [row(f"{number:02d}", group=f"g{number // 2}") for number in range(12)]
    rows += [row("gone", status="dropped", reason="blurred")]
    labels = [label(f"{number:02d}", ("bolt", 10.0), ("nut", 40.0)) for number in range(8)]
    labels += [label("08"), label("09", state="skipped"), label("10", state="conflict"), label("gone", ("nut", 5.0)), label("never", ("nut", 5.0))]
    metrics = build(tmp_path, rows, labels)
    splits = {name: read_samples(tmp_path / f"dataset/{name}.jsonl") for name in ("train", "val", "test", "pool")}
    assert sorted(sample.image_id for name in ("train", "val", "test") for sample in splits[name]) == [f"{number:02d}" for number in range(9)]
    assert [(sample.image_id, sample.state, sample.boxes) for sample in splits["pool"]] == [("09", None, ()), ("10", None, ()), ("11", None, ())]
    assert metrics["pool_states"] == {"unlabeled": 1, "skipped": 1, "conflict": 1}
    assert metrics["annotations_without_image"]["first"] == ["cam/gone.jpg (blurred)", "never (not in the inbox)"]
    sample = splits["train"][0]
    assert (sample.path, sample.width_px, sample.source, sample.group[:5], sample.brightness) == (
        f"images/{sample.image_id}/{sample.image_id}.jpg",
        100,
        "cam",
        "cam/g",
        99.5,
    )
    card = json.loads((tmp_path / "dataset/card.json").read_text())
    assert (card["classes"], card["class_hash"]) == (["bolt", "nut"], metrics["class_hash"])
    assert sum(card["splits"][name]["boxes_by_class"]["bolt"] for name in ("train", "val", "test")) == 8
    sizes = [card["box_sizes"][name] for name in ("train", "val", "test")]
    assert [sum(column) for column in zip(*(size["bolt"] for size in sizes), strict=True)] == [0, 8, 0, 0, 0, 0, 0, 0]  # side 10: from 8 to 16
    assert [sum(column) for column in zip(*(size["nut"] for size in sizes), strict=True)] == [0, 0, 0, 8, 0, 0, 0, 0]  # side 40: from 32 to 64


def test_a_second_run_changes_no_byte_and_new_images_move_no_old_one(tmp_path: Path) -> None:
    rows = [row(f"{number:02d}") for number in range(30)]
    labels = [label(f"{number:02d}", ("bolt", 10.0)) for number in range(30)]
    build(tmp_path, rows, labels)
    before, old = contents(tmp_path), read_assignments(tmp_path / "splits/assignments.jsonl")
    build(tmp_path, rows, labels)
    assert contents(tmp_path) == before
    build(tmp_path, rows + [row(f"n{number}") for number in range(9)], [*labels, *(label(f"n{number}", ("nut", 9.0)) for number in range(9))])
    new = read_assignments(tmp_path / "splits/assignments.jsonl")
    assert {name: new[name] for name in old} == old
    assert len(new) == 39
    build(tmp_path, rows[:3], labels[:3])
    assert read_assignments(tmp_path / "splits/assignments.jsonl") == new, "images that are away keep their side"


def test_images_that_left_a_side_are_told_with_their_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The frozen test set shrank without a word when its images were deleted, dropped by a threshold, or labeled as skipped."""
    rows = [row(f"{number:02d}", given_split="test" if number < 10 else "train") for number in range(30)]
    labels = [label(f"{number:02d}", ("bolt", 10.0)) for number in range(30)]
    assert build(tmp_path, rows, labels)["absent"] == {}
    frozen = (tmp_path / "dataset/test.jsonl").read_bytes()
    capsys.readouterr()
    now = [row("00", status="dropped", reason="blurred"), *rows[2:]]  # 01 is deleted
    skipped = [label("02", state="skipped"), *(item for item in labels[4:] if item.image_id != "29")]  # 03 and 29 have no label any more
    metrics = build(tmp_path, now, skipped)
    assert metrics["absent"] == {
        "test": {
            "blurred": {"count": 1, "first": ["cam/00.jpg"]},
            "not_in_the_inbox": {"count": 1, "first": ["01"]},
            "skipped": {"count": 1, "first": ["cam/02.jpg"]},
            "unlabeled": {"count": 1, "first": ["cam/03.jpg"]},
        },
        "train": {"unlabeled": {"count": 1, "first": ["cam/29.jpg"]}},
    }
    said = "test lacks 4 images that it had (1 blurred, 1 not in the inbox, 1 skipped, 1 unlabeled): put back what should not be gone"
    assert any(text.startswith(said) for text in metrics["warnings"])
    assert f"dataset: {said}" in capsys.readouterr().out
    assert build(tmp_path, rows, labels)["absent"] == {}
    assert (tmp_path / "dataset/test.jsonl").read_bytes() == frozen


def test_the_card_tells_the_drift_since_the_last_round(tmp_path: Path) -> None:
    """Round 1: 30 bolts of cam, round 2: the same and 10 nuts of top. Of all boxes a quarter would have to be others, of the images too."""
    rows = [row(f"{number:02d}") for number in range(30)]
    labels = [label(f"{number:02d}", ("bolt", 10.0)) for number in range(30)]
    build(tmp_path, rows, labels)
    assert json.loads((tmp_path / "dataset/card.json").read_text())["drift"] is None
    rows += [row(f"n{number}", source="top", origin=f"top/n{number}.jpg", brightness=40.0) for number in range(10)]
    labels += [label(f"n{number}", ("nut", 100.0), ("nut", 100.0), ("nut", 100.0)) for number in range(10)]
    for _ in range(2):  # the same again is no new round
        build(tmp_path, rows, labels)
        lines = [json.loads(line) for line in (tmp_path / "splits/rounds.jsonl").read_text().splitlines()]
        assert [(line["round"], sum(line["images"].values())) for line in lines] == [(1, 30), (2, 40)]
        drift = json.loads((tmp_path / "dataset/card.json").read_text())["drift"]
        assert drift["since_round"] == 1
        assert sum(part["now"] for part in drift["images"].values()) == 40
        moved = {name: part["moved"] for name, part in drift.items() if name.startswith(("boxes", "images_"))}
        assert moved == {
            "boxes_by_class": 0.5,
            "boxes_by_side_px": 0.5,
            "images_by_source": 0.25,
            "images_by_brightness": 0.25,
            "images_by_state": 0.0,
        }
        assert drift["boxes_by_class"]["appeared"] == ["nut"]
        assert drift["images_by_source"]["before"] == {"cam": 30}
    build(tmp_path, rows[:30], labels[:30])
    drift = json.loads((tmp_path / "dataset/card.json").read_text())["drift"]
    assert (drift["since_round"], drift["images_by_source"]["disappeared"]) == (2, ["top"])


def test_classes_may_be_appended_and_renamed_but_not_moved(tmp_path: Path) -> None:
    """An index means the same in every model of a project; the first round has nothing to be held against."""
    rows = [row(f"{number:02d}") for number in range(12)]
    labels = [label(f"{number:02d}", ("bolt", 10.0)) for number in range(12)]
    build(tmp_path, rows, labels)
    before = contents(tmp_path / "splits")
    for params in ("classes: [{name: nut}, {name: bolt}]\n", "classes: [{name: bolt}]\n", "classes: [{name: bolt}, {name: disc}, {name: nut}]\n"):
        with pytest.raises(ClassContractError, match=r"rounds.jsonl (has the classes \['bolt', 'nut'\]|knows \['nut'\]), .*append-only"):
            build(tmp_path, rows, labels, params)
    assert contents(tmp_path / "splits") == before
    build(tmp_path, rows, labels, "classes: [{name: bolt}, {name: hex, aliases: [nut]}, {name: disc}, {name: pin}]\n")
    with pytest.raises(ClassContractError, match=r"\['bolt', 'hex', 'disc', 'pin'\]"):  # of a class without labels, too
        build(tmp_path, rows, labels, "classes: [{name: bolt}, {name: hex, aliases: [nut]}, {name: pin}, {name: disc}]\n")
    for path in (tmp_path / "splits").iterdir():  # back at the old commit
        path.write_bytes(before[path.name])
    build(tmp_path, rows, labels)
    assert contents(tmp_path / "splits") == before


def test_rounds_without_classes_are_read(tmp_path: Path) -> None:
    """Older versions noted none."""
    rows, labels = [row(f"{number:02d}") for number in range(12)], [label(f"{number:02d}", ("bolt", 10.0)) for number in range(12)]
    build(tmp_path, rows, labels)
    path = tmp_path / "splits/rounds.jsonl"
    line = json.loads(path.read_text())
    del line["classes"]
    path.write_text(json.dumps(line) + "\n")
    build(tmp_path, rows, labels, "classes: [{name: nut}, {name: bolt}]\n")
    assert json.loads(path.read_text()) == {**line, "classes": ["nut", "bolt"]}


def test_near_duplicates_across_given_splits_are_named(tmp_path: Path) -> None:
    rows = [row("a", near_group="a", given_split="val"), row("b", near_group="a", given_split="train"), row("c", given_split="train")]
    metrics = build(tmp_path, rows, [label(name, ("bolt", 9.0)) for name in "abc"])
    assert metrics["near_duplicates_across_split"] == [
        {"kept": "cam/a.jpg", "kept_split": "val", "dropped": "cam/b.jpg", "dropped_split": "train"},
    ]
    assert metrics["dropped_by_reason"] == {"near_duplicate_across_split": {"count": 1, "first": ["cam/b.jpg"]}}
    assert [metrics["splits"][name]["images"] for name in ("train", "val", "test", "pool")] == [1, 1, 0, 0]
    assert "test has no images: label more images, of more groups" in metrics["warnings"]


def test_pool_images_that_look_like_labeled_ones_are_counted(tmp_path: Path) -> None:
    """b looks like the labeled a; d and e look like each other, c like an image that has left for another size, and none of them is labeled."""
    clusters = {"a": "a", "b": "a", "c": "c", "misfit": "c", "d": "d", "e": "d", "f": None}
    rows = [row(name, near_group=cluster, near_duplicate_of=None if cluster == name else cluster) for name, cluster in clusters.items()]
    metrics = build(tmp_path, rows, [label("a", ("bolt", 9.0)), label("misfit", ("bolt", 9.0), width=80)])
    assert metrics["splits"]["pool"]["images"] == 5
    assert metrics["pool_near_duplicates_of_labeled"] == {"count": 1, "first": ["cam/b.jpg"]}
    assert json.loads((tmp_path / "dataset/card.json").read_text())["pool_near_duplicates_of_labeled"] == 1


def test_copies_on_two_given_lists_stop_the_run_until_one_is_given_up(tmp_path: Path) -> None:
    copy = row("a", status="dropped", reason="exact_duplicate", duplicate_of="a", given_split="test", origin="cam/copy.jpg")
    rows, labels = [row("a", given_split="train"), copy, row("b", given_split="train")], [label(name, ("bolt", 9.0)) for name in "ab"]
    with pytest.raises(
        LeakError, match=r"cam/a.jpg \(train\) and cam/copy.jpg \(test\): the same image; correct its lists, or name .* dataset.leave_out"
    ):
        build(tmp_path, rows, labels)
    for given_up, expected in (("cam/copy.jpg", "train"), ("cam/a.jpg", "test")):
        folder = tmp_path / expected
        folder.mkdir()
        build(folder, rows, labels, PARAMS + f"dataset: {{leave_out: [{given_up}]}}\n")
        assert "a" in [sample.image_id for sample in read_samples(folder / f"dataset/{expected}.jsonl")]


def test_left_out_images_are_named_and_go_nowhere(tmp_path: Path) -> None:
    rows = [row("a"), row("b"), row("c"), row("d")]
    params = PARAMS + "dataset: {leave_out: [cam/b.jpg, cam/never.jpg]}\n"
    metrics = build(tmp_path, rows, [label(name, ("bolt", 9.0)) for name in "abc"], params)
    splits = {name: [sample.image_id for sample in read_samples(tmp_path / f"dataset/{name}.jsonl")] for name in ("train", "val", "test", "pool")}
    assert all("b" not in ids for ids in splits.values())
    assert splits["pool"] == ["d"]
    assert metrics["dropped_by_reason"] == {"left_out": {"count": 1, "first": ["cam/b.jpg"]}}
    assert metrics["left_out"] == [{"origin": "cam/b.jpg", "like": []}]
    assert metrics["annotations_without_image"]["count"] == 0
    assert "dataset.leave_out names files that are not in the inbox: cam/never.jpg" in metrics["warnings"]


def test_a_copy_in_a_group_of_another_side_leaves(tmp_path: Path) -> None:
    rows = [
        row("a", group="g", given_split="train"),
        row("a", group="h", status="dropped", reason="exact_duplicate", duplicate_of="a", origin="cam/copy.jpg"),
        row("b", group="h", given_split="test"),
        row("c", given_split="train"),
    ]
    metrics = build(tmp_path, rows, [label(name, ("bolt", 9.0)) for name in "abc"])
    assert [entry["dropped"] for entry in metrics["near_duplicates_across_split"]] == ["cam/a.jpg"]


def test_labels_drawn_on_another_size_are_left_out_by_name(tmp_path: Path) -> None:
    metrics = build(tmp_path, [row("a"), row("b")], [label("a", ("bolt", 9.0)), label("b", ("bolt", 9.0), width=80)])
    assert metrics["dropped_by_reason"] == {"label_for_another_size": {"count": 1, "first": ["cam/b.jpg"]}}
    assert metrics["splits"]["pool"]["images"] == 0


def test_warnings_name_classes_that_a_side_lacks(tmp_path: Path) -> None:
    rows = [row(f"{number:02d}") for number in range(20)]
    metrics = build(tmp_path, rows, [label(f"{number:02d}", ("bolt", 9.0), *([("nut", 9.0)] if number == 7 else [])) for number in range(20)])
    assert metrics["splits"]["train"]["boxes_by_class"]["nut"] == 1
    assert [text.partition(":")[0] for text in metrics["warnings"]] == [
        "val has no box of class nut",
        "test has only 4 boxes of class bolt",
        "test has no box of class nut",
    ]


def test_nothing_to_train_on_says_to_label(tmp_path: Path) -> None:
    for labels in ([], [label("a", state="skipped")]):
        with pytest.raises(DataError, match=r"nothing to train on: 1 images are kept, 0 .* label images"):
            build(tmp_path, [row("a")], labels)
    dropped = [
        row("a", status="dropped", reason="blurred"),
        row("b", status="dropped", reason="too_dark"),
        row("c", status="dropped", reason="blurred"),
    ]
    with pytest.raises(DataError, match=r"collect kept none of 3 files \(2 blurred, 1 too_dark\): correct `collect` in params.yaml"):
        build(tmp_path, dropped, [label("a", ("bolt", 9.0))])
    assert not (tmp_path / "dataset").exists()
    assert not (tmp_path / "splits").exists()


def test_a_class_that_params_lack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClassContractError, match="washer"):
        build(tmp_path, [row("a")], [label("a", ("washer", 9.0))])


def test_a_leak_stops_the_run_and_leaves_earlier_files(tmp_path: Path) -> None:
    rows, labels = [row("a", given_split="train"), row("b", given_split="test")], [label(name, ("bolt", 9.0)) for name in "ab"]
    build(tmp_path, rows, labels)
    before = contents(tmp_path / "dataset")
    with pytest.raises(LeakError, match=r"cam/a.jpg is assigned to train, cam/b.jpg to test"):
        build(tmp_path, [{**entry, "group": "g"} for entry in rows], labels)
    assert contents(tmp_path / "dataset") == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<<<<<<< HEAD\n", "line 1 is not JSON"),
        ('{"image_id":"a","split":"pool","component":"a"}\n', "line 1 is not image_id, split"),
        ('\n\n{"image_id":"a","split":"train"}\n', "line 3 is not image_id, split"),
        ('{"image_id":"a","split":"train","component":"a"}\n{"image_id":"a","split":"test","component":"a"}\n', "another side or component"),
        ('{"image_id":"a","split":"train","component":"a"}\n{"image_id":"b","split":"test","component":"a"}\n', r"a \(train\) and b \(test\)"),
    ],
    ids=["merge_marks", "pool", "short", "two_sides", "moved_by_hand"],
)
def test_a_damaged_assignments_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/assignments.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        build(tmp_path, [row("a")], [label("a", ("bolt", 9.0))])
