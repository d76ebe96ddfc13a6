"""What lies in the inbox: every file with the source, group, time and split that the logs beside it give. Opens only the logs.

Each folder may hold a log (`pipelines.core.filelog`). Hidden files (one dot first) are skipped. Links are followed to files inside the inbox only,
and to objects of a DVC cache.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.core.errors import DataError, listed
from pipelines.core.filelog import LOG_NAMES, LogLine, is_plain, origin_of, read_logs
from pipelines.core.io import is_dvc_object

ROOT_SOURCE = "inbox"  # source of files that lie right in the inbox

REASON_SYMLINK_OUTSIDE = "symlink_outside"
REASON_SYMLINK_FOLDER = "symlink_folder"
REASON_SYMLINK_BROKEN = "symlink_broken"
REASON_NOT_A_FILE = "not_a_file"


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
    there = {*entries.names, *entries.refused}.difference(logs) if logs else set()
    said = read_logs(inbox, logs, there, "the inbox", "mend or remove them")
    entries.refused |= {name: line.refused for name, line in said.lines.items() if line.refused is not None and name not in there}
    names = [*entries.names, *entries.refused]
    odd: dict[str, str] = {}
    origins = names
    if not is_plain("".join(names)):
        origins = [origin_of(name) for name in names]
        odd = {origin: f"{inbox}/{name}" for origin, name in zip(origins, names, strict=True) if origin != name}
    seen = entries.table().with_columns(pl.Series("origin", origins, pl.String))
    if logs:
        seen = seen.filter(~pl.col("origin").is_in([origin_of(name) for name in logs])).join(_said(said.lines), "origin", "left")
    else:
        seen = seen.with_columns(pl.lit(None, SEEN_SCHEMA[name]).alias(name) for name in _OF_LOG)
    first = pl.col("origin").str.splitn("/", 2)
    folder = pl.when(first.struct.field("field_1").is_not_null()).then(first.struct.field("field_0")).otherwise(pl.lit(ROOT_SOURCE))
    seen = seen.with_columns(pl.coalesce("source", folder).alias("source"), pl.lit(0, SEEN_SCHEMA["root"]).alias("root"))
    return Inbox(seen.select(list(SEEN_SCHEMA)).sort("origin"), (str(inbox),), odd, said.missing, dict(sorted(said.ignored.items())))


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


def _said(lines: Mapping[str, LogLine]) -> pl.DataFrame:
    rows = [(origin_of(name), line.source, line.group, line.captured_at, line.split, line.uri) for name, line in lines.items()]
    return pl.DataFrame(rows, schema={name: SEEN_SCHEMA[name] for name in ("origin", *_OF_LOG)}, orient="row")
