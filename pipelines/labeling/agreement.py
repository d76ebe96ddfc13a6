"""How far several people agree on one image: matching their boxes, their mean, and agreement as a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pipelines.core.boxes import iou_matrix
from pipelines.core.types import Box


def match_boxes(a: Sequence[Box], b: Sequence[Box], min_iou: float, same_class: bool) -> list[tuple[int, int, float]]:
    """One-to-one pairs `(index in a, index in b, IoU)`, the best-fitting pair first, every IoU at least `min_iou` and above 0."""
    if not a or not b:
        return []
    iou = iou_matrix(_array(a), _array(b))
    if same_class:
        iou = iou * np.array([[left.class_name == right.class_name for right in b] for left in a])
    pairs: list[tuple[int, int, float]] = []
    free_a, free_b = np.ones(len(a), dtype=bool), np.ones(len(b), dtype=bool)
    for flat in np.argsort(-iou, axis=None, kind="stable"):
        row, column = divmod(int(flat), len(b))
        if iou[row, column] <= 0 or iou[row, column] < min_iou:
            break
        if free_a[row] and free_b[column]:
            pairs.append((row, column, float(iou[row, column])))
            free_a[row] = free_b[column] = False
    return pairs


def consensus_boxes(versions: Sequence[Sequence[Box]], min_iou: float) -> tuple[Box, ...] | None:
    """The mean of boxes on which all versions agree, or None.

    They agree when every box of the first has one partner of its class in each other version, all partners overlap each other by `min_iou`, and no
    box is left over.
    """
    first = versions[0]
    if any(len(version) != len(first) for version in versions):
        return None
    groups: list[list[Box]] = [[box] for box in first]
    for version in versions[1:]:
        pairs = match_boxes(first, version, min_iou, same_class=True)
        if len(pairs) < len(first):
            return None
        for row, column, _ in pairs:
            groups[row].append(version[column])
    means = []
    for group in groups:
        corners = _array(group)
        if float(iou_matrix(corners, corners).min()) < min_iou:
            return None
        x1, y1, x2, y2 = (float(value) for value in corners.mean(axis=0))
        means.append(Box(group[0].class_name, (x1, y1, x2, y2)))
    return tuple(means)


@dataclass(frozen=True)
class Agreement:
    """Agreement of several versions of one image. `mean_iou` counts a box that only one person drew as 0, two empty versions as 1."""

    mean_iou: float
    matched: int
    same_class: int


def agreement(versions: Sequence[Sequence[Box]]) -> Agreement:
    """Mean over all pairs of versions: of the best one-to-one matching, whatever the class, the sum of IoUs over the larger number of boxes."""
    scores: list[float] = []
    matched = same_class = 0
    for a, b in combinations(versions, 2):
        pairs = match_boxes(a, b, 0.0, same_class=False)
        most = max(len(a), len(b))
        scores.append(sum(iou for _, _, iou in pairs) / most if most else 1.0)
        matched += len(pairs)
        same_class += sum(a[row].class_name == b[column].class_name for row, column, _ in pairs)
    return Agreement(sum(scores) / len(scores), matched, same_class)


def _array(boxes: Sequence[Box]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array([box.xyxy for box in boxes], dtype=np.float64).reshape(-1, 4)
