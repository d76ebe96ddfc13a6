"""What the champion sees in newly collected images: classes, the best score of a class of interest, and how unsure it is. Cached by model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from pipelines.core.champion import Champion, stored_model
from pipelines.core.errors import DetloopError
from pipelines.core.params import Params
from pipelines.core.tables import read_parquet, write_parquet
from pipelines.core.types import Detections, Sample
from training.environment import quiet_ultralytics

SCHEMA: dict[str, pl.DataType] = {"image_id": pl.String(), "class": pl.String(), "score": pl.Float64(), "uncertainty": pl.Float64()}


def champion_view(images: pl.DataFrame, champion: Champion, store: Path, raw: Path, work: Path, params: Params) -> pl.DataFrame:
    """A row for each of `images` (image_id, path, width_px, height_px): `predicted_classes`, `interest_score`, `uncertainty`.

    Uncertainty is 1 for a box with score 0.5 and falls to 0 at scores 0 and 1; an image has that of its most uncertain box. Images that this champion
    has seen are not shown to it again.
    """
    path = work / f"view-{champion.model_sha256[:16]}.parquet"
    try:
        known = read_parquet(path, SCHEMA)
    except DetloopError:
        known = pl.DataFrame(schema=SCHEMA)
    new = images.join(known, on="image_id", how="anti")
    if len(new):
        known = pl.concat([known, _looked_at(new, champion, store, raw, params)])
        write_parquet(path, known)
    wanted = params.collect.screen
    names = wanted.classes or list(params.class_names)
    seen = known.filter(pl.col("image_id").is_in(images["image_id"].implode()))
    return seen.group_by("image_id", maintain_order=True).agg(
        pl.col("class").filter(pl.col("score") >= wanted.score).drop_nulls().unique().sort().alias("predicted_classes"),
        pl.col("score").filter(pl.col("class").is_in(names)).max().fill_null(0.0).alias("interest_score"),
        pl.col("uncertainty").max(),
    )


def _looked_at(images: pl.DataFrame, champion: Champion, store: Path, raw: Path, params: Params) -> pl.DataFrame:
    """The best detection of each class in each image; a row without a class for an image in which nothing was seen."""
    quiet_ultralytics()
    from training.predictor import TorchRunner, predict_samples

    names = [params.class_of[name] for name in champion.classes]
    samples = [_sample(row) for row in images.sort("image_id").select("image_id", "path", "width_px", "height_px").iter_rows()]
    with TorchRunner(stored_model(store, champion), champion.classes) as runner:
        found = predict_samples(runner, samples, raw, params.predict, "screen")
    return pl.DataFrame([row for image_id in sorted(found) for row in _rows(image_id, found[image_id], names)], schema=SCHEMA, orient="row")


def _rows(image_id: str, found: Detections, names: Sequence[str]) -> list[tuple[str, str | None, float, float]]:
    uncertainty = max((1 - abs(2 * float(score) - 1) for score in found.score), default=0.0)
    best: dict[str, float] = {}
    for index, score in zip(found.class_index.tolist(), found.score.tolist(), strict=True):
        best[names[index]] = max(best.get(names[index], 0.0), score)
    return [(image_id, name, score, uncertainty) for name, score in sorted(best.items())] or [(image_id, None, 0.0, uncertainty)]


def _sample(row: tuple[str, str, int, int]) -> Sample:
    image_id, path, width_px, height_px = row
    return Sample(image_id, path, width_px, height_px, None, (), "", image_id, None, 0.0)
