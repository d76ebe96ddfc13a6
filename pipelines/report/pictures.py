"""Pictures for the page: small JPEGs as data URIs."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np

from pipelines.core.errors import MissingInputError
from pipelines.core.images import decode_image

JPEG_QUALITY = 80
JPEG_START = b"\xff\xd8"


def small_jpeg(path: Path, max_side_px: int, keep_below_bytes: int = 0) -> bytes:
    """The image as a JPEG whose longer side is at most `max_side_px`, EXIF orientation applied, no metadata.

    A JPEG that is already small enough and has at most `keep_below_bytes` is returned as it is.

    Raises:
        MissingInputError: no such file.
        DataError: not an image.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingInputError(f"image {path} is missing: run `dvc repro`") from error
    image = decode_image(content, str(path))
    height, width = image.shape[:2]
    scale = max_side_px / max(width, height)
    if content.startswith(JPEG_START) and len(content) <= keep_below_bytes and scale >= 1:
        return content
    if scale < 1:
        smaller = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1])
    return jpeg.tobytes()


def data_uri(jpeg: bytes) -> str:
    """A JPEG as `data:image/jpeg;base64,…`."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
