"""Measurements kept between runs, so that a run decodes only what is new. Never an output: without it a run gives the same bytes, later."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path

import cv2
import numpy as np
import polars as pl

from pipelines.collect import containers, measure
from pipelines.collect.measure import Measurement
from pipelines.core.errors import DetloopError
from pipelines.core.io import sha256_bytes
from pipelines.core.tables import read_parquet, write_parquet

_PREFIX, _SUFFIX = ".measured-", ".parquet"
_SCHEMA: dict[str, pl.DataType] = {
    "image_id": pl.String(),
    "extension": pl.String(),
    "width_px": pl.Int32(),
    "height_px": pl.Int32(),
    "phash": pl.UInt64(),
    "brightness": pl.Float64(),
    "contrast": pl.Float64(),
    "sharpness": pl.Float64(),
    "thumbnail": pl.Binary(),
}


def cache_path(folder: Path) -> Path:
    """The cache file in `folder` for this code and these libraries: measurements of other code are not reused."""
    key = [inspect.getsource(containers), inspect.getsource(measure), cv2.__version__, np.__version__]
    return folder / f"{_PREFIX}{sha256_bytes(repr(key).encode())[:16]}{_SUFFIX}"


def read_cache(path: Path) -> dict[str, Measurement]:
    """Measurements by image_id; empty where there is no readable cache."""
    try:
        frame = read_parquet(path, _SCHEMA)
    except DetloopError:
        return {}
    names = [field.name for field in fields(Measurement)]
    return {row["image_id"]: Measurement(**{name: row[name] for name in names}) for row in frame.iter_rows(named=True)}


def write_cache(path: Path, measurements: Mapping[str, Measurement]) -> None:
    """Replace the cache, sorted by image_id, and remove caches of other code."""
    rows = [{"image_id": image_id, **asdict(measurements[image_id])} for image_id in sorted(measurements)]
    write_parquet(path, pl.DataFrame(rows, schema=_SCHEMA))
    for other in _others(path):
        other.unlink(missing_ok=True)


def _others(path: Path) -> Iterable[Path]:
    return [other for other in path.parent.glob(f"{_PREFIX}*{_SUFFIX}") if other != path]
