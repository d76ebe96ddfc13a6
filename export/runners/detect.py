"""From a decoded image to boxes with any runner: the one path that verifying, timing, the golden vectors and `detloop predict` share.

Needs numpy and OpenCV only, so that a shipped bundle can use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.core.contract import ModelContract
from pipelines.core.images import Decoded, Image, Letterbox, apply_letterbox, letterbox_for, tensor_from_letterboxed
from pipelines.core.postprocess import detections_from_output
from pipelines.core.types import Detections


class Detector(Protocol):
    """What is asked of a runner here, of PyTorch's as well."""

    @property
    def contract(self) -> ModelContract:
        """How to feed it and how to read it."""
        ...

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, 3, height, width) to raw output (N, …)."""
        ...

    def infer_images(self, letterboxed: Sequence[Image]) -> NDArray[np.float32]:
        """N BGR images of the input's size to raw output (N, …): the way that detecting takes."""
        ...


@dataclass(frozen=True)
class NmsValues:
    """From raw output to detections: the lowest score kept, the IoU above which the worse box goes, how many boxes an image may have."""

    score_floor: float
    iou_threshold: float
    max_detections: int


def letterboxed(image: Decoded, contract: ModelContract) -> tuple[Image, Letterbox]:
    """The image in the size of the input, BGR, and where it lies in it."""
    box = letterbox_for(image.original_wh, contract.input_wh)
    return apply_letterbox(image.pixels, box, contract.pad_value), box


def model_input(image: Decoded, contract: ModelContract) -> tuple[NDArray[np.float32], Letterbox]:
    """Letterbox an image as `contract` asks: float32 (1, 3, height, width) and where the image lies in it.

    Raises:
        DataError: the contract asks for another colour order or scale than this code makes.
    """
    contract.require_known_pixels()
    made, box = letterboxed(image, contract)
    return tensor_from_letterboxed([made]), box


def read_output(raw: NDArray[np.float32], contract: ModelContract, box: Letterbox, original_wh: tuple[int, int], nms: NmsValues) -> Detections:
    """One image's raw output (without the batch axis) to detections in pixels of the whole image, best first."""
    return detections_from_output(
        raw,
        contract,
        box,
        original_wh,
        score_floor=nms.score_floor,
        iou_threshold=nms.iou_threshold,
        max_detections=nms.max_detections,
    )


def detect_batch(runner: Detector, images: Iterable[Decoded], nms: NmsValues) -> list[Detections]:
    """All of it for images of any sizes, in one call of the runner. Of an iterator's images only the letterboxed pixels stay in memory."""
    made, places = [], []
    for image in images:
        pixels, box = letterboxed(image, runner.contract)
        made.append(pixels)
        places.append((box, image.original_wh))
    outputs = runner.infer_images(made) if made else ()
    return [read_output(raw, runner.contract, *place, nms) for raw, place in zip(outputs, places, strict=True)]


def detect(runner: Detector, image: Decoded, nms: NmsValues) -> Detections:
    """All of it for one image."""
    return detect_batch(runner, [image], nms)[0]


def above(detections: Detections, thresholds: NDArray[np.float64], margin: float = 0.0) -> Detections:
    """The detections that reach their class's threshold less `margin`; `thresholds` is (classes,)."""
    keep = detections.score.astype(np.float64) >= thresholds[detections.class_index] - margin
    return Detections(detections.xyxy[keep], detections.score[keep], detections.class_index[keep])
