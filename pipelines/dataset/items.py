"""The kept images as the split sees them, from the manifest: one row an image, with what its exact copies say of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import polars as pl

from pipelines.core.slices import SliceLimits
from pipelines.core.types import Split
from pipelines.dataset.links import Item, highest

COPIES = pl.List(pl.Struct({"source": pl.String(), "group": pl.String()}))
_OF_FILE = ("path", "width_px", "height_px", "captured_at", "brightness", "near_duplicate_of")
# Fields of `links.Item` under their names there, then those of the kept file.
ITEMS_SCHEMA: dict[str, pl.DataType] = {
    "image_id": pl.String(),
    "origin": pl.String(),
    "source": pl.String(),
    "group": pl.String(),
    "near_group": pl.String(),
    "given_split": pl.String(),
    "light": pl.String(),
    "copies": COPIES,
    "path": pl.String(),
    "width_px": pl.Int32(),
    "height_px": pl.Int32(),
    "captured_at": pl.String(),
    "brightness": pl.Float64(),
    "near_duplicate_of": pl.String(),
}


@dataclass(frozen=True)
class Items:
    """The kept images (ITEMS_SCHEMA, in the manifest's order); those that `leave_out` names with all their copies; and ((origin, given split), …) of
    images whose copies disagree."""

    items: pl.DataFrame
    left_out: pl.DataFrame
    given_twice: tuple[tuple[tuple[str, str], ...], ...]


def items_from_manifest(manifest: pl.DataFrame, leave_out: frozenset[str], limits: SliceLimits) -> Items:
    """Kept images with what their exact copies say of them. A file in `leave_out` says nothing."""
    kept = manifest.filter(pl.col("status") == "kept").with_row_index("place").with_columns(_light(limits).alias("light"))
    copied = manifest.filter(pl.col("duplicate_of").is_not_null())
    several = pl.col("image_id").is_in(copied["duplicate_of"].unique().implode()) | pl.col("origin").is_in(list(leave_out))
    alone = kept.filter(~several).with_columns(pl.lit([], COPIES).alias("copies")).select("place", *ITEMS_SCHEMA)
    copies: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in copied.iter_rows(named=True):
        copies[row["duplicate_of"]].append(row)
    found: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    twice: list[tuple[tuple[str, str], ...]] = []
    for row in kept.filter(several).iter_rows(named=True):
        files = [file for file in (row, *copies[row["image_id"]]) if file["origin"] not in leave_out]
        if not files:
            left_out.append(_row(row, [row]))
            continue
        found.append(_row(row, files))
        if len({file["given_split"] for file in files} - {None}) > 1:
            twice.append(tuple(sorted((file["origin"], file["given_split"]) for file in files if file["given_split"] is not None)))
    schema = {"place": alone.schema["place"], **ITEMS_SCHEMA}
    items = pl.concat([alone, pl.DataFrame(found, schema=schema)]).sort("place").drop("place")
    return Items(items, pl.DataFrame(left_out, schema=schema).drop("place"), tuple(sorted(twice)))


def item_from_row(row: Mapping[str, Any]) -> Item:
    """A row of ITEMS_SCHEMA as the split takes it."""
    copies = tuple((copy["source"], copy["group"]) for copy in row["copies"])
    return Item(row["image_id"], row["origin"], row["source"], row["group"], row["near_group"], row["given_split"], row["light"], copies)


def scoped_group() -> pl.Expr:
    """`Item.scoped_group` of each row."""
    return pl.when(pl.col("group").is_not_null()).then(pl.concat_str("source", pl.lit("/"), "group")).otherwise(pl.col("image_id"))


def _light(limits: SliceLimits) -> pl.Expr:
    """`SliceLimits.brightness` of each row."""
    level = pl.col("brightness")
    return (
        pl.when(level < limits.dark_below).then(pl.lit("dark")).when(level > limits.bright_above).then(pl.lit("bright")).otherwise(pl.lit("normal"))
    )


def _row(row: Mapping[str, Any], files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`row` with what its `files` say: the first gives source and group, all of them the given split."""
    sides = {name: name for name in get_args(Split)}
    given = {sides[file["given_split"]] for file in files if file["given_split"] is not None}
    own = (files[0]["source"], files[0]["group"])
    elsewhere = {(file["source"], file["group"]) for file in files[1:] if file["group"] is not None}
    return {
        "place": row["place"],
        "image_id": row["image_id"],
        "origin": files[0]["origin"],
        "source": own[0],
        "group": own[1],
        "near_group": row["near_group"],
        "given_split": highest(given) if given else None,
        "light": row["light"],
        "copies": [{"source": source, "group": group} for source, group in sorted(elsewhere - {own})],
        **{name: row[name] for name in _OF_FILE},
    }
