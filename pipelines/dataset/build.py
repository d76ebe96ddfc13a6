"""From manifest and annotations to the images of train, val, test and pool, with everything that is left out named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import polars as pl

from pipelines.core.errors import ClassContractError, DataError, listed
from pipelines.core.types import SPLITS, Annotation, Sample, Split
from pipelines.dataset.assignments import Assignment
from pipelines.dataset.leaks import require_no_leak
from pipelines.dataset.links import SIDE_ORDER, Item, highest
from pipelines.dataset.split import SplitPlan, plan_split

IN_DATASET = ("labeled", "verified_empty")
REASON_SIZE = "label_for_another_size"
REASON_CROSS = "near_duplicate_across_split"


@dataclass(frozen=True)
class Dataset:
    """Samples by split. `dropped` has origins by reason, `orphans` the labels without a kept image, `pool_states` why images are in the pool."""

    splits: Mapping[Split, tuple[Sample, ...]]
    plan: SplitPlan
    items: Mapping[str, Item]
    dropped: Mapping[str, tuple[str, ...]]
    orphans: tuple[str, ...]
    pool_states: Mapping[str, int]
    given_twice: tuple[str, ...]


def build_dataset(
    manifest: pl.DataFrame,
    annotations: Sequence[Annotation],
    history: Mapping[str, Assignment],
    classes: Sequence[str],
    fractions: Mapping[Split, float],
    *,
    use_given: bool,
    seed: int,
) -> Dataset:
    """Split the labeled images, put the others into the pool, and hold the result against the leak gate.

    Raises:
        ClassContractError: labels of a class that `classes` lacks.
        LeakError: one scene on two sides.
        DataError: nothing to train on.
    """
    _require_classes(annotations, classes)
    items, given_twice = items_from_manifest(manifest)
    by_id = {item.image_id: item for item in items}
    rows = {row["image_id"]: row for row in manifest.filter(pl.col("status") == "kept").iter_rows(named=True)}
    labels = {item.image_id: item for item in annotations}
    misfits = {i for i, label in labels.items() if i in rows and (label.width_px, label.height_px) != (rows[i]["width_px"], rows[i]["height_px"])}
    usable = {i: label for i, label in labels.items() if i in rows and i not in misfits and label.state in IN_DATASET}
    plan = plan_split(items, usable, history, classes, fractions, use_given=use_given, seed=seed)
    pool = [i for i in rows if i not in usable and i not in misfits]
    members: dict[Split, list[str]] = {split: [] for split in SPLITS}
    for image_id, side in plan.side_of.items():
        members[side].append(image_id)
    require_no_leak({side: [by_id[image_id] for image_id in members[side]] for side in SIDE_ORDER})
    if not members["train"]:
        raise DataError(
            f"nothing to train on: {len(rows)} images are kept, {len(usable)} of them have a usable label and none is in train;"
            " label images and run `dvc repro` again"
        )
    members["pool"] = pool
    states = [labels[i].state if i in labels else "unlabeled" for i in pool]
    dropped = {
        REASON_SIZE: tuple(sorted(by_id[i].origin for i in misfits)),
        REASON_CROSS: tuple(sorted(by_id[tie.dropped].origin for tie in plan.cross)),
    }
    return Dataset(
        splits={split: tuple(_sample(rows[i], by_id[i], usable.get(i)) for i in sorted(members[split])) for split in SPLITS},
        plan=plan,
        items=by_id,
        dropped={reason: origins for reason, origins in dropped.items() if origins},
        orphans=tuple(sorted(_orphan(image_id, manifest) for image_id in labels if image_id not in rows)),
        pool_states={state: states.count(state) for state in ("unlabeled", "skipped", "conflict")},
        given_twice=given_twice if use_given else (),
    )


def items_from_manifest(manifest: pl.DataFrame) -> tuple[list[Item], tuple[str, ...]]:
    """The kept images, and the origins of those whose files carry different given splits (the highest side counts)."""
    copies: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in manifest.filter(pl.col("duplicate_of").is_not_null()).iter_rows(named=True):
        copies[row["duplicate_of"]].append(row)
    sides = {name: name for name in get_args(Split)}
    items: list[Item] = []
    twice: list[str] = []
    for row in manifest.filter(pl.col("status") == "kept").iter_rows(named=True):
        files = [row, *copies[row["image_id"]]]
        given = {sides[file["given_split"]] for file in files if file["given_split"] is not None}
        if len(given) > 1:
            twice.append(row["origin"])
        elsewhere = {(file["source"], file["group"]) for file in files[1:] if file["group"] is not None}
        items.append(
            Item(
                image_id=row["image_id"],
                origin=row["origin"],
                source=row["source"],
                group=row["group"],
                near_group=row["near_group"],
                given_split=highest(given) if given else None,
                copies=tuple(sorted(elsewhere - {(row["source"], row["group"])})),
            )
        )
    return items, tuple(sorted(twice))


def _require_classes(annotations: Sequence[Annotation], classes: Sequence[str]) -> None:
    unknown = sorted({box.class_name for item in annotations for box in item.boxes} - set(classes))
    if unknown:
        raise ClassContractError(
            f"labels have {len(unknown)} classes that params.yaml lacks: {listed(unknown)}; add them to `classes` (at the end, or as aliases)"
            " and run `dvc repro`"
        )


def _sample(row: Mapping[str, Any], item: Item, label: Annotation | None) -> Sample:
    return Sample(
        image_id=item.image_id,
        path=row["path"],
        width_px=row["width_px"],
        height_px=row["height_px"],
        state=label.state if label else None,
        boxes=label.boxes if label else (),
        source=item.source,
        group=item.scoped_group,
        captured_at=row["captured_at"],
        brightness=row["brightness"],
    )


def _orphan(image_id: str, manifest: pl.DataFrame) -> str:
    row = next(manifest.filter(pl.col("image_id") == image_id).sort("origin").head(1).iter_rows(named=True), None)
    return f"{row['origin']} ({row['reason']})" if row else f"{image_id} (not in the inbox)"
