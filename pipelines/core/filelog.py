"""Logs of files: `log.jsonl` or `log.csv` with a row for each file.

Columns are `file` (relative to the log's folder) and, as wanted, `source`, `group`, `captured_at`, `split`; from `fetch` also `uri` and `refused`.
Others are ignored and counted.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.core.errors import DataError, counted, listed
from pipelines.core.io import numbered_jsonl
from pipelines.core.types import LABELED_SPLITS

LOG_NAMES = ("log.csv", "log.jsonl")
LOG_COLUMNS = ("file", "source", "group", "captured_at", "split", "uri", "refused")


@dataclass(frozen=True)
class LogLine:
    """What a log says of one file."""

    source: str | None = None
    group: str | None = None
    captured_at: str | None = None
    split: str | None = None
    uri: str | None = None
    refused: str | None = None  # why whoever wrote the log could not bring the file


@dataclass(frozen=True)
class Said:
    """What logs say: of each file by its name, `LOG line N: FILE` for lines whose file is not there, and how often a column was ignored."""

    lines: Mapping[str, LogLine]
    missing: tuple[str, ...]
    ignored: Mapping[str, int]


def read_logs(folder: Path, logs: Sequence[str], there: Set[str], where: str, remedy: str) -> Said:
    """Read the logs of those names below `folder`; `there` are the names of the files. Lines of others count where they say why (`refused`).

    Raises:
        DataError: bad lines, all of them in one message that says `where` they are and what the `remedy` is.
    """
    claims: dict[str, tuple[LogLine, str]] = {}
    problems: list[str] = []
    missing: list[str] = []
    ignored: Counter[str] = Counter()
    for name in logs:
        for place, row in _rows(folder / name, origin_of(name)):
            ignored.update(str(key) for key in row if key not in LOG_COLUMNS)
            try:
                target, line = _parsed(row, PurePosixPath(name).parent)
            except ValueError as error:
                problems.append(f"{place}: {error}")
                continue
            if target not in there and target not in claims and (line.refused is None or target in logs):
                missing.append(f"{place}: {origin_of(target)}")
            elif claims.setdefault(target, (line, place))[0] != line:  # the same line twice is harmless: logs are appended to
                problems.append(f"{place}: {origin_of(target)} stands in {claims[target][1]} with other values")
    if problems:
        raise DataError(f"{counted(len(problems), 'bad log line')} in {where}: {listed(problems)}; {remedy}")
    return Said({name: line for name, (line, _) in claims.items()}, tuple(missing), ignored)


def speaks_of_files(log: Path) -> bool:
    """Whether a file that has the name of a log is one, and not another tool's: its table has a column `file`, or a line of it this key."""
    try:
        if log.name.endswith(".jsonl"):
            return any("file" in row for _, row in numbered_jsonl(log))
        return "file" in (_csv(log).fieldnames or ())
    except (DataError, csv.Error, UnicodeDecodeError, OSError):
        return False


def origin_of(name: str) -> str:
    r"""A file name as printable UTF-8 text, different names staying different.

    Ordinary names stay as they are. One with a backslash, a control character or bytes that are not UTF-8 is escaped: `\\`, `\n`, `\xff`.
    """
    if is_plain(name):
        return name
    text = os.fsencode(name.replace("\\", "\\\\")).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def is_plain(name: str) -> bool:
    """Whether a name, or many in one, need no escapes."""
    return name.isprintable() and "\\" not in name


def _escaped(char: str) -> str:
    """`\\n` and `\\x01` for ASCII; the long form for the rest, which no undecodable byte gives."""
    return char.encode("unicode_escape").decode() if char.isascii() else f"\\U{ord(char):08x}"


def _rows(path: Path, name: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    if path.name.endswith(".jsonl"):
        for number, row in numbered_jsonl(path):
            yield f"{name} line {number}", row
        return
    try:
        reader = _csv(path)
        if "file" not in (reader.fieldnames or ()):
            raise DataError(f"{path} has columns {list(reader.fieldnames or ())}, wanted at least `file`: add a header line")
        for row in reader:
            yield f"{name} line {reader.line_num}", row
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable CSV file in UTF-8 ({error}): mend or remove it") from error


def _csv(path: Path) -> csv.DictReader[str]:
    return csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True)


def _parsed(row: Mapping[Any, Any], folder: PurePosixPath) -> tuple[str, LogLine]:
    """The name relative to where the log's name starts, and the values; ValueError says what is wrong."""
    if None in row:
        raise ValueError("more fields than the header has")
    file = row.get("file")
    if not isinstance(file, str) or not file:
        raise ValueError("no `file`")
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"file {file!r} must be a path below the log's folder, without `..`")
    source, group, captured_at, split, uri, refused = (_text(row, key) for key in LOG_COLUMNS[1:])
    if split is not None and split not in LABELED_SPLITS:
        raise ValueError(f"split {split!r} is not one of {list(LABELED_SPLITS)}")
    if captured_at is not None:
        try:
            datetime.fromisoformat(captured_at)
        except ValueError as error:
            raise ValueError(f"captured_at {captured_at!r} is not an ISO 8601 time") from error
    return str(folder / path), LogLine(source, group, captured_at, split, uri, refused)


def _text(row: Mapping[Any, Any], key: str) -> str | None:
    value = row.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{key} {value!r} is not a text")
    return str(value)
