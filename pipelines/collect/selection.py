"""Which usable images are taken: people's lists first, then what the champion makes of them, then a budget spread over strata. Pure.

Works on the table of `fates`; `reason` is null for what is still in. `picked` marks images that nothing below may drop: those on the pick list and
those that came with a side of the split, since labels hang on them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from fnmatch import translate

import polars as pl

REASON_REJECTED = "rejected"
REASON_NOTHING_OF_INTEREST = "nothing_of_interest"
REASON_NEAR_DUPLICATE = "near_duplicate"  # under a budget only the best of a cluster is taken
REASON_OVER_BUDGET = "over_budget"

_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
_STRATA = {
    "source": pl.col("source"),
    "day": pl.col("captured_at").str.head(10),
    "month": pl.col("captured_at").str.head(7),
    "predicted_class": pl.col("predicted_classes").cast(pl.List(pl.String)).list.join(" "),  # a column of nulls loses its type under way
}
_DRAW_DIGITS = 16  # of an image_id, which is random already


@dataclass(frozen=True)
class Lists:
    """Lines of the pick list and of the reject list: image_ids, origins, or globs over origins."""

    pick: tuple[str, ...] = ()
    reject: tuple[str, ...] = ()


@dataclass(frozen=True)
class Interest:
    """An image is of interest when a class of interest is seen with `score`, or the champion is as unsure as `uncertainty`."""

    score: float
    uncertainty: float


def lines_of(text: str) -> tuple[str, ...]:
    """The lines of a list that say something."""
    return tuple(line for line in (line.strip() for line in text.splitlines()) if line and not line.startswith("#"))


def with_lists(table: pl.DataFrame, lists: Lists) -> pl.DataFrame:
    """Drop what is rejected and add `picked`. A picked image passes the thresholds of `reason`, but never the checks of `refused`."""
    rejected, picked = _listed(table, lists.reject), _listed(table, lists.pick)
    usable = pl.col("refused").is_null()
    return table.with_columns(
        pl.when(rejected & usable).then(pl.lit(REASON_REJECTED)).when(picked & usable).then(None).otherwise(pl.col("reason")).alias("reason"),
        (picked | pl.col("given_split").is_not_null()).alias("picked"),
    )


def unmatched(table: pl.DataFrame, lines: Sequence[str]) -> list[str]:
    """The lines of a list that name no file."""
    if not lines:
        return []
    named = {*table["origin"], *table["image_id"].drop_nulls()}
    return [line for line in lines if line not in named and not (_is_glob(line) and any(map(re.compile(translate(line)).match, table["origin"])))]


def contradicted(table: pl.DataFrame, lists: Lists) -> list[str]:
    """The origins of the files that both lists name; they are rejected."""
    return table.filter(_listed(table, lists.pick) & _listed(table, lists.reject))["origin"].to_list() if lists.pick and lists.reject else []


def with_interest(table: pl.DataFrame, interest: Interest) -> pl.DataFrame:
    """Drop images that the champion looked at and found nothing of interest in."""
    dull = (pl.col("interest_score") < interest.score) & (pl.col("uncertainty") < interest.uncertainty)
    return _dropped(table, dull & ~pl.col("picked"), REASON_NOTHING_OF_INTEREST)


def with_budget(table: pl.DataFrame, budget: int, strata: Sequence[str], earlier: Set[str]) -> pl.DataFrame:
    """Keep at most `budget` images, the scarce strata whole and the others alike, as far as that goes.

    Picked images and those in `earlier` (kept by the last run) stay in any case: labels may hang on them. The rest is drawn by image_id, so that the
    same images come out of any order, and a larger budget adds to a smaller one.
    """
    usable = pl.col("reason").is_null()
    stays = pl.col("picked") | pl.col("image_id").is_in(list(earlier))
    table = _dropped(table, pl.col("near_duplicate_of").is_not_null() & ~stays, REASON_NEAR_DUPLICATE)
    stratum = pl.struct(pl.lit(0).alias("all"), *(_STRATA[name].fill_null("").alias(name) for name in strata))
    left = table.filter(usable).select("image_id", stays.alias("stays"), stratum.alias("stratum"))
    draw = pl.col("image_id").str.head(_DRAW_DIGITS)
    turn = pl.struct(~pl.col("stays"), draw).rank("ordinal").over("stratum")  # whoever stays comes first in its stratum
    order = left.with_columns(turn.alias("turn"), draw.alias("draw")).sort(~pl.col("stays"), "turn", "draw")
    room = max(budget, int(order["stays"].sum()))
    return _dropped(table, pl.col("image_id").is_in(order["image_id"][room:].implode()), REASON_OVER_BUDGET)


def _listed(table: pl.DataFrame, lines: Sequence[str]) -> pl.Expr:
    ids = [line for line in lines if _IMAGE_ID.fullmatch(line)]
    names = [line for line in lines if not _IMAGE_ID.fullmatch(line)]
    pattern = "|".join(translate(name) for name in names if _is_glob(name))
    matching = list(filter(re.compile(pattern).match, table["origin"])) if pattern else []
    return pl.col("image_id").is_in(ids).fill_null(value=False) | pl.col("origin").is_in([*names, *matching])


def _is_glob(line: str) -> bool:
    return any(sign in line for sign in "*?[")


def _dropped(table: pl.DataFrame, condition: pl.Expr, reason: str) -> pl.DataFrame:
    return table.with_columns(pl.when(pl.col("reason").is_null() & condition).then(pl.lit(reason)).otherwise(pl.col("reason")).alias("reason"))
