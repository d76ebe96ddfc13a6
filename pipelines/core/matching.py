"""Matching detections to labels on one image, as the COCO evaluation does it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.core.boxes import iou_matrix
from pipelines.core.types import Detections, GroundTruth


def greedy_match(iou: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """Give each detection the free label it overlaps most.

    `iou` is (detections, labels), detections best first. A pair counts from `threshold` on. Returns (detections,) label indices, -1 where unmatched;
    of labels with the same IoU the last is taken, as in pycocotools.
    """
    detections, labels = iou.shape
    matched = np.full(detections, -1, dtype=np.int64)
    free = np.ones(labels, dtype=bool)
    for row in range(detections):
        candidates = np.where(free, iou[row], -1.0)
        if labels == 0 or candidates.max() < threshold:
            continue
        best = labels - 1 - int(candidates[::-1].argmax())
        matched[row] = best
        free[best] = False
    return matched


def match_within_class(truth: GroundTruth, detections: Detections, threshold: float) -> NDArray[np.int64]:
    """`greedy_match` for each class by itself: (detections,) indices into `truth`, -1 where unmatched; detections are taken best score first.

    Leaving out detections below a score changes nothing for those that stay: each is served before all that score less.
    """
    matched = np.full(len(detections), -1, dtype=np.int64)
    best_first = np.argsort(-detections.score, kind="stable")
    for class_index in np.unique(detections.class_index):
        rows = best_first[detections.class_index[best_first] == class_index]
        columns = np.flatnonzero(truth.class_index == class_index)
        pairs = greedy_match(iou_matrix(detections.xyxy[rows], truth.xyxy[columns]), threshold)
        matched[rows] = np.where(pairs >= 0, columns[pairs] if len(columns) else -1, -1)
    return matched
