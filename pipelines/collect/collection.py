"""One collection: every file of the inbox to a row with its fate, every kept image to its place below data/raw. Only what is new is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.collect.cache import MEASURED_SCHEMA, Cache
from pipelines.collect.fates import Thresholds, find_clusters, with_exact_duplicates, with_near_duplicates, with_reasons
from pipelines.collect.inbox import Inbox
from pipelines.collect.measure import REASON_TOO_LARGE
from pipelines.collect.screening import Looked
from pipelines.collect.selection import Interest, Lists, with_budget, with_interest, with_lists
from pipelines.collect.store import IMAGES_FOLDER, ImageStore
from pipelines.core.io import TRUSTED_AGE_NS

_SEGMENT_ROWS = 4096  # measurements that a killed run may lose

VIEW_SCHEMA: dict[str, pl.DataType] = {
    "image_id": pl.String(),
    "predicted_classes": pl.List(pl.String()),
    "interest_score": pl.Float64(),  # the best score of a class of interest
    "uncertainty": pl.Float64(),
}
View = Callable[[pl.DataFrame], pl.DataFrame]  # rows with image_id, path, width_px and height_px to VIEW_SCHEMA
LookAtAll = Callable[[Sequence[str], int, Set[str], ImageStore], Iterator[list[Looked]]]

_STAMP = ["origin", "bytes", "modified_ns", "changed_ns", "inode"]


@dataclass(frozen=True)
class Collection:
    """`table` has a row for each file: the manifest's columns, and more. `thumbnails` (N, 32, 32) are addressed by its `thumbnail_at`."""

    table: pl.DataFrame
    thumbnails: NDArray[np.uint8]
    store: ImageStore
    cache: Cache

    def remove_strays(self) -> int:
        """Remove images that the table does not keep; returns how many."""
        return self.store.keep_only(self.table["path"].drop_nulls())

    def forget_others(self) -> None:
        """Let the cache forget files that are gone; the last to be called, since `thumbnails` end with it."""
        self.cache.forget_others(self.table["image_id"].drop_nulls().unique())


@dataclass(frozen=True)
class Wishes:
    """What is kept: see `fates` and `selection`. `budget` and `interest` are None where there is none."""

    thresholds: Thresholds
    near_radius_bits: int
    near_max_difference: float
    lists: Lists
    interest: Interest | None
    budget: int | None
    strata: tuple[str, ...]


def collect(inbox: Inbox, store: ImageStore, work: Path, wishes: Wishes, earlier: Set[str], look: LookAtAll, view: View | None) -> Collection:
    """Look at what is new and decide over all. Kept images lie in `store` when it returns; those that are no longer kept still do.

    `earlier` has the image_ids that the last run kept; `look` is the executor; `view` gives the champion's view of images that lie in `store`.
    """
    started_ns = time.time_ns()
    cache = Cache(work)
    table = _look_at_new(inbox, cache, store, wishes.thresholds.max_pixels, look)
    old_enough = pl.max_horizontal("modified_ns", "changed_ns") < started_ns - TRUSTED_AGE_NS
    files = table.filter(pl.col("image_id").is_not_null() & old_enough)
    cache.save_files(files, files.filter("is_news"))
    table = with_exact_duplicates(with_lists(with_reasons(table, wishes.thresholds), wishes.lists))
    settings = (wishes.near_radius_bits, wishes.near_max_difference)
    clusters = find_clusters(table.filter(pl.col("reason").is_null()), cache.thumbnails(), cache.near(settings), *settings)
    cache.save_near(settings, clusters)
    table = with_near_duplicates(table, cache.thumbnails(), clusters, *settings)
    path = pl.concat_str(pl.lit(f"{IMAGES_FOLDER}/"), pl.col("image_id").str.head(2), pl.lit("/"), "image_id", pl.lit("."), "extension")
    table = table.with_columns(pl.when(pl.col("reason").is_null()).then(path).alias("path"))
    if view is not None:
        _store_missing(table, inbox, store)
        table = table.join(view(table.filter(pl.col("path").is_not_null())), on="image_id", how="left", maintain_order="left")
    else:
        table = table.with_columns(**{name: pl.lit(None, kind) for name, kind in VIEW_SCHEMA.items() if name != "image_id"})
    if wishes.interest is not None:
        table = with_interest(table, wishes.interest)
    if wishes.budget is not None:
        table = with_budget(table, wishes.budget, wishes.strata, earlier)
    in_ = pl.col("reason").is_null()
    table = table.with_columns(
        pl.when(in_).then(pl.lit("kept")).otherwise(pl.lit("dropped")).alias("status"),
        pl.when(in_).then(pl.col("path")).alias("path"),
    )
    _store_missing(table, inbox, store)
    return Collection(table, cache.thumbnails(), store, cache)


def _store_missing(table: pl.DataFrame, inbox: Inbox, store: ImageStore) -> None:
    missing = store.missing(table.filter(pl.col("path").is_not_null()))
    for relative, image_id, path in zip(missing["path"], missing["image_id"], inbox.paths(missing), strict=True):
        store.put_file(relative, path, image_id)


def _look_at_new(inbox: Inbox, cache: Cache, store: ImageStore, max_pixels: int, look: LookAtAll) -> pl.DataFrame:
    """What the inbox has seen, with image_id, true size, the columns of the measurements, and `refused`."""
    stamped = inbox.seen.join(cache.files, on=_STAMP, how="left", maintain_order="left")
    measured = cache.measured["image_id"]
    new = stamped.filter(pl.col("unopened").is_null() & ~pl.col("image_id").is_in(measured.implode()).fill_null(value=False))
    looked: list[tuple[str | None, int | None, str | None]] = []
    waiting: dict[str, Looked] = {}
    for batch in look(inbox.paths(new), max_pixels, set(measured.to_list()) if len(new) else set(), store):
        looked += [(item.image_id, item.bytes, item.refused) for item in batch]
        waiting.update({item.image_id: item for item in batch if item.image_id is not None and _lasts(item)})
        if len(waiting) >= _SEGMENT_ROWS:
            _keep(cache, waiting)
            waiting = {}
    _keep(cache, waiting)
    found = pl.DataFrame(looked, schema={"new_id": pl.String, "new_bytes": pl.Int64, "of_file": pl.String}, orient="row").with_columns(new["origin"])
    table = stamped.join(found, on="origin", how="left", maintain_order="left").with_columns(
        (pl.col("new_id") != pl.col("image_id").fill_null("")).fill_null(value=False).alias("is_news"),
        pl.coalesce("new_id", "image_id").alias("image_id"),
        pl.coalesce("new_bytes", "bytes").alias("bytes"),
    )
    table = table.join(cache.measured, on="image_id", how="left", maintain_order="left")
    return table.with_columns(
        pl.coalesce("unopened", "refused", "of_file").alias("refused"),
        pl.when(pl.col("image_id").is_not_null()).then(pl.col("bytes")).alias("bytes"),
    )


def _lasts(item: Looked) -> bool:
    """Whether it holds for these bytes for ever: a measurement, or a refusal that hangs on no param."""
    return item.measurement is not None or item.refused not in (None, REASON_TOO_LARGE)


def _keep(cache: Cache, looked: Mapping[str, Looked]) -> None:
    rows: list[dict[str, Any]] = []
    for image_id, item in looked.items():
        row = {"image_id": image_id, "refused": item.refused}
        rows.append(row if item.measurement is None else {**row, **vars(item.measurement)})
    if rows:
        thumbnails = [item.measurement.thumbnail if item.measurement else None for item in looked.values()]
        cache.add(pl.DataFrame(rows, schema={name: kind for name, kind in MEASURED_SCHEMA.items() if name != "thumbnail_at"}), thumbnails)
