"""The dataset's card and its metrics: counts a side, a class, a source and a state, box sizes, drops and warnings. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from pipelines.core.contract import class_hash
from pipelines.core.errors import MAX_LISTED, counted, listed
from pipelines.core.types import LABELED_SPLITS, SPLITS, Split
from pipelines.dataset.build import REASON_CROSS, REASON_SIZE, Dataset, counts
from pipelines.dataset.leaks import Lookalikes
from pipelines.dataset.rounds import BOX_SIDE_EDGES_PX

LIGHTS = ("dark", "normal", "bright")
MIN_TEST_BOXES = 20  # with fewer, a class's AP moves by several points with a single box
MIN_SIDE_SHARE = 0.5  # a side with less than this part of its wanted images is warned of


def dataset_card(dataset: Dataset, classes: Sequence[str]) -> dict[str, Any]:
    """What the dataset folder says of itself, but how it differs from the last round."""
    return {
        "classes": list(classes),
        "class_hash": class_hash(classes),
        "splits": {split: _counts(dataset, split, classes) for split in SPLITS},
        "box_sizes": {split: _box_sizes(dataset.boxes_of(split), classes) for split in LABELED_SPLITS},
        "box_side_edges_px": list(BOX_SIDE_EDGES_PX),
        "dropped": {reason: len(origins) for reason, origins in dataset.dropped.items()},
        "pool_near_duplicates_of_labeled": len(dataset.pool_alike),
    }


def dataset_metrics(dataset: Dataset, card: Mapping[str, Any], fractions: Mapping[Split, float], explained: Sequence[Lookalikes]) -> dict[str, Any]:
    """The stage's metrics: what is where, and by name what was left out; `explained` are the images that those left out look like."""
    labeled = sum(len(dataset.of(split)) for split in LABELED_SPLITS)
    return {
        "class_hash": card["class_hash"],
        "splits": card["splits"],
        "fractions": {
            split: {"wanted": fractions[split], "reached": len(dataset.of(split)) / labeled if labeled else 0.0} for split in LABELED_SPLITS
        },
        "pool_states": dict(dataset.pool_states),
        "pool_near_duplicates_of_labeled": _listing(dataset.pool_alike),
        "dropped": sum(len(origins) for origins in dataset.dropped.values()),
        "dropped_by_reason": {reason: _listing(origins) for reason, origins in dataset.dropped.items()},
        "near_duplicates_across_split": [
            {
                "kept": dataset.origin_of[tie.kept],
                "kept_split": tie.kept_split,
                "dropped": dataset.origin_of[tie.dropped],
                "dropped_split": tie.dropped_split,
            }
            for tie in dataset.plan.cross
        ],
        "annotations_without_image": _listing(dataset.orphans),
        "absent": _absent(dataset),
        "given_split_overruled": _listing(dataset.plan.overruled),
        "left_out": _left_out(dataset, explained),
        "warnings": _warnings(dataset, card, fractions),
    }


def _counts(dataset: Dataset, split: Split, classes: Sequence[str]) -> dict[str, Any]:
    samples, boxes = dataset.of(split), dataset.boxes_of(split)
    by_class, lights, images = counts(boxes["class"]), counts(samples["light"]), counts(boxes.unique(["row", "class"])["class"])
    return {
        "images": len(samples),
        "boxes": len(boxes),
        "groups": samples["group"].n_unique(),
        "states": counts(samples["state"].fill_null("none")),
        "boxes_by_class": {name: by_class.get(name, 0) for name in classes},
        "images_by_class": {name: images.get(name, 0) for name in classes},
        "images_by_brightness": {light: lights.get(light, 0) for light in LIGHTS},
        "images_by_source": counts(samples["source"]),
    }


def _box_sizes(boxes: pl.DataFrame, classes: Sequence[str]) -> dict[str, list[int]]:
    """Boxes by the square root of their area, for each class; bins as BOX_SIDE_EDGES_PX."""
    sides = {name: boxes.filter(pl.col("class") == name)["side_px"].to_numpy() for name in classes}
    return {name: np.histogram(sides[name], bins=[*BOX_SIDE_EDGES_PX, np.inf])[0].tolist() for name in classes}


def _warnings(dataset: Dataset, card: Mapping[str, Any], fractions: Mapping[Split, float]) -> list[str]:
    found: list[str] = []
    total = sum(len(dataset.of(split)) for split in LABELED_SPLITS)
    for split in LABELED_SPLITS:
        samples = dataset.of(split)
        if not len(samples):
            found.append(f"{split} has no images: label more images, of more groups")
            continue
        if len(samples) < MIN_SIDE_SHARE * fractions[split] * total:
            found.append(f"{split} has {len(samples)} of {total} images, wanted {fractions[split]:.0%}: groups are too large, or sides were given")
        for name, boxes in card["splits"][split]["boxes_by_class"].items():
            if not boxes:
                found.append(f"{split} has no box of class {name}: label images with it, of more groups")
            elif split == "test" and boxes < MIN_TEST_BOXES:
                found.append(f"test has only {boxes} boxes of class {name}: its AP says little")
    if REASON_SIZE in dataset.dropped:
        found.append(f"{len(dataset.dropped[REASON_SIZE])} labels were drawn on an image of another size and are not used")
    if REASON_CROSS in dataset.dropped:
        found.append(
            f"{len(dataset.dropped[REASON_CROSS])} images left the dataset because their near-duplicate stands on a higher side of the split"
        )
    for side, reasons in _absent(dataset).items():
        why = ", ".join(f"{row['count']} {reason.replace('_', ' ')}" for reason, row in reasons.items())
        found.append(
            f"{side} lacks {counted(sum(row['count'] for row in reasons.values()), 'image')} that it had ({why}): put back what should not be gone;"
            " without them its figures are of other images than before"
        )
    if dataset.unknown_left_out:
        found.append(f"dataset.leave_out names files that are not in the inbox: {listed(dataset.unknown_left_out)}")
    if dataset.plan.overruled:
        found.append(f"{len(dataset.plan.overruled)} images stay on the side that they were assigned earlier, against their given split")
    return found


def _left_out(dataset: Dataset, explained: Sequence[Lookalikes]) -> list[dict[str, Any]]:
    """Each image that params.yaml leaves out, with the images of the dataset that show the same scene."""
    like: dict[str, list[dict[str, str]]] = {image_id: [] for image_id in dataset.left_out}
    for pair in explained:
        for one, other in ((pair.a, pair.b), (pair.b, pair.a)):
            if one.image_id in like:
                like[one.image_id].append({"origin": other.origin, "split": other.side})
    return [{"origin": dataset.origin_of[image_id], "like": rows} for image_id, rows in like.items()]


def _absent(dataset: Dataset) -> dict[str, dict[str, dict[str, Any]]]:
    """By side and reason the images that were assigned to it and are not there."""
    by_side: dict[str, dict[str, dict[str, Any]]] = {}
    for (split, reason), part in dataset.absent.sort("split", "reason", "name").group_by("split", "reason", maintain_order=True):
        by_side.setdefault(str(split), {})[str(reason)] = _listing(part["name"].to_list())
    return by_side


def _listing(names: Sequence[str]) -> dict[str, Any]:
    return {"count": len(names), "first": list(names[:MAX_LISTED])}
