"""A test set and detectors of known quality on it, for tests of the champion gate: detections are the truth, perturbed.

How hard a box is belongs to the box and is the same for every detector, as in reality; what a detector makes of it depends on its quality and on the
seed of its training.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.core.types import Box, Detections, GroundTruth, Sample

CLASSES = ("bolt", "nut", "washer")
SIDE = 320.0


def made_test_set(images: int, seed: int = 0) -> tuple[list[Sample], list[GroundTruth]]:
    """Images in bursts of two from three cameras, some dark, with one to nine boxes of three classes."""
    rng = np.random.default_rng([seed, 1])
    samples, truth = [], []
    for number in range(images):
        count = int(rng.integers(1, 10))
        corner, side = rng.uniform(0, 200, (count, 2)), rng.uniform(14, 110, (count, 2))
        boxes = np.hstack([corner, corner + side]).astype(np.float32)
        names = rng.choice(3, count, p=[0.2, 0.45, 0.35])
        truth.append(GroundTruth(boxes, names.astype(np.int64)))
        listed = tuple(Box(CLASSES[name], (float(a), float(b), float(c), float(d))) for name, (a, b, c, d) in zip(names, boxes, strict=True))
        grey = 40.0 if number % 7 < 2 else 120.0
        camera = f"cam{number // 2 % 3}"
        samples.append(Sample(f"{number:064x}", f"{number}.jpg", 320, 320, "labeled", listed, camera, f"burst{number // 2}", None, grey))
    return samples, truth


def detector(truth: list[GroundTruth], quality: float, seed: int, broken: Mapping[int, float] | None = None) -> list[Detections]:
    """Detections of a model that finds a box of hardness h (0 to 1) when h < quality, give or take; `broken` gives single classes another quality."""
    hardness, luck = np.random.default_rng(7), np.random.default_rng([seed, 2])
    found = []
    for labels in truth:
        count = len(labels.class_index)
        hard = hardness.random(count)
        good = np.array([(broken or {}).get(int(name), quality) for name in labels.class_index])
        margin = good - hard + luck.normal(0, 0.12, count)
        kept = margin > 0
        side = labels.xyxy[:, 2:] - labels.xyxy[:, :2]
        moved = labels.xyxy + luck.normal(0, 0.03 + 0.08 * (1 - good)[:, None], (count, 4)) * np.tile(side, 2)
        names = np.where(luck.random(count) < 0.25 * (1 - good), luck.integers(0, 3, count), labels.class_index)
        extra = int(luck.poisson(4 * (1 - quality)))
        corner = luck.uniform(0, 240, (extra, 2))
        boxes = np.vstack([moved[kept], np.hstack([corner, corner + luck.uniform(14, 80, (extra, 2))])])
        score = np.concatenate([np.clip(0.35 + 0.6 * margin[kept] + luck.normal(0, 0.08, kept.sum()), 0.02, 0.99), luck.uniform(0.02, 0.6, extra)])
        names = np.concatenate([names[kept], luck.integers(0, 3, extra)])
        order = np.argsort(-score, kind="stable")
        found.append(Detections(boxes[order].astype(np.float32), score[order].astype(np.float32), names[order].astype(np.int64)))
    return found
