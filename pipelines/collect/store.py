"""The images below data/raw, by content: what lies there, putting one in, taking out what does not belong.

An image is written under a temporary name, then renamed. It is not flushed to the disk one by one: after a power cut its size tells, and the next
run writes it again.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.collect.listing import Listing
from pipelines.core.errors import DataError
from pipelines.core.io import sha256_bytes

IMAGES_FOLDER = "images"
_SCHEMA: dict[str, pl.DataType] = {"path": pl.String(), "bytes": pl.Int64()}


def raw_path(image_id: str, extension: str) -> str:
    """Where a kept image lies, relative to data/raw."""
    return f"{IMAGES_FOLDER}/{image_id[:2]}/{image_id}.{extension}"


class ImageStore:
    """data/raw/images. Threads may share one.

    `there` is the `listing` of IMAGES_FOLDER in `raw`, of before the store was opened.
    """

    def __init__(self, raw: Path, there: Listing) -> None:
        self._raw = str(raw)
        (raw / IMAGES_FOLDER).mkdir(parents=True, exist_ok=True)
        paths, sizes, self._odd, folders, empty = there
        self._there = pl.DataFrame({"path": paths, "bytes": np.frombuffer(sizes, np.int64)}, schema=_SCHEMA)
        self._new: dict[str, int] = {}
        self._folders, self._doubtful = set(folders), set(empty)

    @property
    def raw(self) -> str:
        """The folder that paths start from."""
        return self._raw

    def add(self, relative: str, size: int) -> None:
        """Take notice of an image that another process stored."""
        self._new[relative] = size
        self._folders.add(relative[: relative.rindex("/")])

    def put(self, relative: str, content: bytes) -> None:
        """Store an image unless it lies there whole."""
        folder = relative[: relative.rindex("/")]  # plain strings: this runs once a file, and Path objects cost as much as the system calls
        if folder not in self._folders:  # several threads may make the same folder
            Path(self._raw, folder).mkdir(parents=True, exist_ok=True)
            self._folders.add(folder)
        path = f"{self._raw}/{relative}"
        if not len(self._there) or _size(path) != len(content):
            _write(path, content)
        self._new[relative] = len(content)

    def missing(self, kept: pl.DataFrame) -> pl.DataFrame:
        """The rows of `kept` (`path`, `bytes`) that do not lie there whole."""
        return kept.join(self._all(), ["path", "bytes"], "anti", maintain_order="left")

    def put_file(self, relative: str, path: str, image_id: str) -> None:
        """Store the image that lies in the file `path`.

        Raises:
            DataError: its content is no longer that of `image_id`.
        """
        with open(path, "rb") as file:
            content = file.read()
        if sha256_bytes(content) != image_id:
            raise DataError(f"{path} changed while it was collected: run `dvc repro` again when nothing writes to it")
        self.put(relative, content)

    def keep_only(self, kept: pl.Series) -> int:
        """Remove every file below data/raw/images that is not in `kept`, and what killed runs left half-written in data/raw. Returns how many."""
        strays = {*self._odd, *self._all().join(pl.DataFrame({"path": kept}), "path", "anti")["path"]}
        for name in strays:
            Path(self._raw, name).unlink(missing_ok=True)
        left = [path for path in Path(self._raw).glob(".*.tmp") if path.is_file()]
        for path in left:
            path.unlink()
        for folder in self._folders & (self._doubtful | {name[: name.rindex("/")] for name in strays}):
            if not any(Path(self._raw, folder).iterdir()):
                Path(self._raw, folder).rmdir()
                self._folders.discard(folder)
        return len(strays) + len(left)

    def _all(self) -> pl.DataFrame:
        new = pl.DataFrame({"path": list(self._new), "bytes": list(self._new.values())}, schema=_SCHEMA)
        return pl.concat([self._there, new])


def put_image(raw: str, relative: str, content: bytes) -> None:
    """As `ImageStore.put`, for a process that does not know what lies there."""
    path = f"{raw}/{relative}"
    size = _size(path)
    if size is None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    if size != len(content):
        _write(path, content)


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except FileNotFoundError:
        return None


def _write(path: str, content: bytes) -> None:
    temporary = f"{path}.{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        with open(temporary, "wb", buffering=0) as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
