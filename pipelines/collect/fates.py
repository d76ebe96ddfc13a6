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
from pipelines.collect.near import Nodes, near_clusters

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
    """Of usable files with the same bytes the first by origin stays; the others are dropped and get `duplicate_of`."""
    usable = pl.col("reason").is_null()
    first = pl.when(usable).then(pl.col("origin")).min().over("image_id")
    again = usable & (pl.col("origin") != first)
    return table.with_columns(
        pl.when(again).then(pl.lit(REASON_EXACT_DUPLICATE)).otherwise(pl.col("reason")).alias("reason"),
        pl.when(again).then(pl.col("image_id")).alias("duplicate_of"),
    )


def find_clusters(kept: pl.DataFrame, thumbnails: NDArray[np.uint8], known: pl.DataFrame, radius_bits: int, max_difference: float) -> pl.DataFrame:
    """`image_id` and `cluster`, the smallest image_id of its near-duplicates, for each row of `kept` (`image_id`, `phash`, `thumbnail_at`).

    `known` is what an earlier call gave; only what is new, or was in a cluster that lost an image, is compared again.
    """
    kept = kept.select("image_id", "phash", "thumbnail_at").sort("image_id")
    lost = known.join(kept, on="image_id", how="anti")["cluster"].unique()
    before = kept.join(known.filter(~pl.col("cluster").is_in(lost.implode())), on="image_id", how="left", maintain_order="left")["cluster"]
    fresh = before.is_null().to_numpy()
    place = pl.DataFrame({"cluster": kept["image_id"], "place": np.arange(len(kept))})
    seeded = pl.DataFrame({"cluster": before}).join(place, on="cluster", how="left", maintain_order="left")["place"]
    parent: Nodes = np.where(fresh, np.arange(len(kept)), seeded.fill_null(0).to_numpy()).astype(np.int64)
    at = kept["thumbnail_at"].to_numpy()
    root = near_clusters(kept["phash"].to_numpy(), lambda nodes: thumbnails[at[nodes]], radius_bits, max_difference, parent, fresh)
    return pl.DataFrame({"image_id": kept["image_id"], "cluster": kept["image_id"].gather(root)})


def with_near_duplicates(table: pl.DataFrame, clusters: pl.DataFrame) -> pl.DataFrame:
    """Add `near_group` (its cluster, where it has more than one image) and `near_duplicate_of` (the best of it; null for the best).

    The best is of the highest given split, then has the most pixels, the most bytes, the first origin. At equal size more bytes mean more detail or
    less compression; the sharpness of a reduced decode would take block edges for detail.
    """
    usable = pl.col("reason").is_null()
    shared = clusters.filter(pl.len().over("cluster") > 1)
    members = table.filter(usable).join(shared, on="image_id", how="inner")
    side = pl.col("given_split").replace_strict({name: rank + 1 for rank, name in enumerate(_SIDES)}, default=0, return_dtype=pl.Int8)
    ranked = members.sort([-side, -(pl.col("width_px").cast(pl.Int64) * pl.col("height_px")), -pl.col("bytes"), "origin"])
    best = ranked.group_by("cluster", maintain_order=True).agg(pl.col("image_id").first().alias("best"))
    links = shared.join(best, on="cluster", how="left").rename({"cluster": "near_group"})
    linked = table.join(links, on="image_id", how="left", maintain_order="left")
    return linked.with_columns(
        pl.when(usable).then(pl.col("near_group")).alias("near_group"),
        pl.when(usable & (pl.col("best") != pl.col("image_id"))).then(pl.col("best")).alias("near_duplicate_of"),
    ).drop("best")
