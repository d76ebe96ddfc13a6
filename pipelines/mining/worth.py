"""What errors cost: the AP50 that mending would add, for each kind as TIDE counts it and for each single error.

What mending an error does, in TIDE: a location or class error that `mends` becomes a right detection of its label; every other wrong detection
vanishes; a missed label is no longer asked for. The mean goes over the classes that have labels, as in pycocotools (the TIDE tool also counts the
others, as 0).

AP is COCO's: the mean over 101 recall points of the highest precision at that recall or a higher one; ties in score stand
in the columns' order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.core.columns import DetectionColumns, Floats, Ints, TruthColumns
from pipelines.mining.tide import CLASS, KINDS, MISSED, Kind, TypedErrors

RECALL_GRID = np.linspace(0.0, 1.0, 101)  # pycocotools' recall points, to the last bit: a recall may lie right on one


@dataclass(frozen=True)
class Gains:
    """AP50 as it is, and what mending each kind alone would add; `false_positives`: no wrong detection left, `false_negatives`: nothing unfound.

    All None without labels. `each` (errors,) is what mending that error alone would add; NaN without labels.
    """

    ap50: float | None
    by_kind: dict[Kind, float | None]
    false_positives: float | None
    false_negatives: float | None
    each: Floats


@dataclass(frozen=True)
class _Detections:
    """All detections of all images, best first."""

    class_index: Ints
    right: NDArray[np.bool_]


def gains(truth: TruthColumns, found: DetectionColumns, errors: TypedErrors, class_count: int) -> Gains:
    """What each kind of error, and each error, costs in AP50."""
    boxes = np.bincount(truth.class_index, minlength=class_count)
    if not boxes.sum():
        return Gains(None, dict.fromkeys(KINDS), None, None, np.full(len(errors.kind), np.nan))
    best_first = np.argsort(-found.score, kind="stable")
    place = np.empty(len(found), dtype=np.int64)
    place[best_first] = np.arange(len(found))
    now = _Detections(found.class_index[best_first], errors.matched[best_first] >= 0)
    base = _mean_ap(now, boxes, boxes)

    def gain(mended: _Detections, wanted: Ints) -> float:
        return max(_mean_ap(mended, wanted, boxes) - base, 0.0)

    by_kind: dict[Kind, float | None] = {}
    for index, kind in enumerate(KINDS):
        mine = errors.kind == index
        if index == MISSED:
            fewer = boxes - np.bincount(truth.class_index[errors.truth[mine]], minlength=class_count)
            by_kind[kind] = gain(now, fewer)
            continue
        class_index, right, keep = now.class_index.copy(), now.right.copy(), np.ones(len(found), dtype=bool)
        keep[place[errors.detection[mine & ~errors.mends]]] = False
        mended = mine & errors.mends
        class_index[place[errors.detection[mended]]] = truth.class_index[errors.truth[mended]]
        right[place[errors.detection[mended]]] = True
        by_kind[kind] = gain(_Detections(class_index[keep], right[keep]), boxes)
    only_right = gain(_Detections(now.class_index[now.right], now.right[now.right]), boxes)
    found_boxes = np.bincount(now.class_index[now.right], minlength=class_count)
    return Gains(base, by_kind, only_right, gain(now, found_boxes), _each(truth, errors, place, now, boxes))


def average_precision(right: NDArray[np.bool_], boxes: int) -> float:
    """COCO's average precision of one class at one IoU, detections best first; 0 where no label is left to find."""
    if not boxes:
        return 0.0
    return float(_Curve(right, boxes).at_recall.mean())


class _Curve:
    """Precision over recall of one class, counted by right detections ("hits", from 1): precision can be highest only at one.

    `rank` (hits,) is the place of each hit among the detections, from 1. `needed` (101,) is the first hit that reaches each recall point. `at_recall`
    (101,) is the highest precision from there on, 0 where the hits do not reach.
    """

    def __init__(self, right: NDArray[np.bool_], boxes: int) -> None:
        self.rank = np.flatnonzero(right) + 1
        self.needed = np.searchsorted(np.arange(1, boxes + 1) / boxes, RECALL_GRID, side="left") + 1
        self.precision = np.arange(1, len(self.rank) + 1) / self.rank
        best_from = np.append(np.maximum.accumulate(self.precision[::-1])[::-1], 0.0)  # [hit - 1]
        self.at_recall = best_from[np.minimum(self.needed - 1, len(self.rank))]
        self.before = np.zeros(len(right) + 1, dtype=np.int64)  # hits among the first n detections
        np.cumsum(right, out=self.before[1:])

    def without_one(self, hits_before: Ints) -> Floats:
        """AP gained when one wrong detection, which `hits_before` (M,) hits precede, vanishes: the ranks of all later hits fall by one."""
        count = len(self.rank)
        later = np.arange(1, count + 1) / np.maximum(self.rank - 1, 1)
        later_best = np.append(np.maximum.accumulate(later[::-1])[::-1], 0.0)  # [hit - 1]
        reached = self.needed[self.needed <= count]
        after = _from(reached, later_best, count + 2)
        change = (after[1:] + self._earlier(np.arange(count + 1), later_best)) / len(RECALL_GRID) - self.at_recall.mean()  # [hits before]
        result: Floats = change[hits_before]
        return result

    def with_one(self, hits_before: Ints, rank: Ints, shift: int) -> Floats:
        """AP gained when a hit appears at `rank` (M,), after `hits_before` (M,) hits; the ranks of later detections grow by `shift`."""
        count = len(self.rank)
        later = np.arange(2, count + 2) / (self.rank + shift)
        later_best = np.append(np.maximum.accumulate(later[::-1])[::-1], 0.0)  # [old hit - 1]
        reached = self.needed[self.needed <= count + 1]
        after = _from(reached, np.append(0.0, later_best), count + 3)  # [new hit]
        new = np.maximum((hits_before + 1) / rank, later_best[hits_before])
        here = np.bincount(reached, minlength=count + 3)[hits_before + 1]
        total = after[hits_before + 2] + here * new + self._earlier(hits_before, new)
        result: Floats = total / len(RECALL_GRID) - self.at_recall.mean()
        return result

    def _earlier(self, hits_before: Ints, later: Floats) -> Floats:
        """Sum over the recall points that the first `hits_before` (M,) hits reach: the highest precision there, or `later` (M,) if higher.

        `later` is at least what the precision was at any later hit (a change moves it only up), so that `at_recall` can stand for the earlier ones.
        """
        points = np.searchsorted(self.needed, hits_before, side="right")
        higher = np.minimum(np.searchsorted(-self.at_recall, -later, side="left"), points)  # at_recall only falls
        total = np.append(0.0, np.cumsum(self.at_recall))
        result: Floats = total[higher] + (points - higher) * later
        return result


def _from(reached: Ints, value: Floats, length: int) -> Floats:
    """Sum over the recall points that need at least hit n of `value[needed - 1]`, for n from 0 to `length` - 1."""
    at = np.bincount(reached, weights=value[reached - 1], minlength=length).astype(np.float64)
    result: Floats = np.cumsum(at[::-1])[::-1]
    return result


def _each(truth: TruthColumns, errors: TypedErrors, place: Ints, now: _Detections, boxes: Ints) -> Floats:
    """What mending each error alone adds to the mean AP50, (errors,)."""
    gain = np.zeros(len(errors.kind))
    wrong, missed = np.flatnonzero(errors.detection >= 0), np.flatnonzero(errors.detection < 0)
    error_place, own_class, new_class = (np.full(len(gain), -1, dtype=np.int64) for _ in range(3))
    error_place[wrong] = place[errors.detection[wrong]]
    own_class[wrong] = now.class_index[error_place[wrong]]
    own_class[missed] = truth.class_index[errors.truth[missed]]
    becomes_right = errors.mends & (errors.kind != CLASS)
    changes_class = errors.mends & (errors.kind == CLASS)
    new_class[changes_class] = truth.class_index[errors.truth[changes_class]]
    in_class = np.empty(len(place), dtype=np.int64)  # of each detection, its place among those of its class
    for index in np.flatnonzero(boxes):
        rows = np.flatnonzero(now.class_index == index)
        in_class[rows] = np.arange(len(rows))
        right = now.right[rows]
        curve = _Curve(right, int(boxes[index]))
        mine = own_class == index
        gone = np.flatnonzero(mine & (errors.detection >= 0) & ~becomes_right)
        gain[gone] += curve.without_one(curve.before[in_class[error_place[gone]]])
        mended = np.flatnonzero(mine & becomes_right)
        at = in_class[error_place[mended]]
        gain[mended] += curve.with_one(curve.before[at], at + 1, shift=0)
        joins = np.flatnonzero(new_class == index)
        at = np.searchsorted(rows, error_place[joins])
        gain[joins] += curve.with_one(curve.before[at], at + 1, shift=1)
        lost = np.flatnonzero(mine & (errors.kind == MISSED))
        if len(lost):
            gain[lost] = max(average_precision(right, int(boxes[index]) - 1) - float(curve.at_recall.mean()), 0.0)
    result: Floats = gain / np.count_nonzero(boxes)
    return result


def _mean_ap(detections: _Detections, wanted: Ints, boxes: Ints) -> float:
    """Mean over the classes with `boxes` of the AP when `wanted` labels of each are to be found, both (classes,)."""
    order = np.argsort(detections.class_index.astype(np.min_scalar_type(len(boxes))), kind="stable")  # small integers are sorted in linear time
    ends = np.cumsum(np.bincount(detections.class_index, minlength=len(boxes)))
    parts = np.split(detections.right[order], ends[:-1])
    return float(np.mean([average_precision(parts[index], int(wanted[index])) for index in np.flatnonzero(boxes)]))
