"""How good an ONNX model is on val, and which thresholds it wants there. Choices are made on val, never on test.

ONNX Runtime stands for all runners of a file; `verify` holds each of them against PyTorch on test afterwards.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export.runners import open_runner
from export.runners.detect import NmsValues, detect
from pipelines.core.images import read_image
from pipelines.core.params import Params
from pipelines.core.records import ground_truth
from pipelines.core.types import GroundTruth, Sample
from pipelines.evaluation.coco import CocoMetrics, coco_metrics
from pipelines.evaluation.thresholds import best_threshold, score_curves


@dataclass(frozen=True)
class ValSplit:
    """The val images with their labels, one entry an image, and how detections are read; thresholds are looked for from `min_score` up."""

    images: tuple[Path, ...]
    truth: tuple[GroundTruth, ...]
    classes: tuple[str, ...]
    nms: NmsValues
    min_score: float


@dataclass(frozen=True)
class ValAccuracy:
    """`thresholds` by class, as `evaluate` chooses them for PyTorch."""

    metrics: CocoMetrics
    thresholds: dict[str, float]


def val_split(samples: Sequence[Sample], raw: Path, params: Params) -> ValSplit:
    """The split in the form that `accuracy_on` takes."""
    return ValSplit(
        images=tuple(raw / sample.path for sample in samples),
        truth=tuple(ground_truth(sample, params.class_names) for sample in samples),
        classes=params.class_names,
        nms=NmsValues(params.predict.score_floor, params.predict.iou_threshold, params.predict.max_detections),
        min_score=params.evaluate.min_score,
    )


def accuracy_on(val: ValSplit, model: bytes) -> ValAccuracy:
    """Run an ONNX model on val."""
    with tempfile.TemporaryDirectory(prefix="detloop-val-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        with open_runner("onnxruntime", path, threads=os.cpu_count() or 1) as runner:
            found = [detect(runner, read_image(image), val.nms) for image in val.images]
    curves = score_curves(val.truth, found, len(val.classes))
    thresholds = {name: best_threshold(curve, val.min_score).value for name, curve in zip(val.classes, curves, strict=True)}
    return ValAccuracy(coco_metrics(val.truth, found, val.classes), thresholds)
