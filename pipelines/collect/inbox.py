"""What lies in the inbox: every file with the source, group, time and split that the logs beside it give. Opens only the logs.

A folder may hold `log.jsonl` or `log.csv` with columns `file` (relative to that folder) and, as wanted, `source`, `group`, `captured_at`, `split`;
other columns are ignored and counted. Names that start with a dot are skipped. Links are followed to files inside the inbox only.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.core.errors import DataError, listed
from pipelines.core.io import iter_jsonl
from pipelines.core.types import LABELED_SPLITS

LOG_NAMES = ("log.csv", "log.jsonl")
LOG_COLUMNS = ("file", "source", "group", "captured_at", "split")
ROOT_SOURCE = "inbox"  # source of files that lie right in the inbox

REASON_SYMLINK_OUTSIDE = "symlink_outside"
REASON_SYMLINK_FOLDER = "symlink_folder"
REASON_SYMLINK_BROKEN = "symlink_broken"
REASON_NOT_A_FILE = "not_a_file"


@dataclass(frozen=True)
class LogLine:
    """What a log says of one file."""

    source: str | None = None
    group: str | None = None
    captured_at: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class InboxFile:
    """One entry of the inbox; `refused` is the reason word for entries that are not opened at all."""

    origin: str
    path: Path
    source: str
    group: str | None
    captured_at: str | None
    given_split: str | None
    refused: str | None = None


@dataclass(frozen=True)
class Inbox:
    """All entries sorted by origin, and what the logs had besides."""

    files: tuple[InboxFile, ...]
    missing: tuple[str, ...]  # "LOG: FILE" for log lines whose file is not there
    ignored_columns: Mapping[str, int]


def read_inbox(inbox: Path) -> Inbox:
    """Walk the inbox and read its logs.

    Raises:
        DataError: bad log lines, all of them in one message.
    """
    found = dict(_walk(inbox, "", inbox.resolve()))
    claims: dict[str, tuple[LogLine, str]] = {}
    problems: list[str] = []
    missing: list[str] = []
    ignored: Counter[str] = Counter()
    for name in sorted(name for name in found if _is_log(name, found)):
        for place, row in _log_rows(inbox / name, origin_of(name)):
            ignored.update(str(key) for key in row if key not in LOG_COLUMNS)
            try:
                target, line = _parsed(row, PurePosixPath(name).parent)
            except ValueError as error:
                problems.append(f"{place}: {error}")
                continue
            if target not in found or _is_log(target, found):
                missing.append(f"{place}: {origin_of(target)}")
            elif claims.setdefault(target, (line, place))[0] != line:  # the same line twice is harmless: logs are appended to
                problems.append(f"{place}: {origin_of(target)} stands in {claims[target][1]} with other values")
    if problems:
        raise DataError(f"{len(problems)} bad log lines in the inbox: {listed(problems)}; mend or remove them")
    files = [_inbox_file(inbox, name, refused, claims.get(name, (LogLine(), ""))[0]) for name, refused in found.items() if not _is_log(name, found)]
    return Inbox(tuple(sorted(files, key=lambda file: file.origin)), tuple(missing), dict(sorted(ignored.items())))


def origin_of(name: str) -> str:
    r"""A file name as printable UTF-8 text, different names staying different.

    Ordinary names stay as they are. One with a backslash, a control character or bytes that are not UTF-8 is escaped: `\\`, `\n`, `\xff`.
    """
    if name.isprintable() and "\\" not in name:
        return name
    text = os.fsencode(name.replace("\\", "\\\\")).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    """`\\n` and `\\x01` for ASCII; the long form for the rest, which no undecodable byte gives."""
    return char.encode("unicode_escape").decode() if char.isascii() else f"\\U{ord(char):08x}"


def _walk(folder: Path, prefix: str, root: Path) -> Iterator[tuple[str, str | None]]:
    """Yield (name relative to the inbox, reason word or None) of every entry that is not a plain folder."""
    with os.scandir(folder) as entries:
        children = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in children:
        name = f"{prefix}{entry.name}"
        if entry.is_symlink():
            yield name, _link_refusal(Path(entry.path), root)
        elif entry.is_dir():
            yield from _walk(Path(entry.path), f"{name}/", root)
        else:
            yield name, None if entry.is_file() else REASON_NOT_A_FILE


def _link_refusal(link: Path, root: Path) -> str | None:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):  # dangling, or a loop
        return REASON_SYMLINK_BROKEN
    if not target.is_relative_to(root):
        return REASON_SYMLINK_OUTSIDE
    if target.is_dir():
        return REASON_SYMLINK_FOLDER  # its files are seen at their own place
    return None if target.is_file() else REASON_NOT_A_FILE


def _is_log(name: str, found: Mapping[str, str | None]) -> bool:
    return PurePosixPath(name).name in LOG_NAMES and found[name] is None  # a log that may not be opened is a dropped file like others


def _inbox_file(inbox: Path, name: str, refused: str | None, line: LogLine) -> InboxFile:
    origin = origin_of(name)
    first, slash, _ = origin.partition("/")
    return InboxFile(origin, inbox / name, line.source or (first if slash else ROOT_SOURCE), line.group, line.captured_at, line.split, refused)


def _log_rows(path: Path, name: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    if path.name.endswith(".jsonl"):
        for number, row in enumerate(iter_jsonl(path), start=1):
            yield f"{name} entry {number}", row
        return
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True)
        if "file" not in (reader.fieldnames or ()):
            raise DataError(f"{path} has columns {list(reader.fieldnames or ())}, wanted at least `file`: add a header line")
        for row in reader:
            yield f"{name} line {reader.line_num}", row
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable CSV file in UTF-8 ({error}): mend or remove it") from error


def _parsed(row: Mapping[Any, Any], folder: PurePosixPath) -> tuple[str, LogLine]:
    """The name relative to the inbox and the values; ValueError says what is wrong."""
    if None in row:
        raise ValueError("more fields than the header has")
    file = row.get("file")
    if not isinstance(file, str) or not file:
        raise ValueError("no `file`")
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"file {file!r} must be a path below the log's folder, without `..`")
    source, group, captured_at, split = (_text(row, key) for key in LOG_COLUMNS[1:])
    if split is not None and split not in LABELED_SPLITS:
        raise ValueError(f"split {split!r} is not one of {list(LABELED_SPLITS)}")
    if captured_at is not None:
        try:
            datetime.fromisoformat(captured_at)
        except ValueError as error:
            raise ValueError(f"captured_at {captured_at!r} is not an ISO 8601 time") from error
    return str(folder / path), LogLine(source, group, captured_at, split)


def _text(row: Mapping[Any, Any], key: str) -> str | None:
    value = row.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{key} {value!r} is not a text")
    return str(value)
