"""Reading and writing files so that a file which exists is complete, and the same content is the same bytes."""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from pipelines.core.errors import DataError, DetloopError, MissingInputError

# What a file system answers when it cannot make this hard link.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

_DVC_OBJECT = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")
_DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}

TRUSTED_AGE_NS = 2_000_000_000  # a file that changed just before a run may change again within one tick of its file system's clock
METRIC_DIGITS = 6  # metrics are rounded to this many decimals, so that noise in the last bits is not a change


def is_disk_fault(error: BaseException) -> bool:
    """Whether this machine's disk is at fault (full, over its quota, read-only), and not whoever the data came from."""
    return isinstance(error, OSError) and error.errno in _DISK_FAULTS


def is_dvc_object(path: Path) -> bool:
    """Whether a resolved path is an object of a DVC cache: with DVC's `cache.type: symlink` all files that it keeps are links to such objects."""
    return _DVC_OBJECT.search(path.as_posix()) is not None


def sha256_bytes(content: bytes) -> str:
    """Hex sha256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in blocks."""
    require_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_file(path: Path, hint: str = "run `dvc repro`") -> Path:
    """Return `path` if it is a file.

    Raises:
        MissingInputError: it is not; the message carries `hint` as what to do.
    """
    if not path.is_file():
        raise MissingInputError(f"file {path} is missing: {hint}")
    return path


def require_folder(path: Path, hint: str = "run `dvc repro`") -> Path:
    """Return `path` if it is a folder, else raise MissingInputError with `hint`."""
    if not path.is_dir():
        raise MissingInputError(f"folder {path} is missing: {hint}")
    return path


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file `.NAME.tmp` beside `path` to write; renamed to `path` when the block ends well: readers see the old file or the new one.

    The temporary name is fixed, so what a killed writer left is overwritten by the next one. Not for two writers of one path at the same time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` as `new_file` does."""
    with new_file(path) as file:
        file.write(content)


def append_bytes(path: Path, content: bytes, at: int) -> None:
    """Cut a file at `at` bytes, or make it, and write `content` there: for a file whose valid length another one tells, written after it."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(at)
        file.seek(at)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def code_key(modules: Sequence[ModuleType], versions: Sequence[str]) -> str:
    """16 hex digits that change with the source of `modules` and the `versions` of libraries: what a cache of their results is kept under."""
    return sha256_bytes(repr([[inspect.getsource(module) for module in modules], *versions]).encode())[:16]


def code_folder(work: Path, prefix: str, key: str) -> Path:
    """`work/PREFIX+KEY`, made where it is not there; folders of the same prefix and another key, which other code left, are removed."""
    folder = work / f"{prefix}{key}"
    for other in work.glob(f"{prefix}*"):
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def load_or_empty(folder: Path, load: Callable[[], None]) -> None:
    """Call `load`, which reads a cache's folder; empty the folder where it cannot be read: what lies there can be made again."""
    try:
        load()
    except (DetloopError, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system can (no second copy on disk), else a copy that appears complete or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
        return
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
    with new_file(target) as copy, source.open("rb") as original:
        shutil.copyfileobj(original, copy)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder `.NAME.tmp/new` beside `path` to fill; renamed to `path` when the block ends well, where an older folder is replaced whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        new = temporary / "new"
        new.mkdir(parents=True)
        yield new
        if path.exists():
            path.rename(temporary / "old")
        new.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files (name relative to it, content) as `new_folder` does."""
    with new_folder(path) as new:
        for name, content in files.items():
            write_bytes(new / name, content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def canonical_json(value: Any) -> str:
    """One line of JSON with sorted keys and no spaces to spare: same content, same bytes.

    Raises:
        ValueError: NaN or infinity in `value`.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def json_text(value: Any) -> str:
    """Indented JSON with sorted keys, numbers as they are."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def jsonl_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """One canonical JSON line a row, in the caller's order."""
    return "".join(canonical_json(row) + "\n" for row in rows)


def read_text(path: Path, hint: str = "run `dvc repro`") -> str:
    """Read a text that people write: UTF-8, with or without a byte order mark.

    Raises:
        MissingInputError: no such file.
        DataError: not UTF-8.
    """
    try:
        return require_file(path, hint).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}): save it as UTF-8") from error


def write_json(path: Path, value: Any) -> None:
    """Write `json_text` atomically."""
    write_text(path, json_text(value))


def write_metrics(path: Path, value: Mapping[str, Any]) -> None:
    """Write a metrics file: as `write_json`, floats rounded to METRIC_DIGITS; NaN becomes null."""
    write_json(path, rounded(value))


def read_json(path: Path, hint: str = "run `dvc repro`") -> Any:
    """Read a JSON file.

    Raises:
        MissingInputError: no such file.
        DataError: not JSON.
    """
    return json_of(require_file(path, hint).read_bytes(), path)


def json_of(content: bytes, path: Path) -> Any:
    """The JSON that was read from a file.

    Raises:
        DataError: not JSON.
    """
    try:
        return json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}): restore it or write it anew") from error


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `jsonl_text` atomically."""
    write_text(path, jsonl_text(rows))


def iter_jsonl(path: Path, hint: str = "run `dvc repro`") -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON-lines file; see `numbered_jsonl`."""
    return (row for _, row in numbered_jsonl(path, hint))


def numbered_jsonl(path: Path, hint: str = "run `dvc repro`") -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a JSON-lines file with the numbers of their lines, for messages: empty lines are no rows, but count.

    Raises:
        MissingInputError: no such file.
        DataError: a line is not a JSON object; the message names the line.
    """
    require_file(path, hint)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, row_from_line(line, path, number)


def row_from_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """The JSON object of line `number` of a file.

    Raises:
        DataError: it is none.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} line {number} is not JSON ({error.msg} at sign {error.colno}): mend or remove the line") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} line {number} is not JSON ({error}): mend or remove the line") from error
    if not isinstance(row, dict):
        raise DataError(f"{path} line {number} is not a JSON object: mend or remove the line")
    return row


def read_jsonl(path: Path, hint: str = "run `dvc repro`") -> list[dict[str, Any]]:
    """All rows of a JSON-lines file; see `iter_jsonl`."""
    return list(iter_jsonl(path, hint))


def rounded(value: Any) -> Any:
    """A copy with floats rounded to METRIC_DIGITS, NaN and infinity as None, numpy scalars as Python's."""
    if isinstance(value, float):
        return round(value, METRIC_DIGITS) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [rounded(item) for item in value]
    if hasattr(value, "item"):  # a numpy scalar
        return rounded(value.item())
    return value
