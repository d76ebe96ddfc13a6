"""The values that travel between stages, and the tables and lines that hold them on disk.

Everything joins by `image_id`, the hex sha256 of an image file's bytes. Class NAMES stand on disk, indices only in memory. Boxes are `xyxy` in pixels
of the image as a person sees it, with its EXIF orientation applied; so are all widths and heights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

LabelState = Literal["labeled", "verified_empty", "skipped", "conflict"]
Split = Literal["train", "val", "test", "pool"]
SPLITS: tuple[Split, ...] = ("train", "val", "test", "pool")
LABELED_SPLITS: tuple[Split, ...] = ("train", "val", "test")

# data/raw/manifest.parquet: one row for every file seen in the inbox, sorted by `origin`. `status` is "kept" or "dropped"; a kept image_id stands in
# one kept row only (an exact copy is dropped with reason "exact_duplicate"). Columns that could not be measured (a broken file) are null.
MANIFEST_SCHEMA: dict[str, pl.DataType] = {
    "origin": pl.String(),  # path relative to the inbox, "/" as separator
    "image_id": pl.String(),
    "path": pl.String(),  # relative to data/raw: images/ab/abcdef….jpg; null when dropped
    "status": pl.String(),
    "reason": pl.String(),  # why dropped, a word such as corrupt, not_an_image, exact_duplicate; null when kept
    "duplicate_of": pl.String(),  # image_id of the kept twin, for duplicates
    "near_group": pl.String(),  # smallest image_id of its near-duplicate cluster; null without a near-duplicate
    "bytes": pl.Int64(),
    "width_px": pl.Int32(),
    "height_px": pl.Int32(),
    "source": pl.String(),  # which folder or log it came from: the first folder below the inbox
    "group": pl.String(),  # what must stay on one side of the split: burst, clip, patient …; null: the image is its own group
    "captured_at": pl.String(),  # ISO 8601, as the log gives it
    "given_split": pl.String(),  # train, val or test when an imported dataset brings its own lists; else null
    "phash": pl.UInt64(),
    "brightness": pl.Float64(),  # mean grey level, 0 to 255
    "contrast": pl.Float64(),  # standard deviation of the grey level
    "sharpness": pl.Float64(),  # variance of the Laplacian
}

# data/predictions/SPLIT.parquet: one row a detection, sorted by image_id, then score descending. An image without detections has no row.
DETECTIONS_SCHEMA: dict[str, pl.DataType] = {
    "image_id": pl.String(),
    "class": pl.String(),
    "score": pl.Float32(),
    "x1": pl.Float32(),
    "y1": pl.Float32(),
    "x2": pl.Float32(),
    "y2": pl.Float32(),
}


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
