"""Matching detections to labels on one image, as the COCO evaluation does it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
