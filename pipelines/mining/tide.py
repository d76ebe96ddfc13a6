"""Typing every wrong box, as TIDE does (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020).

A detection that COCO's matching leaves without a label gets the first kind that fits; a label that nothing found and no mended error would find is
missed:

    location    its class is right, its overlap with a label of that class lies between background and foreground
    class       it overlaps a label of another class enough
    duplicate   it overlaps a label of its class enough, and a better detection has that label
    background  it overlaps no label
    both        anything else: wrong class and wrong place
    missed      a label that neither a right detection nor a location or class error is about

All images at once: only pairs of boxes that overlap are looked at, in blocks of bounded memory. What errors cost: `pipelines.mining.worth`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.core.columns import DetectionColumns, Floats, Ints, TruthColumns

Kind = Literal["class", "location", "both", "duplicate", "background", "missed"]
KINDS: tuple[Kind, ...] = ("class", "location", "both", "duplicate", "background", "missed")
CLASS, LOCATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))
MAX_DETECTIONS = 100  # of a class on an image, in COCO
Pairs = tuple[Ints, Ints, Floats]  # rows of detections, rows of labels, their IoU
_BLOCK_PAIRS = 1_000_000  # pairs of boxes that are compared at a time: about 100 MB


@dataclass(frozen=True)
class TypedErrors:
    """The wrong boxes, by image, detections first, best score first; and which label each right detection has.

    `kind` is a position in KINDS. `detection` and `truth` are rows of the columns, -1 where an error has none. `iou` is that of the detection and the
    label it is about (for background the highest with any label; NaN for missed). `mends` is true for the one location or class error that would take
    over its label, which nothing else holds, if it were mended. `matched` (detections,) is the label of a right detection, else -1.
    """

    kind: Ints
    detection: Ints
    truth: Ints
    iou: Floats
    mends: NDArray[np.bool_]
    matched: Ints


def typed_errors(
    truth: TruthColumns, found: DetectionColumns, foreground_iou: float, background_iou: float, pairs: Pairs | None = None
) -> TypedErrors:
    """Type every wrong box. `pairs` are `overlaps(truth, found)`, where the caller has them already."""
    row, label, iou = overlaps(truth, found) if pairs is None else pairs
    same = truth.class_index[label] == found.class_index[row]
    matched = greedy_match(found, row[same], label[same], iou[same], foreground_iou)
    free = np.ones(len(truth), dtype=bool)
    free[matched[matched >= 0]] = False

    own, own_label = _best(len(found), row, label, np.where(same, iou, 0.0))
    other, other_label = _best(len(found), row, label, np.where(same, 0.0, iou))
    any_iou = np.maximum(own, other)
    any_label = np.where((own > other) | ((own == other) & (own_label < other_label)), own_label, other_label)
    conditions = [(own > 0) & (own >= background_iou) & (own <= foreground_iou), other >= foreground_iou, own > foreground_iou]
    conditions.append(any_iou <= background_iou)
    kind = np.select(conditions, [LOCATION, CLASS, DUPLICATE, BACKGROUND], BOTH)

    wrong = np.flatnonzero(matched < 0)
    kind = kind[wrong]
    about = np.choose(kind, [other_label[wrong], own_label[wrong], any_label[wrong], own_label[wrong], -1], mode="clip")
    overlap = np.choose(kind, [other[wrong], own[wrong], any_iou[wrong], own[wrong], any_iou[wrong]], mode="clip")
    able = np.flatnonzero((kind == LOCATION) | (kind == CLASS))
    able = able[free[about[able]]]
    mends = np.zeros(len(wrong), dtype=bool)
    mends[able[np.unique(about[able], return_index=True)[1]]] = True  # the first, which has the best score
    free[about[mends]] = False
    missed = np.flatnonzero(free)

    image = np.concatenate([found.image[wrong], truth.image[missed]])
    order = np.argsort(image, kind="stable")
    return TypedErrors(
        np.concatenate([kind, np.full(len(missed), MISSED)])[order],
        np.concatenate([wrong, np.full(len(missed), -1)])[order],
        np.concatenate([about, missed])[order],
        np.concatenate([overlap, np.full(len(missed), np.nan)])[order],
        np.concatenate([mends, np.zeros(len(missed), dtype=bool)])[order],
        matched,
    )


def overlaps(truth: TruthColumns, found: DetectionColumns) -> Pairs:
    """Every detection and label of one image that overlap: their rows and their IoU, ordered by detection, then label."""
    parts = list(_overlap_blocks(truth, found))
    row = np.concatenate([np.zeros(0, np.int64), *[part[0] for part in parts]])
    label = np.concatenate([np.zeros(0, np.int64), *[part[1] for part in parts]])
    return row, label, np.concatenate([np.zeros(0), *[part[2] for part in parts]])


def _overlap_blocks(truth: TruthColumns, found: DetectionColumns) -> Iterator[Pairs]:
    first = np.searchsorted(truth.image, found.image, side="left")
    count = np.searchsorted(truth.image, found.image, side="right") - first
    total = np.cumsum(count)
    truth_area = np.prod(np.maximum(truth.xyxy[:, 2:] - truth.xyxy[:, :2], 0), axis=1)
    found_area = np.prod(np.maximum(found.xyxy[:, 2:] - found.xyxy[:, :2], 0), axis=1)
    truth_sides, found_sides = np.ascontiguousarray(truth.xyxy.T), np.ascontiguousarray(found.xyxy.T)
    start = 0
    while start < len(found):
        before = int(total[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(total, before + _BLOCK_PAIRS, side="right")))
        counts = count[start:stop]
        row = np.repeat(np.arange(start, stop), counts)
        label = np.arange(len(row)) - np.repeat(total[start:stop] - counts - before, counts) + first[row]
        width = np.minimum(found_sides[2][row], truth_sides[2][label]) - np.maximum(found_sides[0][row], truth_sides[0][label])
        near = np.flatnonzero(width > 0)
        row, label, width = row[near], label[near], width[near]
        height = np.minimum(found_sides[3][row], truth_sides[3][label]) - np.maximum(found_sides[1][row], truth_sides[1][label])
        near = np.flatnonzero(height > 0)
        row, label = row[near], label[near]
        intersection = width[near] * height[near]
        yield row, label, intersection / (found_area[row] + truth_area[label] - intersection)
        start = stop


def greedy_match(found: DetectionColumns, row: Ints, label: Ints, iou: Floats, threshold: float) -> Ints:
    """COCO's matching: best score first, each detection takes the free label that it overlaps most, from `threshold` on; returns (detections,).

    `row`, `label` and `iou` are the overlapping pairs of one class, ordered by detection. Of labels with the same IoU the last is taken, as in
    pycocotools. Detections of the same rank within their image and class cannot want the same label, so they are matched together.
    """
    matched = np.full(len(found), -1, dtype=np.int64)
    enough = iou >= threshold
    row, label, iou = row[enough], label[enough], iou[enough]
    rows = np.unique(row)
    rank = np.zeros(len(found), dtype=np.int64)
    rank[rows] = _rank_in_group(found.image[rows] * (found.class_index.max(initial=0) + 1) + found.class_index[rows])
    order = np.lexsort((-label, -iou, row, rank[row]))
    row, label = row[order], label[order]
    free = np.ones(int(label.max(initial=-1)) + 1, dtype=bool)
    ends = np.cumsum(np.bincount(rank[row])) if len(row) else np.zeros(0, np.int64)
    begin = 0
    for end in ends:
        open_rows, open_labels = row[begin:end], label[begin:end]
        still = free[open_labels]
        open_rows, open_labels = open_rows[still], open_labels[still]
        best = np.flatnonzero(np.diff(open_rows, prepend=-1))
        matched[open_rows[best]] = open_labels[best]
        free[open_labels[best]] = False
        begin = int(end)
    return matched


def capped(found: DetectionColumns, limit: int = MAX_DETECTIONS) -> NDArray[np.bool_]:
    """Which detections are among the best `limit` of their class on their image, as the COCO evaluation counts them."""
    result: NDArray[np.bool_] = _rank_in_group(found.image * (found.class_index.max(initial=0) + 1) + found.class_index) < limit
    return result


def _rank_in_group(key: Ints) -> Ints:
    """For each element, how many earlier ones have the same key."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    rank = np.empty(len(key), dtype=np.int64)
    rank[order] = np.arange(len(key)) - np.searchsorted(ordered, ordered, side="left")
    return rank


def _best(rows: int, row: Ints, label: Ints, iou: Floats) -> tuple[Floats, Ints]:
    """For each detection the highest IoU and its label, the first of equals; 0 and -1 where there is none. Pairs are ordered by detection."""
    best, best_label = np.zeros(rows), np.full(rows, -1, dtype=np.int64)
    if len(row):
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        highest = np.maximum.reduceat(iou, starts)
        best[row[starts]] = highest
        at = np.flatnonzero((iou == best[row]) & (iou > 0))
        first = at[np.flatnonzero(np.diff(row[at], prepend=-1))]
        best_label[row[first]] = label[first]
    return best, best_label
