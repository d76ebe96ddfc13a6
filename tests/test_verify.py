"""Parity by hand, and faults planted in artifacts that verify must catch."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.artifacts import Artifact
from export.check import diagnosis
from export.check.drops import Accuracy, Drops, drop_reasons, drops_between, relative_drop
from export.check.parity import COUNTS, Allowed, Parity, compare, judge, total
from export.check.ties import second_readings
from export.check.verification import attempt_with
from export.runners import open_runner
from export.runners.detect import above, detect, model_input, read_output
from export.runners.openvino import OpenVinoRunner
from export.stages.verify import work
from export.thresholds import read_thresholds
from pipelines.core.errors import ClassContractError, DataError, MissingInputError
from pipelines.core.images import Decoded, letterbox_for, read_for, tensor_from_letterboxed
from pipelines.core.io import sha256_bytes, sha256_file
from pipelines.core.records import read_samples, write_detections
from pipelines.core.types import Detections
from tests.tiny_detector import CLASSES, CONTRACT, NMS, SIDE, Project, make_project, model_bytes, other_contract

HALF = np.array([0.5, 0.5])
ALLOWED = Allowed({"fp32": 0.002, "fp16": 0.005, "int8": 0.02}, {"fp32": 0.005, "fp16": 0.02, "int8": 0.05}, 0.001)


def found(*rows: tuple[Sequence[float], float, int]) -> Detections:
    return Detections(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([row[2] for row in rows], np.int64),
    )


def counts(parity: Parity) -> dict[str, int]:
    return {name: parity.total(name) for name in COUNTS if parity.total(name)}


A, B = (10, 10, 30, 30), (50, 50, 80, 80)
A_MOVED = (10, 10, 30, 31)  # IoU with A: 400 / 420 = 0.952
A_FAR = (10, 10, 30, 33)  # IoU with A: 400 / 460 = 0.870

CASES: dict[str, tuple[Detections, Detections, dict[str, int]]] = {
    "nothing and nothing": (found(), found(), {}),
    "the same": (found((A, 0.9, 0), (B, 0.8, 1)), found((A, 0.9, 0), (B, 0.8, 1)), {"matched": 2}),
    "another order": (found((A, 0.9, 0), (B, 0.8, 1)), found((B, 0.9, 1), (A, 0.8, 0)), {"matched": 2}),
    "moved a little": (found((A, 0.9, 0)), found((A_MOVED, 0.9, 0)), {"matched": 1}),
    "moved too far": (found((A, 0.9, 0)), found((A_FAR, 0.9, 0)), {"missed": 1, "extra": 1}),
    "missed": (found((A, 0.9, 0)), found(), {"missed": 1}),
    "extra": (found(), found((A, 0.9, 0)), {"extra": 1}),
    "class flip": (found((A, 0.9, 0)), found((A, 0.9, 1)), {"class_flips": 1}),
    "two classes on one place are no flips": (found((A, 0.9, 0), (A, 0.8, 1)), found((A, 0.8, 1), (A, 0.9, 0)), {"matched": 2}),
    "below the threshold does not count": (found((A, 0.3, 0)), found((B, 0.3, 1)), {}),
    "fell just below": (found((A, 0.51, 0)), found((A, 0.49, 0)), {"near_threshold": 1}),
    "rose just above": (found((A, 0.49, 0)), found((A, 0.51, 0)), {"near_threshold": 1}),
    "at the threshold is above": (found((A, 0.5, 0)), found((A, 0.5, 0)), {"matched": 1}),
    "a real miss just above the threshold": (found((A, 0.51, 0)), found(), {"missed": 1}),
    "a real miss: far above, now just below": (found((A, 0.9, 0)), found((A, 0.49, 0)), {"missed": 1}),
    "a real extra: just below, now far above": (found((A, 0.49, 0)), found((A, 0.9, 0)), {"extra": 1}),
    "fell below the margin": (found((A, 0.51, 0)), found((A, 0.47, 0)), {"missed": 1}),
    "another class just below is a miss, not a flip": (found((A, 0.9, 0)), found((A, 0.49, 1)), {"missed": 1}),
    "one of two copies": (found((A, 0.9, 0), (A_MOVED, 0.8, 0)), found((A, 0.9, 0)), {"matched": 1, "missed": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_worked_parity(name: str) -> None:
    reference, candidate, expected = CASES[name]
    assert counts(compare(reference, candidate, HALF, match_iou=0.9, near_threshold=0.02)) == expected


def test_each_class_has_its_own_threshold_and_row() -> None:
    reference, candidate = found((A, 0.4, 0), (B, 0.4, 1)), found((B, 0.9, 1))
    parity = compare(reference, candidate, np.array([0.3, 0.6]), match_iou=0.9, near_threshold=0.02)
    assert parity.counts.tolist() == [[0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]  # class 0 missed one, class 1 has one more


def test_largest_differences_are_over_all_matched_pairs() -> None:
    first = compare(found((A, 0.9, 0)), found((A_MOVED, 0.6, 0)), HALF, match_iou=0.9, near_threshold=0.02)
    second = compare(found((A, 0.9, 0)), found((A, 0.89, 0)), HALF, match_iou=0.9, near_threshold=0.02)
    parity = total([second, first], 2)
    assert parity.max_score_difference == pytest.approx(0.3, abs=1e-6)
    assert parity.max_position_difference_px == 1.0
    assert counts(parity) == {"matched": 2}
    assert counts(total([], 2)) == {}


JUST = 0.90005  # 0.9 but for rounding
# name: what the reference and the candidate show, the candidate's boxes that tie, as their second class; what is counted
TIES: dict[str, tuple[Detections, Detections, Detections, dict[str, int]]] = {
    "two classes tie": (found((A, 0.9, 0)), found((A, JUST, 1)), found((A, 0.9, 0)), {"near_tie": 1}),
    "they tie in another box": (found((A, 0.9, 0)), found((A, JUST, 1), (B, 0.9, 1)), found((B, 0.9, 0)), {"class_flips": 1, "extra": 1}),
    "the same score, and no tie: the order of the classes changed": (found((A, 0.9, 0)), found((A, 0.9, 1)), found(), {"class_flips": 1}),
    "a tie at another score": (found((A, 0.9, 0)), found((A, 0.7, 1)), found((A, 0.7, 0)), {"class_flips": 1}),
    "a tie that went the reference's way": (found((A, 0.9, 0)), found((A, JUST, 0)), found((A, 0.9, 1)), {"matched": 1}),
    "of two boxes one ties": (
        found((A, 0.9, 0), (B, 0.8, 0)),
        found((A, JUST, 1), (B, 0.8, 1)),
        found((A, 0.9, 0)),
        {"near_tie": 1, "class_flips": 1},
    ),
    "hidden by the other class's threshold": (found((A, 0.45, 2)), found((A, 0.45, 0)), found((A, 0.45, 2)), {"near_tie": 1}),
    "shown for the other class's threshold": (found((A, 0.45, 0)), found((A, 0.45, 2)), found((A, 0.45, 0)), {"near_tie": 1}),
    "hidden, and no tie": (found((A, 0.45, 2)), found((A, 0.45, 0)), found(), {"missed": 1}),
    "shown, and no tie": (found((A, 0.45, 0)), found((A, 0.45, 2)), found(), {"extra": 1}),
    "shown, a tie that the reference has not": (found((A, 0.3, 0)), found((A, 0.45, 2)), found((A, 0.45, 0)), {"extra": 1}),
}


@pytest.mark.parametrize("name", TIES)
def test_what_only_rounding_decides_is_told_apart(name: str) -> None:
    reference, candidate, tied, expected = TIES[name]
    thresholds = np.array([0.5, 0.5, 0.4])
    assert counts(compare(reference, candidate, thresholds, match_iou=0.9, near_threshold=0.02, tied=tied)) == expected


def test_second_readings_are_those_of_boxes_that_tie() -> None:
    """Anchors as columns: centre, sides, scores of three classes."""
    columns = [
        [20, 20, 20, 20, 0.9, 0.90005, 0.1],  # ties: green, then red
        [20, 20, 20, 20, 0.5, 0.5, 0.1],  # an exact tie; overlaps the first, and is kept
        [65, 65, 30, 30, 0.9, 0.8998, 0.1],  # twice the tolerance
        [65, 65, 30, 30, 0.2, 0.2, 0.2],  # below the lowest score that counts
    ]
    raw, box = np.array(columns, np.float32).T, letterbox_for((64, 64), (64, 64))
    readings = second_readings(raw, CONTRACT, box, (64, 64), NMS, lowest=0.3, tie=1e-4)
    assert readings.xyxy.tolist() == [[10, 10, 30, 30]] * 2
    assert readings.score.tolist() == pytest.approx([0.9, 0.5])
    assert readings.class_index.tolist() == [0, 1]
    assert raw[4, 0] == np.float32(0.9)  # its argument is left as it was
    assert len(second_readings(raw, other_contract(classes=("one",)), box, (64, 64), NMS, lowest=0.3, tie=1e-4)) == 0
    assert (
        len(second_readings(np.zeros((300, 6), np.float32), other_contract(layout="xyxy_score_class"), box, (64, 64), NMS, lowest=0.3, tie=1e-4)) == 0
    )


@given(st.lists(st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=3, max_size=3), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_ties_broken_otherwise_are_no_flips(scores: list[list[float]]) -> None:
    """Whatever ties in a network: the same numbers with the classes' scores moved by less than the tolerance show what is matched or near."""
    places = [[8 * (2 * number % 8) + 4, 8 * (number // 4) + 4, 8, 8] for number in range(len(scores))]  # boxes that do not overlap
    ours = np.array([[*place, *score] for place, score in zip(places, scores, strict=True)], np.float32).T
    theirs = ours.copy()
    theirs[4:] += np.array([[0], [3e-5], [6e-5]], np.float32)  # a tie goes to the last class
    box = letterbox_for((64, 64), (64, 64))
    reference, candidate = (read_output(raw, CONTRACT, box, (64, 64), NMS) for raw in (ours, theirs))
    tied = second_readings(theirs, CONTRACT, box, (64, 64), NMS, lowest=0.0, tie=1e-4)
    parity = compare(reference, candidate, np.array([0.52, 0.52, 0.52]), match_iou=0.9, near_threshold=0.01, tied=tied)
    flips = {name: parity.total(name) for name in ("class_flips", "missed", "extra") if parity.total(name)}
    assert not flips or any(len(set(score)) == 1 for score in scores)  # of three classes that tie only the second is looked at
    again = compare(reference, candidate, np.array([0.52, 0.52, 0.52]), match_iou=0.9, near_threshold=0.01)
    assert parity.total("near_tie") + parity.total("class_flips") == again.total("class_flips")


corner, side = st.integers(0, 40), st.integers(4, 20)
boxes = st.tuples(corner, corner, side, side).map(lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3]))
detections = st.lists(st.tuples(boxes, st.integers(1, 100).map(lambda n: n / 100), st.integers(0, 1)), max_size=8).map(lambda rows: found(*rows))


@given(detections, detections)
@settings(max_examples=60, deadline=None)
def test_every_shown_detection_is_accounted_once(reference: Detections, candidate: Detections) -> None:
    parity = compare(reference, candidate, HALF, match_iou=0.5, near_threshold=0.1)
    n = {name: parity.total(name) for name in COUNTS}
    shown = len(above(reference, HALF)) + len(above(candidate, HALF))
    assert shown == 2 * n["matched"] + 2 * n["class_flips"] + n["near_threshold"] + n["missed"] + n["extra"]


@given(detections)
@settings(max_examples=40, deadline=None)
def test_a_detector_agrees_with_itself(item: Detections) -> None:
    assert counts(compare(item, item, HALF, match_iou=0.9, near_threshold=0.02)) == (
        {"matched": len(above(item, HALF))} if len(above(item, HALF)) else {}
    )


@pytest.mark.parametrize("flat", [(0, 3, 0, 9), (5, 7, 5, 7), (9, 4, 2, 8)], ids=["a line", "a point", "inside out"])
def test_boxes_without_area_agree_with_themselves(flat: tuple[float, float, float, float]) -> None:
    """What is left of a box in the padding is cut to the image's edge; another one elsewhere is another."""
    item, near, far = (found((tuple(value + shift for value in flat), 0.9, 0)) for shift in (0.0, 0.2, 40.0))
    for other in (item, near):
        assert counts(compare(item, other, HALF, match_iou=0.9, near_threshold=0.02)) == {"matched": 1}
    assert counts(compare(item, far, HALF, match_iou=0.9, near_threshold=0.02)) == {"missed": 1, "extra": 1}


def with_counts(**values: int) -> Parity:
    return Parity(np.array([[values.get(name, 0) for name in COUNTS]], np.int64))


@pytest.mark.parametrize(
    ("precision", "drop", "parity", "status"),
    [
        ("fp32", 0.0, with_counts(matched=9, near_threshold=2), "pass"),
        ("fp32", 0.002, with_counts(), "pass"),
        ("fp32", 0.0021, with_counts(), "fail"),
        ("fp32", -0.1, with_counts(missed=1), "fail"),
        ("fp32", 0.0, Parity(with_counts(matched=3).counts, 0.0011), "fail"),
        ("fp32", 0.0, Parity(with_counts(matched=3).counts, 0.0009), "pass"),
        ("int8", 0.0, Parity(with_counts(matched=3).counts, 0.021), "pass"),
        ("fp32", 0.0, with_counts(extra=1), "fail"),
        ("fp32", 0.0, with_counts(class_flips=1), "fail"),
        ("int8", 0.02, with_counts(missed=3, extra=2, class_flips=1), "pass"),
        ("int8", 0.0201, with_counts(), "fail"),
        ("fp16", None, with_counts(matched=9), "fail"),
    ],
)
def test_judging(precision: str, drop: float | None, parity: Parity, status: str) -> None:
    answer, reasons = judge(precision, Drops(drop, {}), parity, ALLOWED)
    assert answer == status
    assert bool(reasons) == (status == "fail")


@pytest.mark.parametrize(
    ("reference", "value", "expected"), [(0.5, 0.4, 0.2), (0.5, 0.6, -0.2), (0.0, 0.0, 0.0), (None, 0.5, None), (0.5, None, None)]
)
def test_relative_drop(reference: float | None, value: float | None, expected: float | None) -> None:
    assert relative_drop(reference, value) == (None if expected is None else pytest.approx(expected))


def test_a_lost_class_fails_though_the_mean_holds() -> None:
    drops = drops_between(Accuracy(0.5, {"red": 0.9, "green": 0.1, "blue": None}), Accuracy(0.499, {"red": 0.95, "green": 0.08, "blue": None}))
    assert drops.mean == pytest.approx(0.002)
    assert drops.per_class["green"] == pytest.approx(0.2)
    assert drops.per_class["blue"] is None
    answer, reasons = judge("int8", drops, with_counts(matched=9), ALLOWED)
    assert answer == "fail"
    assert reasons == ["AP of single classes is too far below PyTorch's: green 20.00%; 5.00% is allowed"]
    assert drop_reasons(drops, 0.01, 0.2 + 1e-9, "PyTorch") == []


def verify(project: Project) -> dict[str, Any]:
    names = ("export", "engines", "dataset", "raw", "predictions", "evaluation")
    paths = {name: project.root / name for name in names}
    judged = {precision: project.metrics / f"quantize_{precision}.json" for precision in ("fp16", "int8")}
    work(Namespace(params=project.root / "params.yaml", metrics=project.metrics / "verify.json", **judged, **paths))
    content: dict[str, Any] = json.loads((project.metrics / "verify.json").read_text())
    return content


def test_faithful_artifacts_pass(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    content = verify(project)
    first = (project.metrics / "verify.json").read_bytes()
    artifacts = content["artifacts"]
    expected = {f"{runner}_{precision}" for runner in ("onnxruntime", "openvino") for precision in ("fp32", "fp16", "int8")}
    assert set(artifacts) == expected | {"tensorrt_fp32"}
    for name in expected:
        item = artifacts[name]
        assert (item["status"], item["matched"], item["missed"], item["extra"], item["class_flips"]) == ("pass", 20, 0, 0, 0)
        assert item["AP"] == item["AP50"] == content["reference"]["AP"] == 1.0  # squares on the detector's own cells: it solves them
        assert item["relative_drop"] == 0
    assert artifacts["tensorrt_fp32"]["status"] == "not_run"
    assert artifacts["tensorrt_fp32"]["reasons"] == ["not built: no TensorRT here"]
    assert artifacts["tensorrt_fp32"]["AP"] is None
    verify(project)
    assert (project.metrics / "verify.json").read_bytes() == first


UNNAMED = "the first layer that differs: `detloop parity"
# name: what is wrong with the artifact, the count that must show it, and what it must be called
FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "BGR instead of RGB": ({"reads": (2, 1, 0)}, "class_flips", "fault: colour order: they agree when red and blue are swapped"),
    "classes in another order inside": ({"reads": (1, 2, 0)}, "class_flips", "fault: class order: red is found as blue"),
    "another pad value": ({"contract": other_contract(pad_value=255)}, "extra", "fault: pad value: they agree when padded with 114"),
    "weights disturbed, boxes lost": ({"bias": -13}, "missed", UNNAMED),
    "weights disturbed, scores only": ({"bias": -8.6}, "matched", UNNAMED),
    "boxes moved": ({"shift_px": 0.5}, "missed", UNNAMED),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault: str, tmp_path: Path) -> None:
    change, shows_in, called = FAULTS[fault]
    artifacts = verify(make_project(tmp_path / "p", images=2, changes={"fp32": change}))["artifacts"]
    for runner in ("onnxruntime", "openvino"):
        item = artifacts[f"{runner}_fp32"]
        assert item["status"] == "fail", fault
        assert item[shows_in] > 0
        assert any(called in reason for reason in item["reasons"]), item["reasons"]
        assert artifacts[f"{runner}_int8"]["status"] == "pass"


def with_a_tie(tmp_path: Path) -> Project:
    """Red and green score the same in PyTorch, which shows red; the candidate's green is a hundred-thousandth more."""
    project = make_project(tmp_path / "p", images=2, changes={"fp32": {"reads": (0, 0, 2), "bias": (-8.4, -8.39999, -8.4)}})
    (project.root / "tied.onnx").write_bytes(model_bytes(reads=(0, 0, 2)))
    with open_runner("onnxruntime", project.root / "tied.onnx", threads=1) as runner:
        shown = {item.image_id: detect(runner, read_for(project.raw / item.path, None), NMS) for item in read_samples(project.dataset / "test.jsonl")}
    write_detections(project.predictions / "test.parquet", shown, CLASSES)
    return project


def test_a_box_whose_two_classes_tie_is_no_flip(tmp_path: Path) -> None:
    for name, item in verify(with_a_tie(tmp_path))["artifacts"].items():
        if name.endswith("_fp32") and item["status"] != "not_run":
            assert item["class_flips"] == item["missed"] == item["extra"] == 0
            assert item["near_tie"] > 0
            assert item["near_tie"] == sum(row["near_tie"] for row in item["per_class"].values())


class Missing:
    """A detector of 30 boxes that leaves out some of them; how many hangs on the grey level in the corner, which is padding."""

    contract = replace(CONTRACT, layout="xyxy_score_class")

    def __init__(self, left_out: dict[int, int]) -> None:
        self.left_out = left_out

    def infer(self, batch: np.ndarray) -> np.ndarray:
        rows = np.array([[8 * (i % 8), 16 + 8 * (i // 8), 8 * (i % 8) + 7, 23 + 8 * (i // 8), 0.9, 0] for i in range(30)], np.float32)
        rows[: self.left_out.get(round(float(batch[0, 0, 0, 0]) * 255), self.left_out[114]), 4] = 0
        return rows[None]

    def infer_images(self, letterboxed: Sequence[np.ndarray]) -> np.ndarray:
        return self.infer(tensor_from_letterboxed(letterboxed))


@pytest.mark.parametrize(("left_out", "named"), [({114: 6, 127: 0}, True), ({114: 6, 127: 3}, True), ({114: 3, 127: 2}, False)])
def test_a_fault_is_named_where_it_explains_most_of_what_is_wrong(left_out: dict[int, int], named: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((32, SIDE, 3), np.uint8))
    whole = detect(Missing({114: 0}), read_for(path, None), NMS)
    reference = diagnosis.Reference((path,), (whole,), np.full(len(CLASSES), 0.5), 0.9, 0.02, NMS)
    assert (diagnosis.name_output_fault(Missing(left_out), reference) is not None) == named


@pytest.mark.parametrize("maps_back", ["by the stretch", "by the letterbox"])
def test_stretching_instead_of_letterboxing_is_named(maps_back: str, tmp_path: Path) -> None:
    """Somebody's PyTorch resizes both sides on their own; some of those who do still take the letterbox for the way back."""
    project = make_project(tmp_path / "p", images=3)
    shown = {}
    with open_runner("onnxruntime", project.export / "model.onnx", threads=1) as runner:
        for item in read_samples(project.dataset / "test.jsonl"):
            image = read_for(project.raw / item.path, None)
            raw = runner.infer(tensor_from_letterboxed([cv2.resize(image.pixels, (SIDE, SIDE)).astype(np.uint8)]))[0]
            place, wh = letterbox_for(image.original_wh, (SIDE, SIDE)), image.original_wh
            if maps_back == "by the stretch":
                place, wh = letterbox_for((SIDE, SIDE), (SIDE, SIDE)), (SIDE, SIDE)
            boxes = read_output(raw, CONTRACT, place, wh, NMS)
            stretch = np.array([*image.original_wh] * 2, np.float32) / np.array([*wh] * 2, np.float32)
            shown[item.image_id] = Detections(boxes.xyxy * stretch, boxes.score, boxes.class_index)
    write_detections(project.predictions / "test.parquet", shown, CLASSES)
    for name, item in verify(project)["artifacts"].items():
        if name.endswith("_fp32") and item["status"] != "not_run":
            assert item["status"] == "fail"
            assert "fault: geometry: they agree when the image is stretched, so one side does not letterbox" in item["reasons"]


def test_bf16_where_float32_was_asked_is_named(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", images=1)
    images = [project.raw / item.path for item in read_samples(project.dataset / "test.jsonl")]
    artifact = Artifact("openvino_fp32", "openvino", "fp32", project.export / "model.onnx")
    for hint, status in (("bf16", "fail"), (None, "not_run")):
        with OpenVinoRunner(project.export / "model.onnx", threads=1, precision_hint=hint) as runner:
            if hint and hint not in runner.arithmetic().values():
                pytest.skip("this CPU computes no bf16")
            answer = attempt_with(runner, artifact, images, CLASSES, NMS)
        assert (answer.found is None, answer.status) == (hint is not None, status)
        assert hint is None or re.match(r"arithmetic: openvino computes \d+ nodes in less than f32, first .* in bf16$", answer.reason)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_calibration_on_val_is_named(precision: str, tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", images=2)
    (train,), (held_out, _) = (read_samples(project.dataset / f"{split}.jsonl") for split in ("train", "test"))
    for images, says in (((train.image_id[:16],), None), ((held_out.image_id[:16],), f"{held_out.image_id[:16]} is held out for val or test")):
        (project.export / f"model_{precision}.onnx").write_bytes(model_bytes(precision=precision, calibration=images))
        item = verify(project)["artifacts"][f"openvino_{precision}"]
        assert item["status"] == ("pass" if says is None else "fail")
        assert says is None or says in item["reasons"][0]


def test_what_quantize_refused_on_val_does_not_pass_on_test(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", images=1)
    (project.metrics / "quantize_int8.json").write_text(json.dumps({"passes": False, "reasons": ["AP of single classes is too far below"]}))
    artifacts = verify(project)["artifacts"]
    assert artifacts["onnxruntime_int8"]["status"] == artifacts["openvino_int8"]["status"] == "fail"
    assert "on val it lost too much, and no fallback helped: AP of single classes" in artifacts["openvino_int8"]["reasons"][0]
    assert artifacts["openvino_fp16"]["status"] == "pass"


def engine_of(project: Project, onnx_sha256: str, stated: str) -> None:
    """An engine file that carries the hash of its ONNX file, as ours do, and a record that states one."""
    content = b"engine\0detloop-" + onnx_sha256.encode()
    (project.engines / "fp32.engine").write_bytes(content)
    entry = {"status": "built", "file": "fp32.engine", "sha256": sha256_bytes(content), "onnx_sha256": stated}
    entry |= {"library": "tensorrt_rtx", "library_version": "1", "max_batch": 8, "thresholds": dict.fromkeys(CLASSES, 0.5)}
    (project.engines / "engines.json").write_text(json.dumps({"contract": CONTRACT.to_json(), "engines": {"fp32": entry}}))


def test_an_engine_of_another_onnx_file_is_named_even_where_nothing_can_run_it(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", images=1)
    right, other = sha256_file(project.export / "model.onnx"), "0" * 64
    engine_of(project, right, right)
    assert "another ONNX file" not in json.dumps(verify(project)["artifacts"]["tensorrt_fp32"])
    for made_from, stated in ((other, other), (other, right)):  # honestly, and with a forged record
        engine_of(project, made_from, stated)
        item = verify(project)["artifacts"]["tensorrt_fp32"]
        assert item["status"] == "fail"
        assert "is the engine of another ONNX file" in item["reasons"][0]
        assert "dvc repro -f build_engine" in item["reasons"][0]


# name: a file that cannot count as the artifact, and what the reason must say
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "class names in another order": ({"contract": other_contract(classes=("blue", "green", "red"))}, "class hash"),
    "another class": ({"contract": other_contract(classes=("red", "green", "violet"))}, "class hash"),
    "an fp32 model in the int8 place": ({"precision": "fp32"}, "states precision fp32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_artifact_that_is_not_the_model_fails_with_the_reason(case: str, tmp_path: Path) -> None:
    change, says = REFUSED[case]
    project = make_project(tmp_path / "p", images=1)
    (project.export / "model_int8.onnx").write_bytes(model_bytes(**{"precision": "int8", **change}))
    artifacts = verify(project)["artifacts"]
    assert artifacts["onnxruntime_int8"]["status"] == artifacts["openvino_int8"]["status"] == "fail"
    assert says in artifacts["onnxruntime_int8"]["reasons"][0]
    assert artifacts["onnxruntime_fp32"]["status"] == "pass"


def test_a_reference_that_finds_nothing_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two detectors that both find nothing agree on everything: that says nothing."""
    project = make_project(tmp_path / "p", images=2, changes={precision: {"bias": -40.0} for precision in ("fp32", "fp16", "int8")})
    write_detections(project.predictions / "test.parquet", {}, CLASSES)
    artifacts = verify(project)["artifacts"]
    assert {item["status"] for item in artifacts.values()} == {"not_run"}
    assert artifacts["openvino_fp32"]["reasons"][0].startswith("nothing to compare: PyTorch shows 0 boxes on 2 test images (AP 0)")
    assert "verify: nothing to compare" in capsys.readouterr().out


def test_a_blind_reference_does_not_excuse_what_an_artifact_invents(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", images=2)
    write_detections(project.predictions / "test.parquet", {}, CLASSES)
    item = verify(project)["artifacts"]["onnxruntime_fp32"]
    assert (item["status"], item["extra"]) == ("fail", 8)


def test_each_precision_is_shown_by_its_own_thresholds(tmp_path: Path) -> None:
    """A dark cell scores 0.0002, a marked one about 0.97: an int8 file with threshold 0.99 shows nothing, one with 0.6 everything."""
    project = make_project(tmp_path / "p", images=2, changes={"int8": {"threshold": 0.6}, "fp16": {"threshold": 0.999}})
    artifacts = verify(project)["artifacts"]
    assert (artifacts["openvino_int8"]["matched"], artifacts["openvino_int8"]["missed"]) == (8, 0)
    assert (artifacts["openvino_fp16"]["matched"], artifacts["openvino_fp16"]["missed"]) == (0, 8)


def test_a_broken_model_file_fails_and_a_missing_one_stops(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", images=1)
    (project.export / "model_fp16.onnx").write_bytes(b"no model")
    assert verify(project)["artifacts"]["onnxruntime_fp16"]["status"] == "fail"
    (project.export / "model_fp16.onnx").unlink()
    with pytest.raises(MissingInputError, match=r"model_fp16\.onnx"):
        verify(project)


def test_a_broken_test_image_stops_the_stage(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", images=1)
    next((project.raw / "images").rglob("*.png")).write_bytes(b"no image")
    with pytest.raises(DataError, match="not a readable image"):
        verify(project)


def test_thresholds_must_fit_the_classes(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    path.write_text(json.dumps({"classes": {"green": 0.2, "red": 0.1, "blue": 0.3}}))
    assert list(read_thresholds(path, CLASSES).items()) == [("red", 0.1), ("green", 0.2), ("blue", 0.3)]
    path.write_text(json.dumps({"classes": {"green": 0.2, "red": 0.1}}))
    with pytest.raises(ClassContractError, match="has thresholds for"):
        read_thresholds(path, CLASSES)
    path.write_text(json.dumps({"classes": {"green": 0.2, "red": 1.1, "blue": 0.3}}))
    with pytest.raises(DataError, match="numbers from 0 to 1"):
        read_thresholds(path, CLASSES)


def test_input_that_this_code_cannot_make_is_refused() -> None:
    image = Decoded.whole(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match="BGR divided by 1"):
        model_input(image, other_contract(colour="BGR", divide_by=1.0))
    with pytest.raises(DataError, match="decoded as 'halved', which this code does not know"):
        model_input(image, other_contract(decoding="halved"))
    assert model_input(image, CONTRACT)[0].shape == (1, 3, 64, 64)
