"""The current model's boxes as pre-labels: from the detections on disk and the hash of the weights that made them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipelines.core.errors import ClassContractError
from pipelines.core.io import read_json
from pipelines.core.records import PREDICTED_BY
from pipelines.core.tables import DETECTIONS_SCHEMA, read_parquet
from pipelines.core.types import SPLITS, Box

_VERSION_DIGITS = 16  # of the sha256; people see it in Label Studio


@dataclass(frozen=True)
class Prelabels:
    """`version` names the weights; `found` has the boxes and scores of the images with any, best first."""

    version: str
    found: Mapping[str, tuple[tuple[Box, float], ...]]

    def boxes(self, image_id: str) -> tuple[tuple[Box, float], ...]:
        """An image's boxes, none where the model saw nothing."""
        return self.found.get(image_id, ())


def read_prelabels(predictions: Path, image_ids: Collection[str], min_score: float, class_of: Mapping[str, str]) -> Prelabels | None:
    """Boxes from `min_score` up of these images; None before the first model.

    Raises:
        ClassContractError: a class that the contract lacks.
    """
    record = predictions / PREDICTED_BY
    if not record.is_file():
        return None
    version = str(read_json(record)["weights_sha256"])[:_VERSION_DIGITS]
    found: dict[str, list[tuple[Box, float]]] = {}
    for path in [predictions / f"{split}.parquet" for split in SPLITS]:
        if not path.is_file():
            continue
        rows = read_parquet(path, DETECTIONS_SCHEMA).filter(pl.col("score") >= min_score, pl.col("image_id").is_in(list(image_ids)))
        unknown = sorted(set(rows["class"].unique()) - set(class_of))
        if unknown:
            raise ClassContractError(f"{path} has classes {unknown} that params.yaml lacks: run `dvc repro`")
        for image_id, name, score, *corners in rows.select(list(DETECTIONS_SCHEMA)).iter_rows():
            x1, y1, x2, y2 = corners
            found.setdefault(image_id, []).append((Box(class_of[name], (x1, y1, x2, y2)), score))
    return Prelabels(version, {image_id: tuple(boxes) for image_id, boxes in found.items()})
