"""Which unlabeled images to label next: those of which the model is unsure, unlike each other and unlike what is labeled, by quotas.

Images are taken one by one, each time the one with the highest doubt x novelty. Doubt is the mean, over the boxes that the model sees or nearly sees,
of how close each score is to its class's threshold, weighted by how rare the class is among the labels: what labeling a box there may teach. Novelty
is the smallest cosine distance to the labeled images and to those already taken, in the detector's own features; before there is a detector, in
their perceptual hashes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.core.types import Detections
from pipelines.mining.ranking import threshold_closeness

Floats = NDArray[np.float64]
NEARLY_SEEN = 0.5  # of the threshold


@dataclass(frozen=True)
class PoolImage:
    """An unlabeled image: its `doubt` from 0 to 1, the `classes` that the model sees or nearly sees in it, the `slice` that its quota counts by."""

    image_id: str
    doubt: float
    classes: frozenset[str]
    slice: str


def pool_image(image_id: str, slice_name: str, detections: Detections, thresholds: Floats, rarity: Floats, classes: Sequence[str]) -> PoolImage:
    """Look at one image's detections. `thresholds` and `rarity` (see `class_rarity`) are (classes,)."""
    score = detections.score.astype(np.float64)
    limit = thresholds[detections.class_index]
    seen = score >= NEARLY_SEEN * limit
    closeness = threshold_closeness(score[seen], limit[seen]) * rarity[detections.class_index[seen]]
    names = frozenset(classes[index] for index in detections.class_index[seen])
    return PoolImage(image_id, float(closeness.mean()) if seen.any() else 0.0, names, slice_name)


def hash_features(phash: NDArray[np.uint64]) -> Floats:
    """Perceptual hashes of 64 bits as vectors of unit length, (images, 64): their cosine distance is 1/32 for each bit that differs."""
    bits = np.unpackbits(np.ascontiguousarray(phash, dtype=np.uint64).view(np.uint8).reshape(-1, 8), axis=1)
    result: Floats = (2 * bits.astype(np.float64) - 1) / 8
    return result


def class_rarity(labels: Mapping[str, int], classes: Sequence[str]) -> Floats:
    """1 for the class with the fewest labels, less for others by the root of their number, (classes,); a class without labels counts as one."""
    counts = np.array([max(labels.get(name, 0), 1) for name in classes], dtype=np.float64)
    result: Floats = np.sqrt(counts.min() / counts)
    return result


def select_images(
    images: Sequence[PoolImage], features: Floats, known: Floats, budget: int, classes: Sequence[str], class_quota: float, slice_limit: float
) -> list[int]:
    """Positions in `images` of at most `budget` of them, in the order in which they were taken.

    `features` (images, C) and `known` (labeled images, C) are of unit length; with C = 0 every image is as novel as any. Of the budget, each class
    gets at least the share `class_quota`, as far as images with it are there, and no slice more than the share `slice_limit`, as long as others are
    there.
    """
    count = min(budget, len(images))
    has = np.array([[name in image.classes for name in classes] for image in images], dtype=bool).reshape(len(images), len(classes))
    wanted = np.full(len(classes), math.ceil(class_quota * count))
    _, slices = np.unique([image.slice for image in images], return_inverse=True)
    used, room = np.zeros(len(images), dtype=np.int64), max(1, math.ceil(slice_limit * count))
    doubt, order = np.array([image.doubt for image in images]), _ranks(images)
    distance = 1 - (features @ known.T).max(axis=1, initial=0.0) if features.shape[1] else np.ones(len(images))
    left = np.ones(len(images), dtype=bool)
    taken: list[int] = []
    for remaining in range(count, 0, -1):
        open_slices = left & (used[slices] < room)
        allowed = open_slices if open_slices.any() else left
        short = (wanted > 0) & has[left].any(axis=0)
        if wanted[short].sum() >= remaining:  # what is left of the budget is owed to the classes
            helping = allowed & has[:, short].any(axis=1)
            allowed = helping if helping.any() else allowed
        places = np.flatnonzero(allowed)
        utility = doubt[places] * np.maximum(distance[places], 0.0)
        best = int(places[np.lexsort((order[places], -doubt[places], -utility))[0]])
        taken.append(best)
        left[best] = False
        used[slices[best]] += 1
        wanted -= has[best]
        if features.shape[1]:
            distance = np.minimum(distance, 1 - features @ features[best])
    return taken


def _ranks(images: Sequence[PoolImage]) -> NDArray[np.int64]:
    """Where each image stands when they are sorted by id."""
    ranks = np.empty(len(images), dtype=np.int64)
    ranks[np.argsort([image.image_id for image in images], kind="stable")] = np.arange(len(images))
    return ranks
