"""What the dataset was like in each round, and how far it drifted since the last one. A dataset that differs from the one before is a new line.

The last line also tells which classes there were, in their order, to hold those of params.yaml against.

The lines are in git (data/splits/rounds.jsonl), since DVC removes the outputs of a stage before it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipelines.core.io import canonical_json, read_jsonl, sha256_bytes
from pipelines.core.types import LABELED_SPLITS
from pipelines.dataset.build import Dataset, counts

BOX_SIDE_EDGES_PX = (0, 8, 16, 32, 64, 96, 128, 256)  # square root of the area; the last bin is open
BRIGHTNESS_STEP = 32  # grey levels
Counts = dict[str, int]


def profile(dataset: Dataset, classes: Sequence[str]) -> dict[str, Any]:
    """What a round is compared by: classes in their order, images of each side, boxes by class and size, images by source, brightness and state."""
    samples = dataset.samples.filter(pl.col("split") != "pool")
    bins = np.bincount(np.digitize(dataset.boxes["side_px"].to_numpy(), BOX_SIDE_EDGES_PX[1:]), minlength=len(BOX_SIDE_EDGES_PX))
    step = (samples["brightness"] // BRIGHTNESS_STEP).cast(pl.Int64) * BRIGHTNESS_STEP
    images = counts(samples["split"])
    return {
        "classes": list(classes),
        "images": {split: images.get(split, 0) for split in LABELED_SPLITS},
        "boxes_by_class": counts(dataset.boxes["class"]),
        "boxes_by_side_px": dict(sorted((str(edge), count) for edge, count in zip(BOX_SIDE_EDGES_PX, bins.tolist(), strict=True) if count)),
        "images_by_source": counts(samples["source"]),
        "images_by_brightness": counts(step.cast(pl.String)),
        "images_by_state": counts(samples["state"]),
    }


def with_round(lines: Sequence[Mapping[str, Any]], dataset_hash: str, now: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The lines with this round's at the end; the same dataset again is no new round."""
    line = {"round": len(lines) + 1, "dataset": dataset_hash, **now}
    if lines and lines[-1]["dataset"] == dataset_hash:
        return [*lines[:-1], {**line, "round": len(lines)}]
    return [*lines, line]


def drift(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How the last round differs from the one before it; None in the first round.

    `moved` is the total variation distance, from 0 (the same shares) to 1 (nothing in common): the part of all boxes, or images, that would have to
    be others.
    """
    if len(lines) < 2:
        return None
    before, now = lines[-2], lines[-1]
    kinds = [key for key in now if isinstance(now[key], dict) and key != "images"]
    return {
        "since_round": before["round"],
        "images": {split: {"before": before["images"].get(split, 0), "now": now["images"][split]} for split in now["images"]},
        **{
            kind: {
                "moved": total_variation(before.get(kind, {}), now[kind]),
                "before": before.get(kind, {}),
                "now": now[kind],
                "appeared": sorted(set(now[kind]) - set(before.get(kind, {}))),
                "disappeared": sorted(set(before.get(kind, {})) - set(now[kind])),
            }
            for kind in kinds
        },
    }


def total_variation(before: Mapping[str, int], now: Mapping[str, int]) -> float:
    """Half the sum of the differences of shares; 0 where either is empty."""
    total_before, total_now = sum(before.values()), sum(now.values())
    if not total_before or not total_now:
        return 0.0
    return sum(abs(before.get(key, 0) / total_before - now.get(key, 0) / total_now) for key in {*before, *now}) / 2


def read_rounds(path: Path) -> list[dict[str, Any]]:
    """The lines of earlier rounds; none where the file does not exist yet."""
    return read_jsonl(path, "restore it from git, or remove it") if path.exists() else []


def dataset_hash(hashes: Mapping[str, str]) -> str:
    """One hash of the dataset's files from the sha256 of each."""
    return sha256_bytes(canonical_json(hashes).encode())
