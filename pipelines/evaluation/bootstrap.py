"""AP of many resamplings of the test images at once, from the match tables: matching is done once for each image, only the counting is repeated.

Images are drawn by whole groups (bursts, clips), since the frames of a burst fail together: drawn one by one they would claim a certainty that is not
there. Where every image is its own group this is the plain bootstrap over images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.coco import IOU_STEPS, RECALL_POINTS, MatchTable

RECALLS = np.linspace(0.0, 1.0, RECALL_POINTS)
_CELLS = 4_000_000  # entries of an array that one step may hold
_DENSE_GAIN = 30  # a matrix product does about this many steps in the time that gathering and adding takes for one


def group_weights(groups: Sequence[str], resamples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How often each image stands in each resample: (resamples, images); every resample draws as many groups as there are, with replacement."""
    names, group_of_image = np.unique(np.array(groups, dtype=str), return_inverse=True)
    if not len(names):
        return np.zeros((resamples, 0), np.int64)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return drawn[:, group_of_image].astype(np.int64)


def average_precision(table: MatchTable, weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """AP at each of the 10 IoU thresholds for each row of `weights` (resamples, images): (resamples, 10), NaN where no label was drawn.

    Equal to pycocotools on the resampled set, but for the order of equal scores.
    """
    rows = max(1, _CELLS // max(len(table.image), 1))
    parts = [_average_precision(table, weights[start : start + rows]) for start in range(0, len(weights), rows)]
    return np.concatenate([np.zeros((0, IOU_STEPS)), *parts])


def _average_precision(table: MatchTable, weights: NDArray[np.int64]) -> NDArray[np.float64]:
    labels = (weights @ table.boxes).astype(np.float64)
    result = np.full((len(weights), IOU_STEPS), np.nan)
    known = labels > 0
    for step in range(IOU_STEPS):
        hits = np.flatnonzero(table.hit[step])
        # only right detections can raise the precision envelope, so the others enter as counts
        right = np.cumsum(weights[:, table.image[hits]], axis=1)
        precision = right / np.maximum(_shown(table, step, hits, weights), 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(RECALLS, right / np.maximum(labels, 1)[:, None], side="right")
        points = np.diff(reached, axis=1, prepend=0)  # recall points that each right detection is the first to reach
        result[known, step] = ((envelope * points).sum(axis=1) / RECALL_POINTS)[known]
    return result


def _shown(table: MatchTable, step: int, hits: NDArray[np.int64], weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many detections that count stand at or before each of `hits`: (resamples, hits)."""
    next_hit = np.searchsorted(hits, np.arange(len(table.image)))
    before = table.counted[step] & (next_hit < len(hits))
    image, next_hit = table.image[before], next_hit[before]
    images = weights.shape[1]
    if images * len(hits) <= _DENSE_GAIN * len(image):
        counts = np.bincount(image * len(hits) + next_hit, minlength=images * len(hits)).reshape(images, len(hits))
        result: NDArray[np.float64] = np.cumsum(weights.astype(np.float64) @ counts.astype(np.float64), axis=1)
        return result
    shown: NDArray[np.float64] = np.cumsum(weights[:, image], axis=1, dtype=np.float64)[
        :, np.searchsorted(next_hit, np.arange(len(hits)), side="right") - 1
    ]
    return shown
