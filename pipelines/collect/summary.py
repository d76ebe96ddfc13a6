"""The metrics of a collection, from its rows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.collect.inbox import Inbox
from pipelines.collect.near import thumbnail_differences
from pipelines.core.errors import MAX_LISTED

MAX_PAIRS_LISTED = 200  # near-duplicates named in the metrics; the count is always whole
_NO_LIMIT = 255.0  # grey levels: no two pictures differ by more
_OF_TWIN = ("origin", "source", "group", "phash", "thumbnail_at")


def collection_metrics(table: pl.DataFrame, inbox: Inbox, thumbnails: NDArray[np.uint8]) -> dict[str, Any]:
    """Counts that add up (seen = kept + all dropped), and the names behind them. A near-duplicate pair is an image and the best of its cluster."""
    kept, dropped = table.filter(pl.col("status") == "kept"), table.filter(pl.col("status") == "dropped").sort("origin")
    by_reason = dropped.group_by("reason").agg(pl.len().alias("count"), pl.col("origin").head(MAX_LISTED).alias("first")).sort("reason")
    bests = kept.select(pl.col("image_id").alias("twin"), *(pl.col(name).alias(f"twin_{name}") for name in _OF_TWIN))
    copies = dropped.filter(pl.col("duplicate_of").is_not_null()).head(MAX_LISTED).join(bests, left_on="duplicate_of", right_on="twin", how="inner")
    near = kept.join(bests, left_on="near_duplicate_of", right_on="twin", how="inner")
    near = near.with_columns(within=((pl.col("group") == pl.col("twin_group")) & (pl.col("source") == pl.col("twin_source"))).fill_null(value=False))
    shown = near.sort("within", "origin").head(MAX_PAIRS_LISTED)  # those that no group holds together come first
    return {
        "seen": len(table),
        "kept": len(kept),
        "dropped": len(dropped),
        "dropped_by_reason": {row["reason"]: {"count": row["count"], "first": row["first"]} for row in by_reason.iter_rows(named=True)},
        "exact_duplicates": [{"origin": row["origin"], "duplicate_of": row["twin_origin"]} for row in copies.sort("origin").iter_rows(named=True)],
        "near_duplicates": [
            {"a": origin, "b": best, "distance_bits": bits, "difference": difference}
            for origin, best, bits, difference in zip(shown["origin"], shown["twin_origin"], *_distances(shown, thumbnails), strict=True)
        ],
        "near_duplicate_pairs": len(near),
        "near_duplicate_pairs_within_groups": int(near["within"].sum()),
        "near_duplicate_groups": kept["near_duplicate_of"].drop_nulls().n_unique(),
        "by_source": _by_source(table),
        "bytes_kept": int(kept["bytes"].sum()),
        "log_lines_missing": _listing(inbox.missing),
        "log_columns_ignored": dict(inbox.ignored_columns),
    }


def _distances(pairs: pl.DataFrame, thumbnails: NDArray[np.uint8]) -> tuple[list[int], list[float]]:
    """Bits of the hash and grey levels of the thumbnail in which each image differs from the best of its cluster."""
    both = np.stack([pairs["thumbnail_at"].to_numpy(), pairs["twin_thumbnail_at"].to_numpy()], axis=1).astype(np.int64)
    bits = np.bitwise_count(pairs["phash"].to_numpy() ^ pairs["twin_phash"].to_numpy())
    return bits.tolist(), thumbnail_differences(lambda places: thumbnails[places], both, _NO_LIMIT).tolist()


def _listing(names: Sequence[str]) -> dict[str, Any]:
    return {"count": len(names), "first": list(names[:MAX_LISTED])}


def _by_source(manifest: pl.DataFrame) -> dict[str, Any]:
    table = manifest.group_by("source").agg(pl.len().alias("seen"), (pl.col("status") == "kept").sum().alias("kept")).sort("source")
    return {row["source"]: {"seen": row["seen"], "kept": row["kept"]} for row in table.iter_rows(named=True)}
