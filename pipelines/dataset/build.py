"""From manifest and annotations to the images of train, val, test and pool, with everything that is left out named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.core.errors import ClassContractError, DataError, listed
from pipelines.core.io import sha256_file
from pipelines.core.records import BOX_DIGITS, annotation_from_row, box_columns, rounded_floats
from pipelines.core.slices import SliceLimits
from pipelines.core.tables import SAMPLES_SCHEMA, write_jsonl_table
from pipelines.core.types import LABELED_SPLITS, SPLITS, Split
from pipelines.dataset.absent import absent
from pipelines.dataset.assignments import ASSIGNMENTS_SCHEMA, Assignment
from pipelines.dataset.balance import Load
from pipelines.dataset.items import item_from_row, items_from_manifest, scoped_group
from pipelines.dataset.leaks import given_twice_error, require_no_leak
from pipelines.dataset.settled import settled
from pipelines.dataset.split import SplitPlan, plan_split

IN_DATASET = ("labeled", "verified_empty")
REASON_SIZE = "label_for_another_size"
REASON_CROSS = "near_duplicate_across_split"
REASON_LEFT_OUT = "left_out"  # by params.yaml


@dataclass(frozen=True)
class Dataset:
    """`samples` has a row for each image of train, val, test and pool, by image_id: the columns of SAMPLES_SCHEMA (brightness unrounded), `split`,
    `origin`, `given_split`, `light`. `left` has those that would be in train, val or test if they did not leave it (`plan.cross`, `left_out`).

    `boxes` has a row for each box of `samples`: `row`, `class`, its corners, `side_px` (square root of its area). `plan` speaks of the images that
    were not settled before, `assignments` of all. `dropped` has origins by reason, `orphans` the labels without a kept image, `pool_states` why
    images are in the pool, `pool_alike` the origins of those in it that are near-duplicates of labeled images. `absent` are of `absent`.
    """

    samples: pl.DataFrame
    boxes: pl.DataFrame
    left: pl.DataFrame
    plan: SplitPlan
    assignments: pl.DataFrame
    origin_of: Mapping[str, str]  # of the images that `plan.cross` and `left_out` name
    dropped: Mapping[str, tuple[str, ...]]
    orphans: tuple[str, ...]
    pool_states: Mapping[str, int]
    pool_alike: tuple[str, ...]
    left_out: tuple[str, ...]
    unknown_left_out: tuple[str, ...]
    absent: pl.DataFrame

    def of(self, split: Split) -> pl.DataFrame:
        """The samples of one split."""
        return self._samples_of[split]

    def boxes_of(self, split: Split) -> pl.DataFrame:
        """The boxes of one split."""
        return self._boxes_of[split]

    @cached_property
    def _samples_of(self) -> dict[Split, pl.DataFrame]:
        return {split: self.samples.filter(pl.col("split") == split) for split in SPLITS}

    @cached_property
    def _boxes_of(self) -> dict[Split, pl.DataFrame]:
        return {split: self.boxes.filter(pl.col("split") == split) for split in SPLITS}


def build_dataset(
    manifest: pl.DataFrame,
    annotations: pl.DataFrame,
    history: pl.DataFrame,
    classes: Sequence[str],
    fractions: Mapping[Split, float],
    *,
    use_given: bool,
    leave_out: Sequence[str],
    limits: SliceLimits,
    seed: int,
) -> Dataset:
    """Split the labeled images and put the others into the pool. `leave_out` are origins that stay outside.

    `annotations` are ANNOTATIONS_SCHEMA, `history` ASSIGNMENTS_SCHEMA.

    Raises:
        ClassContractError: labels of a class that `classes` lacks.
        LeakError: one image, near-duplicate group or group on two sides.
        DataError: nothing to train on.
    """
    _require_classes(annotations, classes)
    _require_kept(manifest)
    found = items_from_manifest(manifest, frozenset(leave_out), limits)
    if use_given and found.given_twice:
        raise given_twice_error(found.given_twice)
    labels = annotations if annotations["image_id"].n_unique() == len(annotations) else annotations.unique("image_id", keep="last")
    past = history.select("image_id", pl.col("split").alias("past"))
    items = _with_labels(found.items.sort("image_id"), labels).join(past, "image_id", "left", maintain_order="left")
    items = items.with_columns(waits=pl.col("usable") & pl.col("past").is_null())
    items = items.with_columns(settled=settled(items, use_given))
    plan = _plan(items, labels["boxes"], history, classes, fractions, use_given, seed)
    dealt = pl.DataFrame({"image_id": list(plan.side_of), "dealt": list(plan.side_of.values())}, schema={"image_id": pl.String, "dealt": pl.String})
    items = items.join(dealt, "image_id", "left", maintain_order="left").with_columns(
        split=pl.when(~pl.col("usable")).then(pl.lit("pool")).when(pl.col("settled")).then(pl.col("past")).otherwise(pl.col("dealt"))
    )
    samples = _samples(items.filter(~pl.col("misfit") & pl.col("split").is_not_null()), labels["boxes"])
    labeled = samples.filter(pl.col("split") != "pool")
    require_no_leak(labeled)
    if not (samples["split"] == "train").any():
        raise DataError(
            f"nothing to train on: {len(items)} images are kept, {items['usable'].sum()} of them have a usable label and none is in train;"
            " label images (`detloop queue accept` chooses which) and run `dvc repro` again"
        )
    left_out = _with_labels(found.left_out, labels).with_columns(split=pl.lit(None, pl.String))
    crossed = pl.DataFrame([tie.dropped for tie in plan.cross], schema={"image_id": pl.String})
    cross = crossed.join(items, "image_id", "left", maintain_order="left")
    named = crossed["image_id"].to_list() + [tie.kept for tie in plan.cross]
    dropped = {
        REASON_SIZE: items.filter("misfit")["origin"].sort(),
        REASON_CROSS: cross["origin"].sort(),
        REASON_LEFT_OUT: found.left_out["origin"],
    }
    told = pl.concat([items.filter("misfit")["image_id"], crossed["image_id"], found.left_out["image_id"]])
    in_pool = items.filter(pl.col("split") == "pool", ~pl.col("misfit"))
    states = in_pool["label_state"].fill_null("unlabeled")
    stands = pl.coalesce("near_duplicate_of", "image_id")
    looks = items.filter(pl.col("split").is_in(LABELED_SPLITS) & pl.col("near_group").is_not_null()).select(stands).to_series()
    with_image = pl.concat([part.select("label_row") for part in (items, left_out)])
    orphans = labels.select("image_id").with_row_index("label_row").join(with_image, "label_row", "anti")["image_id"]
    return Dataset(
        samples=samples,
        boxes=_boxes(samples),
        left=pl.concat([_samples(part, labels["boxes"]) for part in (cross, left_out)]),
        plan=plan,
        assignments=_with_new(history, plan.assignments),
        origin_of=dict(pl.concat([part.select("image_id", "origin") for part in (_named(items, named), found.left_out)]).iter_rows()),
        dropped={reason: tuple(origins) for reason, origins in dropped.items() if len(origins)},
        orphans=tuple(sorted(_orphan(image_id, manifest) for image_id in orphans)),
        pool_states={state: int((states == state).sum()) for state in ("unlabeled", "skipped", "conflict")},
        pool_alike=tuple(in_pool.filter(stands.is_in(looks.implode()))["origin"].sort()),
        left_out=tuple(found.left_out["image_id"]),
        unknown_left_out=tuple(sorted(set(leave_out) - set(manifest["origin"]))) if leave_out else (),
        absent=absent(history, items, told, manifest),
    )


def write_split(path: Path, dataset: Dataset, split: Split) -> str:
    """Write the file of one split as `pipelines.core.records.write_samples` does; returns its sha256."""
    samples = dataset.of(split).select(list(SAMPLES_SCHEMA))
    write_jsonl_table(path, samples.with_columns(pl.Series("brightness", rounded_floats(samples["brightness"].to_numpy(), BOX_DIGITS))))
    return sha256_file(path)


def _with_labels(items: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """`items` with `label_row` and `label_state`, whether the label fits the image's size (`misfit`), and whether the image has a `usable` one.

    Boxes stay where they are: rows of them are moved when all is decided, not at each step.
    """
    columns = {"label_state": "state", "label_width": "width_px", "label_height": "height_px"}
    table = items.join(labels.select("image_id", **columns).with_row_index("label_row"), "image_id", "left", maintain_order="left")
    misfit = (pl.col("label_width") != pl.col("width_px")) | (pl.col("label_height") != pl.col("height_px"))
    table = table.with_columns(misfit=pl.col("label_state").is_not_null() & misfit.fill_null(value=True))
    return table.with_columns(usable=pl.col("label_state").is_in(IN_DATASET).fill_null(value=False) & ~pl.col("misfit"))


def _plan(
    items: pl.DataFrame,
    boxes: pl.Series,
    history: pl.DataFrame,
    classes: Sequence[str],
    fractions: Mapping[Split, float],
    use_given: bool,
    seed: int,
) -> SplitPlan:
    """The plan for what is not settled; `boxes` are those of all labels."""
    open_ = items.filter(~pl.col("settled"))
    labeled = open_.filter("usable")
    rows = labeled.rename({"label_state": "state"}).with_columns(
        boxes.gather(labeled["label_row"]).alias("boxes"), annotators=pl.lit([]), annotation_ids=pl.lit([]), annotated_at=pl.lit(None)
    )
    labels = [annotation_from_row(row) for row in rows.iter_rows(named=True)]
    past = history.join(open_, "image_id", "semi")
    return plan_split(
        [item_from_row(row) for row in open_.iter_rows(named=True)],
        {item.image_id: item for item in labels},
        {row["image_id"]: Assignment(**row) for row in past.iter_rows(named=True)},
        classes,
        fractions,
        use_given=use_given,
        seed=seed,
        settled=_loads(items.filter("settled", "usable"), box_columns(boxes).select("row", "class")),
    )


def _loads(items: pl.DataFrame, boxes: pl.DataFrame) -> dict[Split, Load]:
    """What the settled images bring to their sides; `boxes` have `row`, that of their label, and `class`."""
    sides = {side: items.filter(pl.col("past") == side) for side in LABELED_SPLITS}
    return {
        side: Load(
            images=len(part),
            empty=int((part["label_state"] == "verified_empty").sum()),
            boxes=counts(boxes.join(part.select(pl.col("label_row").cast(pl.Int64).alias("row")), "row", "semi")["class"]),
            sources=counts(part["source"]),
            lights=counts(part["light"]),
        )
        for side, part in sides.items()
        if len(part)
    }


def counts(values: pl.Series) -> dict[str, int]:
    """How often each value stands in a column, by value."""
    return dict(values.value_counts().sort(values.name).iter_rows())


def _samples(items: pl.DataFrame, boxes: pl.Series) -> pl.DataFrame:
    """The rows of `Dataset.samples`; `boxes` are those of all labels."""
    labeled = pl.col("usable")
    return items.select(
        boxes.gather(items.select(pl.when(labeled).then("label_row"))["label_row"]).fill_null([]).alias("boxes"),
        "brightness",
        "captured_at",
        scoped_group().alias("scoped"),
        "height_px",
        "image_id",
        "path",
        "source",
        pl.when(labeled).then("label_state").alias("state"),
        "width_px",
        "split",
        "origin",
        "given_split",
        "light",
        "near_group",
        "copies",
        pl.col("group").alias("own_group"),
    ).rename({"scoped": "group"})


def _boxes(samples: pl.DataFrame) -> pl.DataFrame:
    found = box_columns(samples["boxes"])
    corners = found.select("x1", "y1", "x2", "y2").to_numpy().reshape(-1, 4)
    sides = np.sqrt(np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0), axis=1))
    return found.with_columns(side_px=sides, split=samples["split"].gather(found["row"]))


def _with_new(history: pl.DataFrame, planned: Mapping[str, Assignment]) -> pl.DataFrame:
    lines = pl.DataFrame([vars(entry) for entry in planned.values()], schema=ASSIGNMENTS_SCHEMA)
    return pl.concat([history, lines.join(history, "image_id", "anti")]).sort("image_id")


def _named(items: pl.DataFrame, image_ids: Sequence[str]) -> pl.DataFrame:
    return items.filter(pl.col("image_id").is_in(list(image_ids)))


def _require_kept(manifest: pl.DataFrame) -> None:
    if not (manifest["status"] == "kept").any():
        why = ", ".join(f"{count} {reason}" for reason, count in counts(manifest["reason"]).items())
        raise DataError(f"nothing to train on: collect kept none of {len(manifest)} files ({why}): correct `collect` in params.yaml, or the files")


def _require_classes(annotations: pl.DataFrame, classes: Sequence[str]) -> None:
    unknown = sorted(set(box_columns(annotations["boxes"])["class"].unique()) - set(classes))
    if unknown:
        raise ClassContractError(
            f"labels have {len(unknown)} classes that params.yaml lacks: {listed(unknown)}; add them to `classes` (at the end, or as aliases)"
            " and run `dvc repro`"
        )


def _orphan(image_id: str, manifest: pl.DataFrame) -> str:
    row = next(manifest.filter(pl.col("image_id") == image_id).sort("origin").head(1).iter_rows(named=True), None)
    return f"{row['origin']} ({row['reason']})" if row else f"{image_id} (not in the inbox)"
