"""Files of this machine: a folder (all files below it) or a glob. Links are followed as long as they stay below the folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipelines.core.errors import MissingInputError
from pipelines.fetch.wanted import REASON_NOT_A_FILE, REASON_SYMLINK_OUTSIDE, Wanted, safe_name

_GLOB = "*?["


def local_files(pattern: str, project: Path) -> list[tuple[Wanted, Path]]:
    """Every file that `pattern` names (relative to `project` unless absolute), sorted by name, with its path.

    Raises:
        MissingInputError: the folder, or the fixed part of the glob, is not there.
    """
    parts = Path(pattern).parts
    fixed = next((index for index, part in enumerate(parts) if any(sign in part for sign in _GLOB)), len(parts))
    root = project.joinpath(*parts[:fixed])
    if not root.exists():
        raise MissingInputError(f"collect.sources: {pattern} is not there ({root} is missing): mount or correct it")
    if root.is_file():
        return [(_wanted(pattern, root.name, root, root.parent.resolve()), root)]
    glob = "/".join(parts[fixed:])
    inside = root.resolve()
    found = [
        (path.relative_to(root).as_posix(), path) for path in (root.glob(glob) if glob else _walk(root)) if path.is_symlink() or not path.is_dir()
    ]
    base = "/".join(parts[:fixed]).replace("//", "/")
    return [(_wanted(f"{base}/{name}", name, path, inside), path) for name, path in sorted(found)]


def copy_if_changed(path: Path, target: Path) -> None:
    """Copy a file with its times, unless a copy of the same size and time lies there."""
    stat = path.stat()
    if target.exists() and (target.stat().st_size, target.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.copyfile(path, temporary)
    os.utime(temporary, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    temporary.replace(target)


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (
            Path(folder, name) for name in [*names, *(name for name in folders if Path(folder, name).is_symlink())] if not name.startswith(".")
        )


def _wanted(uri: str, name: str, path: Path, inside: Path) -> Wanted:
    refused = None
    if path.is_symlink() and not path.resolve().is_relative_to(inside):
        refused = REASON_SYMLINK_OUTSIDE
    elif not path.is_file():
        refused = REASON_NOT_A_FILE
    return Wanted(uri, safe_name(name, name), refused=refused)
