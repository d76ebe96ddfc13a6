"""The dataset that ultralytics trains on, in memory: images where they lie, labels from our samples; no label files, no copies, no caches on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core.boxes import cxcywh_from_xyxy
from pipelines.core.contract import Decoding
from pipelines.core.images import read_for
from pipelines.core.records import ground_truth
from pipelines.core.types import Sample
from training.environment import quiet_ultralytics

quiet_ultralytics()

import cv2  # noqa: E402
from ultralytics.data.dataset import YOLODataset  # noqa: E402

CACHE_BYTES = 1 << 30  # decoded images kept in memory; what does not fit is decoded each time, with the same result


@dataclass(frozen=True)
class SplitFiles:
    """One split as training needs it: its samples, the folder that their paths start from, and the class names in index order."""

    samples: tuple[Sample, ...]
    raw: Path
    classes: tuple[str, ...]


def label_of(sample: Sample, raw: Path, classes: Sequence[str]) -> dict[str, Any]:
    """A sample as ultralytics' label dictionary: boxes as centre, width and height, in fractions of the upright image, float32."""
    truth = ground_truth(sample, classes)
    sides = np.array([sample.width_px, sample.height_px] * 2, dtype=np.float64)
    return {
        "im_file": str(raw / sample.path),
        "shape": (sample.height_px, sample.width_px),
        "cls": truth.class_index.astype(np.float32).reshape(-1, 1),
        "bboxes": (cxcywh_from_xyxy(truth.xyxy.astype(np.float64)) / sides).astype(np.float32).reshape(-1, 4),
        "segments": [],
        "keypoints": None,
        "normalized": True,
        "bbox_format": "xywh",
    }


class SampleDataset(YOLODataset):  # type: ignore[misc]  # ultralytics has no types
    """ultralytics' dataset over our samples.

    A mosaic draws its partners from the whole split (ultralytics' cache="ram"), never from a buffer of recent images: then an epoch depends on
    nothing but its seed, and training can resume at any epoch. With `input_wh` (width, height) images are letterboxed to that, without to a square.
    With `decoding` reduced JPEGs are decoded as the trained model will see them, else whole, as ultralytics reads them.
    """

    def __init__(self, split: SplitFiles, input_wh: tuple[int, int] | None = None, decoding: Decoding = "full", **options: Any) -> None:
        self.split, self.input_wh, self.decoding = split, input_wh, decoding
        super().__init__(img_path=str(split.raw), **{**options, "cache": None})
        self.cache = "ram"  # read by Mosaic, and by load_image: no buffer
        self.transforms = self.build_transforms(hyp=self._hyp)
        self._fill()

    def build_transforms(self, hyp: Any) -> Any:
        """Ultralytics' transforms; `hyp` is kept, since the constructor builds them before it is known where mosaics draw from."""
        self._hyp = hyp
        return super().build_transforms(hyp)

    def get_img_files(self, img_path: str) -> list[str]:  # noqa: ARG002
        """The images of the split, in the samples' order."""
        return [str(self.split.raw / sample.path) for sample in self.split.samples]

    def get_labels(self) -> list[dict[str, Any]]:
        """The labels of the split, in the samples' order."""
        return [label_of(sample, self.split.raw, self.split.classes) for sample in self.split.samples]

    def get_image_and_label(self, index: int) -> dict[str, Any]:
        """As ultralytics; LetterBox takes the shape (height, width) that `rect_shape` names before its own."""
        label: dict[str, Any] = super().get_image_and_label(index)
        if self.input_wh is not None:
            label["rect_shape"] = self.input_wh[::-1]
        return label

    def load_image(self, i: int, rect_mode: bool = True, resize_short: bool = False) -> tuple[NDArray[np.uint8], tuple[int, int], tuple[int, int]]:  # noqa: ARG002
        """Image `i` with its long side at imgsz, as a copy that transforms may write to; then its original and present (height, width)."""
        cached = self.ims[i]
        image, original = (cached, self.im_hw0[i]) if cached is not None else self._read(i)
        height, width = image.shape[:2]
        return image.copy(), original, (height, width)

    def _read(self, i: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        decoded = read_for(Path(self.im_files[i]), (self.imgsz, self.imgsz) if self.decoding == "reduced" else None)
        image, (width, height) = decoded.pixels, decoded.original_wh
        ratio = self.imgsz / max(height, width)
        resized = (min(int(np.ceil(width * ratio)), self.imgsz), min(int(np.ceil(height * ratio)), self.imgsz))  # ultralytics' sizes: rounded up
        if ratio != 1 and resized != image.shape[1::-1]:
            image = cv2.resize(image, resized, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
        return image, (height, width)

    def _fill(self) -> None:
        """Read images into memory until CACHE_BYTES are used."""
        room = min(self.ni, CACHE_BYTES // (3 * self.imgsz * self.imgsz))
        with ThreadPool(min(os.cpu_count() or 1, max(room, 1))) as pool:
            for i, (image, original) in enumerate(pool.imap(self._read, range(room), chunksize=4)):
                self.ims[i], self.im_hw0[i], self.im_hw[i] = image, original, image.shape[:2]
