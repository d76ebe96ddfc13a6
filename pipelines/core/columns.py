"""Labels and detections of many images as flat columns: what vectorised code works on. Images are numbered from 0; their rows stand together.

`truth_columns` and `detection_columns` put rows in an order that depends on their content alone, never on the order of a file. `…_from_images` keep
the order that the images have on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.core.types import Detections, GroundTruth

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TruthColumns:
    """Labels: `image` and `class_index` (N,), `xyxy` (N, 4) in pixels; `position` (N,) is a label's place on its image as it was given."""

    image: Ints
    class_index: Ints
    xyxy: Floats
    position: Ints

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class DetectionColumns:
    """Detections: as TruthColumns, with `score` (N,); the rows of an image stand best first."""

    image: Ints
    class_index: Ints
    xyxy: Floats
    score: Floats
    position: Ints

    def __len__(self) -> int:
        return len(self.image)

    def where(self, keep: NDArray[np.bool_]) -> DetectionColumns:
        """Only the rows where `keep` (N,) is true; their `position` stays."""
        return DetectionColumns(self.image[keep], self.class_index[keep], self.xyxy[keep], self.score[keep], self.position[keep])


def truth_columns(image: Ints, class_index: Ints, xyxy: Floats) -> TruthColumns:
    """Labels by (image, class, box)."""
    order = _order((image, class_index), (xyxy[:, 0], xyxy[:, 1], xyxy[:, 2], xyxy[:, 3]))
    image = image[order]
    return TruthColumns(image, class_index[order], xyxy[order], _place(image))


def detection_columns(image: Ints, class_index: Ints, xyxy: Floats, score: Floats) -> DetectionColumns:
    """Detections by (image, score falling, class, box)."""
    order = _order((image,), (-score, class_index, xyxy[:, 0], xyxy[:, 1], xyxy[:, 2], xyxy[:, 3]))
    image = image[order]
    return DetectionColumns(image, class_index[order], xyxy[order], score[order], _place(image))


def truth_from_images(items: Sequence[GroundTruth]) -> TruthColumns:
    """The labels of `items[i]` as image i, in their order."""
    counts = [len(item.class_index) for item in items]
    return TruthColumns(_numbers(counts), _joined([item.class_index for item in items]), _boxes([item.xyxy for item in items]), _places(counts))


def detections_from_images(items: Sequence[Detections]) -> DetectionColumns:
    """The detections of `items[i]` as image i, best first; equal scores keep their order."""
    counts = [len(item) for item in items]
    score = np.concatenate([np.zeros(0, np.float32), *[item.score for item in items]]).astype(np.float64)
    image, class_index, xyxy = _numbers(counts), _joined([item.class_index for item in items]), _boxes([item.xyxy for item in items])
    order = np.lexsort((-score, image))
    return DetectionColumns(image[order], class_index[order], xyxy[order], score[order], _places(counts)[order])


def _boxes(parts: Sequence[NDArray[np.float32]]) -> Floats:
    return np.concatenate([np.zeros((0, 4), np.float32), *parts]).astype(np.float64)


def _joined(parts: Sequence[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _numbers(counts: Sequence[int]) -> Ints:
    return np.repeat(np.arange(len(counts), dtype=np.int64), counts)


def _places(counts: Sequence[int]) -> Ints:
    return _joined([np.arange(count, dtype=np.int64) for count in counts])


def _order(indices: Sequence[Ints], keys: Sequence[Ints | Floats]) -> Ints:
    """Rows by `indices` (whole numbers from 0), then by `keys`, the most important first.

    The first of `keys` decides nearly always: the others, which cost more than all the rest, are looked at only where rows tie.
    """
    order = np.argsort(keys[0])
    for index in reversed(indices):
        small = index.astype(np.min_scalar_type(index.max(initial=0)))  # small integers are sorted in linear time
        order = order[np.argsort(small[order], kind="stable")]
    alike = np.ones(max(len(order) - 1, 0), dtype=bool)  # as the row before
    for key in (*indices, keys[0]):
        alike &= key[order[1:]] == key[order[:-1]]
    tied = np.flatnonzero(np.append(alike, False) | np.append(False, alike)) if len(order) else order
    rows = order[tied]
    order[tied] = rows[np.lexsort([key[rows] for key in reversed((*indices, *keys))])]
    return order


def _place(image: Ints) -> Ints:
    """The place of each row within its image; `image` is sorted."""
    first = np.searchsorted(image, image, side="left")
    result: Ints = np.arange(len(image), dtype=np.int64) - first
    return result
