"""Every bad case with its label and its detection on a cut-out of the image: the data of the page cases.html.

A case's picture shows both boxes and their surroundings. Pictures become smaller the more cases there are, so that a page of ten thousand stays
below about 60 MB; the page draws only what is in view.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipelines.core.images import Image, read_image
from pipelines.core.types import Sample

SIDES_PX = ((500, 288), (3000, 176), (None, 112))  # a picture's long side, by the number of cases up to which it holds
MIN_CONTEXT_PX, CONTEXT = 24.0, 0.7  # around the boxes: this much, and this share of their longer side
JPEG_QUALITY = 72
FIELDS = ("kind", "class", "predicted_class", "score", "iou", "split", "ap50_gain", "rank_score")
SLICES = ("source", "brightness", "size")
BOX_DIGITS = 4

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cases:
    """What the page shows: one JSON object a case, worst first, and how many more there are that it does not show."""

    rows: tuple[dict[str, Any], ...]
    left_out: int

    def script(self) -> Markup:
        """The rows as JSON that is safe inside a script element."""
        text = json.dumps(self.rows, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def read_cases(badcases: Sequence[Row], samples: Sequence[Sample], raw: Path, most: int) -> Cases:
    """The worst `most` rows of badcases.jsonl with their pictures, each image read once.

    Raises:
        MissingInputError: an image is not there.
    """
    path_of = {sample.image_id: sample.path for sample in samples}
    known = [row for row in badcases if row.get("image_id") in path_of and (row.get("box") or row.get("truth_box"))]
    chosen = sorted(known, key=lambda row: (-float(row.get("rank_score") or 0), str(row["image_id"]), str(row.get("kind")), _first_box(row)))[:most]
    side_px = next(side for count, side in SIDES_PX if count is None or len(chosen) <= count)
    order = {id(row): position for position, row in enumerate(chosen)}
    found: dict[int, dict[str, Any]] = {}
    for image_id, rows in groupby(sorted(chosen, key=lambda row: str(row["image_id"])), key=lambda row: str(row["image_id"])):
        image = read_image(raw / path_of[image_id])
        found.update((order[id(row)], _case(row, image, side_px)) for row in rows)
    return Cases(tuple(found[position] for position in sorted(found)), len(badcases) - len(chosen))


def _case(row: Row, image: Image, side_px: int) -> dict[str, Any]:
    boxes = {name: np.array(row[key], np.float64) for name, key in (("label", "truth_box"), ("found", "box")) if row.get(key)}
    x1, y1, x2, y2 = _window(list(boxes.values()), image.shape[1], image.shape[0])
    cut = image[y1:y2, x1:x2]
    scale = side_px / max(cut.shape[:2])
    size = (max(1, round(cut.shape[1] * scale)), max(1, round(cut.shape[0] * scale)))
    smaller = cv2.resize(cut, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    jpeg = cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1]
    slices = row.get("slice") or {}
    return {
        **{name: row.get(name) for name in FIELDS},
        **{name: slices.get(name) for name in SLICES},
        "image": str(row["image_id"])[:12],
        "wh": size,
        **{name: [round(float(value), BOX_DIGITS) for value in _relative(box, (x1, y1, x2, y2))] for name, box in boxes.items()},
        "jpeg": base64.b64encode(jpeg.tobytes()).decode(),
    }


def _window(boxes: Sequence[NDArray[np.float64]], width: int, height: int) -> tuple[int, int, int, int]:
    """The part of the image that shows the boxes and some surroundings, at least a pixel wide and high."""
    both = np.array(boxes)
    left, top = both[:, :2].min(axis=0)
    right, bottom = both[:, 2:].max(axis=0)
    more = max(MIN_CONTEXT_PX, CONTEXT * max(right - left, bottom - top))
    x1, y1 = (int(min(max(low - more, 0), limit - 1)) for low, limit in ((left, width), (top, height)))
    x2, y2 = (int(max(min(high + more, limit), low + 1)) for high, limit, low in ((right, width, x1), (bottom, height, y1)))
    return x1, y1, x2, y2


def _relative(box: NDArray[np.float64], window: tuple[int, int, int, int]) -> Iterator[float]:
    """Left, top, width, height as shares of the window."""
    x1, y1, x2, y2 = window
    yield (box[0] - x1) / (x2 - x1)
    yield (box[1] - y1) / (y2 - y1)
    yield (box[2] - box[0]) / (x2 - x1)
    yield (box[3] - box[1]) / (y2 - y1)


def _first_box(row: Row) -> list[float]:
    return list(row.get("box") or row.get("truth_box") or [])
