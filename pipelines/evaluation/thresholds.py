"""Which score a detection needs to be shown, for each class, and what precision, recall and F1 that gives (IoU 0.5, COCO's matching)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.core.matching import match_within_class
from pipelines.core.types import Detections, GroundTruth

MATCH_IOU = 0.5
DEFAULT_THRESHOLD = 0.25  # where nothing can be measured; what ultralytics shows by default
CURVE_POINTS = 101
_THRESHOLD_DIGITS = 4


@dataclass(frozen=True)
class ScoreCurve:
    """All detections of one class, best first: `score` (N,) float64, `hit` (N,) bool, and the number of labels."""

    score: NDArray[np.float64]
    hit: NDArray[np.bool_]
    boxes: int


@dataclass(frozen=True)
class OperatingPoint:
    """What is right and wrong at one threshold; a ratio without a denominator is None."""

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def precision(self) -> float | None:
        """Share of the shown detections that are right."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """Share of the labels that are found."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall."""
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)


@dataclass(frozen=True)
class Threshold:
    """A class's threshold, from 0 to 1, and why it is a default, if it is."""

    value: float
    note: str | None = None


def score_curves(truth: Sequence[GroundTruth], detections: Sequence[Detections], class_count: int) -> list[ScoreCurve]:
    """One curve a class over all images, one entry an image in both sequences."""
    hits = [match_within_class(labels, found, MATCH_IOU) >= 0 for labels, found in zip(truth, detections, strict=True)]
    score = np.concatenate([np.zeros(0), *[item.score.astype(np.float64) for item in detections]])
    hit = np.concatenate([np.zeros(0, bool), *hits])
    of_detection = np.concatenate([np.zeros(0, np.int64), *[item.class_index for item in detections]])
    of_label = np.concatenate([np.zeros(0, np.int64), *[item.class_index for item in truth]])
    curves = []
    for class_index in range(class_count):
        rows = np.flatnonzero(of_detection == class_index)
        rows = rows[np.argsort(-score[rows], kind="stable")]
        curves.append(ScoreCurve(score[rows], hit[rows], int((of_label == class_index).sum())))
    return curves


def operating_point(curve: ScoreCurve, threshold: float) -> OperatingPoint:
    """Counts when detections from `threshold` up are shown."""
    shown = curve.score >= threshold
    right = int(curve.hit[shown].sum())
    return OperatingPoint(right, int(shown.sum()) - right, curve.boxes - right)


def best_threshold(curve: ScoreCurve, min_score: float) -> Threshold:
    """The threshold with the highest F1, looked for from `min_score` up.

    F1 changes only where a score lies, so that the best threshold is an interval; its middle is taken, and of several intervals the highest.
    """
    usable = curve.score >= min_score
    score, hit = curve.score[usable], curve.hit[usable]
    if curve.boxes == 0:
        return Threshold(DEFAULT_THRESHOLD, f"no val labels: the default {DEFAULT_THRESHOLD}")
    if not hit.any():
        return Threshold(DEFAULT_THRESHOLD, f"no right val detection from score {min_score} up: the default {DEFAULT_THRESHOLD}")
    last_of_score = np.flatnonzero(np.append(score[1:] < score[:-1], True))
    right = np.cumsum(hit)[last_of_score]
    f1 = 2 * right / (last_of_score + 1 + curve.boxes)
    best = int(last_of_score[int(f1.argmax())])  # argmax takes the first, which is the highest score
    below = float(score[best + 1]) if best + 1 < len(score) else min_score
    return Threshold(_middle(below, float(score[best])))


def nearest_good_threshold(curve: ScoreCurve, min_score: float, wanted: float, labels: int) -> float:
    """The threshold nearest to `wanted` whose F1 is within one standard error of the best one from `min_score` up.

    `wanted` itself where nothing can be measured, or where it is good enough; else the middle of the nearest interval that is. F1 over the threshold
    is flat near its top, so the best one alone jumps about with the noise of a few scores: the one-standard-error rule of Breiman et al.,
    "Classification and Regression Trees" (1984), with F1 taken for a proportion of `labels`, the independent ones among the curve's boxes.
    """
    usable = curve.score >= min_score
    score, hit = curve.score[usable], curve.hit[usable]
    if curve.boxes == 0 or not hit.any():
        return wanted
    last_of_score = np.flatnonzero(np.append(score[1:] < score[:-1], True))
    f1 = 2 * np.cumsum(hit)[last_of_score] / (last_of_score + 1 + curve.boxes)
    upper = score[last_of_score]
    lower = np.append(upper[1:], min_score)
    best = float(f1.max())
    good = f1 >= best - np.sqrt(best * (1 - best) / labels)
    inside = good & (lower < wanted) & (wanted <= upper)
    if inside.any():
        return wanted
    distance = np.where(good, np.maximum(lower - wanted, wanted - upper), np.inf)
    nearest = int(distance.argmin())
    return _middle(float(lower[nearest]), float(upper[nearest]))


def confidence_points(curve: ScoreCurve) -> list[dict[str, float | None]]:
    """Precision, recall and F1 at every hundredth of a score."""
    points = []
    for step in range(CURVE_POINTS):
        score = step / (CURVE_POINTS - 1)
        point = operating_point(curve, score)
        points.append({"score": score, "precision": point.precision, "recall": point.recall, "f1": point.f1})
    return points


def shown_detections(detections: Detections, thresholds: NDArray[np.float64]) -> Detections:
    """The detections that reach their class's threshold; `thresholds` is (classes,)."""
    keep = detections.score.astype(np.float64) >= thresholds[detections.class_index]
    return Detections(detections.xyxy[keep], detections.score[keep], detections.class_index[keep])


def image_counts(truth: GroundTruth, detections: Detections) -> OperatingPoint:
    """Counts over all classes of one image, whose `detections` are the shown ones."""
    right = int((match_within_class(truth, detections, MATCH_IOU) >= 0).sum())
    return OperatingPoint(right, len(detections) - right, len(truth.class_index) - right)


def _middle(below: float, above: float) -> float:
    """The middle of (below, above], with few digits where they still lie inside."""
    middle = (below + above) / 2
    rounded = round(middle, _THRESHOLD_DIGITS)
    return rounded if below < rounded <= above else above


def _ratio(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None
