"""`detloop analyze` on COCO files. Oracles: the figures of pycocotools and the TIDE tool in the shared folder."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.cli import main
from pipelines.commands.analyze import TIDE_NAMES
from pipelines.core.boxes import iou_matrix

IMAGES = [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2)]
CATEGORIES = [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}]
LABEL = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 10]}
FOUND = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.9}
WRONG = {"image_id": 2, "category_id": 7, "bbox": [5, 5, 40, 50], "score": 0.8}


def analyze(folder: Path, truth: Any, results: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gt.json").write_text(json.dumps(truth))
    (folder / "dt.json").write_text(json.dumps(results))
    assert main(["analyze", "--gt", str(folder / "gt.json"), "--dt", str(folder / "dt.json"), "--out", str(folder / "out")]) == 0
    return json.loads((folder / "out/analysis.json").read_text()), [json.loads(line) for line in (folder / "out/badcases.jsonl").open()]


def coco(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {"images": IMAGES, "categories": CATEGORIES, "annotations": list(annotations)}


@pytest.mark.parametrize(("file", "key"), [("dt.json", "tide"), ("dt_extra_class.json", "tide_extra_class")])
def test_shared_oracle(shared: Path, tmp_path: Path, file: str, key: str) -> None:
    """A class with detections and no label stays out of every mean, as in pycocotools; its detections are counted."""
    folder = shared / "oracles/tide"
    expected = json.loads((folder / "expected.json").read_text())
    analysis, rows = analyze(tmp_path, json.loads((folder / "gt.json").read_text()), json.loads((folder / file).read_text()))
    assert {name: analysis["coco"][name] for name in expected["coco"]} == pytest.approx(expected["coco"], abs=1e-6)
    wanted = {**expected["tide"]["main_dAP"], **expected["tide"]["special_dAP"]}
    assert {name: 100 * gain for name, gain in analysis["tide"]["dAP"].items()} == pytest.approx(wanted, abs=1e-3)
    assert 100 * analysis["tide"]["AP50"] == pytest.approx(expected["tide"]["ap50"], abs=1e-3)
    assert analysis["tide"]["counts"] == expected[key]["counts"]
    assert Counter(TIDE_NAMES[row["kind"]] for row in rows) == expected[key]["counts"]


def test_rows_hold_what_the_files_say(shared: Path, tmp_path: Path) -> None:
    folder = shared / "oracles/tide"
    truth, results = json.loads((folder / "gt.json").read_text()), json.loads((folder / "dt.json").read_text())
    analysis, rows = analyze(tmp_path, truth, results)
    names = {item["id"]: item["name"] for item in truth["categories"]}
    for row in rows:
        labels = sorted((names[a["category_id"]], *_xyxy(a)) for a in truth["annotations"] if a["image_id"] == row["image_id"])
        found = sorted((-d["score"], names[d["category_id"]], *_xyxy(d)) for d in results if d["image_id"] == row["image_id"])
        if row["kind"] != "background":
            assert labels[row["truth_index"]][0] == row["class"]
            assert list(labels[row["truth_index"]][1:]) == pytest.approx(row["truth_box"], abs=0.006)
        if row["kind"] != "missed":
            assert found[row["detection_index"]][:2] == (pytest.approx(-row["score"], abs=1e-6), row["predicted_class"])
            assert list(found[row["detection_index"]][2:]) == pytest.approx(row["box"], abs=0.006)
        if row["box"] and row["truth_box"]:
            assert iou_matrix(np.array([row["box"]]), np.array([row["truth_box"]]))[0, 0] == pytest.approx(row["iou"], abs=0.01)
        assert row["image"] == f"{row['image_id']}.jpg"
        assert row["ap50_gain"] >= 0
    assert analysis["detections"] == analysis["right"] + sum(row["kind"] != "missed" for row in rows)
    for part in ("by_class", "by_size"):
        total = Counter({TIDE_NAMES[kind]: sum(item[kind] for item in analysis[part].values()) for kind in TIDE_NAMES})
        assert total == Counter(analysis["tide"]["counts"])


def test_order_of_the_files_changes_no_byte(shared: Path, tmp_path: Path) -> None:
    folder = shared / "oracles/tide"
    truth, results = json.loads((folder / "gt.json").read_text()), json.loads((folder / "dt.json").read_text())
    for item in results:
        item["score"] = round(item["score"], 1)  # many ties
    analyze(tmp_path / "first", truth, results)
    for seed in range(3):
        for items in (truth["images"], truth["annotations"], truth["categories"], results):
            random.Random(seed).shuffle(items)
        analyze(tmp_path / "mixed", truth, results)
        for name in ("analysis.json", "badcases.jsonl"):
            assert (tmp_path / "mixed/out" / name).read_bytes() == (tmp_path / "first/out" / name).read_bytes()


@pytest.mark.parametrize("ids", [(1, 3), (-(2**63), 2**63 - 1), (3, 10**12)], ids=["close", "the ends", "far apart"])
def test_ids_may_be_any_whole_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str], ids: tuple[int, int]) -> None:
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in ids]
    labels = [{**LABEL, "id": place, "image_id": number} for place, number in enumerate(ids)]
    _, rows = analyze(tmp_path, {**coco(*labels), "images": images}, [{**FOUND, "image_id": ids[1]}])
    assert [(row["kind"], row["image_id"]) for row in rows] == [("missed", ids[0])]
    between = [{**FOUND, "image_id": sum(ids) // 2}]
    (tmp_path / "dt.json").write_text(json.dumps(between))
    assert main(["analyze", "--gt", str(tmp_path / "gt.json"), "--dt", str(tmp_path / "dt.json"), "--out", str(tmp_path / "out")]) == 2
    assert f"the truth file does not know ({sum(ids) // 2})" in capsys.readouterr().err


EMPTY: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], float | None, dict[str, int]]] = {
    "neither": ([], [], None, {}),
    "no labels": ([], [FOUND, WRONG], None, {"Bkg": 2}),
    "no detections": ([LABEL], [], 0.0, {"Miss": 1}),
    "one class": ([LABEL], [FOUND], 1.0, {}),
    "a class without labels": ([LABEL], [FOUND, WRONG], 1.0, {"Bkg": 1}),
}


@pytest.mark.parametrize("case", EMPTY, ids=str)
def test_empty_cases(tmp_path: Path, case: str) -> None:
    labels, results, ap, counts = EMPTY[case]
    analysis, rows = analyze(tmp_path, coco(*labels), results)
    assert (analysis["coco"]["AP"], analysis["tide"]["AP50"]) == (ap, ap)
    assert analysis["tide"]["counts"] == {**dict.fromkeys(TIDE_NAMES.values(), 0), **counts}
    assert Counter(TIDE_NAMES[row["kind"]] for row in rows) == counts
    assert all((row["ap50_gain"] is None) == (ap is None) for row in rows)


def test_no_image_at_all(tmp_path: Path) -> None:
    analysis, rows = analyze(tmp_path, {"images": [], "categories": [], "annotations": []}, [])
    assert (analysis["images"], analysis["coco"]["AP"], rows) == (0, None, [])


def test_images_need_no_file_name(tmp_path: Path) -> None:
    analysis, rows = analyze(tmp_path, {**coco(LABEL), "images": [{"id": 1}, {"id": 2}]}, [WRONG])
    assert analysis["tide"]["counts"]["Bkg"] == 1
    assert {row["image"] for row in rows} == {None}


def test_what_is_left_out_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crowd = {**LABEL, "id": 2, "iscrowd": 1}
    many = [{**FOUND, "bbox": [number, 100, 5, 5], "score": 0.1} for number in range(101)]
    analysis, rows = analyze(tmp_path, coco(LABEL, crowd), [FOUND, *many])
    assert analysis["left_out"] == {"crowd_regions": 1, "beyond_100_of_a_class_on_an_image": 2}
    assert (analysis["detections"], len(rows)) == (100, 99)
    assert "left out: 1 crowd_regions, 2 beyond_100_of_a_class_on_an_image" in capsys.readouterr().out


def test_worth_of_one_error_by_hand(tmp_path: Path) -> None:
    """Two labels of one class, found by the first and third detection: precision 1 up to recall 0.5 and 2/3 beyond; without the wrong one it is 1."""
    second = {**LABEL, "id": 2, "image_id": 2, "bbox": [50, 50, 10, 10]}
    results = [FOUND, {**FOUND, "bbox": [80, 80, 9, 9], "score": 0.8}, {**FOUND, "image_id": 2, "bbox": [50, 50, 10, 10], "score": 0.7}]
    analysis, rows = analyze(tmp_path, coco(LABEL, second), results)
    assert analysis["tide"]["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-6)
    assert [(row["kind"], row["detection_index"]) for row in rows] == [("background", 1)]
    assert rows[0]["ap50_gain"] == pytest.approx(50 / 3 / 101, abs=1e-9)


def _missing_key(truth: dict[str, Any], _: list[dict[str, Any]]) -> None:
    del truth["annotations"]


BAD: dict[str, tuple[Callable[[dict[str, Any], list[dict[str, Any]]], Any], str]] = {
    "no annotations": (_missing_key, "gt.json is not a COCO truth file"),
    "an id twice": (lambda truth, _: truth["images"].append(truth["images"][0]), "images need id each, and no id twice"),
    "a broken label": (lambda truth, _: truth["annotations"][0].update(bbox=[1, 2, 3]), "annotations whose bbox is not [x, y, width, height]"),
    "a negative side": (lambda _, results: results[0].update(bbox=[1, 2, -3, 4]), "detections whose bbox is not [x, y, width, height]"),
    "an unknown image": (lambda _, results: results[0].update(image_id=9), "image_id the truth file does not know (9)"),
    "an unknown category": (lambda _, results: results[0].update(category_id=9), "category_id the truth file does not know (9)"),
    "part of an id": (lambda _, results: results[0].update(image_id=1.5), "dt.json: image_id is no whole number of 64 bits (1.5)"),
    "part of a label's id": (
        lambda truth, _: truth["annotations"][0].update(category_id=1.5),
        "gt.json: category_id is no whole number of 64 bits (1.5)",
    ),
    "part of an image's id": (lambda truth, _: truth["images"][0].update(id=1.25), "gt.json: id is no whole number of 64 bits (1.25)"),
    "an id beyond 64 bits": (lambda truth, _: truth["images"][0].update(id=2**63), f"gt.json: id is no whole number of 64 bits ({2**63})"),
    "true for an id": (lambda _, results: results[0].update(image_id=True), "image_id is no whole number"),
    "no id where the truth has -1": (
        lambda truth, results: (truth["images"].append({"id": -1}), results[0].pop("image_id")),
        "detections whose image_id the truth file does not know (None)",
    ),
    "no score": (lambda _, results: results[0].pop("score"), "detections without a score (position 0)"),
    "text for a number": (
        lambda _, results: results[0].update(score="high"),
        'not COCO JSON (error deserializing value "String("high")" as numeric.): restore',
    ),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    truth, results = json.loads(json.dumps(coco(LABEL))), [dict(FOUND)]
    change, message = BAD[case]
    change(truth, results)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps(results))
    assert main(["analyze", "--gt", str(tmp_path / "gt.json"), "--dt", str(tmp_path / "dt.json"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "--gt", str(tmp_path / "gt.json"), "--dt", str(tmp_path / "dt.json"), "--out", str(tmp_path / "out")]) == 2
    assert "gt.json is missing: name a COCO truth file" in capsys.readouterr().err


def _xyxy(row: dict[str, list[float]]) -> list[float]:
    left, top, width, height = row["bbox"]
    return [left, top, left + width, top + height]


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    analyze(tmp_path, coco(LABEL), [FOUND])
    again, _ = analyze(tmp_path, coco(LABEL), [])
    assert again["detections"] == 0, "an earlier analysis gives way"
    command = ["analyze", "--gt", str(tmp_path / "gt.json"), "--dt", str(tmp_path / "dt.json"), "--out"]
    (tmp_path / "out/notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    for place, message in (("out", "--out out holds more than an analysis (notes.txt)"), (".", "--out . holds more"), ("gt.json", "is a file")):
        assert main([*command, place]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert (tmp_path / "out/notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main([*command, "."]) == 0
    assert (tmp_path / "empty/analysis.json").is_file()
