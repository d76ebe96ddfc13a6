"""What the champion sees in newly collected images: classes, the best score of a class of interest, and how unsure it is.

What it saw is kept by model and by how it was asked, under the class names that it was trained with: a class may be renamed later.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from pipelines.core.champion import Champion, names_today, stored_model
from pipelines.core.errors import DetloopError, ParamsError
from pipelines.core.io import sha256_bytes
from pipelines.core.params import Params, PredictParams
from pipelines.core.tables import read_parquet, write_parquet
from pipelines.core.types import Detections, Sample
from training.environment import quiet_ultralytics

SCHEMA: dict[str, pl.DataType] = {"image_id": pl.String(), "class": pl.String(), "score": pl.Float64(), "uncertainty": pl.Float64()}


def champion_view(images: pl.DataFrame, champion: Champion, store: Path, raw: Path, work: Path, params: Params) -> pl.DataFrame:
    """A row for each of `images` (image_id, path, width_px, height_px): `predicted_classes`, `interest_score`, `uncertainty`.

    Uncertainty is 1 for a box with score 0.5 and falls to 0 at scores 0 and 1; an image has that of its most uncertain box. Images that this champion
    has seen are not shown to it again; what others saw is forgotten.

    Raises:
        ParamsError: a class of interest that the champion does not know, so that images of it alone would be dropped.
        ClassContractError: the champion knows a class that params.yaml lacks.
    """
    today = dict(zip(champion.classes, names_today(champion, params.class_of), strict=True))
    wanted = params.collect.screen
    known_names = sorted(set(today.values()))
    strange = sorted(set(wanted.classes) - set(known_names))
    if strange:
        raise ParamsError(
            f"collect.screen.classes: champion {champion.number} does not know {strange}, only {known_names}: leave them out until one does"
        )
    path = work / f"view-{_asked(champion, params.predict)}.parquet"
    try:
        known = read_parquet(path, SCHEMA)
    except DetloopError:
        known = pl.DataFrame(schema=SCHEMA)
    new = images.join(known, on="image_id", how="anti")
    if len(new):
        known = pl.concat([known, _looked_at(new, champion, store, raw, params)])
        write_parquet(path, known)
    for other in work.glob("view-*.parquet"):  # of earlier champions, or asked in another way
        if other != path:
            other.unlink()
    names = wanted.classes or list(params.class_names)
    known = known.with_columns(pl.col("class").replace_strict(today, default=None, return_dtype=pl.String))
    seen = known.filter(pl.col("image_id").is_in(images["image_id"].implode()))
    return seen.group_by("image_id", maintain_order=True).agg(
        pl.col("class").filter(pl.col("score") >= wanted.score).drop_nulls().unique().sort().alias("predicted_classes"),
        pl.col("score").filter(pl.col("class").is_in(names)).max().fill_null(0.0).alias("interest_score"),
        pl.col("uncertainty").max(),
    )


def _asked(champion: Champion, predict: PredictParams) -> str:
    """A name for the model and for what of params.yaml changes its detections."""
    settings = (champion.model_sha256, predict.score_floor, predict.iou_threshold, predict.max_detections)
    return sha256_bytes(repr(settings).encode())[:16]


def _looked_at(images: pl.DataFrame, champion: Champion, store: Path, raw: Path, params: Params) -> pl.DataFrame:
    """The best detection of each class in each image; a row without a class for an image in which nothing was seen."""
    quiet_ultralytics()
    from training.predictor import TorchRunner, predict_samples

    samples = [_sample(row) for row in images.sort("image_id").select("image_id", "path", "width_px", "height_px").iter_rows()]
    with TorchRunner(stored_model(store, champion), champion.classes) as runner:
        found = predict_samples(runner, samples, raw, params.predict, "screen")
    return pl.DataFrame(
        [row for image_id in sorted(found) for row in _rows(image_id, found[image_id], champion.classes)], schema=SCHEMA, orient="row"
    )


def _rows(image_id: str, found: Detections, names: Sequence[str]) -> list[tuple[str, str | None, float, float]]:
    uncertainty = max((1 - abs(2 * float(score) - 1) for score in found.score), default=0.0)
    best: dict[str, float] = {}
    for index, score in zip(found.class_index.tolist(), found.score.tolist(), strict=True):
        best[names[index]] = max(best.get(names[index], 0.0), score)
    return [(image_id, name, score, uncertainty) for name, score in sorted(best.items())] or [(image_id, None, 0.0, uncertainty)]


def _sample(row: tuple[str, str, int, int]) -> Sample:
    image_id, path, width_px, height_px = row
    return Sample(image_id, path, width_px, height_px, None, (), "", image_id, None, 0.0)
