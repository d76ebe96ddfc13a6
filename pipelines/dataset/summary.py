"""The dataset's card and its metrics: counts a side, a class, a source and a state, box sizes, drops and warnings. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.core.contract import class_hash
from pipelines.core.errors import MAX_LISTED, listed
from pipelines.core.slices import SliceLimits
from pipelines.core.types import LABELED_SPLITS, Sample, Split
from pipelines.dataset.build import REASON_CROSS, REASON_SIZE, Dataset
from pipelines.dataset.leaks import Lookalikes
from pipelines.dataset.rounds import BOX_SIDE_EDGES_PX

LIGHTS = ("dark", "normal", "bright")
MIN_TEST_BOXES = 20  # with fewer, a class's AP moves by several points with a single box
MIN_SIDE_SHARE = 0.5  # a side with less than this part of its wanted images is warned of


def dataset_card(dataset: Dataset, classes: Sequence[str], limits: SliceLimits, drift: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the dataset folder says of itself; `drift` is how it differs from the last round, None in the first one."""
    return {
        "classes": list(classes),
        "class_hash": class_hash(classes),
        "splits": {split: _counts(samples, classes, limits) for split, samples in dataset.splits.items()},
        "box_sizes": {split: _box_sizes(dataset.splits[split], classes) for split in LABELED_SPLITS},
        "box_side_edges_px": list(BOX_SIDE_EDGES_PX),
        "dropped": {reason: len(origins) for reason, origins in dataset.dropped.items()},
        "drift": drift,
    }


def dataset_metrics(
    dataset: Dataset, classes: Sequence[str], fractions: Mapping[Split, float], limits: SliceLimits, explained: Sequence[Lookalikes]
) -> dict[str, Any]:
    """The stage's metrics: what is where, and by name what was left out; `explained` are the images that those left out look like."""
    labeled = sum(len(dataset.splits[split]) for split in LABELED_SPLITS)
    return {
        "class_hash": class_hash(classes),
        "splits": {split: _counts(samples, classes, limits) for split, samples in dataset.splits.items()},
        "fractions": {
            split: {"wanted": fractions[split], "reached": len(dataset.splits[split]) / labeled if labeled else 0.0} for split in LABELED_SPLITS
        },
        "pool_states": dict(dataset.pool_states),
        "dropped": sum(len(origins) for origins in dataset.dropped.values()),
        "dropped_by_reason": {reason: _listing(origins) for reason, origins in dataset.dropped.items()},
        "near_duplicates_across_split": [
            {
                "kept": dataset.items[tie.kept].origin,
                "kept_split": tie.kept_split,
                "dropped": dataset.items[tie.dropped].origin,
                "dropped_split": tie.dropped_split,
            }
            for tie in dataset.plan.cross
        ],
        "annotations_without_image": _listing(dataset.orphans),
        "given_split_overruled": _listing(dataset.plan.overruled),
        "left_out": _left_out(dataset, explained),
        "warnings": _warnings(dataset, classes, fractions),
    }


def _counts(samples: Sequence[Sample], classes: Sequence[str], limits: SliceLimits) -> dict[str, Any]:
    boxes = Counter(box.class_name for sample in samples for box in sample.boxes)
    lights = Counter(limits.brightness(sample.brightness) for sample in samples)
    images = Counter(name for sample in samples for name in {box.class_name for box in sample.boxes})
    return {
        "images": len(samples),
        "boxes": sum(boxes.values()),
        "groups": len({sample.group for sample in samples}),
        "states": dict(sorted(Counter(sample.state or "none" for sample in samples).items())),
        "boxes_by_class": {name: boxes[name] for name in classes},
        "images_by_class": {name: images[name] for name in classes},
        "images_by_brightness": {light: lights[light] for light in LIGHTS},
        "images_by_source": dict(sorted(Counter(sample.source for sample in samples).items())),
    }


def _box_sizes(samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, list[int]]:
    """Boxes by the square root of their area, for each class; bins as BOX_SIDE_EDGES_PX."""
    result: dict[str, list[int]] = {}
    for name in classes:
        boxes = np.array([box.xyxy for sample in samples for box in sample.boxes if box.class_name == name], dtype=np.float64).reshape(-1, 4)
        sides = np.sqrt(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1))
        result[name] = np.histogram(sides, bins=[*BOX_SIDE_EDGES_PX, np.inf])[0].tolist()
    return result


def _warnings(dataset: Dataset, classes: Sequence[str], fractions: Mapping[Split, float]) -> list[str]:
    found: list[str] = []
    total = sum(len(dataset.splits[split]) for split in LABELED_SPLITS)
    for split in LABELED_SPLITS:
        samples = dataset.splits[split]
        if not samples:
            found.append(f"{split} has no images: label more images, of more groups")
            continue
        if len(samples) < MIN_SIDE_SHARE * fractions[split] * total:
            found.append(f"{split} has {len(samples)} of {total} images, wanted {fractions[split]:.0%}: groups are too large, or sides were given")
        boxes = Counter(box.class_name for sample in samples for box in sample.boxes)
        for name in classes:
            if not boxes[name]:
                found.append(f"{split} has no box of class {name}: label images with it, of more groups")
            elif split == "test" and boxes[name] < MIN_TEST_BOXES:
                found.append(f"test has only {boxes[name]} boxes of class {name}: its AP says little")
    if REASON_SIZE in dataset.dropped:
        found.append(f"{len(dataset.dropped[REASON_SIZE])} labels were drawn on an image of another size and are not used")
    if REASON_CROSS in dataset.dropped:
        found.append(
            f"{len(dataset.dropped[REASON_CROSS])} images left the dataset because their near-duplicate stands on a higher side of the split"
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
    return [{"origin": dataset.items[image_id].origin, "like": rows} for image_id, rows in like.items()]


def _listing(names: Sequence[str]) -> dict[str, Any]:
    return {"count": len(names), "first": list(names[:MAX_LISTED])}
