"""Typed errors and what they cost. Oracles: the TIDE tool's figures in the shared folder, hotcoco's TIDE, tables worked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import hotcoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.columns import detections_from_images, truth_from_images
from pipelines.core.matching import match_within_class
from pipelines.core.types import Detections, GroundTruth
from pipelines.evaluation.coco import coco_metrics
from pipelines.mining.badcases import counts_of
from pipelines.mining.mistakenness import class_mistakenness, location_mistakenness
from pipelines.mining.tide import KINDS, capped, typed_errors
from pipelines.mining.worth import gains
from tests.detection_sets import Found, Labeled, found, labels, random_sets, tide_oracle
from tests.test_evaluation import as_coco

TIDE_NAMES = {"class": "Cls", "location": "Loc", "both": "Both", "duplicate": "Dupe", "background": "Bkg", "missed": "Miss"}


def typed(truth: list[GroundTruth], detections: list[Detections]) -> tuple[dict[str, int], dict[str, float | None]]:
    labels_of_all, found_in_all = truth_from_images(truth), detections_from_images(detections)
    errors = typed_errors(labels_of_all, found_in_all, 0.5, 0.1)
    cost = gains(labels_of_all, found_in_all, errors, 4)
    special = {"AP50": cost.ap50, "FalsePos": cost.false_positives, "FalseNeg": cost.false_negatives}
    counts = counts_of(errors)
    return {TIDE_NAMES[kind]: counts[kind] for kind in KINDS}, {**{TIDE_NAMES[kind]: cost.by_kind[kind] for kind in KINDS}, **special}


def one_image(truth: GroundTruth, detections: Detections) -> list[tuple[str, int | None, int | None, bool]]:
    """Kind, detection, label and whether it mends, of each error."""
    errors = typed_errors(truth_from_images([truth]), detections_from_images([detections]), 0.5, 0.1)
    numbers = zip(errors.kind, errors.detection, errors.truth, errors.mends, strict=True)
    return [(KINDS[kind], None if row < 0 else int(row), None if label < 0 else int(label), bool(mends)) for kind, row, label, mends in numbers]


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
    assert one_image(labels(*truth), found(*detections)) == expected


def test_iou_of_an_error() -> None:
    near = typed_errors(truth_from_images([labels((SQUARE, 0))]), detections_from_images([found((SHIFTED, 0.9, 0))]), 0.5, 0.1)
    assert near.iou.tolist() == [pytest.approx(0.4)]
    far = typed_errors(truth_from_images([labels((SQUARE, 0))]), detections_from_images([found(((9, 9, 15, 15), 0.9, 0))]), 0.5, 0.1)
    assert [KINDS[kind] for kind in far.kind] == ["background", "missed"]
    np.testing.assert_allclose(far.iou, [1 / 135, np.nan])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_matching_equals_the_one_of_the_core(seed: int, ties: bool) -> None:
    """The vectorised matching of all images against the plain one, image by image, and every box accounted for once."""
    truth, detections = random_sets(seed, 8, 3, ties)
    columns, found_in_all = truth_from_images(truth), detections_from_images(detections)
    errors = typed_errors(columns, found_in_all, 0.5, 0.1)
    for image, (labeled, item) in enumerate(zip(truth, detections, strict=True)):
        rows, places = found_in_all.image == image, np.flatnonzero(columns.image == image)
        order, sorted_labels = found_in_all.position[rows], columns.position[places]
        plain = match_within_class(
            GroundTruth(labeled.xyxy[sorted_labels], labeled.class_index[sorted_labels]),
            Detections(item.xyxy[order], item.score[order], item.class_index[order]),
            0.5,
        )
        assert [(-1 if row < 0 else int(row - places[0])) for row in errors.matched[rows]] == plain.tolist()
    wrong = errors.detection[errors.detection >= 0]
    assert sorted([*wrong, *np.flatnonzero(errors.matched >= 0)]) == list(range(len(found_in_all)))
    answered = errors.truth[(errors.detection < 0) | errors.mends]
    assert sorted([*answered, *errors.matched[errors.matched >= 0]]) == list(range(len(columns)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_each_gain_is_what_mending_that_one_error_adds(seed: int, ties: bool) -> None:
    """Each error mended by itself, and AP worked out anew by its definition."""
    truth, detections = random_sets(seed, 6, 3, ties)
    columns, boxes = truth_from_images(truth), detections_from_images(detections)
    errors = typed_errors(columns, boxes, 0.5, 0.1)
    cost = gains(columns, boxes, errors, 3)
    if cost.ap50 is None:
        return
    present = np.flatnonzero(np.bincount(columns.class_index, minlength=3))
    best_first = np.argsort(-boxes.score, kind="stable")
    right = errors.matched >= 0

    def ap50(class_index: np.ndarray, right: np.ndarray, keep: np.ndarray, wanted: np.ndarray) -> float:
        values = []
        for index in present:
            rows = best_first[(class_index[best_first] == index) & keep[best_first]]
            values.append(plain_ap(right[rows], int(wanted[index])))
        return float(np.mean(values))

    wanted = np.bincount(columns.class_index, minlength=3)
    everything = np.ones(len(boxes), bool)
    base = ap50(boxes.class_index, right, everything, wanted)
    assert cost.ap50 == pytest.approx(base, abs=1e-12)
    for number, (kind, row, label) in enumerate(zip(errors.kind, errors.detection, errors.truth, strict=True)):
        class_index, good, keep, fewer = boxes.class_index.copy(), right.copy(), everything.copy(), wanted.copy()
        if KINDS[kind] == "missed":
            fewer[columns.class_index[label]] -= 1
        elif errors.mends[number]:
            class_index[row], good[row] = columns.class_index[label], True
        else:
            keep[row] = False
        mended = ap50(class_index, good, keep, fewer)
        assert cost.each[number] == pytest.approx(max(mended - base, 0) if KINDS[kind] == "missed" else mended - base, abs=1e-12)


def plain_ap(right: np.ndarray, boxes: int) -> float:
    """COCO's AP as its definition reads: at 101 recalls, the highest precision among all places that reach the recall."""
    if boxes == 0:
        return 0.0
    hits = np.cumsum(right)
    recall, precision = hits / boxes, hits / np.arange(1, len(hits) + 1)
    return float(np.mean([precision[recall >= point].max(initial=0.0) for point in np.linspace(0.0, 1.0, 101)]))


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
    assert capped(detections_from_images([item, item]), 2).tolist() == [True, True, True, False] * 2


def test_mistakenness_equals_the_closed_form(shared: Path) -> None:
    """Voxel51's vectors, to the last bit."""
    vectors = json.loads((shared / "oracles/tide/mistakenness_vectors.json").read_text())
    of_class = {name: np.array([row[name] for row in vectors["class"]]) for name in ("conf", "label_match", "mistakenness")}
    assert class_mistakenness(of_class["conf"], of_class["label_match"]).tolist() == of_class["mistakenness"].tolist()
    of_place = {name: np.array([row[name] for row in vectors["loc"]]) for name in ("conf", "iou", "mistakenness_loc")}
    assert location_mistakenness(of_place["conf"], of_place["iou"]).tolist() == of_place["mistakenness_loc"].tolist()
