"""Label faults planted on purpose: missing, swapped, shifted and spurious boxes, and which box is which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.core.boxes import iou_matrix
from pipelines.core.types import Box, Sample

KINDS = ("missing", "swapped", "shifted", "spurious")
SHIFT = (0.25, 0.5)  # of the box's sides, in both directions
MAX_OVERLAP = 0.1  # of a spurious box with any label


@dataclass(frozen=True)
class Fault:
    """One planted fault: the box as it now stands (as it was, where it is missing)."""

    kind: str
    image_id: str
    box: Box


def plant(samples: Sequence[Sample], classes: Sequence[str], fraction: float, seed: int) -> tuple[list[Sample], list[Fault]]:
    """Faults in the labels of `samples`: of each kind as many as `fraction` of all boxes, on different boxes."""
    rng = np.random.default_rng(seed)
    places = [(image, row) for image, sample in enumerate(samples) for row in range(len(sample.boxes))]
    count = round(fraction * len(places))
    drawn = [places[index] for index in rng.permutation(len(places))[: 4 * count]]
    boxes: list[list[Box | None]] = [list(sample.boxes) for sample in samples]
    faults: list[Fault] = []
    for position, (image, row) in enumerate(drawn):
        kind = KINDS[position // count]
        sample, box = samples[image], samples[image].boxes[row]
        if kind == "missing":
            boxes[image][row] = None
        elif kind == "swapped":
            others = [name for name in classes if name != box.class_name]
            box = Box(others[int(rng.integers(len(others)))], box.xyxy)
            boxes[image][row] = box
        elif kind == "shifted":
            box = Box(box.class_name, _shifted(box.xyxy, sample, rng))
            boxes[image][row] = box
        else:  # the drawn box lends class and size; the place is new
            box = Box(box.class_name, _elsewhere(box.xyxy, sample, rng))
            boxes[image].append(box)
        faults.append(Fault(kind, sample.image_id, box))
    planted = [replace(sample, boxes=tuple(box for box in kept if box is not None)) for sample, kept in zip(samples, boxes, strict=True)]
    return planted, faults


def _shifted(xyxy: tuple[float, float, float, float], sample: Sample, rng: np.random.Generator) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = xyxy
    for _ in range(100):
        dx, dy = rng.uniform(*SHIFT, 2) * rng.choice([-1, 1], 2) * (x2 - x1, y2 - y1)
        if x1 + dx >= 0 and y1 + dy >= 0 and x2 + dx <= sample.width_px and y2 + dy <= sample.height_px:
            return (x1 + dx, y1 + dy, x2 + dx, y2 + dy)
    dx, dy = (-dx if not 0 <= x1 + dx <= sample.width_px - (x2 - x1) else dx), (-dy if not 0 <= y1 + dy <= sample.height_px - (y2 - y1) else dy)
    return (max(0.0, x1 + dx), max(0.0, y1 + dy), min(sample.width_px, x2 + dx), min(sample.height_px, y2 + dy))


def _elsewhere(xyxy: tuple[float, float, float, float], sample: Sample, rng: np.random.Generator) -> tuple[float, float, float, float]:
    width, height = xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]
    best: tuple[float, tuple[float, float, float, float]] | None = None
    for _ in range(100):
        x, y = rng.uniform(0, sample.width_px - width), rng.uniform(0, sample.height_px - height)
        box = (float(x), float(y), float(x + width), float(y + height))
        overlap = float(iou_matrix(np.array([box]), sample.xyxy()).max(initial=0.0))
        if best is None or overlap < best[0]:
            best = (overlap, box)
        if overlap <= MAX_OVERLAP:
            break
    assert best is not None
    return best[1]
