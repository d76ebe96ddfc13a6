"""Stage evaluate: metrics of the model on every labeled split, thresholds chosen on val, curves, confusion, counts for each image.

Nothing of test enters a choice: thresholds come from val alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.cli import stage_main
from pipelines.core.io import json_text, jsonl_text, rounded, write_folder, write_metrics
from pipelines.core.params import EvaluateParams, load_params
from pipelines.core.records import ground_truth, read_detections, read_samples
from pipelines.core.slices import SliceLimits
from pipelines.core.types import LABELED_SPLITS, Detections, GroundTruth, Sample, Split
from pipelines.evaluation.coco import RECALL_POINTS, CocoMetrics, coco_metrics
from pipelines.evaluation.confusion import BACKGROUND, RULE, confusion_matrix, pairs_csv
from pipelines.evaluation.slices import slice_metrics
from pipelines.evaluation.thresholds import (
    MATCH_IOU,
    ScoreCurve,
    Threshold,
    best_threshold,
    confidence_points,
    image_counts,
    operating_point,
    score_curves,
    shown_detections,
)

CHOSEN_ON: Split = "val"
PLOTTED: Split = "test"  # the split of the confusion matrix and the precision-recall curve that `dvc plots` draws


@dataclass(frozen=True)
class SplitData:
    """One split in memory: the three sequences go together, one entry an image."""

    samples: list[Sample]
    truth: list[GroundTruth]
    detections: list[Detections]
    curves: list[ScoreCurve]
    metrics: CocoMetrics


def work(args: argparse.Namespace) -> None:
    """Evaluate all labeled splits and write the evaluation folder and the metrics."""
    params = load_params(args.params)
    classes, settings = params.class_names, params.evaluate
    splits = {split: _load(args.dataset, args.predictions, split, classes, settings) for split in LABELED_SPLITS}
    chosen = [best_threshold(curve, settings.min_score) for curve in splits[CHOSEN_ON].curves]
    thresholds = {name: item.value for name, item in zip(classes, chosen, strict=True)}
    limits = SliceLimits(settings.small_area_px, settings.medium_area_px, settings.dark_below, settings.bright_above)
    metrics: dict[str, Any] = {split: _split_metrics(data, classes, chosen, limits) for split, data in splits.items()}
    metrics["thresholds"] = thresholds
    metrics["threshold_notes"] = {name: item.note for name, item in zip(classes, chosen, strict=True) if item.note}
    write_folder(args.evaluation, _files(splits, classes, thresholds))
    write_metrics(args.metrics, metrics)
    print(f"evaluate: test AP {_text(metrics['test']['AP'])}, AP50 {_text(metrics['test']['AP50'])} on {metrics['test']['images']} images")


def _load(dataset: Path, predictions: Path, split: Split, classes: Sequence[str], settings: EvaluateParams) -> SplitData:
    samples = sorted(read_samples(dataset / f"{split}.jsonl"), key=lambda sample: sample.image_id)
    found = read_detections(predictions / f"{split}.parquet", classes)
    truth = [ground_truth(sample, classes) for sample in samples]
    detections = [found.get(sample.image_id, Detections.empty()) for sample in samples]
    metrics = coco_metrics(truth, detections, classes, small_area_px=settings.small_area_px, medium_area_px=settings.medium_area_px)
    return SplitData(samples, truth, detections, score_curves(truth, detections, len(classes)), metrics)


def _split_metrics(data: SplitData, classes: Sequence[str], chosen: Sequence[Threshold], limits: SliceLimits) -> dict[str, Any]:
    metrics = data.metrics
    slices, groups = slice_metrics(data.samples, data.truth, data.detections, classes, limits, metrics)
    per_class = {}
    for name, curve, threshold in zip(classes, data.curves, chosen, strict=True):
        point = operating_point(curve, threshold.value)
        part = metrics.per_class[name]
        per_class[name] = {"AP": part.ap, "AP50": part.ap50, "boxes": part.boxes}
        per_class[name] |= {"precision": point.precision, "recall": point.recall, "f1": point.f1}
    return {
        "AP": metrics.ap,
        "AP50": metrics.ap50,
        "AP75": metrics.ap75,
        **{f"AP_{name}": size.ap for name, size in metrics.sizes.items()},
        "AR100": metrics.ar100,
        "images": metrics.images,
        "boxes": metrics.boxes,
        "per_class": per_class,
        "slices": slices,
        "groups": groups,
    }


def _files(splits: dict[Split, SplitData], classes: Sequence[str], thresholds: dict[str, float]) -> dict[str, bytes]:
    """The evaluation folder: file name to content."""
    values = np.array(list(thresholds.values()))
    confusion: dict[str, Any] = {"labels": [*classes, BACKGROUND], "rule": RULE, "rows": "label", "columns": "detection"}
    per_image = []
    plotted_pairs = ""
    for split, data in splits.items():
        shown = [shown_detections(item, values) for item in data.detections]
        matrix = confusion_matrix(data.truth, shown, len(classes), MATCH_IOU)
        confusion[split] = matrix.tolist()
        if split == PLOTTED:
            plotted_pairs = pairs_csv(matrix, classes)
        for sample, truth, found in zip(data.samples, data.truth, shown, strict=True):
            counts = image_counts(truth, found)
            per_image.append(
                {"image_id": sample.image_id, "split": split, "tp": counts.true_positives, "fp": counts.false_positives, "fn": counts.false_negatives}
            )
    curve_points = [
        {"class": name, "recall": step / (RECALL_POINTS - 1), "precision": value}
        for name, part in splits[PLOTTED].metrics.per_class.items()
        for step, value in enumerate(part.precision_at_recall or ())
    ]
    score_points = [
        {"class": name, **point} for name, curve in zip(classes, splits[CHOSEN_ON].curves, strict=True) for point in confidence_points(curve)
    ]
    texts = {
        "thresholds.json": json_text({"classes": thresholds}),
        "confusion.json": json_text(confusion),
        "confusion.csv": plotted_pairs,
        "pr.json": json_text(rounded({"split": PLOTTED, "iou": MATCH_IOU, "points": curve_points})),
        "confidence.json": json_text(rounded({"split": CHOSEN_ON, "iou": MATCH_IOU, "points": score_points})),
        "per_image.jsonl": jsonl_text(per_image),
    }
    return {name: text.encode() for name, text in texts.items()}


def _text(value: float | None) -> str:
    return "unknown (no labels)" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    stage_main(
        "pipelines.stages.evaluate",
        work,
        {
            "params": "params.yaml",
            "dataset": "folder of the dataset",
            "predictions": "folder of the stored detections",
            "evaluation": "folder to write",
            "metrics": "metrics file to write",
        },
    )
