"""Suspect labels: each kind by hand, no dependence on the scale of the confidences, and a detector made of noise finds what was planted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.columns import DetectionColumns, TruthColumns, detections_from_images, truth_from_images
from pipelines.core.types import Detections, GroundTruth
from pipelines.mining.labelfaults import FAULTS, Suspects, falling_rates, label_suspects, suspect_rows
from tests.detection_sets import Found, Labeled, found, labels, random_sets

CLASSES = ("a", "b")
ORDINARY = 30  # images whose only label is found, so that a sure detection means something


def judged(truth: list[Labeled], detections: list[Found]) -> tuple[TruthColumns, DetectionColumns, Suspects]:
    """Image 0 as given, then images on which both classes are found as labeled."""
    usual_labels = [((10, 10, 30, 30), 0), ((60, 60, 90, 90), 1)]
    usual = [labels(*usual_labels)] * ORDINARY
    seen = [found(*((box, 0.5 + number / 100, name) for box, name in usual_labels)) for number in range(ORDINARY)]
    weak = [found(((200, 200, 220, 220), 0.05, 0), ((200, 200, 220, 220), 0.05, 1))] * ORDINARY
    columns = truth_from_images([labels(*truth), *usual, *[labels()] * ORDINARY])
    everything = detections_from_images([found(*detections), *seen, *weak])
    return columns, everything, label_suspects(columns, everything)


BOX, BESIDE = (100, 100, 140, 140), (120, 110, 160, 150)
BY_HAND: dict[str, tuple[list[Labeled], list[Found], str]] = {
    "nothing speaks for it": ([(BOX, 0)], [], "spurious"),
    "found beside it": ([(BOX, 0)], [(BESIDE, 0.6, 0)], "misplaced"),
    "found to be another class": ([(BOX, 0)], [(BOX, 0.6, 1)], "swapped"),
    "found where nothing is labeled": ([], [(BOX, 0.6, 1)], "missing"),
}


@pytest.mark.parametrize("case", BY_HAND, ids=str)
def test_each_kind_by_hand(case: str) -> None:
    truth, detections, kind = BY_HAND[case]
    columns, everything, suspects = judged(truth, detections)
    rows = suspect_rows(columns, everything, suspects, CLASSES, [{"image_id": f"{number:03d}"} for number in range(2 * ORDINARY + 1)], 0.1)
    assert rows[0]["image_id"] == "000"
    assert rows[0]["kind"] == kind
    assert [row["kind"] for row in rows if row["image_id"] == "000"] == [kind]
    assert all(row["score"] < rows[0]["score"] / 2 for row in rows[1:])
    assert rows[0]["box"] == (None if kind == "missing" else list(BOX))
    assert rows[0]["suggested_box"] == (None if kind == "spurious" else list(detections[0][0]))
    assert (rows[0]["class"], rows[0]["suggested_class"]) == {
        "spurious": ("a", None),
        "misplaced": ("a", "a"),
        "swapped": ("a", "b"),
        "missing": (None, "b"),
    }[kind]
    assert rows[0]["why"]


def test_a_right_label_is_no_suspect() -> None:
    _, _, suspects = judged([(BOX, 0)], [(BOX, 0.6, 0)])
    assert suspects.score[0] < 0.1
    assert suspects.missing.max() < 0.1


def test_a_detection_beside_two_labels_accuses_none_that_has_its_own() -> None:
    _, _, suspects = judged([(BOX, 0), (BESIDE, 0)], [(BOX, 0.7, 0), (BESIDE, 0.6, 0)])
    assert suspects.score[:2].max() < 0.1


RESCALED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "x 0.75": lambda score: score * 0.75,
    "squared": np.square,
    "root": np.sqrt,
    "odds": lambda score: score / (1 - score),
}


@pytest.mark.parametrize("name", RESCALED)
@given(seed=st.integers(0, 10_000))
def test_rescaled_confidences_change_nothing(name: str, seed: int) -> None:
    truth, detections = random_sets(seed, 12, 3, ties=seed % 2 == 0)
    columns, everything = truth_from_images(truth), detections_from_images(detections)
    everything = dataclasses.replace(everything, score=np.clip(everything.score, 0.001, 0.999))
    first = label_suspects(columns, everything)
    second = label_suspects(columns, dataclasses.replace(everything, score=RESCALED[name](everything.score)))
    for one, other in zip(dataclasses.astuple(first), dataclasses.astuple(second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_falling_rates_by_hand() -> None:
    hit, score = np.array([True, False, True, True, False, False, True]), np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.4])
    assert falling_rates(hit, score).tolist() == pytest.approx([1, 2 / 3, 2 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3])
    assert falling_rates(np.zeros(0, bool), np.zeros(0)).tolist() == []


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=40))
def test_falling_rates_never_rise_and_keep_the_mean(pairs: list[tuple[bool, int]]) -> None:
    pairs = sorted(pairs, key=lambda pair: -pair[1])
    hit, score = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs], dtype=float)
    rates = falling_rates(hit, score)
    assert (np.diff(rates) <= 1e-12).all()
    assert rates.mean() == pytest.approx(hit.mean())
    assert all(len(set(rates[score == value])) == 1 for value in set(score))


def test_planted_faults_come_first() -> None:
    """A detector with noise on boxes and scores, 400 labels, 5 % of each kind planted: the first suspects are mostly the planted ones."""
    rng = np.random.default_rng(0)
    truth: list[GroundTruth] = []
    seen: list[Detections] = []
    faulty: list[list[str]] = []
    for _ in range(100):
        corner = np.array([[10, 10], [120, 10], [10, 120], [120, 120]]) + rng.uniform(0, 30, (4, 2))
        box, name = np.hstack([corner, corner + 60]), rng.integers(0, 2, 4)
        kind = rng.choice([*FAULTS, "right"], 4, p=[0.05, 0.05, 0.05, 0.05, 0.8])
        labeled, called = box.copy(), name.copy()
        labeled[kind == "misplaced"] += 25
        called[kind == "swapped"] = 1 - called[kind == "swapped"]
        kept = kind != "missing"
        truth.append(GroundTruth(labeled[kept].astype(np.float32), called[kept]))
        faulty.append([str(item) for item in kind[kept]])
        visible = (rng.random(4) < 0.95) & (kind != "spurious")
        noise = rng.uniform(100, 220, (6, 2))
        boxes = np.vstack([box[visible] + rng.normal(0, 2, (visible.sum(), 4)), np.hstack([noise, noise + 40])])
        score = np.concatenate([rng.beta(6, 2, visible.sum()), rng.beta(1, 8, 6)])
        seen.append(Detections(boxes.astype(np.float32), score.astype(np.float32), np.concatenate([name[visible], rng.integers(0, 2, 6)])))
    columns, everything = truth_from_images(truth), detections_from_images(seen)
    suspects = label_suspects(columns, everything)
    kinds = np.array([kind for part in faulty for kind in part])
    worst = np.argsort(-suspects.score)[: int((kinds != "right").sum())]
    assert (kinds[worst] != "right").mean() > 0.7
    told = [(FAULTS[suspects.kind[row]], kinds[row]) for row in worst if kinds[row] != "right"]
    assert np.mean([one == other for one, other in told]) > 0.9


@pytest.mark.parametrize(
    ("truth", "detections"), [([], []), ([((0, 0, 9, 9), 0)], []), ([], [((0, 0, 9, 9), 0.9, 0)])], ids=["neither", "no detections", "no labels"]
)
def test_empty(truth: list[Labeled], detections: list[Found]) -> None:
    suspects = label_suspects(truth_from_images([labels(*truth)]), detections_from_images([found(*detections)]))
    assert (len(suspects.score), len(suspects.missing)) == (len(truth), len(detections))
