"""Files of this machine: a folder (all files below it) or a glob. Links are followed inside the folder and to a DVC cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipelines.core.errors import MissingInputError, ParamsError
from pipelines.core.io import is_disk_fault, is_dvc_object
from pipelines.fetch.wanted import (
    REASON_NOT_A_FILE,
    REASON_SYMLINK_OUTSIDE,
    REASON_UNREACHABLE,
    REASON_UNREADABLE,
    WITHOUT_IT,
    FetchRefusedError,
    Wanted,
    safe_name,
)

_GLOB = "*?["
_BLOCK_BYTES = 1 << 20


def local_files(pattern: str, project: Path) -> list[tuple[Wanted, Path]]:
    """Every file that `pattern` names (relative to `project` unless absolute), sorted by name, with its path.

    Raises:
        MissingInputError: the folder, or the fixed part of the glob, is not there.
        ParamsError: not a glob.
    """
    parts = Path(pattern).parts
    literal = project.joinpath(pattern).exists()  # a folder `shots [1]` is no glob
    fixed = next((index for index, part in enumerate(parts) if any(sign in part for sign in _GLOB) and not literal), len(parts))
    root = project.joinpath(*parts[:fixed])
    if not root.exists():
        raise MissingInputError(f"collect.sources: {pattern} is not there ({root} is missing): mount or correct it; {WITHOUT_IT}")
    if root.is_file():
        return [(_wanted(pattern, root.name, root, root.parent.resolve()), root)]
    glob = "/".join(parts[fixed:])
    inside = root.resolve()
    paths, unreadable = (_globbed(root, glob, pattern), set[Path]()) if glob else _walked(root)
    found = [(path.relative_to(root).as_posix(), path) for path in paths if path in unreadable or path.is_symlink() or not path.is_dir()]
    base = "/".join(parts[:fixed]).replace("//", "/")
    prefix = base if base.endswith("/") or not base else f"{base}/"
    wanted = [(_wanted(prefix + name, name, path, inside), path) for name, path in sorted(found)]
    return [(replace(item, refused=REASON_UNREADABLE) if path in unreadable else item, path) for item, path in wanted]


def copy_if_changed(path: Path, target: Path) -> None:
    """Copy a file with its times, unless a copy of the same size and time lies there.

    Raises:
        FetchRefusedError: it is gone, or cannot be read.
        OSError: the copy cannot be written.
    """
    with _reading():
        stat = path.stat()
    if target.exists() and (target.stat().st_size, target.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns):
        return
    with _reading():
        original = path.open("rb")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    with original, temporary.open("wb") as copy, _reading():
        shutil.copyfileobj(original, copy, _BLOCK_BYTES)
    os.utime(temporary, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    temporary.replace(target)


@contextmanager
def _reading() -> Iterator[None]:
    """Errors of the file that is read: it is gone, not ours to read, on a bad sector, on a share that went away."""
    try:
        yield
    except FileNotFoundError as error:
        raise FetchRefusedError(REASON_UNREACHABLE) from error
    except OSError as error:
        if is_disk_fault(error):
            raise
        raise FetchRefusedError(REASON_UNREADABLE) from error


def _walked(root: Path) -> tuple[list[Path], set[Path]]:
    """Everything below `root` that is not hidden, and which folders cannot be looked into."""
    found: list[Path] = []
    unreadable: set[Path] = set()
    for folder, folders, names in os.walk(root, onerror=lambda error: unreadable.add(Path(error.filename))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in [*names, *(name for name in folders if Path(folder, name).is_symlink())] if not name.startswith(".")]
    return [*found, *unreadable], unreadable


def _globbed(root: Path, glob: str, pattern: str) -> Iterable[Path]:
    try:
        return list(root.glob(glob))
    except ValueError as error:
        raise ParamsError(f"collect.sources: {pattern} is no glob ({error}): correct it") from error


def _wanted(uri: str, name: str, path: Path, inside: Path) -> Wanted:
    refused = None
    if path.is_symlink() and not (target := path.resolve()).is_relative_to(inside) and not is_dvc_object(target):
        refused = REASON_SYMLINK_OUTSIDE
    elif not path.is_file():
        refused = REASON_NOT_A_FILE
    return Wanted(uri, safe_name(name, name), refused=refused)
