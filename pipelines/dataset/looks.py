"""What an image looks like to the leak gate: a small grey thumbnail, made once for each image and kept in a work folder. Does not compare them.

Made from the image's own bytes, not from what collect measured, so that a fault there does not blind the gate. Never an output: without the folder a
run gives the same bytes, later.

    ids-NNNNN.arrow       image_ids in the order in which they came, a file for each part of a run, so that a killed run loses little
    thumbnails.bin        2,304 bytes for each of them
    cells.bin             256 bytes for each of them: its `coarse_cells`
    passed-RULES.parquet  for each of them the side on which it last passed the gate, by the rules that the name carries
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.core.errors import DataError, DetloopError, MissingInputError
from pipelines.core.growing import GrowingTable
from pipelines.core.io import append_bytes, code_folder, code_key, load_or_empty, sha256_bytes
from pipelines.core.progress import progress
from pipelines.core.tables import read_parquet, write_parquet

THUMBNAIL_PX = 48
COARSE_PX = 8
MIN_DEVIATION = 1.0  # grey levels; below, a picture has nothing to correlate
_REDUCED = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 1: cv2.IMREAD_GRAYSCALE}
_PREFIX = "looks-"
_SEGMENT_ROWS, _TASK_ROWS = 4096, 128  # thumbnails that a killed run may lose, and that a thread makes at a time

_IDS_SCHEMA: dict[str, pl.DataType] = {"image_id": pl.String()}
_PASSED_SCHEMA: dict[str, pl.DataType] = {"split": pl.String()}

Thumbnail = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Looks:
    """The looks in a work folder: `places` has `image_id` and `place`, which addresses `thumbnails` and `cells`."""

    def __init__(self, work: Path) -> None:
        self._folder = code_folder(work, _PREFIX, code_key([sys.modules[__name__]], [cv2.__version__, np.__version__]))
        self._ids = GrowingTable(self._folder, "ids", _IDS_SCHEMA)
        self.places = pl.DataFrame(schema={**_IDS_SCHEMA, "place": pl.Int64()})
        load_or_empty(self._folder, self._load)

    def _load(self) -> None:
        ids = self._ids.read()
        for path, size in ((self._thumbnails, THUMBNAIL_PX**2), (self._cells, 4 * COARSE_PX**2)):
            if len(ids) and path.stat().st_size < len(ids) * size:
                raise DetloopError(f"{path} is cut off")
        self.places = ids.with_columns(place=pl.int_range(pl.len()))
        if self._ids.is_bulky(len(ids), len(ids)):
            self._ids.replace(ids)

    @property
    def _thumbnails(self) -> Path:
        return self._folder / "thumbnails.bin"

    @property
    def _cells(self) -> Path:
        return self._folder / "cells.bin"

    @property
    def thumbnails(self) -> Thumbnail:
        """(N, 48, 48), left on the disk until they are read."""
        shape = (len(self.places), THUMBNAIL_PX, THUMBNAIL_PX)
        return np.memmap(self._thumbnails, np.uint8, "r", shape=shape) if len(self.places) else np.zeros(shape, np.uint8)

    @property
    def cells(self) -> Floats:
        """Their `coarse_cells`, (N, 64)."""
        shape = (len(self.places), COARSE_PX**2)
        return np.memmap(self._cells, np.float32, "r", shape=shape) if len(self.places) else np.zeros(shape, np.float32)

    def require(self, samples: pl.DataFrame, raw: Path) -> None:
        """Make what is missing of `samples` (`image_id`, `path` below `raw`, `width_px`, `height_px`), and forget the others where they are the most.

        Raises:
            MissingInputError: a file is gone.
            DataError: a file is not an image.
        """
        if self._ids.is_bulky(len(self.places), len(samples)):
            self._forget_others(samples)
        new = samples.join(self.places, "image_id", "anti").sort("image_id")

        def made_of(rows: Sequence[tuple[str, int, int]]) -> list[bytes]:
            return [thumbnail_of(raw / path, (width, height)) for path, width, height in rows]

        with ThreadPoolExecutor() as pool, progress(len(new), "leak gate") as tell:
            for part in new.iter_slices(_SEGMENT_ROWS):  # decoding leaves Python's lock alone
                rows = part.select("path", "width_px", "height_px").rows()
                made = pool.map(made_of, [rows[at : at + _TASK_ROWS] for at in range(0, len(rows), _TASK_ROWS)])
                self.add(part["image_id"], list(chain.from_iterable(made)))
                tell(len(part))

    def add(self, image_ids: pl.Series, thumbnails: Sequence[bytes]) -> None:
        """Keep the thumbnails of new images."""
        content, have = b"".join(thumbnails), len(self.places)
        pictures = np.frombuffer(content, np.uint8).reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX)
        append_bytes(self._thumbnails, content, have * THUMBNAIL_PX**2)
        append_bytes(self._cells, coarse_cells(pictures).tobytes(), have * 4 * COARSE_PX**2)
        self._ids.add(pl.DataFrame({"image_id": image_ids}, schema=_IDS_SCHEMA))
        self.places = pl.concat([self.places, pl.DataFrame({"image_id": image_ids, "place": np.arange(have, have + len(thumbnails))})])

    def passed(self, rules: str) -> pl.Series:
        """For each of `places` the side on which it last passed by these rules, else null."""
        try:
            sides = read_parquet(self._passed_path(rules), _PASSED_SCHEMA)["split"]
        except DetloopError:
            sides = pl.Series([], dtype=pl.String)
        return sides.head(len(self.places)).extend_constant(None, max(0, len(self.places) - len(sides)))

    def save_passed(self, rules: str, sides: pl.DataFrame) -> None:
        """Replace what passed: `place` and `split`. What other rules let pass goes."""
        path = self._passed_path(rules)
        write_parquet(path, self.places.select("place").join(sides, "place", "left", maintain_order="left").select("split"))
        for other in self._folder.glob("passed-*.parquet"):
            if other != path:
                other.unlink()

    def _passed_path(self, rules: str) -> Path:
        return self._folder / f"passed-{sha256_bytes(rules.encode())[:16]}.parquet"

    def _forget_others(self, samples: pl.DataFrame) -> None:
        kept = self.places.join(samples, "image_id", "semi", maintain_order="left")
        pictures = [picture.tobytes() for picture in self.thumbnails[kept["place"].to_numpy()]]
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        self.places = self.places.clear()
        if pictures:
            self.add(kept["image_id"], pictures)


def thumbnail_of(path: Path, size_wh: tuple[int, int]) -> bytes:
    """The `thumbnail` of a file.

    Raises:
        MissingInputError: it is gone.
        DataError: it is not an image.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingInputError(f"image {path} is missing: restore it, or run `dvc repro collect`") from error
    return thumbnail(content, size_wh, str(path))


def thumbnail(content: bytes, size_wh: tuple[int, int], name: str) -> bytes:
    """The upright image in grey, THUMBNAIL_PX square, area-averaged; JPEGs are decoded at a part of their size.

    Raises:
        DataError: not an image that OpenCV reads.
    """
    factor = next((factor for factor in (8, 4, 2) if min(size_wh) >= 2 * THUMBNAIL_PX * factor), 1)
    grey = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), _REDUCED[factor]) if content else None
    if grey is None:
        raise DataError(f"{name} is not a readable image: replace or remove it, then run `dvc repro`")
    return np.ascontiguousarray(cv2.resize(grey, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA), dtype=np.uint8).tobytes()


def coarse_cells(thumbnails: Thumbnail) -> Floats:
    """Centred 8x8 cells of unit length, (N, 64); zeros for pictures without contrast."""
    side = THUMBNAIL_PX // COARSE_PX
    cells = thumbnails.reshape(len(thumbnails), COARSE_PX, side, COARSE_PX, side).mean(axis=(2, 4), dtype=np.float32).reshape(len(thumbnails), -1)
    cells -= cells.mean(axis=1, keepdims=True)
    length = np.linalg.norm(cells, axis=1, keepdims=True)
    result: Floats = np.where(length >= MIN_DEVIATION * COARSE_PX, cells / np.maximum(length, 1e-6), 0).astype(np.float32)
    return result
