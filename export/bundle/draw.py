"""Drawing detections on a picture: a box a detection, with class and score, in colours that stay apart."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pipelines.core.images import Image
from pipelines.core.types import Detections

# Okabe and Ito's palette (Color Universal Design, 2008) without black, as BGR: also told apart by colour-blind people.
PALETTE_BGR = ((0, 159, 230), (233, 180, 86), (115, 158, 0), (66, 228, 240), (178, 114, 0), (0, 94, 213), (167, 121, 204))
_DARK, _LIGHT = (20, 20, 20), (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def colour_of(class_index: int) -> tuple[int, int, int]:
    """BGR of a class; the palette repeats after seven."""
    return PALETTE_BGR[class_index % len(PALETTE_BGR)]


def draw_detections(image: Image, detections: Detections, classes: Sequence[str]) -> Image:
    """A copy of a BGR image with the boxes on it, the best on top. Letters outside ASCII show as "?" (OpenCV's font has no others)."""
    # a small picture is enlarged first, so that the text can be read and covers little
    factor = max(1, -(-480 // max(image.shape[0], image.shape[1])))
    canvas = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC) if factor > 1 else image.copy()
    height, width = canvas.shape[:2]
    thickness = max(2, round(max(height, width) / 400))
    scale = max(0.4, max(height, width) / 1600)
    best_last = np.argsort(detections.score, kind="stable")
    corners = np.rint(detections.xyxy * factor).astype(int).tolist()
    for row in best_last:
        x1, y1, x2, y2 = corners[row]
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour_of(int(detections.class_index[row])), thickness, cv2.LINE_AA)
    for row in best_last:  # after all boxes, so that no line crosses a label
        x1, y1 = corners[row][:2]
        colour = colour_of(int(detections.class_index[row]))
        text = f"{classes[int(detections.class_index[row])]} {detections.score[row]:.2f}"
        (text_width, text_height), below = cv2.getTextSize(text, _FONT, scale, 1)
        label_height = text_height + below + 2
        left = max(0, min(x1, width - text_width - 4))
        top = y1 - label_height if y1 >= label_height else min(y1, height - label_height)  # above the box, inside it at the image's top
        cv2.rectangle(canvas, (left, top), (left + text_width + 4, top + label_height), colour, cv2.FILLED)
        cv2.putText(canvas, text, (left + 2, top + text_height + 1), _FONT, scale, _text_colour(colour), 1, cv2.LINE_AA)
    return canvas.astype(np.uint8, copy=False)


def encode_jpeg(image: Image) -> bytes:
    """The picture as a JPEG file's bytes."""
    _, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    return content.tobytes()


def _text_colour(background: tuple[int, int, int]) -> tuple[int, int, int]:
    blue, green, red = background
    return _DARK if 0.114 * blue + 0.587 * green + 0.299 * red > 120 else _LIGHT
