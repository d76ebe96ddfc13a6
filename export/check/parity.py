"""Do two runners find the same things? Counts detections that agree, are missing, are new or changed class, and says whether an artifact passes.

Only what a user would see is counted: detections from their class's threshold up. Raw outputs are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from export.check.drops import Drops, drop_reasons
from export.runners.detect import above
from pipelines.core.boxes import iou_matrix
from pipelines.core.types import Detections

Status = Literal["pass", "fail", "not_run"]
FLAT_PX = 0.5  # boxes that overlap nowhere are the same from this close: they have no area
CLASS_TIE = 1e-4  # classes whose scores differ by less are told apart by rounding: runtimes that compute float32 differ by up to 2e-6
COUNTS = ("matched", "missed", "extra", "class_flips", "near_threshold", "near_tie")


@dataclass(frozen=True)
class Parity:
    """`counts` is (classes, 6) int64, columns as COUNTS, by the reference's class (an extra one by its own); differences are over matched pairs."""

    counts: NDArray[np.int64]
    max_score_difference: float = 0.0
    max_position_difference_px: float = 0.0

    def total(self, name: str) -> int:
        """One of COUNTS over all classes."""
        return int(self.counts[:, COUNTS.index(name)].sum())


@dataclass(frozen=True)
class Allowed:
    """What an artifact may differ: relative drops of AP by precision, over all classes and of any one class; fp32's scores of matched boxes."""

    relative_drop: Mapping[str, float]
    class_relative_drop: Mapping[str, float]
    score_difference: float


def compare(
    reference: Detections,
    candidate: Detections,
    thresholds: NDArray[np.float64],
    *,
    match_iou: float,
    near_threshold: float,
    candidate_thresholds: NDArray[np.float64] | None = None,
    tied: Detections | None = None,
    tie: float = CLASS_TIE,
) -> Parity:
    """Compare two detectors on one image; `thresholds` is (classes,), those of the candidate when it has its own. `tied` are those of the candidate's
    boxes that score within `tie` in two classes, as their second class (`export.check.ties`).

    First boxes of one class are paired, largest IoU first, from `match_iou` up, also those up to `near_threshold` below the threshold. A pair with
    both scores above the threshold is matched; one with a score on either side, both within `near_threshold` of it, is near_threshold; with a larger
    gap it counts as missed or extra. What is left above the threshold is paired without regard to class: a class flip. The rest is missed (the
    reference has it alone) or extra. A flip, or what the thresholds of two classes make of one, is near_tie where the candidate's two classes tie and
    the reference shows the one that the candidate did not take, with the same score.
    """
    their_thresholds = thresholds if candidate_thresholds is None else candidate_thresholds
    ours, theirs = above(reference, thresholds, near_threshold), above(candidate, their_thresholds, near_threshold)
    our_limit, their_limit = thresholds[ours.class_index], their_thresholds[theirs.class_index]
    our_shown, their_shown = ours.score >= our_limit, theirs.score >= their_limit
    overlap = _overlap(ours.xyxy, theirs.xyxy)
    same_class = ours.class_index[:, None] == theirs.class_index[None, :]
    counts = np.zeros((len(thresholds), len(COUNTS)), dtype=np.int64)
    ours_done, theirs_done = ~our_shown, ~their_shown  # what needs no (more) account
    score_difference = position_difference = 0.0
    for a, b in _pairs(np.where(same_class, overlap, 0.0), match_iou):
        class_index = ours.class_index[a]
        if our_shown[a] and their_shown[b]:
            outcome = "matched"
            score_difference = max(score_difference, float(abs(ours.score[a] - theirs.score[b])))
            position_difference = max(position_difference, float(np.abs(ours.xyxy[a] - theirs.xyxy[b]).max()))
        elif not our_shown[a] and not their_shown[b]:
            continue
        elif max(ours.score[a] - our_limit[a], theirs.score[b] - their_limit[b]) <= near_threshold:
            outcome = "near_threshold"
        else:
            continue
        counts[class_index, COUNTS.index(outcome)] += 1
        ours_done[a] = theirs_done[b] = True
    our_tie, their_tie = _ties(ours, theirs, reference, tied or Detections.empty(), match_iou, tie)
    left_a, left_b = np.flatnonzero(~ours_done), np.flatnonzero(~theirs_done)
    for a, b in _pairs(np.where(same_class, 0.0, overlap)[np.ix_(left_a, left_b)], match_iou):
        row, column = left_a[a], left_b[b]
        counts[ours.class_index[row], COUNTS.index("near_tie" if our_tie[row] and their_tie[column] else "class_flips")] += 1
        ours_done[row] = theirs_done[column] = True
    for name, found, done, tied_rows in (("missed", ours, ours_done, our_tie), ("extra", theirs, theirs_done, their_tie)):
        np.add.at(counts[:, COUNTS.index(name)], found.class_index[~done & ~tied_rows], 1)
        np.add.at(counts[:, COUNTS.index("near_tie")], found.class_index[~done & tied_rows], 1)
    return Parity(counts, score_difference, position_difference)


def _ties(
    ours: Detections, theirs: Detections, reference: Detections, tied: Detections, match_iou: float, tie: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which boxes of either side differ for nothing but a tie: the candidate has ours as its second class; it has theirs as a second class that the
    reference has.
    """
    settled = _alike(tied, reference, match_iou, tie).any(axis=1)
    same = Detections(tied.xyxy[settled], tied.score[settled], tied.class_index[settled])
    other_class = theirs.class_index[:, None] != same.class_index[None, :]
    our_tie, their_tie = _alike(ours, tied, match_iou, tie), _near(theirs, same, match_iou, tie) & other_class
    return np.asarray(our_tie.any(axis=1)), np.asarray(their_tie.any(axis=1))


def _alike(a: Detections, b: Detections, match_iou: float, tie: float) -> NDArray[np.bool_]:
    """Whether two boxes are the same: place, score and class."""
    result: NDArray[np.bool_] = _near(a, b, match_iou, tie) & (a.class_index[:, None] == b.class_index[None, :])
    return result


def _near(a: Detections, b: Detections, match_iou: float, tie: float) -> NDArray[np.bool_]:
    """Whether two boxes are at the same place with the same score, shape (N, M)."""
    result: NDArray[np.bool_] = (_overlap(a.xyxy, b.xyxy) >= match_iou) & (np.abs(a.score[:, None] - b.score[None, :]) <= tie)
    return result


def _overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """IoU of every pair, shape (N, M); 1 for boxes without area, such as are left of one in the padding, at the same place."""
    overlap = iou_matrix(a, b)
    apart_px = np.abs(a[:, None] - b[None, :]).max(axis=2, initial=0)
    return np.where((overlap == 0) & (apart_px <= FLAT_PX), 1.0, overlap)


def total(parts: Sequence[Parity], class_count: int) -> Parity:
    """The account of many images."""
    counts = np.zeros((class_count, len(COUNTS)), dtype=np.int64) + sum(part.counts for part in parts)
    return Parity(
        counts,
        max((part.max_score_difference for part in parts), default=0.0),
        max((part.max_position_difference_px for part in parts), default=0.0),
    )


def judge(precision: str, drops: Drops, parity: Parity, allowed: Allowed) -> tuple[Status, list[str]]:
    """Whether an artifact counts as the same model, and why not. fp32 must also find what the reference finds, with scores within the limit."""
    reasons = drop_reasons(drops, allowed.relative_drop[precision], allowed.class_relative_drop[precision], "PyTorch")
    if precision == "fp32":
        wrong = {name: parity.total(name) for name in ("missed", "extra", "class_flips")}
        if any(wrong.values()):
            reasons.append(
                "fp32 must find what PyTorch finds: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in wrong.items() if count)
            )
        if parity.max_score_difference > allowed.score_difference:
            reasons.append(f"fp32 scores are up to {parity.max_score_difference:.4f} off, {allowed.score_difference:g} is allowed")
    return ("fail" if reasons else "pass"), reasons


def _pairs(values: NDArray[np.float64], threshold: float) -> list[tuple[int, int]]:
    """Index pairs of a matrix, each row and column once, largest value first, from `threshold` up (0 never counts)."""
    left = values.copy()
    pairs = []
    while left.size and left.max() >= threshold and left.max() > 0:
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        pairs.append((int(row), int(column)))
        left[row, :], left[:, column] = -1.0, -1.0
    return pairs
