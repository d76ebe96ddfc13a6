"""Pictures of bad cases: labels green, wrong detections red with class and score, right ones thin and white. Nothing is read or written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.core.images import Image
from pipelines.core.types import Detections, GroundTruth

LONG_SIDE_PX = 480
MAX_ENLARGEMENT = 2.0
JPEG_QUALITY = 85
GREEN, RED, WHITE = (70, 190, 60), (50, 40, 225), (245, 245, 245)  # BGR
_FONT, _FONT_SCALE, _TEXT_PAD_PX = cv2.FONT_HERSHEY_SIMPLEX, 0.38, 2


@dataclass(frozen=True)
class _Tag:
    text: str
    xyxy: NDArray[np.float64]
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class MinedImage:
    """One labeled image with its stored detections, those of them that are `shown` (detections,) and its rows of bad cases."""

    truth: GroundTruth
    detections: Detections
    shown: NDArray[np.bool_]
    rows: Sequence[Mapping[str, Any]]


def picture(image: Image, mined: MinedImage, classes: Sequence[str]) -> bytes:
    """A JPEG of the whole image, long side at most LONG_SIDE_PX, small ones enlarged, with its labels and shown detections."""
    canvas, scale = _resized(image)
    found = mined.detections
    wrong = {row["detection_index"] for row in mined.rows if row["detection_index"] is not None}
    missed = {row["truth_index"] for row in mined.rows if row["kind"] == "missed"}
    tags = []
    for row in np.flatnonzero(mined.shown):
        if row not in wrong:
            _rectangle(canvas, found.xyxy[row] * scale, WHITE, 1)
    for row, class_index in enumerate(mined.truth.class_index):
        box = mined.truth.xyxy[row] * scale
        _rectangle(canvas, box, GREEN, 2 if row in missed else 1)
        if row in missed:
            tags.append(_Tag(f"missed {_ascii(classes, int(class_index))}", box.astype(np.float64), GREEN))
    for row in sorted(wrong, reverse=True):  # the best score is drawn last, on top
        box = found.xyxy[row] * scale
        _rectangle(canvas, box, RED, 2)
        tags.append(_Tag(f"{_ascii(classes, int(found.class_index[row]))} {found.score[row]:.2f}", box.astype(np.float64), RED))
    used: list[tuple[int, int, int, int]] = []
    for tag in tags:
        used.append(_write(canvas, tag, used))
    ok, encoded = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert ok  # encoding an in-memory BGR image does not fail
    return encoded.tobytes()


def _resized(image: Image) -> tuple[Image, float]:
    height, width = image.shape[:2]
    scale = min(LONG_SIDE_PX / max(width, height), MAX_ENLARGEMENT)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return resized.astype(np.uint8, copy=True), scale


def _rectangle(canvas: Image, xyxy: NDArray[np.float32], colour: tuple[int, int, int], thickness_px: int) -> None:
    left, top, right, bottom = (round(float(value)) for value in xyxy)
    cv2.rectangle(canvas, (left, top), (right, bottom), colour, thickness_px, cv2.LINE_AA)


def _write(canvas: Image, tag: _Tag, used: Sequence[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    """Text on a filled strip above its box, below it or inside, the first that hides no strip of `used`; returns the strip (x1, y1, x2, y2)."""
    height, width = canvas.shape[:2]
    (text_w, text_h), base = cv2.getTextSize(tag.text, _FONT, _FONT_SCALE, 1)
    strip_w, strip_h = text_w + 2 * _TEXT_PAD_PX, text_h + base + _TEXT_PAD_PX
    left = min(max(0, round(tag.xyxy[0])), max(0, width - strip_w))
    upper, lower = max(0, round(tag.xyxy[1])), round(tag.xyxy[3])
    tops = [top for top in (upper - strip_h, lower, upper, lower - strip_h) if 0 <= top <= height - strip_h] or [0]
    strips = [(left, top, left + strip_w, top + strip_h) for top in tops]
    strip = next((item for item in strips if not any(_overlap(item, other) for other in used)), strips[0])
    cv2.rectangle(canvas, strip[:2], strip[2:], tag.colour, cv2.FILLED)
    cv2.putText(canvas, tag.text, (left + _TEXT_PAD_PX, strip[1] + text_h + 1), _FONT, _FONT_SCALE, WHITE, 1, cv2.LINE_AA)
    return strip


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _ascii(classes: Sequence[str], index: int) -> str:
    """The class name where OpenCV's font has its letters, else its index; the page beside the picture has the name."""
    return classes[index] if classes[index].isascii() else f"class {index}"
