"""The tables on disk: their columns, parquet files that are complete when they exist, the same bytes for the same rows, and JSON lines as tables.
Owner of polars in core.

Apart from `pipelines.core.io` and `pipelines.core.types` so that whoever only runs a shipped model needs no polars.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from pipelines.core.errors import DataError
from pipelines.core.io import new_file, require_file

# data/raw/manifest.parquet: one row for every file seen in the inbox, sorted by `origin`. `status` is "kept" or "dropped"; a kept image_id stands in
# one kept row only (an exact copy is dropped with reason "exact_duplicate"). Columns that could not be measured (a broken file) are null.
MANIFEST_SCHEMA: dict[str, pl.DataType] = {
    "origin": pl.String(),  # path relative to the inbox, "/" as separator
    "image_id": pl.String(),
    "path": pl.String(),  # relative to data/raw: images/ab/abcdef….jpg; null when dropped
    "status": pl.String(),
    "reason": pl.String(),  # why dropped, a word such as corrupt, not_an_image, exact_duplicate; null when kept
    "duplicate_of": pl.String(),  # image_id of the kept twin, for duplicates
    "near_group": pl.String(),  # smallest image_id of its cluster: what chains of near-duplicates join; null without a near-duplicate
    "near_duplicate_of": pl.String(),  # image_id of the one that stands for it: a better near-duplicate; null for who stands alone. All stay kept
    "bytes": pl.Int64(),
    "width_px": pl.Int32(),
    "height_px": pl.Int32(),
    "source": pl.String(),  # which folder or log it came from: the first folder below the inbox
    "group": pl.String(),  # what must stay on one side of the split: burst, clip, patient …; null: the image is its own group
    "captured_at": pl.String(),  # ISO 8601, as the log gives it
    "given_split": pl.String(),  # train, val or test when an imported dataset brings its own lists; else null
    "phash": pl.UInt64(),
    "brightness": pl.Float64(),  # mean grey level, 0 to 255
    "contrast": pl.Float64(),  # standard deviation of the grey level
    "sharpness": pl.Float64(),  # variance of the Laplacian
    "uri": pl.String(),  # where the bytes came from when not from the inbox: an address, an object key, a clip and the time in it
    "predicted_classes": pl.List(pl.String()),  # what the champion saw, sorted; null when it did not look
    "uncertainty": pl.Float64(),  # 0 to 1, how unsure the champion was; null when it did not look
}

# data/predictions/SPLIT.parquet: one row a detection, sorted by image_id, then score descending. An image without detections has no row.
DETECTIONS_SCHEMA: dict[str, pl.DataType] = {
    "image_id": pl.String(),
    "class": pl.String(),
    "score": pl.Float32(),
    "x1": pl.Float32(),
    "y1": pl.Float32(),
    "x2": pl.Float32(),
    "y2": pl.Float32(),
}

# data/predictions/features.parquet: one row an image, sorted by image_id: what the detector sees in it, unit length.
FEATURES_SCHEMA: dict[str, pl.DataType] = {"image_id": pl.String(), "feature": pl.List(pl.Float32())}

# data/labels/annotations.jsonl as a table, one row a line; see `pipelines.core.types.Annotation`.
BOXES = pl.List(pl.Struct({"class": pl.String(), "xyxy": pl.List(pl.Float64())}))
ANNOTATIONS_SCHEMA: dict[str, pl.DataType] = {
    "annotated_at": pl.String(),
    "annotation_ids": pl.List(pl.String()),
    "annotators": pl.List(pl.String()),
    "boxes": BOXES,
    "height_px": pl.Int64(),
    "image_id": pl.String(),
    "source": pl.String(),
    "state": pl.String(),
    "width_px": pl.Int64(),
}

# data/dataset/{train,val,test,pool}.jsonl as a table, one row a line; see `pipelines.core.types.Sample`.
SAMPLES_SCHEMA: dict[str, pl.DataType] = {
    "boxes": BOXES,
    "brightness": pl.Float64(),
    "captured_at": pl.String(),
    "group": pl.String(),
    "height_px": pl.Int64(),
    "image_id": pl.String(),
    "path": pl.String(),
    "source": pl.String(),
    "state": pl.String(),
    "width_px": pl.Int64(),
}


@contextmanager
def _table_file(path: Path) -> Iterator[BinaryIO]:
    """As `pipelines.core.io.new_file`, for polars, which writes to the file itself; its errors name a fault of the disk in words only."""
    with new_file(path) as file:
        try:
            yield file
        except (OSError, pl.exceptions.ComputeError) as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Write a table atomically, with settings that give the same bytes for the same rows."""
    with _table_file(path) as file:  # hashes and names: higher levels are slower, not smaller
        frame.write_parquet(file, compression="zstd", compression_level=1, statistics=False)


def read_parquet(path: Path, schema: Mapping[str, Any], columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read a table, or some `columns` of it, and hold it against `schema` (column name to polars type).

    Raises:
        MissingInputError: no such file.
        DataError: unreadable, or its columns are not those of `schema`.
    """
    frame = pl.scan_parquet(require_file(path))
    try:
        found = dict(frame.collect_schema())
        if found != dict(schema):
            raise DataError(f"{path} has columns {found}, wanted {dict(schema)}: run `dvc repro`")
        return frame.select(list(columns or schema)).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file ({error}): run `dvc repro`") from error


def write_arrow(path: Path, frame: pl.DataFrame) -> None:
    """Write a table atomically as an Arrow file, for what can be made again: several times as large as parquet, read in a quarter of the time."""
    with _table_file(path) as file:
        frame.write_ipc(file)


def read_arrows(paths: Sequence[Path], schema: Mapping[str, Any]) -> pl.DataFrame:
    """The rows of several Arrow files, at least one, in their order, held against `schema`.

    Raises:
        DataError: not there, unreadable, or its columns are not those of `schema`.
    """
    try:
        frame = pl.scan_ipc(list(paths)).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{_named(paths)} cannot be read ({error}): remove it and run again") from error
    if frame.schema != pl.Schema(schema):
        raise DataError(f"{_named(paths)} has columns {dict(frame.schema)}: remove it and run again")
    return frame


def _named(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} … {paths[-1].name}"


def write_jsonl_table(path: Path, frame: pl.DataFrame) -> None:
    """Write one canonical JSON line a row, as `pipelines.core.io.canonical_json` has it, if no float but 0 is below 0.001."""
    with _table_file(path) as file:
        frame.select(sorted(frame.columns)).write_ndjson(file)


def jsonl_bytes(frame: pl.DataFrame) -> bytes:
    """What `write_jsonl_table` writes."""
    content = io.BytesIO()
    frame.select(sorted(frame.columns)).write_ndjson(content)
    return content.getvalue()


def write_lines(path: Path, lines: pl.Series) -> None:
    """Write lines of text."""
    with _table_file(path) as file:
        lines.to_frame().write_csv(file, include_header=False, quote_style="never")


def read_jsonl_table(path: Path, schema: Mapping[str, Any], hint: str = "run `dvc repro`") -> pl.DataFrame | None:
    """The canonical JSON lines of a file as a table with the columns of `schema`; None where a line is not exactly what `write_jsonl_table` writes.

    Such a file is for a reader that knows what may differ, and that names the line.

    Raises:
        MissingInputError: no such file.
    """
    require_file(path, hint)
    try:
        return parsed_lines(pl.read_lines(path).to_series(), schema)
    except pl.exceptions.PolarsError:
        return None


def parsed_lines(lines: pl.Series, schema: Mapping[str, Any]) -> pl.DataFrame | None:
    """Canonical JSON lines as a table with the columns of `schema`; None where a line is not exactly what `write_jsonl_table` writes."""
    kind = pl.Struct({name: schema[name] for name in sorted(schema)})
    try:
        table = lines.str.json_decode(kind)
        again = table.struct.json_encode()
    except pl.exceptions.PolarsError:
        return None
    return table.struct.unnest() if again.equals(lines, check_names=False, null_equal=False) else None
