"""Boxes that a network scores alike in two classes: which of the two it shows is a matter of the last digits, not of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from export.runners.detect import Detector, NmsValues, letterboxed, read_output
from pipelines.core.contract import ModelContract
from pipelines.core.images import Decoded, Letterbox
from pipelines.core.types import Detections

NOTHING_SUPPRESSED = 1.0  # an IoU that no pair of boxes exceeds


def detect_tied(runner: Detector, image: Decoded, nms: NmsValues, *, lowest: float, tie: float) -> tuple[Detections, Detections]:
    """What `export.runners.detect.detect` finds, and the other readings of its boxes; see `second_readings`."""
    made, box = letterboxed(image, runner.contract)
    raw = runner.infer_images([made])[0]
    place = (runner.contract, box, image.original_wh)
    return read_output(raw, *place, nms), second_readings(raw, *place, nms, lowest=lowest, tie=tie)


def lowest_of(thresholds: NDArray[np.float64] | Sequence[float], tie: float) -> float:
    """The score below which no tie can bear on what is shown."""
    return max(float(np.min(thresholds)) - tie, 0.0)


def second_readings(
    raw: NDArray[np.float32], contract: ModelContract, box: Letterbox, original_wh: tuple[int, int], nms: NmsValues, *, lowest: float, tie: float
) -> Detections:
    """The boxes of one image's raw output whose second class scores at most `tie` less than the first, and more than `lowest`, as their second class.

    None for NMS-free networks: they give a box once for each class that counts.
    """
    if contract.layout != "cxcywh_scores" or len(contract.classes) < 2:
        return Detections.empty()
    second, first = np.partition(raw[4:], -2, axis=0)[-2:]
    close = (second > lowest) & (first - second <= tie)
    if not close.any():
        return Detections.empty()
    other = raw[:, close]
    other[4 + other[4:].argmax(axis=0), np.arange(other.shape[1])] = 0
    return read_output(other, contract, box, original_wh, replace(nms, score_floor=lowest, iou_threshold=NOTHING_SUPPRESSED))
