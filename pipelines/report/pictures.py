"""Pictures for the page: small JPEGs as data URIs. Owner of Pillow in the report; imported only when a report is made."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image, ImageOps

from pipelines.core.errors import DataError, MissingInputError

JPEG_QUALITY = 80


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
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.format == "JPEG" and len(content) <= keep_below_bytes and max(image.size) <= max_side_px:
                return content
            image.draft("RGB", (max_side_px, max_side_px))  # lets libjpeg decode at a half or a quarter
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is not a readable image ({error}): restore it, or run `dvc repro`") from error
    upright.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def data_uri(jpeg: bytes) -> str:
    """A JPEG as `data:image/jpeg;base64,…`."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
