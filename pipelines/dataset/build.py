"""From manifest and annotations to the images of train, val, test and pool, with everything that is left out named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import polars as pl

from pipelines.core.errors import ClassContractError, DataError, listed
from pipelines.core.slices import SliceLimits
from pipelines.core.types import SPLITS, Annotation, Sample, Split
from pipelines.dataset.assignments import Assignment
from pipelines.dataset.leaks import given_twice_error, require_no_leak
from pipelines.dataset.links import SIDE_ORDER, Item, highest
from pipelines.dataset.split import SplitPlan, plan_split

IN_DATASET = ("labeled", "verified_empty")
REASON_SIZE = "label_for_another_size"
REASON_CROSS = "near_duplicate_across_split"
REASON_LEFT_OUT = "left_out"  # by params.yaml


@dataclass(frozen=True)
class Dataset:
    """Samples by split. `left` are the images that would be in train, val or test if they did not leave it (`plan.cross`, `left_out`), `dropped` has
    origins by reason, `orphans` the labels without a kept image, `pool_states` why images are in the pool."""

    splits: Mapping[Split, tuple[Sample, ...]]
    left: Mapping[str, Sample]
    plan: SplitPlan
    items: Mapping[str, Item]
    dropped: Mapping[str, tuple[str, ...]]
    orphans: tuple[str, ...]
    pool_states: Mapping[str, int]
    left_out: tuple[str, ...]
    unknown_left_out: tuple[str, ...]


def build_dataset(
    manifest: pl.DataFrame,
    annotations: Sequence[Annotation],
    history: Mapping[str, Assignment],
    classes: Sequence[str],
    fractions: Mapping[Split, float],
    *,
    use_given: bool,
    leave_out: Sequence[str],
    limits: SliceLimits,
    seed: int,
) -> Dataset:
    """Split the labeled images and put the others into the pool. `leave_out` are origins that stay outside.

    Raises:
        ClassContractError: labels of a class that `classes` lacks.
        LeakError: one image, near-duplicate group or group on two sides.
        DataError: nothing to train on.
    """
    _require_classes(annotations, classes)
    found = items_from_manifest(manifest, frozenset(leave_out), limits)
    if use_given and found.given_twice:
        raise given_twice_error(found.given_twice)
    by_id = {item.image_id: item for item in found.items}
    kept = {row["image_id"]: row for row in manifest.filter(pl.col("status") == "kept").iter_rows(named=True)}
    rows = {image_id: kept[image_id] for image_id in by_id}
    labels = {item.image_id: item for item in annotations}
    misfits = {i for i, label in labels.items() if i in rows and (label.width_px, label.height_px) != (rows[i]["width_px"], rows[i]["height_px"])}
    usable = {i: label for i, label in labels.items() if i in rows and i not in misfits and label.state in IN_DATASET}
    plan = plan_split(found.items, usable, history, classes, fractions, use_given=use_given, seed=seed)
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
        REASON_LEFT_OUT: tuple(item.origin for item in found.left_out),
    }
    outside = {**{tie.dropped: by_id[tie.dropped] for tie in plan.cross}, **{item.image_id: item for item in found.left_out}}
    return Dataset(
        splits={split: tuple(_sample(rows[i], by_id[i], usable.get(i)) for i in sorted(members[split])) for split in SPLITS},
        left={image_id: _sample(kept[image_id], item, usable.get(image_id)) for image_id, item in outside.items()},
        plan=plan,
        items={**by_id, **outside},
        dropped={reason: origins for reason, origins in dropped.items() if origins},
        orphans=tuple(sorted(_orphan(image_id, manifest) for image_id in labels if image_id not in kept)),
        pool_states={state: states.count(state) for state in ("unlabeled", "skipped", "conflict")},
        left_out=tuple(item.image_id for item in found.left_out),
        unknown_left_out=tuple(sorted(set(leave_out) - set(manifest["origin"]))),
    )


@dataclass(frozen=True)
class Items:
    """The kept images; those that `leave_out` names with all their copies; and ((origin, given split), …) of images whose copies disagree."""

    items: tuple[Item, ...]
    left_out: tuple[Item, ...]
    given_twice: tuple[tuple[tuple[str, str], ...], ...]


def items_from_manifest(manifest: pl.DataFrame, leave_out: frozenset[str], limits: SliceLimits) -> Items:
    """Kept images with what their exact copies say of them. A file in `leave_out` says nothing."""
    copies: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in manifest.filter(pl.col("duplicate_of").is_not_null()).iter_rows(named=True):
        copies[row["duplicate_of"]].append(row)
    items: list[Item] = []
    left_out: list[Item] = []
    twice: list[tuple[tuple[str, str], ...]] = []
    for row in manifest.filter(pl.col("status") == "kept").iter_rows(named=True):
        files = [file for file in (row, *copies[row["image_id"]]) if file["origin"] not in leave_out]
        if not files:
            left_out.append(_item(row, [row], limits))
            continue
        items.append(_item(row, files, limits))
        if len({file["given_split"] for file in files} - {None}) > 1:
            twice.append(tuple(sorted((file["origin"], file["given_split"]) for file in files if file["given_split"] is not None)))
    return Items(tuple(items), tuple(left_out), tuple(sorted(twice)))


def _item(row: Mapping[str, Any], files: Sequence[Mapping[str, Any]], limits: SliceLimits) -> Item:
    """`row` with what its `files` say: the first gives source and group, all of them the given split."""
    sides = {name: name for name in get_args(Split)}
    given = {sides[file["given_split"]] for file in files if file["given_split"] is not None}
    own = (files[0]["source"], files[0]["group"])
    elsewhere = {(file["source"], file["group"]) for file in files[1:] if file["group"] is not None}
    return Item(
        image_id=row["image_id"],
        origin=files[0]["origin"],
        source=own[0],
        group=own[1],
        near_group=row["near_group"],
        given_split=highest(given) if given else None,
        light=limits.brightness(row["brightness"]),
        copies=tuple(sorted(elsewhere - {own})),
    )


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
