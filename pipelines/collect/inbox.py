"""What lies in the inbox: every file with the source, group, time and split that the logs beside it give. Opens only the logs.

A folder may hold `log.jsonl` or `log.csv` with columns `file` (relative to that folder) and, as wanted, `source`, `group`, `captured_at`,
`split`, and from `fetch` also `uri` and `refused`; other columns are ignored and counted. Hidden files (one dot first) are skipped. Links are
followed to files inside the inbox only.
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
from typing import Any, NamedTuple

from pipelines.core.errors import DataError, listed
from pipelines.core.io import iter_jsonl
from pipelines.core.types import LABELED_SPLITS

LOG_NAMES = ("log.csv", "log.jsonl")
LOG_COLUMNS = ("file", "source", "group", "captured_at", "split", "uri", "refused")
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
    uri: str | None = None
    refused: str | None = None  # why whoever wrote the log could not bring the file


_NO_LINE = LogLine()


class InboxFile(NamedTuple):
    """One entry of the inbox; `refused` is the reason word for entries that are not opened at all.

    Bytes, times and inode are those of the file when it was seen: as long as they stay, its content is not read again.
    """

    origin: str
    path: str
    source: str
    group: str | None = None
    captured_at: str | None = None
    given_split: str | None = None
    uri: str | None = None
    refused: str | None = None
    bytes: int = 0
    modified_ns: int = 0
    changed_ns: int = 0
    inode: int = 0


class _Entry(NamedTuple):
    refused: str | None
    stat: os.stat_result | None


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
    found = dict(_walk(str(inbox), "", inbox.resolve()))
    logs = sorted(name for name, entry in found.items() if _is_log(name, entry))
    claims: dict[str, tuple[LogLine, str]] = {}
    problems: list[str] = []
    missing: list[str] = []
    ignored: Counter[str] = Counter()
    for name in logs:
        for place, row in _log_rows(inbox / name, origin_of(name)):
            ignored.update(str(key) for key in row if key not in LOG_COLUMNS)
            try:
                target, line = _parsed(row, PurePosixPath(name).parent)
            except ValueError as error:
                problems.append(f"{place}: {error}")
                continue
            if line.refused is not None:
                found.setdefault(target, _Entry(line.refused, None))
            if target not in found or _is_log(target, found[target]):
                missing.append(f"{place}: {origin_of(target)}")
            elif claims.setdefault(target, (line, place))[0] != line:  # the same line twice is harmless: logs are appended to
                problems.append(f"{place}: {origin_of(target)} stands in {claims[target][1]} with other values")
    if problems:
        raise DataError(f"{len(problems)} bad log lines in the inbox: {listed(problems)}; mend or remove them")
    for name in logs:
        del found[name]
    root = str(inbox)
    files = [_inbox_file(root, name, entry, claims[name][0] if name in claims else _NO_LINE) for name, entry in found.items()]
    return Inbox(tuple(sorted(files)), tuple(missing), dict(sorted(ignored.items())))


def both(inbox: Inbox, fetched: Inbox) -> Inbox:
    """The files of the inbox and those of the sources in one.

    Raises:
        DataError: a source has the name of a folder in the inbox.
    """
    twice = sorted({file.origin for file in inbox.files} & {file.origin for file in fetched.files})
    if twice:
        raise DataError(f"{listed(twice)}: in the inbox and from a source of collect.sources as well; give the source another name")
    ignored = Counter(inbox.ignored_columns) + Counter(fetched.ignored_columns)
    return Inbox(tuple(sorted(inbox.files + fetched.files)), inbox.missing + fetched.missing, dict(sorted(ignored.items())))


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


def _walk(folder: str, prefix: str, root: Path) -> Iterator[tuple[str, _Entry]]:
    """Yield the name relative to the inbox and the entry of everything that is not a plain folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and not entry.name.startswith(".."):  # `..\\x.jpg` from an archive is no hidden file
                continue
            name = f"{prefix}{entry.name}"
            if entry.is_symlink():
                refused = _link_refusal(Path(entry.path), root)
                yield name, _Entry(refused, None if refused else entry.stat())
            elif entry.is_dir():
                yield from _walk(entry.path, f"{name}/", root)
            elif entry.is_file():
                yield name, _Entry(None, entry.stat())
            else:
                yield name, _Entry(REASON_NOT_A_FILE, None)


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


def _is_log(name: str, entry: _Entry) -> bool:
    return name.rpartition("/")[2] in LOG_NAMES and entry.refused is None  # a log that may not be opened is a dropped file like others


def _inbox_file(root: str, name: str, entry: _Entry, line: LogLine) -> InboxFile:
    origin = origin_of(name)
    first, slash, _ = origin.partition("/")
    source = line.source or (first if slash else ROOT_SOURCE)
    stat = entry.stat
    stamp = (0, 0, 0, 0) if stat is None else (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    return InboxFile(origin, f"{root}/{name}", source, line.group, line.captured_at, line.split, line.uri, entry.refused, *stamp)


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
