"""Typing every wrong box, as TIDE does (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020).

A detection that COCO's matching leaves without a label gets the first kind that fits; a label that nothing found and no mended error would find is
missed:

    location    its class is right, its overlap with a label of that class lies between background and foreground
    class       it overlaps a label of another class enough
    duplicate   it overlaps a label of its class enough, and a better detection has that label
    background  it overlaps no label
    both        anything else: wrong class and wrong place
    missed      a label that neither a right detection nor a location or class error is about

`gains` says what each kind costs: the AP50 that mending it would add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.core.boxes import iou_matrix
from pipelines.core.matching import match_within_class
from pipelines.core.types import Detections, GroundTruth

Kind = Literal["class", "location", "both", "duplicate", "background", "missed"]
KINDS: tuple[Kind, ...] = ("class", "location", "both", "duplicate", "background", "missed")
MAX_DETECTIONS = 100  # of a class on an image, in COCO
_RECALL_GRID = np.linspace(0.0, 1.0, 101)  # pycocotools' recall points, to the last bit: a recall may lie right on one


@dataclass(frozen=True)
class BoxError:
    """One wrong box of one image. Indices point into its detections and labels; None where there is none of the two.

    `iou` is that of the detection and the label it is about (for background the highest with any label; None for missed). `mends` is true for the one
    location or class error that would take over its label, which nothing else holds, if it were mended.
    """

    kind: Kind
    detection: int | None
    truth: int | None
    iou: float | None
    mends: bool = False


@dataclass(frozen=True)
class ImageErrors:
    """The wrong boxes of one image, detections first, best score first; `matched` (detections,) is the label of each right detection, else -1."""

    errors: tuple[BoxError, ...]
    matched: NDArray[np.int64]


def image_errors(truth: GroundTruth, detections: Detections, foreground_iou: float, background_iou: float) -> ImageErrors:
    """Type every wrong box of one image."""
    matched = match_within_class(truth, detections, foreground_iou)
    free = np.ones(len(truth.class_index), dtype=bool)
    free[matched[matched >= 0]] = False
    iou = iou_matrix(detections.xyxy, truth.xyxy)
    wrong = [int(row) for row in np.argsort(-detections.score, kind="stable") if matched[row] < 0]
    errors: list[BoxError] = []
    taken: set[int] = set()
    for row in wrong:
        same = truth.class_index == detections.class_index[row]
        kind, label = _kind(iou[row], same, foreground_iou, background_iou)
        mends = kind in ("location", "class") and label is not None and bool(free[label]) and label not in taken
        if mends and label is not None:
            taken.add(label)
        overlap = float(iou[row, label]) if label is not None else float(iou[row].max(initial=0.0))
        errors.append(BoxError(kind, row, label, overlap, mends))
    errors += [BoxError("missed", None, int(label), None) for label in np.flatnonzero(free) if int(label) not in taken]
    return ImageErrors(tuple(errors), matched)


def _kind(iou: NDArray[np.float64], same: NDArray[np.bool_], foreground_iou: float, background_iou: float) -> tuple[Kind, int | None]:
    """Kind and label of one unmatched detection; `iou` and `same` (same class) are (labels,)."""
    if not len(iou):
        return "background", None
    own, other = np.where(same, iou, 0.0), np.where(same, 0.0, iou)
    if background_iou <= own.max() <= foreground_iou:
        return "location", int(own.argmax())
    if other.max() >= foreground_iou:
        return "class", int(other.argmax())
    if own.max() > foreground_iou:  # a better detection has the label, otherwise it would be matched
        return "duplicate", int(own.argmax())
    if iou.max() <= background_iou:
        return "background", None
    return "both", int(iou.argmax())


def capped(detections: Detections, limit: int = MAX_DETECTIONS) -> Detections:
    """The best `limit` detections of each class, as the COCO evaluation counts them."""
    keep = np.zeros(len(detections), dtype=bool)
    best_first = np.argsort(-detections.score, kind="stable")
    for class_index in np.unique(detections.class_index):
        keep[best_first[detections.class_index[best_first] == class_index][:limit]] = True
    return Detections(detections.xyxy[keep], detections.score[keep], detections.class_index[keep])


@dataclass(frozen=True)
class Gains:
    """AP50 as it is, and what mending each kind alone would add; `false_positives`: no wrong detection left, `false_negatives`: nothing unfound."""

    ap50: float | None
    by_kind: dict[Kind, float | None]
    false_positives: float | None
    false_negatives: float | None


def gains(truth: Sequence[GroundTruth], detections: Sequence[Detections], errors: Sequence[ImageErrors], class_count: int) -> Gains:
    """What each kind of error costs in AP50, one entry an image in all three sequences.

    A mended class or location error becomes right, once for each label, the others about it vanish; background, duplicate and both vanish; a missed
    label is no longer asked for. Mean over the classes that have labels, as pycocotools does it (the TIDE tool also counts the others, as 0).
    """
    labels = np.concatenate([np.zeros(0, np.int64), *[item.class_index for item in truth]])
    boxes = np.bincount(labels, minlength=class_count)
    if not boxes.sum():
        return Gains(None, dict.fromkeys(KINDS), None, None)
    points = _points(truth, detections, errors)
    base = _mean_ap(points.class_index, points.score, points.right, boxes, boxes > 0)

    def gain(class_index: NDArray[np.int64], score: NDArray[np.float64], right: NDArray[np.bool_], wanted: NDArray[np.int64]) -> float:
        return max(_mean_ap(class_index, score, right, wanted, boxes > 0) - base, 0.0)

    by_kind: dict[Kind, float | None] = {}
    for kind in KINDS:
        if kind == "missed":
            lost = [truth[image].class_index[error.truth] for image, item in enumerate(errors) for error in item.errors if error.kind == kind]
            fewer = boxes - np.bincount(np.array(lost, dtype=np.int64), minlength=class_count)
            by_kind[kind] = gain(points.class_index, points.score, points.right, fewer)
            continue
        touched = points.kind == KINDS.index(kind)
        keep = ~touched | points.mends
        mended_class = np.where(touched & points.mends, points.mended_class, points.class_index)
        by_kind[kind] = gain(mended_class[keep], points.score[keep], (points.right | (touched & points.mends))[keep], boxes)
    only_right = gain(points.class_index[points.right], points.score[points.right], points.right[points.right], boxes)
    found = np.bincount(points.class_index[points.right], minlength=class_count)
    return Gains(base, by_kind, only_right, gain(points.class_index, points.score, points.right, found))


@dataclass(frozen=True)
class _Points:
    """All detections of all images, best first, as columns; `kind` is a position in KINDS, -1 when right."""

    class_index: NDArray[np.int64]
    score: NDArray[np.float64]
    right: NDArray[np.bool_]
    kind: NDArray[np.int64]
    mends: NDArray[np.bool_]
    mended_class: NDArray[np.int64]


def _points(truth: Sequence[GroundTruth], detections: Sequence[Detections], errors: Sequence[ImageErrors]) -> _Points:
    parts: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]] = []
    for labels, found, item in zip(truth, detections, errors, strict=True):
        kind, mends, mended = np.full(len(found), -1), np.zeros(len(found), bool), found.class_index.copy()
        for error in item.errors:
            if error.detection is not None:
                kind[error.detection] = KINDS.index(error.kind)
                mends[error.detection] = error.mends
                if error.kind == "class" and error.truth is not None:
                    mended[error.detection] = labels.class_index[error.truth]
        parts.append((found.class_index, found.score.astype(np.float64), item.matched >= 0, kind, mends, mended))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(-columns[1], kind="stable")
    return _Points(*(column[order] for column in columns))


def _mean_ap(
    class_index: NDArray[np.int64], score: NDArray[np.float64], right: NDArray[np.bool_], boxes: NDArray[np.int64], counted: NDArray[np.bool_]
) -> float:
    values = []
    for index in np.flatnonzero(counted):
        rows = np.flatnonzero(class_index == index)
        rows = rows[np.argsort(-score[rows], kind="stable")]
        values.append(_average_precision(right[rows], int(boxes[index])))
    return float(np.mean(values))


def _average_precision(right: NDArray[np.bool_], boxes: int) -> float:
    """COCO's 101-point average precision of one class at one IoU, detections best first; 0 where no label is left to find."""
    if not boxes or not len(right):
        return 0.0
    hits = np.cumsum(right)
    precision = np.maximum.accumulate((hits / np.arange(1, len(right) + 1))[::-1])[::-1]
    position = np.searchsorted(hits / boxes, _RECALL_GRID, side="left")
    return float(np.where(position < len(right), precision[np.minimum(position, len(right) - 1)], 0.0).mean())
