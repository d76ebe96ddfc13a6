"""The candidate against the champion on the same images: for the whole test set, each class and each slice the change and an interval around it.

Two things make a change uncertain: which images the test set happens to hold (a paired bootstrap, `pipelines.evaluation.bootstrap`), and which seed
each of the two trainings happened to have (`pipelines.evaluation.seeds`, where it was measured). Their draws are added. The interval of the whole set
holds by itself; those of all classes hold together, and those of all slices (the quantile is that of the largest standardised deviation among them),
so that a test set with many classes or slices does not reject by chance, and its slices do not hide what a class lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipelines.core.slices import SIZES, SliceLimits
from pipelines.core.types import Detections, GroundTruth, Sample
from pipelines.evaluation.bootstrap import average_precision, group_weights
from pipelines.evaluation.coco import MatchTable, match_tables
from pipelines.evaluation.seeds import CLASS, IMAGE_SD, Figures, Spread

WHOLE = "all"
METRICS = ("AP", "AP50")
MIN_GROUPS = 10  # below this many independent draws a bootstrap interval is far too narrow
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """A part of the test set: the classes (indices), the images (images,) bool and the box size (`all` or one of SIZES) that it looks at."""

    name: str
    classes: tuple[int, ...]
    images: NDArray[np.bool_]
    size: str = "all"


@dataclass(frozen=True)
class Difference:
    """One part's figures, by metric: `champion`, `candidate` and the change between them with its interval (`low`, `high`); None without labels.

    `groups` counts the independent groups of images with labels of this part; with less than MIN_GROUPS it is not `judged`.
    """

    name: str
    boxes: int
    groups: int
    champion: Mapping[str, float | None]
    candidate: Mapping[str, float | None]
    low: Mapping[str, float | None]
    high: Mapping[str, float | None]
    judged: bool

    def change(self, metric: str) -> float | None:
        """Candidate minus champion."""
        new, old = self.candidate[metric], self.champion[metric]
        return None if new is None or old is None else new - old


@dataclass(frozen=True)
class Resampling:
    """How intervals are made."""

    confidence: float
    resamples: int
    seed: int


def parts_of(samples: Sequence[Sample], classes: Sequence[str], limits: SliceLimits) -> list[Part]:
    """The whole set, each class (`class=…`), and the slices by source, brightness and box size, as `evaluate` names them."""
    everything, every_class = np.ones(len(samples), bool), tuple(range(len(classes)))
    parts = [Part(WHOLE, every_class, everything)]
    parts += [Part(f"{CLASS}{name}", (index,), everything) for index, name in enumerate(classes)]
    for title, values in (
        ("source", [sample.source for sample in samples]),
        ("brightness", [limits.brightness(sample.brightness) for sample in samples]),
    ):
        names = sorted(set(values))
        if len(names) > 1:  # one value alone is the whole set once more
            parts += [Part(f"{title}={name}", every_class, np.array([value == name for value in values])) for name in names]
    return parts + [Part(f"size={name}", every_class, everything, name) for name in SIZES]


def figures(parts: Sequence[Part], tables: Mapping[str, list[MatchTable]], weights: NDArray[np.int64]) -> dict[str, dict[str, Values]]:
    """For each part and metric the value under each row of `weights` (resamples, images): (resamples,), NaN where no label was drawn."""

    @cache
    def whole(size: str, index: int) -> Values:
        return average_precision(tables[size][index], weights)

    found = {}
    for part in parts:
        inside = part.images.all()
        ap = np.stack(
            [
                whole(part.size, index) if inside else average_precision(_within(tables[part.size][index], part.images), weights)
                for index in part.classes
            ]
        )
        known = ~np.isnan(ap[..., 0])
        count = known.sum(axis=0)
        mean = np.where(known[..., None], ap, 0.0).sum(axis=0) / np.maximum(count, 1)[:, None]
        mean[count == 0] = np.nan
        found[part.name] = {"AP": mean.mean(axis=1), "AP50": mean[:, 0]}
    return found


def differences(
    samples: Sequence[Sample],
    truth: Sequence[GroundTruth],
    champion: Sequence[Detections],
    candidate: Sequence[Detections],
    classes: Sequence[str],
    limits: SliceLimits,
    resampling: Resampling,
    spread: Spread | None,
) -> list[Difference]:
    """All parts, the whole set first; the four sequences go together, one entry an image. `spread` is the noise between seeds, None unmeasured."""
    parts = parts_of(samples, classes, limits)
    rng = np.random.default_rng(resampling.seed)
    groups = [sample.group for sample in samples]
    weights = _weights(samples, resampling.resamples, rng)
    sets = [_tables(truth, found, len(classes), limits) for found in (champion, candidate)]
    old, new = (figures(parts, tables, weights) for tables in sets)
    counts = {part.name: _counts(part, sets[0], groups) for part in parts}
    judged = {part.name for part in parts if counts[part.name][1] >= MIN_GROUPS}
    low: dict[str, dict[str, float | None]] = {part.name: {} for part in parts}
    high: dict[str, dict[str, float | None]] = {part.name: {} for part in parts}
    for metric in METRICS:
        noise = _seed_noise([part.name for part in parts], spread, metric, resampling.resamples, rng)
        for together in _families([part.name for part in parts]):
            draws = {name: new[name][metric] - old[name][metric] for name in together}
            for name, (below, above) in _intervals(draws, noise, judged, resampling.confidence).items():
                low[name][metric], high[name][metric] = below, above
    return [
        Difference(
            part.name,
            *counts[part.name],
            {metric: _value(old[part.name][metric][0]) for metric in METRICS},
            {metric: _value(new[part.name][metric][0]) for metric in METRICS},
            low[part.name],
            high[part.name],
            part.name in judged,
        )
        for part in parts
    ]


def training_figures(
    samples: Sequence[Sample],
    truth: Sequence[GroundTruth],
    trainings: Sequence[Sequence[Detections]],
    classes: Sequence[str],
    limits: SliceLimits,
    resampling: Resampling,
) -> list[Figures]:
    """What a `Spread` is made of: the figures of each training, and with each how much its distance from the mean of all varies with the images."""
    parts = parts_of(samples, classes, limits)
    weights = _weights(samples, resampling.resamples, np.random.default_rng(resampling.seed))
    found = [figures(parts, _tables(truth, detections, len(classes), limits), weights) for detections in trainings]
    result: list[dict[str, dict[str, float | None]]] = [{part.name: {} for part in parts} for _ in trainings]
    for part in parts:
        for metric in METRICS:
            values = np.stack([training[part.name][metric] for training in found])  # [training, resample]
            drawn = values[:, 1:][:, ~np.isnan(values[:, 1:]).any(axis=0)]
            distance_sd = (drawn - drawn.mean(axis=0)).std(axis=1) if drawn.size else np.full(len(values), np.nan)
            for training, value, sd in zip(result, values[:, 0], distance_sd, strict=True):
                training[part.name] |= {metric: _value(value), IMAGE_SD.format(metric): _value(sd)}
    return list(result)


def _families(names: Sequence[str]) -> list[list[str]]:
    """The parts whose intervals hold together: the whole set, the classes, the slices."""
    classes = [name for name in names if name.startswith(CLASS)]
    return [[WHOLE], classes, [name for name in names if name != WHOLE and name not in classes]]


def _weights(samples: Sequence[Sample], resamples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The test set itself, then its resamples: (1 + resamples, images)."""
    return np.concatenate([np.ones((1, len(samples)), np.int64), group_weights([sample.group for sample in samples], resamples, rng)])


def _tables(truth: Sequence[GroundTruth], found: Sequence[Detections], classes: int, limits: SliceLimits) -> dict[str, list[MatchTable]]:
    return match_tables(truth, found, classes, small_area_px=limits.small_area_px, medium_area_px=limits.medium_area_px)


def _intervals(
    draws: Mapping[str, Values], noise: Mapping[str, Values], judged: set[str], confidence: float
) -> dict[str, tuple[float | None, float | None]]:
    """Symmetric intervals around the first entry of each `draws`, wide enough that those of all `judged` names hold at once."""
    deviation = {name: values[1:] + noise[name] - values[0] for name, values in draws.items()}
    sd = {name: float(np.nanstd(values)) if not np.isnan(values).all() else np.nan for name, values in deviation.items()}
    usable = [name for name in draws if name in judged and sd[name] > 0]
    reach = 0.0
    if usable:
        standardised = np.stack([np.nan_to_num(np.abs(deviation[name]) / sd[name]) for name in usable])
        reach = float(np.quantile(standardised.max(axis=0), confidence))
    return {
        name: (None, None)
        if name not in judged or np.isnan(values[0])
        else (float(values[0] - reach * sd[name]), float(values[0] + reach * sd[name]))
        for name, values in draws.items()
    }


def _seed_noise(parts: Sequence[str], spread: Spread | None, metric: str, resamples: int, rng: np.random.Generator) -> dict[str, Values]:
    """Draws of the difference between two trainings that differ by their seed alone; zeros where that was not measured."""
    return {part: np.zeros(resamples) for part in parts} if spread is None else spread.draws(parts, metric, resamples, rng)


def _within(table: MatchTable, images: NDArray[np.bool_]) -> MatchTable:
    keep = images[table.image]
    return MatchTable(table.image[keep], table.hit[:, keep], table.counted[:, keep], np.where(images, table.boxes, 0))


def _counts(part: Part, tables: Mapping[str, list[MatchTable]], groups: Sequence[str]) -> tuple[int, int]:
    """Labels of a part, and groups of images that have one."""
    boxes = np.sum([tables[part.size][index].boxes for index in part.classes], axis=0) * part.images
    return int(boxes.sum()), len({group for group, count in zip(groups, boxes, strict=True) if count})


def _value(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
