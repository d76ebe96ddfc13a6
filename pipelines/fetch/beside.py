"""What logs that lie in a source of type `files` say of the files beside and below them: what they would say in the inbox."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.core.errors import counted, listed
from pipelines.core.filelog import LOG_NAMES, LogLine, origin_of, read_logs, speaks_of_files
from pipelines.fetch.wanted import Wanted

Found = Sequence[tuple[Wanted, Path]]
_REMEDY = "mend or remove them, or name the pictures alone by a glob, which leaves the logs unread"


@dataclass(frozen=True)
class Described:
    """The files without the logs that were read, with what those say of them, and what is to be told of the logs."""

    files: Found
    notes: tuple[str, ...] = ()


def with_logs(found: Found, source: str) -> Described:
    """Read the logs among the files of a source; those of other tools are files like others.

    Raises:
        DataError: bad lines in a log.
    """
    named = [path for item, path in found if item.refused is None and path.name in LOG_NAMES]
    if not named:
        return Described(found)
    logs = {path: path.as_posix() for path in named if speaks_of_files(path)}
    rest = [(item, path) for item, path in found if path not in logs]
    said = read_logs(Path(), list(logs.values()), {path.as_posix() for _, path in rest}, f"collect.sources: {source}", _REMEDY)
    files = [(_described(item, said.lines.get(path.as_posix(), LogLine())), path) for item, path in rest]
    strange = [origin_of(path.as_posix()) for path in named if path not in logs]
    notes = {
        f"{counted(len(said.missing), 'line')} of its logs without a file": said.missing,
        "columns of its logs that are not read": [f"{name} ({count})" for name, count in sorted(said.ignored.items())],
        f"{counted(len(strange), 'file')} by the name of a log that are none (no column or key `file`)": strange,
    }
    return Described(files, tuple(f"{what}: {listed(names)}" for what, names in notes.items() if names))


def _described(item: Wanted, line: LogLine) -> Wanted:
    return replace(item, source=line.source, group=line.group, captured_at=line.captured_at, split=line.split)
