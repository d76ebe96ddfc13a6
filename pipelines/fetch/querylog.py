"""Product query logs: CSV, JSON lines or Parquet, narrowed by an SQL condition over their columns. Owner of polars' SQL."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import polars as pl

from pipelines.core.errors import DataError, ParamsError, listed
from pipelines.core.io import require_file
from pipelines.core.types import LABELED_SPLITS

_KINDS = (".csv", ".jsonl", ".ndjson", ".parquet")
_TABLE, _ROW = "log", "row of the log"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Row = dict[str, str | None]


def query(path: Path, where: str | None, columns: dict[str, str | None], name: str) -> list[Row]:
    """The rows of a log that meet `where`, with `columns` (our name to the log's) as texts; a row without an image is an error.

    Raises:
        MissingInputError: no such log.
        DataError: it cannot be read, or rows lack an image or have a bad time or split.
        ParamsError: a column is not there, or the condition is not SQL over its columns.
    """
    if require_file(path, f"correct collect.sources: {name}").suffix.lower() not in _KINDS:
        raise ParamsError(f"collect.sources: {name}: {path} is none of {', '.join(_KINDS)}")
    frame = _read(path, typed=False)
    missing = [theirs for theirs in columns.values() if theirs is not None and theirs not in frame.columns]
    if missing:
        comma = "; the columns of a CSV log are parted by commas" if path.suffix.lower() == ".csv" and len(frame.columns) == 1 else ""
        raise ParamsError(f"collect.sources: {name}: {path} has no column {', '.join(missing)}; it has {', '.join(frame.columns)}{comma}")
    if where:
        table = _read(path, typed=True).with_row_index(_ROW)
        try:
            found = pl.SQLContext({_TABLE: table}).execute(f"SELECT * FROM {_TABLE} WHERE {where}", eager=True)
        except pl.exceptions.PolarsError as error:
            raise ParamsError(f"collect.sources: {name}: where = {where!r} does not work on {path} ({error}): correct it") from error
        frame = frame[found[_ROW].to_list()]
    chosen = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
    nested = [f"{theirs} ({frame.schema[theirs]})" for theirs in chosen.values() if frame.schema[theirs].is_nested()]
    if nested:
        raise ParamsError(f"collect.sources: {name}: {path} has more than one value a row in {', '.join(nested)}: name a column of single values")
    texts = frame.select(_as_text(frame.schema[theirs], theirs).alias(ours) for ours, theirs in chosen.items())
    rows = [{ours: row.get(ours) or None for ours in columns} for row in texts.iter_rows(named=True)]
    _require_good(rows, path)
    return rows


def _read(path: Path, *, typed: bool) -> pl.DataFrame:
    """The log as a table. A CSV file holds texts, `007` and `7` are two; only SQL is to see numbers where all of a column are numbers (`typed`)."""
    try:
        if path.suffix.lower() == ".csv":
            return pl.read_csv(path, infer_schema=typed, infer_schema_length=None)
        if path.suffix.lower() == ".parquet":
            return pl.read_parquet(path)
        lines = path.read_bytes().removeprefix(_BYTE_ORDER_MARK)
        return pl.read_ndjson(io.BytesIO(lines), infer_schema_length=None)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable {path.suffix[1:]} log ({error}): mend or remove it") from error


def _as_text(kind: pl.DataType, column: str) -> pl.Expr:
    return pl.col(column).dt.to_string("iso:strict") if isinstance(kind, pl.Datetime) else pl.col(column).cast(pl.String)


def _require_good(rows: Sequence[Row], path: Path) -> None:
    problems: list[str] = []
    for number, row in enumerate(rows, start=1):
        if not row["image"]:
            problems.append(f"chosen row {number} has no image")
        if row["split"] is not None and row["split"] not in LABELED_SPLITS:
            problems.append(f"chosen row {number}: split {row['split']!r} is not one of {list(LABELED_SPLITS)}")
        try:
            datetime.fromisoformat(row["captured_at"] or "2000-01-01")
        except ValueError:
            problems.append(f"chosen row {number}: captured_at {row['captured_at']!r} is not an ISO 8601 time")
    if problems:
        raise DataError(f"{path} has {len(problems)} bad rows: {listed(problems)}; mend them, or leave them out by `where`")
