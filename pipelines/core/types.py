"""The values that travel between stages. `pipelines.core.tables` and `pipelines.core.records` hold them on disk.

Everything joins by `image_id`, the hex sha256 of an image file's bytes. Class NAMES stand on disk, indices only in memory. Boxes are `xyxy` in pixels
of the image as a person sees it, with its EXIF orientation applied; so are all widths and heights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LabelState = Literal["labeled", "verified_empty", "skipped", "conflict"]
Split = Literal["train", "val", "test", "pool"]
SPLITS: tuple[Split, ...] = ("train", "val", "test", "pool")
LABELED_SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Box:
    """One labeled box: class name and `(x1, y1, x2, y2)` in pixels."""

    class_name: str
    xyxy: tuple[float, float, float, float]


@dataclass(frozen=True)
class Annotation:
    """What people say of one image: one line of `data/labels/annotations.jsonl`. `boxes` is empty unless the state is labeled."""

    image_id: str
    state: LabelState
    width_px: int
    height_px: int
    boxes: tuple[Box, ...]
    source: str  # the label source's file name without its ending, or the server's project
    annotators: tuple[str, ...] = ()
    annotation_ids: tuple[str, ...] = ()
    annotated_at: str | None = None


@dataclass(frozen=True)
class Sample:
    """One image of the dataset: one line of `data/dataset/{train,val,test,pool}.jsonl`. Pool images have no label: `boxes` is empty, `state` None."""

    image_id: str
    path: str  # relative to data/raw
    width_px: int
    height_px: int
    state: LabelState | None
    boxes: tuple[Box, ...]
    source: str
    group: str
    captured_at: str | None
    brightness: float

    def xyxy(self) -> NDArray[np.float32]:
        """Boxes as a float32 array, shape (N, 4)."""
        return np.array([box.xyxy for box in self.boxes], dtype=np.float32).reshape(-1, 4)


@dataclass(frozen=True)
class GroundTruth:
    """Labels of one image in memory: `xyxy` (N, 4) float32 in pixels, `class_index` (N,) int64."""

    xyxy: NDArray[np.float32]
    class_index: NDArray[np.int64]


@dataclass(frozen=True)
class Detections:
    """A model's boxes on one image, best first: `xyxy` (N, 4) float32 in pixels, `score` (N,) float32, `class_index` (N,) int64."""

    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    class_index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.score)

    @staticmethod
    def empty() -> Detections:
        """No boxes at all."""
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
