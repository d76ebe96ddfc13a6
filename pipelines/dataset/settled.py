"""What the split need not deal again: components whose images stand on one side already and have nothing new among them.

The split treats each component apart from all others, but for the balance of the sides. So what is settled keeps its sides, counts in the balance,
and only the rest goes through `pipelines.dataset.split`.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.core.types import LABELED_SPLITS

Ints = NDArray[np.int64]


def settled(items: pl.DataFrame, use_given: bool) -> pl.Series:
    """For each row whether its component is settled: at most one side in it, and none of its images waits for one.

    `items` has `source`, `group`, `near_group`, `copies`, `given_split`, `past` (the side in the assignments file) and `waits`.
    """
    known = ["past", "given_split"] if use_given else ["past"]
    codes = items.select(pl.col(known).cast(pl.Enum(LABELED_SPLITS)).to_physical().cast(pl.Int8))
    component = components(items)
    lowest, highest = np.full(len(items), len(LABELED_SPLITS), np.int8), np.full(len(items), -1, np.int8)
    np.minimum.at(lowest, component, codes.min_horizontal().fill_null(len(LABELED_SPLITS)).to_numpy())
    np.maximum.at(highest, component, codes.max_horizontal().fill_null(-1).to_numpy())
    waits = np.zeros(len(items), dtype=bool)
    waits[component[items["waits"].to_numpy()]] = True
    return pl.Series("settled", ((lowest >= highest) & ~waits)[component])


def components(items: pl.DataFrame) -> Ints:
    """For each row the first row of its component: rows that share a group, a near-duplicate cluster, or a group that a copy was found in."""
    rows = items.select(pl.int_range(pl.len()).alias("row"), "source", "group", "near_group", "copies")
    copied = rows.select("row", "copies").filter(pl.col("copies").list.len() > 0)  # hardly any image has a copy
    copies = copied.select("row", pl.col("copies").list.drop_nulls()).explode("copies", empty_as_null=False).unnest("copies")
    group = pl.struct(pl.lit("group").alias("kind"), "source", pl.col("group").alias("name"))
    near = pl.struct(pl.lit("near").alias("kind"), pl.lit("").alias("source"), pl.col("near_group").alias("name"))
    keys = pl.concat(
        [
            rows.filter(pl.col("group").is_not_null()).select("row", key=group),
            rows.filter(pl.col("near_group").is_not_null()).select("row", key=near),
            copies.select("row", key=group),
        ]
    )
    row, key = keys["row"].to_numpy(), keys["key"].rank("dense").to_numpy().astype(np.int64)
    root: Ints = np.arange(len(items), dtype=np.int64)
    while True:
        first = np.full(int(key.max(initial=0)) + 1, len(items), dtype=np.int64)
        np.minimum.at(first, key, root[row])
        joined = root.copy()
        np.minimum.at(joined, row, first[key])
        joined = joined[joined]  # a row's first row may itself have found an earlier one
        if np.array_equal(joined, root):
            return root
        root = joined
