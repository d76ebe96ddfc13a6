"""Typed errors and what they cost. Oracles: the TIDE tool's figures in the shared folder, hotcoco's TIDE, tables worked by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import hotcoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.types import Detections, GroundTruth
from pipelines.evaluation.coco import coco_metrics
from pipelines.mining.tide import KINDS, BoxError, capped, gains, image_errors
from tests.detection_sets import Found, Labeled, found, labels, random_sets, tide_oracle
from tests.test_evaluation import as_coco

TIDE_NAMES = {"class": "Cls", "location": "Loc", "both": "Both", "duplicate": "Dupe", "background": "Bkg", "missed": "Miss"}


def typed(truth: list[GroundTruth], detections: list[Detections]) -> tuple[dict[str, int], dict[str, float | None]]:
    errors = [image_errors(labeled, item, 0.5, 0.1) for labeled, item in zip(truth, detections, strict=True)]
    cost = gains(truth, detections, errors, 4)
    counts = Counter(error.kind for item in errors for error in item.errors)
    special = {"AP50": cost.ap50, "FalsePos": cost.false_positives, "FalseNeg": cost.false_negatives}
    return {TIDE_NAMES[kind]: counts[kind] for kind in KINDS}, {**{TIDE_NAMES[kind]: cost.by_kind[kind] for kind in KINDS}, **special}


@pytest.mark.parametrize(("file", "key"), [("dt.json", "tide"), ("dt_extra_class.json", "tide_extra_class")])
def test_shared_oracle(shared: Path, file: str, key: str) -> None:
    """The TIDE tool averages over classes without labels too (key tide_extra_class); pycocotools, and we, do not: the dAP stay those of key tide."""
    expected = json.loads((shared / "oracles/tide/expected.json").read_text())
    truth, detections, _ = tide_oracle(shared, file)
    counts, cost = typed(truth, detections)
    assert counts == expected[key]["counts"]
    figures = {"AP50": expected["tide"]["ap50"], **expected["tide"]["main_dAP"], **expected["tide"]["special_dAP"]}
    assert {name: 100 * (value or 0) for name, value in cost.items()} == pytest.approx(figures, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_equals_hotcoco(seed: int) -> None:
    truth, detections = random_sets(seed, 40, 3)
    images, categories = [{"id": n, "width": 1, "height": 1} for n in range(1, 41)], [{"id": n, "name": str(n)} for n in range(1, 4)]
    gold = hotcoco.COCO({"images": images, "categories": categories, "annotations": as_coco(truth)})
    evaluation = hotcoco.COCOeval(gold, gold.load_res(as_coco(detections)), "bbox")
    evaluation.evaluate()
    theirs = evaluation.tide_errors()
    counts, cost = typed(truth, detections)
    assert counts == theirs["counts"]
    delta = theirs["delta_ap"]
    expected = {**{name: delta[name] for name in TIDE_NAMES.values()}, "FalsePos": delta["FP"], "FalseNeg": delta["FN"], "AP50": theirs["ap_base"]}
    assert cost == pytest.approx(expected, abs=1e-9)
    assert cost["AP50"] == pytest.approx(coco_metrics(truth, detections, ("a", "b", "c")).ap50, abs=1e-9)


SQUARE, SHIFTED, TOUCHING, FAR = (0, 0, 10, 10), (0, 0, 10, 4), (5, 5, 15, 15), (50, 50, 60, 60)
# IoU with SQUARE: SHIFTED 0.4, TOUCHING 25/175, FAR 0, (0, 0, 10, 5) 0.5, (0, 0, 10, 1) 0.1
LADDER: dict[str, tuple[list[Labeled], list[Found], list[tuple[str, int | None, int | None, bool]]]] = {
    "nothing at all": ([], [], []),
    "right": ([(SQUARE, 0)], [(SQUARE, 0.9, 0)], []),
    "right from IoU 0.5": ([(SQUARE, 0)], [((0, 0, 10, 5), 0.9, 0)], []),
    "no label on the image": ([], [(SQUARE, 0.9, 0)], [("background", 0, None, False)]),
    "missed": ([(SQUARE, 0)], [], [("missed", None, 0, False)]),
    "background and missed": ([(SQUARE, 0)], [(FAR, 0.9, 0)], [("background", 0, None, False), ("missed", None, 0, False)]),
    "location is not missed": ([(SQUARE, 0)], [(SHIFTED, 0.9, 0)], [("location", 0, 0, True)]),
    "location from IoU 0.1": ([(SQUARE, 0)], [((0, 0, 10, 1), 0.9, 0)], [("location", 0, 0, True)]),
    "class is not missed": ([(SQUARE, 0)], [(SQUARE, 0.9, 1)], [("class", 0, 0, True)]),
    "both, and missed": ([(SQUARE, 0)], [(SHIFTED, 0.9, 1)], [("both", 0, 0, False), ("missed", None, 0, False)]),
    "duplicate": ([(SQUARE, 0)], [(SQUARE, 0.9, 0), ((0, 0, 10, 9), 0.8, 0)], [("duplicate", 1, 0, False)]),
    "location at a label that is found": ([(SQUARE, 0)], [(SQUARE, 0.9, 0), (SHIFTED, 0.8, 0)], [("location", 1, 0, False)]),
    "two at one label, the better mends": (
        [(SQUARE, 0)],
        [(SQUARE, 0.9, 1), (SHIFTED, 0.8, 0)],
        [("class", 0, 0, True), ("location", 1, 0, False)],
    ),
    "location goes before class": ([(SQUARE, 0), (TOUCHING, 1)], [(SQUARE, 0.9, 1)], [("location", 0, 1, True), ("missed", None, 0, False)]),
}


@pytest.mark.parametrize("case", LADDER, ids=str)
def test_ladder_by_hand(case: str) -> None:
    truth, detections, expected = LADDER[case]
    errors = image_errors(labels(*truth), found(*detections), 0.5, 0.1).errors
    assert [(error.kind, error.detection, error.truth, error.mends) for error in errors] == expected


def test_iou_of_an_error() -> None:
    assert image_errors(labels((SQUARE, 0)), found((SHIFTED, 0.9, 0)), 0.5, 0.1).errors == (BoxError("location", 0, 0, pytest.approx(0.4), True),)
    (far, missed) = image_errors(labels((SQUARE, 0)), found(((9, 9, 15, 15), 0.9, 0)), 0.5, 0.1).errors
    assert (far.kind, far.iou, missed.iou) == ("background", pytest.approx(1 / 135), None)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_every_box_is_accounted_for_once(seed: int, ties: bool) -> None:
    truth, detections = random_sets(seed, 8, 3, ties)
    for labeled, item in zip(truth, detections, strict=True):
        result = image_errors(labeled, item, 0.5, 0.1)
        wrong = [error.detection for error in result.errors if error.detection is not None]
        assert sorted([*wrong, *np.flatnonzero(result.matched >= 0)]) == list(range(len(item)))
        answered = [error.truth for error in result.errors if error.kind == "missed" or error.mends]
        assert sorted([*answered, *result.matched[result.matched >= 0]]) == list(range(len(labeled.class_index)))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_order_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, detections = random_sets(seed, 10, 3)
    order = rng.permutation(len(truth))
    mixed = []
    for image in order:
        rows = rng.permutation(len(detections[image]))
        mixed.append(Detections(detections[image].xyxy[rows], detections[image].score[rows], detections[image].class_index[rows]))
    counts, cost = typed([truth[image] for image in order], mixed)
    assert counts == typed(truth, detections)[0]
    assert cost == pytest.approx(typed(truth, detections)[1], abs=1e-12)


def test_gains_without_labels_or_images() -> None:
    assert set(typed([], [])[1].values()) == {None}
    assert set(typed([labels()], [found((SQUARE, 0.9, 0))])[1].values()) == {None}


def test_mending_everything_by_hand() -> None:
    """One label found, one taken for another class: mending the class gives AP50 1 for both classes, from 1 and 0."""
    counts, cost = typed([labels((SQUARE, 0), (FAR, 1))], [found((SQUARE, 0.9, 0), (FAR, 0.8, 0))])
    assert counts == {"Cls": 1, "Loc": 0, "Both": 0, "Dupe": 0, "Bkg": 0, "Miss": 0}
    assert cost == pytest.approx({"AP50": 0.5, "Cls": 0.5, "Loc": 0, "Both": 0, "Dupe": 0, "Bkg": 0, "Miss": 0, "FalsePos": 0, "FalseNeg": 0})


def test_capped_keeps_the_best_of_each_class() -> None:
    item = found((SQUARE, 0.9, 0), (SQUARE, 0.8, 1), (SQUARE, 0.7, 0), (SQUARE, 0.6, 0))
    np.testing.assert_allclose(capped(item, 2).score, [0.9, 0.8, 0.7])
