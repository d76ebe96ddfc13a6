"""Which labels are probably wrong: spurious, misplaced, swapped, missing. Judged by detections of models that never saw those labels.

No figure depends on the scale of the confidences. A detection counts by its hit rate: how often detections of its class that rank like it find a
label (isotonic regression, so any rescaling that keeps the order changes nothing). With the hit rates p of the detections around a label:

    support     the highest p of its own class on it, in full from IoU 0.7, falling to nothing at 0.3
    swapped     the highest p of another class on it, where no label of that class is: p x (1 - support)
    misplaced   the highest p of its class beside it (IoU 0.1 to 0.5), where no other label of that class is: p x (1 - support)
    spurious    nothing speaks for it, though labels of its class and size usually have support: the chance that a label with so little support is
                one of the faulty ones, when PRIOR of all are, x (1 - support)
    missing     a detection where no label is: half p squared, x (1 - the score of a label of its class that it touches and explains)

A score is a rank with a reason, not a probability. Suspects go to people; nothing here changes a label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core.boxes import area, iou_matrix
from pipelines.core.columns import DetectionColumns, Floats, Ints, TruthColumns
from pipelines.mining.tide import greedy_match, overlaps

FAULTS = ("spurious", "misplaced", "swapped", "missing")
SPURIOUS, MISPLACED, SWAPPED, MISSING = range(len(FAULTS))
SAME_IOU, TOUCHING_IOU = 0.5, 0.1
NO_SUPPORT_IOU, FULL_SUPPORT_IOU = 0.3, 0.7
PRIOR = 0.05
CLASS_WEIGHT = 20  # labels; see `_share_with_less`
MISSING_WEIGHT = 0.5
MIN_HIT_RATE = 0.05  # a detection that is right more rarely proposes no label


@dataclass(frozen=True)
class Suspects:
    """What speaks against each label, and for each detection that has none.

    `kind` (labels,) is a position in FAULTS, `score` (labels,) from 0 to 1, `support` (labels,) as the module says, `witness` (labels,) the detection
    of another class or place, -1 where none speaks. `missing` (detections,) from 0 to 1, 0 where a detection proposes nothing. `rate` (detections,).
    """

    kind: Ints
    score: Floats
    support: Floats
    witness: Ints
    missing: Floats
    rate: Floats


def label_suspects(truth: TruthColumns, found: DetectionColumns) -> Suspects:
    """Judge every label and every detection."""
    row, label, iou = overlaps(truth, found)
    same = truth.class_index[label] == found.class_index[row]
    rate = hit_rates(found, greedy_match(found, row[same], label[same], iou[same], SAME_IOU) >= 0)
    own_iou, any_iou = _highest(len(found), row[same], iou[same]), _highest(len(found), row, iou)

    weight = np.clip((iou - NO_SUPPORT_IOU) / (FULL_SUPPORT_IOU - NO_SUPPORT_IOU), 0.0, 1.0)
    support = _highest(len(truth), label[same], (rate[row] * weight)[same])
    unclaimed = own_iou[row] < SAME_IOU
    beside = same & (iou >= TOUCHING_IOU) & (iou < SAME_IOU) & unclaimed
    other = ~same & (iou >= SAME_IOU) & unclaimed
    place, place_witness = _best_witness(len(truth), label[beside], row[beside], rate)
    name, name_witness = _best_witness(len(truth), label[other], row[other], rate)

    scores = np.zeros((len(FAULTS) - 1, len(truth)))
    scores[SPURIOUS] = PRIOR / (PRIOR + (1 - PRIOR) * _share_with_less(truth, support))
    scores[MISPLACED], scores[SWAPPED] = place, name
    scores *= 1 - support
    kind = scores.argmax(axis=0)
    score = scores.max(axis=0, initial=0.0)
    witness = np.choose(kind, [np.full(len(truth), -1), place_witness, name_witness])

    explained = same & (iou >= TOUCHING_IOU)
    free = np.flatnonzero((any_iou < SAME_IOU) & (rate >= MIN_HIT_RATE))
    free = free[_best_of_each_place(found, free, rate)]
    missing = np.zeros(len(found))
    missing[free] = MISSING_WEIGHT * rate[free] ** 2
    missing *= 1 - _highest(len(found), row[explained], score[label[explained]])
    return Suspects(kind, score, support, witness, missing, rate)


def suspect_rows(
    truth: TruthColumns, found: DetectionColumns, suspects: Suspects, classes: Sequence[str], images: Sequence[Mapping[str, Any]], min_score: float
) -> list[dict[str, Any]]:
    """One row for each label and detection from `min_score` up, most suspect first; `images[i]` is what every row says of image i.

    `box` and `class` are the label's (null where it is missing), `suggested_box` and `suggested_class` what the model would have there.
    """
    rows = []
    for label in np.flatnonzero(suspects.score >= min_score):
        witness, kind = int(suspects.witness[label]), FAULTS[suspects.kind[label]]
        own = classes[truth.class_index[label]]
        rate = "" if witness < 0 else f"{suspects.rate[witness]:.0%}"
        offered = None if witness < 0 else classes[found.class_index[witness]]
        why = {
            "spurious": f"little speaks for this {own} (support {suspects.support[label]:.2f}), less than for most of its class and size",
            "misplaced": f"a {own} is found beside this box, where no other label is; detections like it are right in {rate} of cases",
            "swapped": f"labeled {own}, found to be {offered}; detections like it are right in {rate} of cases",
        }[kind]
        suggestion = {"suggested_class": offered, "suggested_box": None if witness < 0 else _plain(found.xyxy[witness])}
        own_part = {"class": own, "box": _plain(truth.xyxy[label]), "truth_index": int(truth.position[label]), **suggestion}
        rows.append({**images[truth.image[label]], "kind": kind, "score": round(float(suspects.score[label]), 6), "why": why, **own_part})
    for row in np.flatnonzero((suspects.missing >= min_score) & (suspects.missing > 0)):
        offered = classes[found.class_index[row]]
        why = f"a {offered} is found where nothing is labeled; detections like it are right in {suspects.rate[row]:.0%} of cases"
        suggestion = {"suggested_class": offered, "suggested_box": _plain(found.xyxy[row])}
        no_label = {"class": None, "box": None, "truth_index": None, **suggestion}
        rows.append({**images[found.image[row]], "kind": "missing", "score": round(float(suspects.missing[row]), 6), "why": why, **no_label})
    return sorted(rows, key=lambda row: (-row["score"], row["image_id"], row["kind"], row["suggested_box"] or row["box"]))


def _plain(xyxy: Floats) -> list[float]:
    return [round(float(value), 2) for value in xyxy]


def hit_rates(found: DetectionColumns, hit: NDArray[np.bool_]) -> Floats:
    """For each detection, how often detections of its class that rank like it are a `hit`, (detections,)."""
    rate = np.zeros(len(found))
    for index in np.unique(found.class_index):
        rows = np.flatnonzero(found.class_index == index)
        rows = rows[np.argsort(-found.score[rows], kind="stable")]
        rate[rows] = falling_rates(hit[rows], found.score[rows])
    return rate


def falling_rates(hit: NDArray[np.bool_], score: Floats) -> Floats:
    """Isotonic regression of `hit` over falling `score` (pool adjacent violators): the closest that never rises; equal scores get one value."""
    starts = np.flatnonzero(np.diff(score, prepend=np.inf))
    hits, counts = np.add.reduceat(hit.astype(np.int64), starts), np.diff(np.append(starts, len(hit)))
    blocks: list[tuple[int, int]] = []
    for total, count in zip(hits.tolist(), counts.tolist(), strict=True):
        pooled, size = total, count
        while blocks and blocks[-1][0] * size <= pooled * blocks[-1][1]:
            before = blocks.pop()
            pooled, size = pooled + before[0], size + before[1]
        blocks.append((pooled, size))
    return np.repeat([total / count for total, count in blocks], [count for _, count in blocks])


def _share_with_less(truth: TruthColumns, support: Floats) -> Floats:
    """For each label, the share of labels of its class and size that have as little support or less, (labels,).

    Sizes are the thirds of a class by area; a third with few labels leans on the whole class, as if it had CLASS_WEIGHT labels more of that share.
    """
    areas = area(truth.xyxy)
    share = np.zeros(len(support))
    for index in np.unique(truth.class_index):
        rows = np.flatnonzero(truth.class_index == index)
        share[rows] = _share_below(support[rows])
        third = np.searchsorted(np.quantile(areas[rows], (1 / 3, 2 / 3)), areas[rows])
        for size in np.unique(third):
            part = rows[third == size]
            share[part] = (len(part) * _share_below(support[part]) + CLASS_WEIGHT * share[part]) / (len(part) + CLASS_WEIGHT)
    return share


def _share_below(support: Floats) -> Floats:
    share: Floats = np.searchsorted(np.sort(support), support, side="right") / len(support)
    return share


def _highest(count: int, index: Ints, value: Floats) -> Floats:
    """The highest `value` of each index, 0 where it has none, (count,)."""
    best = np.zeros(count)
    np.maximum.at(best, index, value)
    return best


def _best_witness(count: int, label: Ints, row: Ints, rate: Floats) -> tuple[Floats, Ints]:
    """The highest rate of the detections `row` for each label, and the first such detection."""
    best, witness = np.zeros(count), np.full(count, -1, dtype=np.int64)
    order = np.lexsort((row, -rate[row], label))
    first = order[np.flatnonzero(np.diff(label[order], prepend=-1))]
    best[label[first]], witness[label[first]] = rate[row[first]], row[first]
    return best, witness


def _best_of_each_place(found: DetectionColumns, rows: Ints, rate: Floats) -> Ints:
    """Positions in `rows` of the detections that no better one of their image overlaps by SAME_IOU, of whatever class."""
    kept: list[int] = []
    order = np.lexsort((rows, -rate[rows], found.image[rows]))
    edges = np.flatnonzero(np.diff(found.image[rows][order], prepend=-1, append=-1))
    for start, stop in pairwise(edges):
        places = order[start:stop]
        overlap = iou_matrix(found.xyxy[rows[places]], found.xyxy[rows[places]]) >= SAME_IOU
        alive = np.ones(len(places), dtype=bool)
        for position in range(len(places)):
            if alive[position]:
                kept.append(int(places[position]))
                alive[position + 1 :] &= ~overlap[position, position + 1 :]
    return np.array(kept, dtype=np.int64)
