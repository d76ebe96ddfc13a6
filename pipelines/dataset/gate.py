"""Holding a built dataset against the leak gate's second look: who takes part, which pairs stop the run, which merely explain why an image left."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from pipelines.core.types import LABELED_SPLITS
from pipelines.dataset.alike import RULES
from pipelines.dataset.build import Dataset
from pipelines.dataset.leaks import Lookalikes, find_lookalikes, require_no_lookalikes
from pipelines.dataset.looks import Looks

LEFT_OUT = "left out"


def check_pictures(dataset: Dataset, raw: Path, looks: Looks) -> list[Lookalikes]:
    """Look at the pictures of train, val, test and of what left them; those that pass are noted in `looks`.

    Returns pairs of an image that params.yaml leaves out and one that stays, for the metrics.

    An image that left because its near-duplicate stands on a higher side takes part where an imported list gave both their sides: the list is wrong,
    and that is for its owner to mend. Where only we put them there, its leaving has mended it.

    Raises:
        LeakError: one scene on two sides.
        MissingInputError, DataError: an image is gone, or none.
    """
    labeled = dataset.samples.filter(pl.col("split") != "pool")
    wanted = ["image_id", "path", "width_px", "height_px"]
    looks.require(pl.concat([labeled.select(wanted), dataset.left.select(wanted)]), raw)
    members = _members(dataset).join(looks.places, "image_id", "left", maintain_order="left")
    passed = pl.when("stays").then(looks.passed(RULES).gather(members["place"]))
    pairs = find_lookalikes(members.with_columns(passed=passed), looks.thumbnails, looks.cells)
    left_given = {tie.dropped for tie in dataset.plan.cross}
    leaks, explained = [], []
    for pair in pairs:
        if LEFT_OUT in (pair.a.side, pair.b.side):
            explained.append(pair)
        elif not {pair.a.image_id, pair.b.image_id} & left_given or (pair.a.given and pair.b.given):
            leaks.append(pair)
    require_no_lookalikes(leaks)
    looks.save_passed(RULES, members.filter("stays").select("place", split="side"))
    return explained


def _members(dataset: Dataset) -> pl.DataFrame:
    """The fields of `Member` but `passed`, and whether an image `stays` in the dataset."""
    sides = {tie.dropped: tie.dropped_split for tie in dataset.plan.cross} | dict.fromkeys(dataset.left_out, LEFT_OUT)
    left = dataset.left.with_columns(split=pl.col("image_id").replace_strict(sides, return_dtype=pl.String), stays=pl.lit(value=False))
    left = left.filter((pl.col("split") == LEFT_OUT) | (pl.col("given_split") == pl.col("split")))
    labeled = [dataset.of(split).with_columns(stays=pl.lit(value=True)) for split in LABELED_SPLITS]
    return pl.concat([*labeled, left]).select(
        "image_id",
        "origin",
        "source",
        "captured_at",
        pl.col("split").alias("side"),
        (pl.col("given_split") == pl.col("split")).fill_null(value=False).alias("given"),
        "stays",
    )
