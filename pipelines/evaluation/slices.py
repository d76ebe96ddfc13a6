"""The same metrics on parts of a split: by source, by brightness, by box size, and the groups that do worst."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from pipelines.core.slices import SliceLimits
from pipelines.core.types import Detections, GroundTruth, Sample
from pipelines.evaluation.coco import CocoMetrics, coco_metrics

WORST_GROUPS = 5
MIN_GROUP_IMAGES = 2
MIN_GROUP_BOXES = 10  # a group with fewer says nothing


def slice_metrics(
    samples: Sequence[Sample],
    truth: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: Sequence[str],
    limits: SliceLimits,
    whole: CocoMetrics,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Slices by name (`source=cam1`, `brightness=dark`, `size=small`, `group=…` for the worst groups), and a summary of all groups.

    `whole` is the metrics of the same images all together, which already hold the sizes.
    """

    def members(key: Callable[[Sample], str]) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = defaultdict(list)
        for position, sample in enumerate(samples):
            rows[key(sample)].append(position)
        return dict(sorted(rows.items()))

    def measure(rows: list[int]) -> dict[str, Any]:
        metrics = coco_metrics([truth[row] for row in rows], [detections[row] for row in rows], classes)
        return {"AP": metrics.ap, "AP50": metrics.ap50, "images": metrics.images, "boxes": metrics.boxes}

    slices = {f"source={name}": measure(rows) for name, rows in members(lambda sample: sample.source).items()}
    slices |= {f"brightness={name}": measure(rows) for name, rows in members(lambda sample: limits.brightness(sample.brightness)).items()}
    for name, size in whole.sizes.items():
        slices[f"size={name}"] = {"AP": size.ap, "AP50": size.ap50, "images": size.images, "boxes": size.boxes}
    groups = members(lambda sample: sample.group)
    large = {name: rows for name, rows in groups.items() if len(rows) >= MIN_GROUP_IMAGES and _boxes(rows, samples) >= MIN_GROUP_BOXES}
    measured = {name: measure(rows) for name, rows in large.items()}
    worst_first = sorted(measured, key=lambda name: (measured[name]["AP50"], name))
    slices |= {f"group={name}": measured[name] for name in worst_first[:WORST_GROUPS]}
    summary = {
        "groups": len(groups),
        "measured": len(measured),
        "min_images": MIN_GROUP_IMAGES,
        "min_boxes": MIN_GROUP_BOXES,
        "worst_AP50": measured[worst_first[0]]["AP50"] if worst_first else None,
        "median_AP50": median(measured[name]["AP50"] for name in worst_first) if worst_first else None,
    }
    return slices, summary


def _boxes(rows: Sequence[int], samples: Sequence[Sample]) -> int:
    return sum(len(samples[row].boxes) for row in rows)
