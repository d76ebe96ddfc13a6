"""What an image looks like to the leak gate: a small grey thumbnail, made once for each image and kept on disk. Does not compare them.

Made from the image's own bytes, not from what collect measured, so that a fault there does not blind the gate.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.core.errors import DataError, MissingInputError
from pipelines.core.tables import read_parquet, write_parquet
from pipelines.core.types import Sample

THUMBNAIL_PX = 48
_REDUCED = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 1: cv2.IMREAD_GRAYSCALE}

# One row for each image of train, val and test, sorted by image_id: `split` is the side on which the gate, with `rules`, let it pass.
LOOKS_SCHEMA: dict[str, pl.DataType] = {"image_id": pl.String(), "split": pl.String(), "rules": pl.String(), "thumbnail": pl.Binary()}

Thumbnail = NDArray[np.uint8]


@dataclass(frozen=True)
class Look:
    """A thumbnail as bytes, row by row, and where the gate last let the image pass (None: never, or by other rules)."""

    thumbnail: bytes
    passed: str | None


def thumbnail(content: bytes, size_wh: tuple[int, int], name: str) -> bytes:
    """The upright image in grey, THUMBNAIL_PX square, area-averaged; JPEGs are decoded at a part of their size.

    Raises:
        DataError: not an image that OpenCV reads.
    """
    factor = next((factor for factor in (8, 4, 2) if min(size_wh) >= 2 * THUMBNAIL_PX * factor), 1)
    grey = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), _REDUCED[factor]) if content else None
    if grey is None:
        raise DataError(f"{name} is not a readable image: replace or remove it, then run `dvc repro`")
    return np.ascontiguousarray(cv2.resize(grey, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA), dtype=np.uint8).tobytes()


def read_looks(path: Path, rules: str) -> dict[str, Look]:
    """Looks by image_id; empty where the file does not exist yet."""
    if not path.exists():
        return {}
    frame = read_parquet(path, LOOKS_SCHEMA, "remove it: it is made anew from the images")
    rows = zip(frame["image_id"], frame["split"], frame["rules"], frame["thumbnail"], strict=True)
    return {image_id: Look(content, split if by == rules else None) for image_id, split, by, content in rows}


def write_looks(path: Path, looks: Mapping[str, bytes], split_of: Mapping[str, str], rules: str) -> None:
    """Write the images of `split_of`, which have all passed."""
    ids = sorted(split_of)
    columns = {"image_id": ids, "split": [split_of[i] for i in ids], "rules": [rules] * len(ids), "thumbnail": [looks[i] for i in ids]}
    write_parquet(path, pl.DataFrame(columns, schema=LOOKS_SCHEMA))


def thumbnails_of(
    samples: Sequence[Sample], known: Mapping[str, Look], raw: Path, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter
) -> dict[str, bytes]:
    """Thumbnails by image_id of all `samples`: those in `known`, and the others from their files below `raw`.

    Raises:
        MissingInputError: a file is gone.
        DataError: a file is not an image.
    """
    found = {sample.image_id: known[sample.image_id].thumbnail for sample in samples if sample.image_id in known}
    new = [sample for sample in samples if sample.image_id not in found]
    with ThreadPool(os.cpu_count() or 1) as pool:  # decoding leaves Python's lock alone
        found.update(progress(pool.imap_unordered(lambda sample: _made(sample, raw), new, chunksize=16)))
    return found


def _made(sample: Sample, raw: Path) -> tuple[str, bytes]:
    path = raw / sample.path
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingInputError(f"image {path} is missing: restore it, or run `dvc repro collect`") from error
    return sample.image_id, thumbnail(content, (sample.width_px, sample.height_px), str(path))
