"""Stage mine: every wrong box of the mined splits by kind, the images worth looking at in order, pictures of the worst, and the counts.

Two views: the typed errors are those that a user sees, with the thresholds of evaluate; under `tide` stand the kinds over all detections and what
each costs in AP50. Images without labels (the pool) are ranked by how unsure the model is of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tqdm import tqdm

from pipelines.core.cli import stage_main
from pipelines.core.columns import DetectionColumns, TruthColumns, detections_from_images, truth_from_images
from pipelines.core.errors import DataError, counted
from pipelines.core.images import read_image
from pipelines.core.io import json_text, read_json, write_folder, write_jsonl, write_metrics, write_text
from pipelines.core.params import MineParams, Params, load_params
from pipelines.core.records import ground_truth, read_detections, read_samples
from pipelines.core.slices import SliceLimits
from pipelines.core.types import Detections, Sample, Split
from pipelines.mining.badcases import CLASS_OF_ROW, analyse, count_by, counts_of
from pipelines.mining.gallery import MinedImage, picture
from pipelines.mining.ranking import kind_counts, ranked_labeled, ranked_unlabeled
from pipelines.mining.tide import capped, typed_errors
from pipelines.mining.worth import gains

Row = dict[str, Any]
POOL: Split = "pool"


@dataclass(frozen=True)
class MinedSplit:
    """One split: its images with their rows, all rows, and its part of the metrics."""

    samples: list[Sample]
    images: list[MinedImage]
    rows: pl.DataFrame
    metrics: Row


def work(args: argparse.Namespace) -> None:
    """Mine all asked splits and write rows, ranking, gallery and metrics."""
    params = load_params(args.params)
    classes = params.class_names
    thresholds = _thresholds(args.evaluation / "thresholds.json", classes)
    splits = {split: _mined(args, split, params, thresholds) for split in sorted(set(params.mine.splits))}
    rows = pl.concat([item.rows for item in splits.values()])
    mined = {sample.image_id: image for item in splits.values() for sample, image in zip(item.samples, item.images, strict=True)}
    labeled = [
        ranked_labeled(sample, split, image.rows)
        for split, item in splits.items()
        for sample, image in zip(item.samples, item.images, strict=True)
        if image.rows
    ]
    pool = _ranked_pool(args.dataset, args.predictions, classes, thresholds)
    unlabeled = [row for row in pool if row["kinds"]]
    ranked = sorted([*labeled, *unlabeled], key=lambda row: (-row["score"], row["image_id"]))
    pictured = [row for row in ranked if row["image_id"] in mined][: params.mine.gallery_images]
    metrics: Row = {
        "splits": {split: item.metrics for split, item in splits.items()},
        "counts": kind_counts(rows["kind"]),
        "by_class": count_by(rows, CLASS_OF_ROW),
        **{f"by_{name}": count_by(rows, pl.col("slice").struct.field(name)) for name in ("source", "brightness", "size")},
        "ranked": {"images": len(ranked), "labeled": len(labeled), "unlabeled": len(unlabeled)},
        "pool": {"images": len(pool), "not_unsure": len(pool) - len(unlabeled)},
        "gallery_images": len(pictured),
    }
    write_folder(args.gallery, _gallery(pictured, mined, args.raw, classes))
    write_text(args.badcases, rows.write_ndjson())
    write_jsonl(args.ranked, ranked)
    write_metrics(args.metrics, metrics)
    listed = ", ".join(f"{kind} {count}" for kind, count in kind_counts(rows["kind"]).items())
    print(f"mine: {len(rows)} wrong boxes ({listed}), {counted(len(ranked), 'image')} ranked")


def _thresholds(path: Path, classes: Sequence[str]) -> NDArray[np.float64]:
    """Thresholds in class order.

    Raises:
        DataError: the file is for other classes.
    """
    values = read_json(path)["classes"]
    if set(values) != set(classes):
        raise DataError(f"{path} has thresholds for {sorted(values)}, params.yaml has classes {list(classes)}: run `dvc repro evaluate`")
    return np.array([float(values[name]) for name in classes])


def _mined(args: argparse.Namespace, split: Split, params: Params, thresholds: NDArray[np.float64]) -> MinedSplit:
    classes, settings = params.class_names, params.mine
    samples = sorted(read_samples(args.dataset / f"{split}.jsonl"), key=lambda sample: sample.image_id)
    stored = read_detections(args.predictions / f"{split}.parquet", classes)
    found = [stored.get(sample.image_id, Detections.empty()) for sample in samples]
    labels = [ground_truth(sample, classes) for sample in samples]
    truth, everything = truth_from_images(labels), detections_from_images(found)
    shown = everything.where(everything.score >= thresholds[everything.class_index])
    limits = SliceLimits(params.evaluate.small_area_px, params.evaluate.medium_area_px, params.evaluate.dark_below, params.evaluate.bright_above)
    analysis = analyse(
        truth,
        shown,
        classes,
        _images(samples, split, limits),
        limits,
        foreground_iou=settings.foreground_iou,
        background_iou=settings.background_iou,
        hidden=everything,
    )
    rows_of = {name: part.to_dicts() for (name,), part in analysis.rows.group_by(["image_id"])}
    images = [
        MinedImage(label, item, item.score.astype(np.float64) >= thresholds[item.class_index], rows_of.get(sample.image_id, []))
        for sample, label, item in zip(samples, labels, found, strict=True)
    ]
    metrics: Row = {
        "images": len(samples),
        "images_with_errors": len(rows_of),
        "boxes": len(truth),
        "shown": len(shown),
        "right": int((analysis.errors.matched >= 0).sum()),
        "counts": analysis.counts,
        "by_class": count_by(analysis.rows, CLASS_OF_ROW),
        "by_source": count_by(analysis.rows, pl.col("slice").struct.field("source")),
        "tide": _tide(truth, everything.where(capped(everything)), len(classes), settings),
    }
    return MinedSplit(samples, images, analysis.rows, metrics)


def _images(samples: Sequence[Sample], split: Split, limits: SliceLimits) -> pl.DataFrame:
    """What every row says of its image."""
    slices = [{"source": sample.source, "brightness": limits.brightness(sample.brightness)} for sample in samples]
    return pl.DataFrame(
        {
            "image_id": [sample.image_id for sample in samples],
            "image": [sample.path for sample in samples],
            "split": [split for _ in samples],
            "slice": slices,
        },
        schema={"image_id": pl.String, "image": pl.String, "split": pl.String, "slice": pl.Struct({"source": pl.String, "brightness": pl.String})},
    )


def _tide(truth: TruthColumns, found: DetectionColumns, class_count: int, settings: MineParams) -> Row:
    """The kinds over all detections, and what each costs in AP50."""
    errors = typed_errors(truth, found, settings.foreground_iou, settings.background_iou)
    cost = gains(truth, found, errors, class_count)
    dap: Row = {str(kind): gain for kind, gain in cost.by_kind.items()}
    dap |= {"false_positives": cost.false_positives, "false_negatives": cost.false_negatives}
    return {"AP50": cost.ap50, "counts": counts_of(errors), "dAP": dap}


def _ranked_pool(dataset: Path, predictions: Path, classes: Sequence[str], thresholds: NDArray[np.float64]) -> list[Row]:
    samples = read_samples(dataset / f"{POOL}.jsonl")
    detections = read_detections(predictions / f"{POOL}.parquet", classes)
    return [ranked_unlabeled(item, POOL, detections.get(item.image_id, Detections.empty()), thresholds, classes) for item in samples]


def _gallery(pictured: Sequence[Row], mined: dict[str, MinedImage], raw: Path, classes: Sequence[str]) -> dict[str, bytes]:
    """The gallery folder: file name to content; `index.json` lists the pictures, worst first."""
    files: dict[str, bytes] = {}
    index = []
    for row in tqdm(pictured, desc="gallery", unit="image", disable=None):
        name = f"{row['image_id'][:16]}.jpg"
        files[name] = picture(read_image(raw / row["path"]), mined[row["image_id"]], classes)
        index.append({"file": name, **row})
    files["index.json"] = json_text(index).encode()
    return files


if __name__ == "__main__":
    stage_main(
        "pipelines.stages.mine",
        work,
        {
            "params": "params.yaml",
            "dataset": "folder of the dataset",
            "raw": "folder of the images",
            "predictions": "folder of the stored detections",
            "evaluation": "folder of the evaluation, for its thresholds",
            "badcases": "file to write: one line a wrong box",
            "ranked": "file to write: one line an image, worst first",
            "gallery": "folder to write: pictures of the worst images",
            "metrics": "metrics file to write",
        },
    )
