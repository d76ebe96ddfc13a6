"""Stage mine: every wrong box of the mined splits by kind, the images worth looking at in order, pictures of the worst, and the counts.

Two views: the typed errors are those that a user sees, with the thresholds of evaluate; under `tide` stand the kinds over all detections and what
each costs in AP50. Images without labels (the pool) are ranked by how unsure the model is of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipelines.core.cli import stage_main
from pipelines.core.errors import DataError
from pipelines.core.images import read_image
from pipelines.core.io import json_text, read_json, write_folder, write_jsonl, write_metrics
from pipelines.core.params import MineParams, load_params
from pipelines.core.records import ground_truth, read_detections, read_samples
from pipelines.core.slices import SliceLimits
from pipelines.core.types import Detections, Split
from pipelines.mining import gallery
from pipelines.mining.badcases import (
    MinedImage,
    badcase_rows,
    class_of_row,
    count_by,
    kind_counts,
    ranked_labeled,
    ranked_unlabeled,
    select,
    shown_mask,
)
from pipelines.mining.tide import KINDS, capped, gains, image_errors

Row = dict[str, Any]
POOL: Split = "pool"


def work(args: argparse.Namespace) -> None:
    """Mine all asked splits and write rows, ranking, gallery and metrics."""
    params = load_params(args.params)
    classes, settings = params.class_names, params.mine
    limits = SliceLimits(params.evaluate.small_area_px, params.evaluate.medium_area_px, params.evaluate.dark_below, params.evaluate.bright_above)
    thresholds = _thresholds(args.evaluation / "thresholds.json", classes)
    mined: dict[str, MinedImage] = {}
    rows: list[Row] = []
    ranked: list[Row] = []
    metrics: Row = {"splits": {}}
    for split in sorted(set(settings.splits)):
        images = _mined(args.dataset, args.predictions, split, classes, thresholds, settings)
        found = {item.sample.image_id: badcase_rows(item, classes, settings.foreground_iou, limits) for item in images}
        mined |= {item.sample.image_id: item for item in images}
        rows += [row for part in found.values() for row in part]
        ranked += [ranked_labeled(item.sample, split, found[item.sample.image_id]) for item in images if found[item.sample.image_id]]
        metrics["splits"][split] = _split_metrics(images, [row for part in found.values() for row in part], len(classes), settings)
    pool = _ranked_pool(args.dataset, args.predictions, classes, thresholds)
    ranked = sorted([*ranked, *(row for row in pool if row["kinds"])], key=lambda row: (-row["score"], row["image_id"]))
    pictured = [row for row in ranked if row["image_id"] in mined][: settings.gallery_images]
    metrics |= {
        "counts": kind_counts(rows),
        "by_class": count_by(rows, class_of_row),
        "by_source": count_by(rows, lambda row: row["slice"]["source"]),
        "by_brightness": count_by(rows, lambda row: row["slice"]["brightness"]),
        "by_size": count_by(rows, lambda row: row["slice"]["size"]),
        "ranked": {
            "images": len(ranked),
            "labeled": sum(row["split"] != POOL for row in ranked),
            "unlabeled": sum(row["split"] == POOL for row in ranked),
        },
        "pool": {"images": len(pool), "not_unsure": sum(not row["kinds"] for row in pool)},
        "gallery_images": len(pictured),
    }
    write_folder(args.gallery, _gallery(pictured, mined, args.raw, classes))
    write_jsonl(args.badcases, rows)
    write_jsonl(args.ranked, ranked)
    write_metrics(args.metrics, metrics)
    listed = ", ".join(f"{kind} {count}" for kind, count in metrics["counts"].items())
    print(f"mine: {len(rows)} wrong boxes ({listed}), {len(ranked)} images ranked")


def _thresholds(path: Path, classes: Sequence[str]) -> NDArray[np.float64]:
    """Thresholds in class order.

    Raises:
        DataError: the file is for other classes.
    """
    values = read_json(path)["classes"]
    if set(values) != set(classes):
        raise DataError(f"{path} has thresholds for {sorted(values)}, params.yaml has classes {list(classes)}: run `dvc repro evaluate`")
    return np.array([float(values[name]) for name in classes])


def _mined(
    dataset: Path, predictions: Path, split: Split, classes: Sequence[str], thresholds: NDArray[np.float64], settings: MineParams
) -> list[MinedImage]:
    detections = read_detections(predictions / f"{split}.parquet", classes)
    images = []
    for sample in sorted(read_samples(dataset / f"{split}.jsonl"), key=lambda sample: sample.image_id):
        truth, found = ground_truth(sample, classes), detections.get(sample.image_id, Detections.empty())
        mask = shown_mask(found, thresholds)
        errors = image_errors(truth, select(found, mask), settings.foreground_iou, settings.background_iou)
        images.append(MinedImage(sample, split, truth, found, mask, errors))
    return images


def _split_metrics(images: Sequence[MinedImage], rows: Sequence[Row], class_count: int, settings: MineParams) -> Row:
    truth = [item.truth for item in images]
    everything = [capped(item.everything) for item in images]
    errors = [image_errors(labels, found, settings.foreground_iou, settings.background_iou) for labels, found in zip(truth, everything, strict=True)]
    cost = gains(truth, everything, errors, class_count)
    kinds = [error.kind for item in errors for error in item.errors]
    return {
        "images": len(images),
        "images_with_errors": len({row["image_id"] for row in rows}),
        "boxes": sum(len(item.class_index) for item in truth),
        "shown": sum(int(item.shown.sum()) for item in images),
        "right": sum(int((item.errors.matched >= 0).sum()) for item in images),
        "counts": kind_counts(rows),
        "by_class": count_by(rows, class_of_row),
        "by_source": count_by(rows, lambda row: row["slice"]["source"]),
        "tide": {
            "AP50": cost.ap50,
            "counts": {kind: kinds.count(kind) for kind in KINDS},
            "dAP": {**cost.by_kind, "false_positives": cost.false_positives, "false_negatives": cost.false_negatives},
        },
    }


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
        files[name] = gallery.picture(read_image(raw / row["path"]), mined[row["image_id"]], classes)
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
