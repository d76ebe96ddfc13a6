"""The sample's files: every frame as a JPEG, and the odd files that real folders hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import cv2
import numpy as np

from pipelines.core.images import Image
from pipelines.core.io import sha256_bytes
from pipelines.sample.labels import XYXY, Planted
from pipelines.sample.photo import jpeg, turned_jpeg
from pipelines.sample.plan import file_name
from pipelines.sample.stations import Shot

QUALITY = (80, 86)
RESIZED_TO = 0.95
TRUNCATED_TO = 0.42
README = """Product log of the assembly line, cameras cam1 (belt), cam2 (bench), cam3 (feeder tray).
log.jsonl has one line a frame: file, group (burst), captured_at, source (camera).
misc/ is what people put here by hand.
"""
NOTE = "TODO ask whether cam2 was moved on Tuesday\n"


@dataclass(frozen=True)
class Photo:
    """An image file: its `name` in the log's folder, bytes, size as a person sees it, and true boxes (class, xyxy, occlusion)."""

    name: str
    content: bytes
    image_id: str
    wh: tuple[int, int]
    boxes: tuple[tuple[str, XYXY, float], ...]
    camera: str
    burst: str
    captured_at: datetime
    dark: bool


@dataclass(frozen=True)
class Folder:
    """What stands in the inbox: `photos` that can be read, in order of time, `others` (name to bytes), and rows of the log for unreadable frames."""

    photos: tuple[Photo, ...]
    others: dict[str, bytes]
    more_rows: tuple[dict[str, Any], ...]
    planted: Planted


def fill(shots: Sequence[Shot], torn: int, rng: np.random.Generator) -> Folder:
    """Compress the frames and add the odd files; frame number `torn` arrives truncated."""
    qualities = rng.integers(QUALITY[0], QUALITY[1] + 1, len(shots)).tolist()
    candidates = [index for index, shot in enumerate(shots) if index != torn and len(shot.boxes) >= 3 and not shot.dark]
    turned, copied, *again = (candidates[int(index)] for index in rng.permutation(len(candidates))[:5])
    photos = [
        _photo(shot, file_name(shot.camera, shot.captured_at), turned_jpeg(shot.image, quality) if index == turned else jpeg(shot.image, quality))
        for index, (shot, quality) in enumerate(zip(shots, qualities, strict=True))
    ]
    torn_photo = photos[torn]
    torn_bytes = torn_photo.content[: int(TRUNCATED_TO * len(torn_photo.content))]
    copy_name = f"misc/copy of {photos[copied].name.rsplit('/', 1)[-1]}"
    near = [_again(shots[index], photos[index], number) for number, index in enumerate(again)]
    planted: Planted = {
        "exact_duplicate": [{"file": copy_name, "of": photos[copied].name, "image_id": photos[copied].image_id}],
        "near_duplicate": [
            {"file": twin.name, "of": photos[index].name, "image_id": twin.image_id, "of_image_id": photos[index].image_id, "how": how}
            for index, (twin, how) in zip(again, near, strict=True)
        ],
        "truncated": [{"file": torn_photo.name}],
        "exif_rotated": [{"file": photos[turned].name, "image_id": photos[turned].image_id, "orientation": 6}],
        "not_an_image": [{"file": "misc/notes.jpg"}],
        "empty_file": [{"file": "misc/upload_0.jpg"}],
        "no_image_name": [{"file": "README.txt"}],
    }
    others = {
        copy_name: photos[copied].content,
        torn_photo.name: torn_bytes,
        "misc/notes.jpg": NOTE.encode(),
        "misc/upload_0.jpg": b"",
        "README.txt": README.encode(),
    }
    rows = (log_row(torn_photo), log_row(replace(photos[copied], name=copy_name)))
    readable = [photo for index, photo in enumerate(photos) if index != torn]
    return Folder((*readable, *(twin for twin, _ in near)), others, rows, planted)


def log_row(photo: Photo) -> dict[str, Any]:
    """A line of log.jsonl."""
    time = photo.captured_at
    stamp = f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03d}Z"
    return {"file": photo.name, "source": photo.camera, "group": photo.burst, "captured_at": stamp}


def _photo(shot: Shot, name: str, content: bytes) -> Photo:
    boxes = tuple(
        (box.class_name, (float(box.xyxy[0]), float(box.xyxy[1]), float(box.xyxy[2]), float(box.xyxy[3])), box.occlusion) for box in shot.boxes
    )
    height, width = shot.image.shape[:2]
    return Photo(name, content, sha256_bytes(content), (width, height), boxes, shot.camera, shot.burst, shot.captured_at, shot.dark)


def _again(shot: Shot, photo: Photo, number: int) -> tuple[Photo, str]:
    """A near-duplicate: the frame came a second time, from a retry that knows nothing of the burst; how it differs."""
    name = f"{photo.camera}/retry/{photo.name.rsplit('/', 1)[-1]}"
    if number == 1:
        width, height = round(RESIZED_TO * photo.wh[0]), round(RESIZED_TO * photo.wh[1])
        smaller: Image = cv2.resize(shot.image, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        content, wh, how = jpeg(smaller, QUALITY[0]), (width, height), f"resized to {width}x{height}"
    else:
        quality = 60 - 10 * number
        content, wh, how = jpeg(shot.image, quality), photo.wh, f"re-encoded at quality {quality}"
    sx, sy = wh[0] / photo.wh[0], wh[1] / photo.wh[1]
    boxes = tuple((kind, (box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy), hidden) for kind, box, hidden in photo.boxes)
    twin = replace(photo, name=name, content=content, image_id=sha256_bytes(content), wh=wh, boxes=boxes, burst=f"retry-{photo.camera}-{number}")
    return twin, how
