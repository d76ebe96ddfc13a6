"""What lies in the inbox: every file with the source, group, time and split that the logs beside it give. Opens only the logs.

A folder may hold `log.jsonl` or `log.csv` with columns `file` (relative to that folder) and, as wanted, `source`, `group`, `captured_at`,
`split`, and from `fetch` also `uri` and `refused`; other columns are ignored and counted. Hidden files (one dot first) are skipped. Links are
followed to files inside the inbox only, and to objects of a DVC cache.
"""

from __future__ import annotations

import csv
import io
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import polars as pl

from pipelines.core.errors import DataError, listed
from pipelines.core.io import is_dvc_object, numbered_jsonl
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


_STAMPS = ("bytes", "modified_ns", "changed_ns", "inode")
_OF_LOG = ("source", "group", "captured_at", "given_split", "uri")


# One row an entry of the inbox. Bytes, times and inode are those of the file when it was seen: as long as they stay, its content is not read again.
SEEN_SCHEMA: dict[str, pl.DataType] = {
    "origin": pl.String(),
    "source": pl.String(),
    "group": pl.String(),
    "captured_at": pl.String(),
    "given_split": pl.String(),
    "uri": pl.String(),
    "unopened": pl.String(),  # the reason word for entries that are not opened at all
    "root": pl.Int32(),  # which of the roots it lies in
    "bytes": pl.Int64(),
    "modified_ns": pl.Int64(),
    "changed_ns": pl.Int64(),
    "inode": pl.UInt64(),
}


@dataclass(frozen=True)
class Inbox:
    """All entries sorted by origin (SEEN_SCHEMA), and what the logs had besides."""

    seen: pl.DataFrame
    roots: tuple[str, ...]
    odd_paths: Mapping[str, str]  # of the origins that are not the file's name; beside the table, since such names may be no text
    missing: tuple[str, ...]  # "LOG: FILE" for log lines whose file is not there
    ignored_columns: Mapping[str, int]

    def paths(self, rows: pl.DataFrame) -> list[str]:
        """Where the files of some rows lie (`root`, `origin`)."""
        return [self.odd_paths.get(origin) or f"{self.roots[root]}/{origin}" for root, origin in rows.select("root", "origin").iter_rows()]


class _Entries:
    """What the walk found: files by name relative to the inbox, their _STAMPS (inodes apart: they have no sign), why others are not opened."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.stamps, self.inodes = array("q"), array("Q")
        self.refused: dict[str, str] = {}

    def add(self, name: str, stat: os.stat_result) -> None:
        self.names.append(name)
        self.stamps.extend((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
        self.inodes.append(stat.st_ino)

    def table(self) -> pl.DataFrame:
        """The _STAMPS of the files, then zeros and `unopened` of the others."""
        numbers = np.frombuffer(self.stamps, np.int64).reshape(-1, len(_STAMPS) - 1)
        stamps = pl.DataFrame(dict(zip(_STAMPS, [*numbers.T, np.frombuffer(self.inodes, np.uint64)], strict=True)))
        others = pl.DataFrame({"unopened": list(self.refused.values())}, schema={"unopened": pl.String})
        return pl.concat([stamps, others], how="diagonal").with_columns(pl.col(_STAMPS).fill_null(0))


def read_inbox(inbox: Path) -> Inbox:
    """Walk the inbox and read its logs.

    Raises:
        DataError: bad log lines, all of them in one message.
    """
    entries = _Entries()
    _walk(str(inbox), "", inbox.resolve(), entries)
    logs = sorted(name for name in entries.names if name.endswith(LOG_NAMES) and name.rpartition("/")[2] in LOG_NAMES)
    lines, missing, ignored = _read_logs(inbox, logs, entries)
    names = [*entries.names, *entries.refused]
    odd: dict[str, str] = {}
    origins = names
    if not _is_plain("".join(names)):
        origins = [origin_of(name) for name in names]
        odd = {origin: f"{inbox}/{name}" for origin, name in zip(origins, names, strict=True) if origin != name}
    seen = entries.table().with_columns(pl.Series("origin", origins, pl.String))
    if logs:
        seen = seen.filter(~pl.col("origin").is_in([origin_of(name) for name in logs])).join(_said(lines), "origin", "left")
    else:
        seen = seen.with_columns(pl.lit(None, SEEN_SCHEMA[name]).alias(name) for name in _OF_LOG)
    first = pl.col("origin").str.splitn("/", 2)
    folder = pl.when(first.struct.field("field_1").is_not_null()).then(first.struct.field("field_0")).otherwise(pl.lit(ROOT_SOURCE))
    seen = seen.with_columns(pl.coalesce("source", folder).alias("source"), pl.lit(0, SEEN_SCHEMA["root"]).alias("root"))
    return Inbox(seen.select(list(SEEN_SCHEMA)).sort("origin"), (str(inbox),), odd, tuple(missing), dict(sorted(ignored.items())))


def both(inbox: Inbox, fetched: Inbox) -> Inbox:
    """The files of the inbox and those of the sources in one.

    Raises:
        DataError: a source has the name of a folder in the inbox.
    """
    twice = inbox.seen.join(fetched.seen, "origin", "semi")["origin"].to_list()
    if twice:
        raise DataError(f"{listed(twice)}: in the inbox and from a source of collect.sources as well; give the source another name")
    ignored = Counter(inbox.ignored_columns) + Counter(fetched.ignored_columns)
    return Inbox(
        pl.concat([inbox.seen, fetched.seen.with_columns(pl.col("root") + len(inbox.roots))]).sort("origin"),
        inbox.roots + fetched.roots,
        {**inbox.odd_paths, **fetched.odd_paths},
        inbox.missing + fetched.missing,
        dict(sorted(ignored.items())),
    )


def origin_of(name: str) -> str:
    r"""A file name as printable UTF-8 text, different names staying different.

    Ordinary names stay as they are. One with a backslash, a control character or bytes that are not UTF-8 is escaped: `\\`, `\n`, `\xff`.
    """
    if _is_plain(name):
        return name
    text = os.fsencode(name.replace("\\", "\\\\")).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    """`\\n` and `\\x01` for ASCII; the long form for the rest, which no undecodable byte gives."""
    return char.encode("unicode_escape").decode() if char.isascii() else f"\\U{ord(char):08x}"


def _is_plain(name: str) -> bool:
    """Whether a name, or many in one, need no escapes."""
    return name.isprintable() and "\\" not in name


def _walk(folder: str, prefix: str, root: Path, found: _Entries) -> None:
    """Add everything below that is not a plain folder."""
    names, stamps, inodes = found.names, found.stamps, found.inodes
    folders: list[str] = []
    opened = os.open(folder, os.O_RDONLY)  # names of an open folder are looked up at once, paths from their beginning
    try:
        for entry in os.scandir(opened):  # once a file: what is usual comes first, and without a call
            if entry.name[0] == "." and not entry.name.startswith(".."):  # `..\\x.jpg` from an archive is no hidden file
                continue
            name = prefix + entry.name
            if entry.is_file(follow_symlinks=False):
                stat = entry.stat(follow_symlinks=False)
                names.append(name)
                stamps.extend((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
                inodes.append(stat.st_ino)
            elif entry.is_symlink():
                refused = _link_refusal(Path(folder, entry.name), root)
                if refused is None:
                    found.add(name, entry.stat())
                else:
                    found.refused[name] = refused
            elif entry.is_dir():
                folders.append(entry.name)
            else:
                found.refused[name] = REASON_NOT_A_FILE
    finally:
        os.close(opened)
    for name in folders:
        _walk(f"{folder}/{name}", f"{prefix}{name}/", root, found)


def _link_refusal(link: Path, root: Path) -> str | None:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):  # dangling, or a loop
        return REASON_SYMLINK_BROKEN
    if not target.is_relative_to(root) and not is_dvc_object(target):
        return REASON_SYMLINK_OUTSIDE
    if target.is_dir():
        return REASON_SYMLINK_FOLDER  # its files are seen at their own place
    return None if target.is_file() else REASON_NOT_A_FILE


def _read_logs(inbox: Path, logs: Sequence[str], entries: _Entries) -> tuple[dict[str, LogLine], list[str], Counter[str]]:
    """What the logs say of each file by its name, the lines whose file is not there, and the columns ignored. Adds what could not be brought."""
    claims: dict[str, tuple[LogLine, str]] = {}
    problems: list[str] = []
    missing: list[str] = []
    ignored: Counter[str] = Counter()
    there = {*entries.names, *entries.refused}.difference(logs) if logs else set()
    for name in logs:
        for place, row in _log_rows(inbox / name, origin_of(name)):
            ignored.update(str(key) for key in row if key not in LOG_COLUMNS)
            try:
                target, line = _parsed(row, PurePosixPath(name).parent)
            except ValueError as error:
                problems.append(f"{place}: {error}")
                continue
            if line.refused is not None and target not in there and target not in logs:
                there.add(target)
                entries.refused[target] = line.refused
            if target not in there:
                missing.append(f"{place}: {origin_of(target)}")
            elif claims.setdefault(target, (line, place))[0] != line:  # the same line twice is harmless: logs are appended to
                problems.append(f"{place}: {origin_of(target)} stands in {claims[target][1]} with other values")
    if problems:
        raise DataError(f"{len(problems)} bad log lines in the inbox: {listed(problems)}; mend or remove them")
    return {name: line for name, (line, _) in claims.items()}, missing, ignored


def _said(lines: Mapping[str, LogLine]) -> pl.DataFrame:
    rows = [(origin_of(name), line.source, line.group, line.captured_at, line.split, line.uri) for name, line in lines.items()]
    return pl.DataFrame(rows, schema={name: SEEN_SCHEMA[name] for name in ("origin", *_OF_LOG)}, orient="row")


def _log_rows(path: Path, name: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    if path.name.endswith(".jsonl"):
        for number, row in numbered_jsonl(path):
            yield f"{name} line {number}", row
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
