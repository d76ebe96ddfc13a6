"""`detloop queue build` on a small project: one list out of bad cases, suspects, tracks, the pool and the product's complaints, which come first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines.cli import main
from pipelines.core.io import write_json, write_jsonl
from pipelines.core.records import (
    read_detections,
    read_features,
    read_manifest,
    read_samples,
    write_detections,
    write_features,
    write_manifest,
    write_samples,
)
from pipelines.core.tables import MANIFEST_SCHEMA
from pipelines.core.types import SPLITS, Detections, Sample
from pipelines.mining.feedback import read_complaints
from tests.detection_sets import PROJECT_CLASSES as CLASSES
from tests.detection_sets import write_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a mined list: four images of val, all of the pool."""
    write_project(tmp_path / "data", seed=1)
    (tmp_path / "data/params.yaml").unlink()
    (tmp_path / "params.yaml").write_text("classes: [{name: a, aliases: [alpha]}, {name: b}, {name: rare}]\nqueue: {budget: 6, pool_fraction: 0.5}\n")
    monkeypatch.chdir(tmp_path)
    samples = {split: read_samples(Path(f"data/dataset/{split}.jsonl")) for split in SPLITS}
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [item.image_id for part in samples.values() for item in part]
    write_features(Path("data/predictions/features.parquet"), dict(zip(names, vectors, strict=True)))
    write_json(Path("data/evaluation/thresholds.json"), {"classes": {"a": 0.5, "b": 0.5, "rare": 0.5}})
    rows = [ranked(item, "val", 4.0 - number, missed=1) for number, item in enumerate(samples["val"][:4])]
    rows += [ranked(item, "pool", 0.5, unsure=2) for item in samples["pool"]]
    write_jsonl(Path("data/badcases/ranked.jsonl"), rows)
    manifest = [
        dict.fromkeys(MANIFEST_SCHEMA) | {"origin": f"cam/{number:02d}.jpg", "image_id": name, "path": f"images/{name}.jpg", "status": "kept"}
        for number, name in enumerate(names)
    ]
    write_manifest(Path("data/raw/manifest.parquet"), pl.DataFrame(manifest, schema=MANIFEST_SCHEMA))
    return tmp_path


def ranked(item: Sample, split: str, score: float, **kinds: int) -> dict[str, Any]:
    return {"image_id": item.image_id, "path": item.path, "split": split, "score": score, "kinds": kinds, "reasons": [f"{kinds}"]}


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("data/queue", name).read_text().splitlines()]


def split_of(split: str) -> list[str]:
    return [item.image_id for item in read_samples(Path(f"data/dataset/{split}.jsonl"))]


def test_half_of_the_budget_is_unlabeled(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "build"]) == 0
    built = rows("proposal.jsonl")
    assert [row["rank"] for row in built] == [1, 2, 3, 4, 5, 6]
    assert sum(row["split"] == "pool" for row in built) == 3
    assert [row["score"] for row in built] == sorted((row["score"] for row in built), reverse=True)
    said = capsys.readouterr().out
    assert "no suspect labels or tracks yet" in said
    assert "-> confirm the label that the model missed" in said


def test_complaints_come_first_and_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool, train = split_of("pool"), split_of("train")
    Path("data/feedback").mkdir()
    Path("data/feedback/app.csv").write_text(
        f"image,complaint,class,box\n{train[0]},wrong part counted,alpha,10 20 30 40\ncam/39.jpg,nothing found,,\nno/such.jpg,gone,,\n"
    )
    Path("data/feedback/line.jsonl").write_text(
        json.dumps({"image": "a copy.jpg", "image_id": pool[0], "complaint": "again", "box": [1, 2, 3, 4]}) + "\n"
    )
    assert main(["queue", "accept"]) == 0
    first = rows("round-001.jsonl")
    told = {row["image_id"]: row for row in first if "feedback" in row["kinds"]}
    assert [row["rank"] for row in told.values()] == [1, 2, 3]
    assert len(first) == 6
    assert told[train[0]]["reasons"] == ["product complaint about a at (10, 20, 30, 40): wrong part counted"]
    assert told[train[0]]["actions"][0] == "look into the complaint and make the label right"
    assert told[pool[0]]["kinds"] == {"unsure": 2, "feedback": 1}
    assert "1 complaints are about images that are not there, or whose name is not clear: no/such.jpg (app.csv line 4)" in capsys.readouterr().out
    assert main(["queue", "accept"]) == 0
    assert "round 001 was already drawn from this list" in capsys.readouterr().out
    Path("data/feedback/new.jsonl").write_text(json.dumps({"image": train[0], "complaint": "still wrong"}) + "\n")
    assert main(["queue", "accept"]) == 0
    second = rows("round-002.jsonl")
    assert second[0]["image_id"] == train[0], "a new complaint is heard, though the image was asked about"
    assert {row["image_id"] for row in second[1:]}.isdisjoint(row["image_id"] for row in first)


def link(*clusters: list[str]) -> None:
    """Say in the manifest that these images are near-duplicates of each other."""
    group = {name: min(cluster) for cluster in clusters for name in cluster}
    manifest = read_manifest(Path("data/raw/manifest.parquet"))
    best = pl.col("image_id").replace_strict(group, default=None)
    write_manifest(
        Path("data/raw/manifest.parquet"), manifest.with_columns(near_group=best, near_duplicate_of=pl.when(best != pl.col("image_id")).then(best))
    )


def test_of_near_duplicates_people_see_one(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """pool[0] looks like a labeled image, pool[1] and pool[2] like each other, two labeled images with wrong boxes too."""
    train, val, pool = split_of("train"), split_of("val"), split_of("pool")
    link([train[0], pool[0]], pool[1:3], val[:2])
    assert main(["queue", "build", "--budget", "40"]) == 0
    asked = [row["image_id"] for row in rows("proposal.jsonl")]
    assert len(set(pool[1:3]) & set(asked)) == 1
    assert set(asked) >= {*val[:4], *pool[3:]}
    assert len(asked) == 4 + len(pool) - 2
    assert "2 near-duplicates of a labeled or asked image, 0 over the budget" in capsys.readouterr().out


def test_a_chain_of_near_duplicates_does_not_silence_its_far_end(project: Path) -> None:
    """A frame of a slow pan is a near-duplicate of the next; a label on the first says nothing of the last."""
    train, pool = split_of("train"), split_of("pool")
    path = Path("data/raw/manifest.parquet")
    chain = [train[0], pool[0], pool[1], pool[2]]
    stands = {pool[0]: train[0], pool[2]: pool[1]}
    near = pl.col("image_id").replace_strict(dict.fromkeys(chain, min(chain)), default=None)
    for_it = pl.col("image_id").replace_strict(stands, default=None)
    write_manifest(path, read_manifest(path).with_columns(near_group=near, near_duplicate_of=for_it))
    assert main(["queue", "build", "--budget", "40"]) == 0
    asked = {row["image_id"] for row in rows("proposal.jsonl")}
    assert pool[0] not in asked
    assert len({pool[1], pool[2]} & asked) == 1


def test_what_looks_like_an_image_that_was_asked_about_is_not_asked(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "accept"]) == 0
    asked = [row["image_id"] for row in rows("round-001.jsonl") if row["split"] == "pool"]
    twin = next(name for name in split_of("pool") if name not in asked)
    link([asked[0], twin])
    write_jsonl(Path("data/badcases/ranked.jsonl"), [json.loads(line) for line in Path("data/badcases/ranked.jsonl").read_text().splitlines()[1:]])
    capsys.readouterr()
    assert main(["queue", "build", "--budget", "40"]) == 0
    assert twin not in [row["image_id"] for row in rows("proposal.jsonl")]
    assert "1 near-duplicate of a labeled or asked image" in capsys.readouterr().out


def test_a_complaint_about_a_near_duplicate_is_heard(project: Path) -> None:
    train, pool = split_of("train"), split_of("pool")
    link([train[0], *pool[:2]])
    Path("data/feedback").mkdir()
    Path("data/feedback/line.jsonl").write_text(json.dumps({"image": pool[0], "complaint": "nothing found"}) + "\n")
    assert main(["queue", "build", "--budget", "40"]) == 0
    asked = [row["image_id"] for row in rows("proposal.jsonl")]
    assert (asked[0], pool[1] in asked) == (pool[0], False)


def test_suspects_and_tracks_join_the_list(project: Path) -> None:
    train, pool = split_of("train"), split_of("pool")
    suspect = {"image_id": train[3], "image": "images/x.jpg", "split": "train", "kind": "swapped", "score": 3.5, "why": "labeled a, found to be b"}
    suspect |= {"class": "a", "suggested_class": "b"}
    missing = suspect | {"kind": "missing", "score": 1.0, "why": "b without label"}
    track = {"image_id": pool[2], "image": "images/y.jpg", "split": "pool", "kind": "gap", "why": "a is there before and after"}
    write_jsonl(Path("data/suspects/labels.jsonl"), [suspect, missing, missing])
    write_jsonl(Path("data/suspects/tracks.jsonl"), [track, track])
    assert main(["queue", "build", "--budget", "20"]) == 0
    built = {row["image_id"]: row for row in rows("proposal.jsonl")}
    first = built[train[3]]
    assert (first["rank"], first["score"], first["kinds"]) == (1, 5.5, {"label_swapped": 1, "label_missing": 2})
    assert first["actions"] == ["check the label's class", "add the label, or confirm that nothing is there"]
    assert first["reasons"] == ["labeled a, found to be b", "2 times: a b is found where nothing is labeled"]
    assert built[pool[2]]["score"] == 1.0, "two oddities of half a box each; doubt about the image may be about the same boxes"
    assert built[pool[2]]["kinds"] == {"unsure": 2, "track_gap": 2}


def test_a_proposal_that_people_cut_is_what_is_accepted(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["queue", "build"])
    built = rows("proposal.jsonl")
    write_jsonl(Path("data/queue/proposal.jsonl"), [built[0], built[3], built[4]])
    capsys.readouterr()
    main(["queue", "show"])
    assert "proposal: 3 images" in capsys.readouterr().out
    assert main(["queue", "accept"]) == 0
    accepted = rows("round-001.jsonl")
    assert [row["image_id"] for row in accepted] == [built[place]["image_id"] for place in (0, 3, 4)]
    assert [row["rank"] for row in accepted] == [1, 2, 3]
    assert not Path("data/queue/proposal.jsonl").exists()


def test_a_proposal_that_people_cut_is_not_drawn_anew(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["queue", "build"])
    write_jsonl(Path("data/queue/proposal.jsonl"), rows("proposal.jsonl")[:2])
    capsys.readouterr()
    assert main(["queue", "accept", "--budget", "4"]) == 2
    assert "proposal.jsonl is there, and --budget would draw anew: accept it without --budget" in capsys.readouterr().err
    assert len(rows("proposal.jsonl")) == 2


def test_a_proposal_from_an_older_list_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["queue", "build"])
    lines = Path("data/badcases/ranked.jsonl").read_text().splitlines(keepends=True)
    Path("data/badcases/ranked.jsonl").write_text("".join(lines[1:]))
    assert main(["queue", "accept"]) == 2
    assert "was built from an older list: run `detloop queue build` again" in capsys.readouterr().err
    assert not Path("data/queue/round-001.jsonl").exists()
    assert main(["queue", "build"]) == 0
    assert main(["queue", "accept"]) == 0
    assert len(rows("round-001.jsonl")) == 6


def test_building_twice_gives_the_same_bytes(project: Path) -> None:
    main(["queue", "build"])
    first = Path("data/queue/proposal.jsonl").read_bytes()
    main(["queue", "build"])
    assert Path("data/queue/proposal.jsonl").read_bytes() == first


BAD = {
    "no image": ("x.csv", "image,complaint\n,broken\n", "x.csv line 2: lacks image"),
    "below empty lines": ("x.csv", "image,complaint\n\n\n,broken\n", "x.csv line 4: lacks image"),
    "below a text of two lines": ("x.csv", 'image,complaint\na,"not\nhere"\n,broken\n', "x.csv line 4: lacks image"),
    "no complaint": ("x.jsonl", '{"image": "a"}\n', "x.jsonl line 1: lacks complaint"),
    "an unknown class": ("x.jsonl", '{"image": "a", "complaint": "b", "class": "c"}\n', "x.jsonl line 1: class 'c' is not in params.yaml"),
    "a broken box": ("x.csv", "image,complaint,box\na,b,1 2 3\n", "x.csv line 2: box is '1 2 3', wanted"),
    "a box inside out": ("x.jsonl", '{"image": "a", "complaint": "b", "box": [9, 0, 1, 5]}\n', "x.jsonl line 1: box is"),
    "a box without end": ("x.jsonl", '{"image": "a", "complaint": "b", "box": [1, 1, Infinity, 5]}\n', "x.jsonl line 1: box is"),
    "a class that is no text": ("x.jsonl", '{"image": "a", "complaint": "b", "class": ["bolt"]}\n', "class ['bolt'] is not in params.yaml"),
    "not JSON": ("x.jsonl", "broken\n", "x.jsonl line 1: not JSON"),
    "no object": ("x.jsonl", "[1]\n", "x.jsonl line 1: not a JSON object"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_broken_feedback_is_one_line(project: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    name, text, message = BAD[case]
    Path("data/feedback").mkdir()
    Path("data/feedback", name).write_text(text)
    assert main(["queue", "build"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_every_broken_row_is_told() -> None:
    with pytest.raises(Exception, match=r"2 rows: a.jsonl line 1: lacks complaint; b.csv line 3: lacks image"):
        read_complaints({"b.csv": "image,complaint\nx,y\n,z\n", "a.jsonl": '{"image": "q"}\n'}, {})


def test_a_line_may_hold_every_sign_that_json_allows() -> None:
    text = "too late\u2028and twice\x85"
    (complaint,) = read_complaints({"a.jsonl": json.dumps({"image": "q", "complaint": text}, ensure_ascii=False) + "\r\n"}, {})
    assert complaint.text == text.strip()


def test_images_that_came_after_the_predictions_are_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As after `dvc repro dataset`, when a complaint brought its image."""
    path = Path("data/predictions/features.parquet")
    known = read_features(path)
    write_features(path, {name: vector for name, vector in known.items() if name not in split_of("pool")[:2]})
    assert main(["queue", "build"]) == 2
    said = capsys.readouterr().err
    assert "features.parquet knows nothing of 2 images of the dataset: run `dvc repro predict`" in said
    assert said.count("\n") == 1


def _pool(source: str, grey: int, seen: str) -> str:
    """One more unlabeled image, in which the model sees a class right at its threshold."""
    path, found = Path("data/dataset/pool.jsonl"), Path("data/predictions/pool.parquet")
    samples, detections = read_samples(path), read_detections(found, CLASSES)
    name = f"{len(samples):064x}"
    item = Sample(name, f"images/{name}.jpg", 420, 420, None, (), source, name, None, float(grey))
    detections[name] = Detections(np.array([[0, 0, 40, 40]], np.float32), np.array([0.5], np.float32), np.array([CLASSES.index(seen)]))
    write_samples(path, [*samples, item])
    write_detections(found, detections, CLASSES)
    vectors = Path("data/predictions/features.parquet")
    write_features(vectors, read_features(vectors) | {name: np.eye(8, dtype=np.float32)[0]})
    listed = Path("data/badcases/ranked.jsonl")
    write_jsonl(listed, [*(json.loads(line) for line in listed.read_text().splitlines()), ranked(item, "pool", 0.5, unsure=1)])
    return name


def test_quotas_and_limits_are_shares_of_the_unlabeled_images_that_are_asked(project: Path) -> None:
    """Of eight images four are unlabeled: at most two of them from one camera, and one with each class that the model sees."""
    write_samples(Path("data/dataset/pool.jsonl"), [])
    rest = [line for line in Path("data/badcases/ranked.jsonl").read_text().splitlines() if json.loads(line)["split"] == "val"]
    Path("data/badcases/ranked.jsonl").write_text("".join(f"{line}\n" for line in rest))
    of_one = [_pool("front", 100, "a") for _ in range(6)]
    others = [_pool("side", 100, "a"), _pool("back", 100, "b"), _pool("top", 100, "a")]
    Path("params.yaml").write_text(
        "classes: [{name: a, aliases: [alpha]}, {name: b}, {name: rare}]\n"
        "queue: {budget: 8, pool_fraction: 0.5, slice_limit: 0.5, class_quota: 0.25}\n"
    )
    assert main(["queue", "build"]) == 0
    asked = [row["image_id"] for row in rows("proposal.jsonl") if row["split"] == "pool"]
    assert (len(asked), len({*asked} & {*of_one})) == (4, 2)
    assert others[1] in asked


def test_the_share_of_unlabeled_images_is_a_least_one(project: Path) -> None:
    assert main(["queue", "build", "--budget", "5"]) == 0
    assert sum(row["split"] == "pool" for row in rows("proposal.jsonl")) == 3


def test_a_class_that_came_after_the_thresholds_is_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("{name: rare}]", "{name: rare}, {name: newest}]"))
    assert main(["queue", "build"]) == 2
    said = capsys.readouterr().err
    assert "thresholds.json is for the classes ['a', 'b', 'rare'], params.yaml has ['a', 'b', 'rare', 'newest']: run `dvc repro evaluate`" in said
    assert said.count("\n") == 1
