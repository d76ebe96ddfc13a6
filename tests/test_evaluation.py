"""COCO metrics, thresholds, confusion and slices. Oracles: pycocotools, the shared COCO figures, tables worked by hand."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import hotcoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipelines.core.boxes import area, xywh_from_xyxy
from pipelines.core.records import ground_truth
from pipelines.core.slices import SIZES, SliceLimits
from pipelines.core.types import Box, Detections, GroundTruth, Sample
from pipelines.evaluation.coco import coco_metrics
from pipelines.evaluation.confusion import confusion_matrix, pairs_csv
from pipelines.evaluation.slices import slice_metrics
from pipelines.evaluation.thresholds import (
    DEFAULT_THRESHOLD,
    ScoreCurve,
    best_threshold,
    confidence_points,
    image_counts,
    nearest_good_threshold,
    operating_point,
    score_curves,
    shown_detections,
)
from tests.detection_sets import found, labels, random_sets, tide_oracle

CLASSES = ("a", "b", "c", "d")
A, B = (0, 0, 10, 10), (50, 50, 70, 80)


def as_coco(items: list[GroundTruth] | list[Detections]) -> list[dict[str, object]]:
    rows = []
    for image, item in enumerate(items, start=1):
        for row in range(len(item.class_index)):
            box = item.xyxy[[row]].astype(float)
            entry = {"id": len(rows) + 1, "image_id": image, "category_id": int(item.class_index[row]) + 1, "iscrowd": 0}
            entry |= {"bbox": xywh_from_xyxy(box)[0].tolist(), "area": float(area(box)[0])}
            rows.append(entry | ({"score": float(item.score[row])} if isinstance(item, Detections) else {}))
    return rows


def pycocotools_eval(truth: list[GroundTruth], detections: list[Detections], class_count: int) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO()
        gold.dataset = {
            "images": [{"id": number} for number in range(1, len(truth) + 1)],
            "categories": [{"id": number} for number in range(1, class_count + 1)],
            "annotations": as_coco(truth),
        }
        gold.createIndex()
        evaluation = COCOeval(gold, gold.loadRes(as_coco(detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("ties", [False, True], ids=["continuous", "tied scores and boxes"])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_pycocotools(seed: int, ties: bool) -> None:
    truth, detections = random_sets(seed, 40, 3, ties)
    reference = pycocotools_eval(truth, detections, 4)
    ours = coco_metrics(truth, detections, CLASSES)
    figures = [ours.ap, ours.ap50, ours.ap75, *(ours.sizes[name].ap for name in SIZES), ours.ar100]
    assert figures == pytest.approx(reference.stats[[0, 1, 2, 3, 4, 5, 8]].tolist(), abs=1e-9)
    precision = reference.eval["precision"]
    for index, name in enumerate(CLASSES[:3]):
        assert ours.per_class[name].ap == pytest.approx(precision[:, :, index, 0, -1].mean(), abs=1e-9)
        assert ours.per_class[name].precision_at_recall == pytest.approx(precision[0, :, index, 0, -1].tolist(), abs=1e-9)
    assert ours.per_class["d"].ap is None
    for position, name in enumerate(SIZES, start=1):
        assert ours.sizes[name].ap50 == pytest.approx(precision[0, :, :3, position, -1].mean(), abs=1e-9)


@pytest.mark.parametrize(("file", "key"), [("dt.json", "coco"), ("dt_extra_class.json", "coco_extra_class")])
def test_shared_oracle(shared: Path, file: str, key: str) -> None:
    expected = json.loads((shared / "oracles/tide/expected.json").read_text())[key]
    truth, detections, class_count = tide_oracle(shared, file)
    ours = coco_metrics(truth, detections, CLASSES[:class_count])
    assert [ours.ap, ours.ap50, ours.ap75] == pytest.approx([expected["AP"], expected["AP50"], expected["AP75"]], abs=1e-6)


NOTHING, ONE = labels(), labels((A, 0))
CASES: dict[str, tuple[list[GroundTruth], list[Detections], float | None, int, int]] = {
    "no images": ([], [], None, 0, 0),
    "neither labels nor detections": ([NOTHING], [found()], None, 1, 0),
    "no labels": ([NOTHING], [found((A, 0.9, 0))], None, 1, 0),
    "no detections": ([ONE], [found()], 0.0, 1, 1),
    "one right": ([ONE], [found((A, 0.9, 0))], 1.0, 1, 1),
    "an image without predictions": ([ONE, ONE], [found((A, 0.9, 0)), found()], 51 / 101, 2, 2),  # recall 0.5: 51 of 101 recall points
    "wrong class only": ([ONE], [found((A, 0.9, 1))], 0.0, 1, 1),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_small_cases(case: str) -> None:
    truth, detections, ap, images, boxes = CASES[case]
    ours = coco_metrics(truth, detections, ("only", "other"))
    assert (ours.images, ours.boxes) == (images, boxes)
    assert ours.ap == (None if ap is None else pytest.approx(ap, abs=1e-12))
    assert ours.per_class["only"].ap50 == (None if ap is None else pytest.approx(ap, abs=1e-12))
    assert ours.per_class["other"].ap is None


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="1 images have labels and 2 have detections"):
        coco_metrics([ONE], [found(), found()], ("a",))


def test_size_limits_are_parameters() -> None:
    ours = coco_metrics([labels((A, 0), (B, 0))], [found((A, 0.9, 0))], ("a",), small_area_px=150, medium_area_px=400)
    assert {name: (size.boxes, size.images, size.ap50 and round(size.ap50, 9)) for name, size in ours.sizes.items()} == {
        "small": (1, 1, 1.0),
        "medium": (0, 0, None),
        "large": (1, 1, 0.0),
    }


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_order_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, detections = random_sets(seed, 12, 3)
    order = rng.permutation(len(truth))
    mixed_truth, mixed_detections = [], []
    for image in order:
        rows, columns = rng.permutation(len(detections[image])), rng.permutation(len(truth[image].class_index))
        mixed_truth.append(GroundTruth(truth[image].xyxy[columns], truth[image].class_index[columns]))
        item = detections[image]
        mixed_detections.append(Detections(item.xyxy[rows], item.score[rows], item.class_index[rows]))
    assert coco_metrics(mixed_truth, mixed_detections, CLASSES) == coco_metrics(truth, detections, CLASSES)
    plain, mixed = score_curves(truth, detections, 4), score_curves(mixed_truth, mixed_detections, 4)
    assert [best_threshold(curve, 0.05) for curve in plain] == [best_threshold(curve, 0.05) for curve in mixed]
    np.testing.assert_array_equal(confusion_matrix(truth, detections, 4, 0.5), confusion_matrix(mixed_truth, mixed_detections, 4, 0.5))


def curve(boxes: int, *points: tuple[float, bool]) -> ScoreCurve:
    return ScoreCurve(np.array([score for score, _ in points]), np.array([hit for _, hit in points], dtype=bool), boxes)


# F1 = 2 tp / (detections shown + boxes), worked by hand; the threshold is the middle between the last score shown and the next one
THRESHOLDS = {
    "no labels": (curve(0, (0.9, False)), DEFAULT_THRESHOLD),
    "no detections": (curve(3), DEFAULT_THRESHOLD),
    "no right detection": (curve(3, (0.9, False)), DEFAULT_THRESHOLD),
    "right ones only below min_score": (curve(1, (0.04, True)), DEFAULT_THRESHOLD),
    "all right: down to min_score": (curve(2, (0.9, True), (0.6, True)), (0.6 + 0.05) / 2),
    "stop before the wrong one": (curve(2, (0.9, True), (0.7, True), (0.3, False)), 0.5),  # 2/3, 4/4, 4/5
    "through a wrong one": (curve(3, (0.9, True), (0.8, False), (0.7, True), (0.6, True), (0.2, False)), 0.4),  # .5 .4 .667 .857 .75
    "equal F1: the highest": (curve(2, (0.9, True), (0.8, False), (0.7, False), (0.6, True)), 0.85),  # 2/3, 2/4, 2/5, 4/6
    "equal scores go together": (curve(2, (0.9, True), (0.5, False), (0.5, True), (0.1, False)), 0.3),  # .667, at 0.5: 4/5, .667
}


@pytest.mark.parametrize("case", THRESHOLDS, ids=str)
def test_best_threshold(case: str) -> None:
    scores, expected = THRESHOLDS[case]
    threshold = best_threshold(scores, 0.05)
    assert threshold.value == pytest.approx(expected, abs=1e-9)
    assert (threshold.note is not None) == (expected == DEFAULT_THRESHOLD)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_no_threshold_does_better(seed: int, ties: bool) -> None:
    truth, detections = random_sets(seed, 10, 2, ties)
    for scores in score_curves(truth, detections, 2):
        threshold = best_threshold(scores, 0.05)
        if threshold.note is None:
            others = [operating_point(scores, float(value)).f1 for value in scores.score if value >= 0.05]
            assert operating_point(scores, threshold.value).f1 == pytest.approx(max(value for value in others if value is not None))


def test_threshold_between_close_scores_keeps_its_side() -> None:
    close = curve(1, (0.50000006, True), (0.5, False))
    assert operating_point(close, best_threshold(close, 0.05).value).false_positives == 0


def test_operating_point_and_confidence_curve() -> None:
    scores = score_curves([labels((A, 0), (B, 0))], [found((A, 0.8, 0), ((90, 90, 99, 99), 0.4, 0))], 1)[0]
    point = operating_point(scores, 0.3)
    assert (point.precision, point.recall, point.f1) == (0.5, 0.5, 0.5)
    assert operating_point(scores, 0.9).precision is None
    points = confidence_points(scores)
    assert len(points) == 101
    assert points[50] == {"score": 0.5, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}


def test_counts_per_image_add_up_to_the_curves() -> None:
    truth, detections = random_sets(5, 20, 3)
    thresholds = np.array([0.3, 0.5, 0.7])
    whole = [operating_point(item, value) for item, value in zip(score_curves(truth, detections, 3), thresholds, strict=True)]
    parts = [image_counts(labeled, shown_detections(item, thresholds)) for labeled, item in zip(truth, detections, strict=True)]
    for name in ("true_positives", "false_positives", "false_negatives"):
        assert sum(getattr(item, name) for item in whole) == sum(getattr(item, name) for item in parts)


def test_confusion_by_hand() -> None:
    truth = [labels((A, 0), (B, 1)), labels((A, 1))]
    shown = [found((A, 0.9, 1), ((200, 200, 220, 220), 0.8, 0), ((1, 0, 10, 10), 0.3, 0)), found()]
    # image 1: the sure wrong class takes label a; the far box and the late right one find nothing; b is lost. Image 2: b is lost.
    np.testing.assert_array_equal(confusion_matrix(truth, shown, 2, 0.5), [[0, 1, 0], [0, 0, 2], [2, 0, 0]])


def test_confusion_equals_hotcoco() -> None:
    truth, detections = random_sets(3, 40, 3)
    images, categories = [{"id": n, "width": 1, "height": 1} for n in range(1, 41)], [{"id": n, "name": str(n)} for n in range(1, 4)]
    gold = hotcoco.COCO({"images": images, "categories": categories, "annotations": as_coco(truth)})
    result = hotcoco.COCOeval(gold, gold.load_res(as_coco(detections)), "bbox").confusion_matrix(iou_thr=0.5)
    np.testing.assert_array_equal(confusion_matrix(truth, detections, 3, 0.5), np.array(result["matrix"]))


def test_confusion_pairs_hold_one_line_a_box() -> None:
    text = pairs_csv(np.array([[2, 0, 1], [0, 0, 0], [0, 1, 0]]), ('a "round", one', "b"))
    quoted = '"a ""round"", one"'
    assert text == f"actual,predicted\n{quoted},{quoted}\n{quoted},{quoted}\n{quoted},background\nbackground,b\n"


def sample(image_id: str, source: str, group: str, brightness: float, *boxes: tuple[float, float, float, float]) -> Sample:
    return Sample(image_id, f"images/{image_id}.jpg", 100, 100, "labeled", tuple(Box("a", box) for box in boxes), source, group, None, brightness)


def test_slices() -> None:
    samples = [
        sample("0", "cam1", "g", 30, A),
        sample("1", "cam1", "g", 100, A, B),
        sample("2", "cam2", "h", 200),
        *[sample(str(number), "cam2", "burst", 100, A, B) for number in range(3, 8)],
    ]
    truth = [ground_truth(item, ("a",)) for item in samples]
    detections = [found((A, 0.9, 0)) if item.source == "cam1" else found() for item in samples]
    slices, groups = slice_metrics(samples, truth, detections, ("a",), SliceLimits(150, 9216, 60, 190), coco_metrics(truth, detections, ("a",)))
    assert slices["source=cam1"] == {"AP": pytest.approx(67 / 101), "AP50": pytest.approx(67 / 101), "images": 2, "boxes": 3}  # recall 2/3
    assert slices["source=cam2"]["AP50"] == 0.0
    assert slices["brightness=bright"] == {"AP": None, "AP50": None, "images": 1, "boxes": 0}
    assert slices["brightness=dark"]["AP50"] == pytest.approx(1.0)
    assert slices["group=burst"]["boxes"] == 10
    assert "group=g" not in slices  # too few boxes to say anything
    assert (groups["groups"], groups["measured"], groups["worst_AP50"]) == (3, 1, 0.0)
    samples += [sample(str(number), "cam1", "easy", 100, A, A) for number in range(8, 13)]
    truth = [ground_truth(item, ("a",)) for item in samples]
    detections = [found((A, 0.9, 0), (A, 0.8, 0)) if item.group == "easy" else found() for item in samples]
    _, groups = slice_metrics(samples, truth, detections, ("a",), SliceLimits(150, 9216, 60, 190), coco_metrics(truth, detections, ("a",)))
    assert (groups["measured"], groups["median_AP50"]) == (2, pytest.approx(0.5)), "between the worse and the better of two"


def test_slice_limits() -> None:
    limits = SliceLimits(1024, 9216, 60, 190)
    assert [SIZES[index] for index in limits.size_index(np.array([0, 1024, 1025, 9216, 9217.0]))] == ["small", "small", "medium", "medium", "large"]
    assert [limits.brightness(value) for value in (59.9, 60, 190, 190.1)] == ["dark", "normal", "normal", "bright"]


# scores 0.9 hit, 0.8 miss, 0.7 hit, 0.3 miss; two labels. F1 by threshold: (0.8, 0.9] 2/3, (0.7, 0.8] 1/2, (0.3, 0.7] 4/5, (0.05, 0.3] 2/3.
# One standard error of 4/5 is 0.4 / sqrt(labels): 0.14 of 8 labels.
MANY = 10**6
NEAREST = {
    "it is good where it is": (0.5, MANY, 0.5),
    "the nearest good interval is above": (0.2, MANY, 0.5),
    "the nearest good interval is below": (0.95, MANY, 0.5),
    "with few labels the next best interval is as good": (0.85, 8, 0.85),
    "and it is taken in its middle": (0.95, 8, 0.85),
    "below the lowest score that counts": (0.01, 8, 0.175),
}


@pytest.mark.parametrize("case", NEAREST)
def test_nearest_good_threshold(case: str) -> None:
    wanted, labels, expected = NEAREST[case]
    curve = ScoreCurve(np.array([0.9, 0.8, 0.7, 0.3]), np.array([True, False, True, False]), 2)
    assert nearest_good_threshold(curve, 0.05, wanted, labels) == pytest.approx(expected)


def test_without_a_hit_the_wanted_threshold_stays() -> None:
    assert nearest_good_threshold(ScoreCurve(np.array([0.9]), np.array([False]), 2), 0.05, 0.4, 2) == 0.4
    assert nearest_good_threshold(ScoreCurve(np.zeros(0), np.zeros(0, bool), 0), 0.05, 0.4, 1) == 0.4
