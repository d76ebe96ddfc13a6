"""What earlier runs found out, so that a run reads and decodes only what is new. Never an output: without it a run gives the same bytes, later.

    files-NNNNN.arrow        origin, stamp and image_id of each file: one whose stamp stayed is not read again. A segment for what each run has read
    measured-NNNNN.arrow     measurements by image_id, a segment for each part of a run, so that a killed run loses little
    thumbnails.bin           1,024 bytes for each measurement that has one, in the order in which they came
    near-SETTINGS.parquet    for each thumbnail the one that its near-duplicate cluster is named by, under the settings that the file's name carries

Everything is keyed by the code and the libraries that measure; what other code left is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import polars as pl
import simplejpeg
from numpy.typing import NDArray

from pipelines.collect import hash_index, measure, near
from pipelines.collect.measure import THUMBNAIL_PX
from pipelines.collect.near import NO_CLUSTER, Nodes
from pipelines.core import containers
from pipelines.core.errors import DetloopError
from pipelines.core.growing import GrowingTable
from pipelines.core.io import append_bytes, code_folder, code_key, load_or_empty, sha256_bytes
from pipelines.core.tables import read_parquet, write_parquet

_PREFIX = "measured-"
_THUMBNAIL_BYTES = THUMBNAIL_PX * THUMBNAIL_PX

FILES_SCHEMA: dict[str, pl.DataType] = {
    "origin": pl.String(),
    "bytes": pl.Int64(),
    "modified_ns": pl.Int64(),
    "changed_ns": pl.Int64(),
    "inode": pl.UInt64(),
    "image_id": pl.String(),
}
MEASURED_SCHEMA: dict[str, pl.DataType] = {
    "image_id": pl.String(),
    "refused": pl.String(),  # why the content is no image for the pipeline; null for a measured one
    "extension": pl.String(),
    "width_px": pl.Int32(),
    "height_px": pl.Int32(),
    "phash": pl.UInt64(),
    "brightness": pl.Float64(),
    "contrast": pl.Float64(),
    "sharpness": pl.Float64(),
    "thumbnail_at": pl.Int64(),  # its place in thumbnails.bin, counted in thumbnails
}
_NEAR_SCHEMA: dict[str, pl.DataType] = {"back": pl.Int64()}  # places from the cluster's to this one: 0 nearly everywhere, so the file is small


class Cache:
    """The cache in a work folder. `files` and `measured` are tables; both are empty where there is no readable cache."""

    def __init__(self, work: Path) -> None:
        self._folder = code_folder(work, _PREFIX, _code_key(containers, measure))
        self._files = GrowingTable(self._folder, "files", FILES_SCHEMA)
        self._measured = GrowingTable(self._folder, "measured", MEASURED_SCHEMA)
        self.files = pl.DataFrame(schema=FILES_SCHEMA)
        self.measured = pl.DataFrame(schema=MEASURED_SCHEMA)
        load_or_empty(self._folder, self._load)

    def _load(self) -> None:
        measured = _latest(self._measured.read(), "image_id")
        path = self._folder / "thumbnails.bin"
        if _thumbnails_in(measured) * _THUMBNAIL_BYTES > (path.stat().st_size if path.exists() else 0):
            raise DetloopError(f"{path} is cut off")
        self.files = _latest(self._files.read(), "origin")
        self.measured = measured
        if self._measured.is_bulky(len(measured), len(measured)):
            self._measured.replace(measured)

    def add(self, found: pl.DataFrame, thumbnails: Sequence[bytes | None]) -> None:
        """Keep measurements: columns as MEASURED_SCHEMA without `thumbnail_at`, and the thumbnail of each row."""
        path = self._folder / "thumbnails.bin"
        have = _thumbnails_in(self.measured)
        places: list[int | None] = []
        content: list[bytes] = []
        for thumbnail in thumbnails:
            places.append(None if thumbnail is None else have + len(content))
            if thumbnail is not None:
                content.append(thumbnail)
        append_bytes(path, b"".join(content), have * _THUMBNAIL_BYTES)  # cuts what a killed run appended without a segment that speaks of it
        segment = found.with_columns(pl.Series("thumbnail_at", places, dtype=pl.Int64)).select(list(MEASURED_SCHEMA))
        self._measured.add(segment)
        self.measured = pl.concat([self.measured, segment])

    def forget_others(self, image_ids: pl.Series) -> None:
        """Forget measurements of images apart from `image_ids` where they are the most. Places of thumbnails change, so clusters are forgotten."""
        if not self._measured.is_bulky(len(self.measured), len(image_ids)):
            return
        kept = self.measured.join(pl.DataFrame({"image_id": image_ids}), "image_id", "semi", maintain_order="left")
        pictures = self.thumbnails()
        contents = [None if place is None else pictures[place].tobytes() for place in kept["thumbnail_at"]]
        for path in sorted([*self._folder.glob("near-*"), *self._folder.glob("measured-*")], reverse=True):  # killed here, all is measured again
            path.unlink()
        self.measured = self.measured.clear()
        self.add(kept.drop("thumbnail_at"), contents)

    def thumbnails(self) -> NDArray[np.uint8]:
        """All thumbnails, (N, 32, 32), left on the disk until they are read."""
        path = self._folder / "thumbnails.bin"
        if not path.exists() or not path.stat().st_size:
            return np.zeros((0, THUMBNAIL_PX, THUMBNAIL_PX), np.uint8)
        count = path.stat().st_size // _THUMBNAIL_BYTES
        return np.memmap(path, dtype=np.uint8, mode="r", shape=(count, THUMBNAIL_PX, THUMBNAIL_PX))

    def save_files(self, files: pl.DataFrame, fresh: pl.DataFrame) -> None:
        """Keep the files of this run; `fresh` are those of them that `self.files` did not have."""
        if self._files.is_bulky(len(self.files) + len(fresh), len(files)):
            self._files.replace(files)
        elif len(fresh):
            self._files.add(fresh)

    def near(self, settings: tuple[float, ...]) -> Nodes:
        """What `save_near` kept of the last run under these settings; empty where there is none."""
        try:
            back = read_parquet(self._near_path(settings), _NEAR_SCHEMA)["back"]
        except DetloopError:
            return np.zeros(0, np.int64)
        return (pl.int_range(len(back), eager=True) - back).fill_null(NO_CLUSTER).to_numpy()

    def save_near(self, settings: tuple[float, ...], clusters: Nodes) -> None:
        """Replace the clusters (for each place of a thumbnail the place that its cluster is named by, or NO_CLUSTER); those of other settings go."""
        path = self._near_path(settings)
        back = pl.Series("back", np.arange(len(clusters)) - clusters).set(pl.Series(clusters == NO_CLUSTER), None)
        write_parquet(path, back.to_frame())
        for other in self._folder.glob("near-*.parquet"):
            if other != path:
                other.unlink()

    def _near_path(self, settings: tuple[float, ...]) -> Path:
        return self._folder / f"near-{sha256_bytes(f'{settings} {_code_key(hash_index, near)}'.encode())[:16]}.parquet"


def _latest(table: pl.DataFrame, key: str) -> pl.DataFrame:
    """The last row of each key."""
    return table if table[key].n_unique() == len(table) else table.unique(key, keep="last", maintain_order=True)


def _thumbnails_in(measured: pl.DataFrame) -> int:
    last = measured["thumbnail_at"].max()
    return last + 1 if isinstance(last, int) else 0


def _code_key(*modules: ModuleType) -> str:
    return code_key(modules, [cv2.__version__, np.__version__, simplejpeg.__version__])
