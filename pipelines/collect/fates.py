"""What becomes of every file: the thresholds judge, exact copies point to their twin, near-duplicates to the best of their cluster. Pure.

Works on a table with a row for each file: the columns of the manifest that are known by then, and `refused`, why the file was refused before any
threshold (null: it was measured).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.collect.measure import REASON_TOO_LARGE
from pipelines.collect.near import NO_CLUSTER, Nodes, near_clusters, stand_ins

REASON_TOO_SMALL = "too_small"
REASON_TOO_DARK = "too_dark"
REASON_TOO_BRIGHT = "too_bright"
REASON_BLURRED = "blurred"
REASON_EXACT_DUPLICATE = "exact_duplicate"

_SIDES = ("train", "val", "test")  # the higher one is the better: test is frozen


@dataclass(frozen=True)
class Thresholds:
    """What an image must have to be kept."""

    min_side_px: int
    max_pixels: int
    min_brightness: float
    max_brightness: float
    min_sharpness: float


def with_reasons(table: pl.DataFrame, thresholds: Thresholds) -> pl.DataFrame:
    """Add `reason`: why a file is dropped, null where nothing speaks against it."""
    width, height = pl.col("width_px"), pl.col("height_px")
    reason = (
        pl.when(pl.col("refused").is_not_null())
        .then(pl.col("refused"))
        .when(pl.min_horizontal(width, height) < thresholds.min_side_px)
        .then(pl.lit(REASON_TOO_SMALL))
        .when(width.cast(pl.Int64) * height > thresholds.max_pixels)
        .then(pl.lit(REASON_TOO_LARGE))
        .when(pl.col("brightness") < thresholds.min_brightness)
        .then(pl.lit(REASON_TOO_DARK))
        .when(pl.col("brightness") > thresholds.max_brightness)
        .then(pl.lit(REASON_TOO_BRIGHT))
        .when(pl.col("sharpness") < thresholds.min_sharpness)
        .then(pl.lit(REASON_BLURRED))
    )
    return table.with_columns(reason.alias("reason"))


def with_exact_duplicates(table: pl.DataFrame) -> pl.DataFrame:
    """Of usable files with the same bytes the first of the table stays; the others are dropped and get `duplicate_of`."""
    usable = pl.col("reason").is_null()
    again = usable & ~pl.when(usable).then("image_id").is_first_distinct()
    return table.with_columns(
        pl.when(again).then(pl.lit(REASON_EXACT_DUPLICATE)).otherwise(pl.col("reason")).alias("reason"),
        pl.when(again).then(pl.col("image_id")).alias("duplicate_of"),
    )


def find_clusters(kept: pl.DataFrame, thumbnails: NDArray[np.uint8], known: Nodes, radius_bits: int, max_difference: float) -> Nodes:
    """For each of `thumbnails` the first of its cluster, by position; NO_CLUSTER where none of `kept` has it.

    `kept` has `phash` and `thumbnail_at`, the position. `known` is what an earlier call gave, for as many as there were then; only what is new, or
    was in a cluster that lost an image, is compared again.
    """
    kept = kept.select("phash", "thumbnail_at").sort("thumbnail_at")
    at = kept["thumbnail_at"].to_numpy()
    row_at, before, found = (np.full(len(thumbnails), NO_CLUSTER, dtype=np.int64) for _ in range(3))
    row_at[at] = np.arange(len(at))
    before[: len(known)] = known
    before[np.isin(before, before[(before != NO_CLUSTER) & (row_at == NO_CLUSTER)])] = NO_CLUSTER
    fresh = before[at] == NO_CLUSTER
    parent: Nodes = np.where(fresh, np.arange(len(at)), row_at[before[at]])
    found[at] = at[near_clusters(kept["phash"].to_numpy(), lambda nodes: thumbnails[at[nodes]], radius_bits, max_difference, parent, fresh)]
    return found


def with_near_duplicates(
    table: pl.DataFrame, thumbnails: NDArray[np.uint8], clusters: Nodes, radius_bits: int, max_difference: float
) -> pl.DataFrame:
    """Add `near_group` (the smallest image_id of its cluster, where it has more than one) and `near_duplicate_of`.

    That is the best image of the cluster that is its near-duplicate; null for one that is better than all its near-duplicates. `clusters` is of
    `find_clusters`. Better is who is of a higher given split, then has more pixels, more bytes, the earlier origin. At equal size more bytes mean
    more detail or less compression; the sharpness of a reduced decode would take block edges for detail.
    """
    usable = pl.col("reason").is_null()
    shared = np.flatnonzero((clusters != NO_CLUSTER) & (np.bincount(clusters[clusters != NO_CLUSTER], minlength=len(clusters))[clusters] > 1))
    places = pl.DataFrame({"thumbnail_at": shared, "cluster": clusters[shared]}, schema={"thumbnail_at": pl.Int64, "cluster": pl.Int64})
    members = table.filter(usable).join(places, on="thumbnail_at", how="inner")
    side = pl.col("given_split").replace_strict({name: rank + 1 for rank, name in enumerate(_SIDES)}, default=0, return_dtype=pl.Int8)
    ranked = members.sort(["cluster", -side, -(pl.col("width_px").cast(pl.Int64) * pl.col("height_px")), -pl.col("bytes"), "origin"])
    at = ranked["thumbnail_at"].to_numpy()
    best = stand_ins(ranked["phash"].to_numpy(), lambda nodes: thumbnails[at[nodes]], radius_bits, max_difference, ranked["cluster"].to_numpy())
    near_group = pl.col("image_id").min().over("cluster").alias("near_group")
    links = ranked.select("image_id", near_group, ranked["image_id"].gather(best).alias("best"))
    linked = table.join(links, on="image_id", how="left", maintain_order="left")
    return linked.with_columns(
        pl.when(usable).then(pl.col("near_group")).alias("near_group"),
        pl.when(usable & (pl.col("best") != pl.col("image_id"))).then(pl.col("best")).alias("near_duplicate_of"),
    ).drop("best")
