"""Dealing new components to train, val and test so that images, boxes of each class, sources and brightness come near the wanted fractions.

Greedy, then improved by moving single new components while that helps. What is already assigned stays and counts. The order depends on content
and seed only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.core.io import sha256_bytes
from pipelines.core.types import Split
from pipelines.dataset.links import SIDE_ORDER

Counts = NDArray[np.float64]

WEIGHT_IMAGES = 4.0  # the number of images counts as much as this many classes
WEIGHT_CLASSES = 2.0  # shared by all classes
WEIGHT_SOURCES = 1.0  # shared by all sources
WEIGHT_LIGHTS = 1.0  # shared by dark, normal and bright
WEIGHT_EMPTY = 0.25
PENALTY_LACKING = {"train": 100.0, "test": 30.0, "val": 10.0}  # a side without any image of a class; more than all deviations together
MAX_PASSES = 8
EPSILON = 1e-9


@dataclass(frozen=True)
class Load:
    """What one component would bring: labeled images, verified-empty ones among them, boxes by class, images by source and by light."""

    images: int
    empty: int
    boxes: Mapping[str, int]
    sources: Mapping[str, int]
    lights: Mapping[str, int]


def deal(
    new: Mapping[str, Load], present: Mapping[Split, Load], classes: Sequence[str], fractions: Mapping[Split, float], seed: int
) -> dict[str, Split]:
    """A side for each component of `new`. `present` is what the sides hold already; `fractions` of the three sides sum to 1."""
    if not new:
        return {}
    sources = sorted({source for load in [*new.values(), *present.values()] for source in load.sources})
    lights = sorted({light for load in [*new.values(), *present.values()] for light in load.lights})
    names = sorted(new, key=lambda name: (-new[name].images, sha256_bytes(f"{seed}:{name}".encode())))
    loads = np.array([_vector(new[name], classes, sources, lights) for name in names])
    held = np.array([_vector(present[side], classes, sources, lights) for side in SIDE_ORDER])
    wanted = np.array([fractions[side] for side in SIDE_ORDER])
    cost = _Cost(held.sum(axis=0) + loads.sum(axis=0), len(classes), len(sources), len(lights), wanted)
    sides = np.zeros(len(names), dtype=np.int64)
    for index in _rarest_first(loads, len(classes)):
        sides[index] = cost.best_side(held, loads[index])
        held[sides[index]] += loads[index]
    for _ in range(MAX_PASSES):
        moved = False
        for index, load in enumerate(loads):
            held[sides[index]] -= load
            best = cost.best_side(held, load, stay=int(sides[index]))
            moved |= best != sides[index]
            sides[index] = best
            held[best] += load
        if not moved:
            break
    return {name: SIDE_ORDER[side] for name, side in zip(names, sides.tolist(), strict=True)}


class _Cost:
    """Weighted squared deviation of each quantity's share on each side, plus penalties for sides that lack a class."""

    def __init__(self, total: Counts, classes: int, sources: int, lights: int, fractions: Counts) -> None:
        shared = ((WEIGHT_CLASSES, classes), (WEIGHT_SOURCES, sources), (WEIGHT_LIGHTS, lights))
        self._weights = np.array([WEIGHT_IMAGES, WEIGHT_EMPTY, *(weight / count for weight, count in shared for _ in range(count))])
        self._scale = 1 / np.maximum(total, 1)
        self._wanted = fractions
        self._classes = slice(2, 2 + classes)
        self._exists = total[self._classes] > 0
        self._penalty = np.array([PENALTY_LACKING[side] for side in SIDE_ORDER])

    def best_side(self, held: Counts, load: Counts, stay: int | None = None) -> int:
        """The side where `load`, added to `held` (3, Q), costs least; `stay` wins unless another is really better."""
        added = self._sides(held + load) - self._sides(held)
        best = int(np.argmin(added))
        return stay if stay is not None and added[stay] <= added[best] + EPSILON else best

    def _sides(self, held: Counts) -> Counts:
        """Cost of each side, shape (3,)."""
        deviation = held * self._scale - self._wanted[:, None]
        lacking = ((held[:, self._classes] == 0) & self._exists).sum(axis=1)
        result: Counts = (deviation**2) @ self._weights + self._penalty * lacking
        return result


def _vector(load: Load, classes: Sequence[str], sources: Sequence[str], lights: Sequence[str]) -> list[float]:
    parts = ((load.boxes, classes), (load.sources, sources), (load.lights, lights))
    return [load.images, load.empty, *(counts.get(name, 0) for counts, names in parts for name in names)]


def _rarest_first(loads: Counts, classes: int) -> list[int]:
    """Components with a class that few components have come first: their place matters most. Equal ones keep their order."""
    has = loads[:, 2 : 2 + classes] > 0
    frequency = has.sum(axis=0)
    rarest = [int(frequency[row].min()) if row.any() else len(loads) + 1 for row in has]
    return sorted(range(len(loads)), key=lambda index: rarest[index])
