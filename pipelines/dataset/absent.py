"""Images that have a side of the split and are not in this round's dataset: whoever compares figures must know that a side shrank, and why."""

from __future__ import annotations

import polars as pl

from pipelines.core.types import LABELED_SPLITS

REASON_GONE = "not_in_the_inbox"
ABSENT_SCHEMA: dict[str, pl.DataType] = {"image_id": pl.String(), "split": pl.String(), "name": pl.String(), "reason": pl.String()}


def absent(history: pl.DataFrame, items: pl.DataFrame, told: pl.Series, manifest: pl.DataFrame) -> pl.DataFrame:
    """Rows of ABSENT_SCHEMA, sorted by name: an origin, or the image_id of what no file has any more.

    `history` are ASSIGNMENTS_SCHEMA; `items` the kept images with `past`, their side there, `split`, that of today, and `label_state`; `told`
    image_ids whose leaving is told elsewhere. The reason is collect's where it dropped the image, else the state of its label.
    """
    here = items.filter(pl.col("past").is_not_null() & pl.col("split").is_in(list(LABELED_SPLITS)))
    if len(here) == len(history):
        return pl.DataFrame(schema=ABSENT_SCHEMA)
    away = history.join(here, "image_id", "anti").filter(~pl.col("image_id").is_in(told.implode()))
    kept = items.select("image_id", "origin", reason=pl.col("label_state").fill_null("unlabeled"))
    dropped = manifest.filter(status="dropped").select("image_id", "origin", "reason").join(kept, "image_id", "anti")
    found = pl.concat([kept, dropped.sort("origin")]).unique("image_id", keep="first", maintain_order=True)
    named = away.join(found, "image_id", "left").with_columns(
        pl.coalesce("origin", "image_id").alias("name"), pl.col("reason").fill_null(REASON_GONE)
    )
    return named.select(list(ABSENT_SCHEMA)).sort("name")
