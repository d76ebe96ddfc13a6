"""A small dataset on disk for the tests of training: bright rectangles of three colours on noise, one image stored sideways, one without objects."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.core.records import write_samples
from pipelines.core.types import Box, Sample

CLASSES = ("red", "green", "blue")
SIZES_WH = ((96, 72), (72, 96), (130, 61), (64, 64))
ROTATED_90 = 6  # EXIF orientation: turn by 90 degrees clockwise to see it upright


def upright_picture(rng: np.random.Generator, size_wh: tuple[int, int], objects: int) -> tuple[Image.Image, tuple[Box, ...]]:
    width, height = size_wh
    pixels = rng.integers(0, 80, (height, width, 3), dtype=np.uint8)
    boxes = []
    for _ in range(objects):
        side_w, side_h = rng.integers(14, 30, 2)
        x, y = rng.integers(0, width - side_w), rng.integers(0, height - side_h)
        kind = int(rng.integers(0, len(CLASSES)))
        pixels[y : y + side_h, x : x + side_w] = 40
        pixels[y : y + side_h, x : x + side_w, kind] = 250
        boxes.append(Box(CLASSES[kind], (float(x), float(y), float(x + side_w), float(y + side_h))))
    return Image.fromarray(pixels), tuple(boxes)


def write_dataset(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Write `folder`/raw/images and `folder`/dataset/SPLIT.jsonl; returns `folder`."""
    rng = np.random.default_rng(seed)
    (folder / "raw" / "images").mkdir(parents=True)
    for split, count in counts.items():
        samples = []
        for position in range(count):
            size_wh = SIZES_WH[position % len(SIZES_WH)]
            picture, boxes = upright_picture(rng, size_wh, objects=0 if position == 2 else int(rng.integers(1, 4)))
            exif = Image.Exif()
            if position == 1:  # stored turned the other way, with the note that says so
                picture = picture.transpose(Image.Transpose.ROTATE_90)
                exif[0x0112] = ROTATED_90
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=95, exif=exif)
            image_id = hashlib.sha256(buffer.getvalue()).hexdigest()
            (folder / "raw" / "images" / f"{image_id}.jpg").write_bytes(buffer.getvalue())
            state = "labeled" if boxes else "verified_empty"
            samples.append(Sample(image_id, f"images/{image_id}.jpg", *size_wh, state, boxes, "test", image_id, None, 40.0))
        write_samples(folder / "dataset" / f"{split}.jsonl", samples)
    return folder
