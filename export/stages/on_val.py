"""Is an ONNX model as good on val as the float32 one, and which thresholds does it want there? Choices are made on val, never on test.

ONNX Runtime stands for all runners of a file; `verify` holds each of them against PyTorch on test afterwards.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.check.drops import Accuracy, Drops, drop_reasons, drops_between
from export.runners import open_runner
from export.runners.detect import NmsValues, detect
from pipelines.core.images import read_image
from pipelines.core.params import Params
from pipelines.core.records import ground_truth
from pipelines.core.types import Detections, GroundTruth, Sample
from pipelines.evaluation.coco import coco_metrics
from pipelines.evaluation.thresholds import best_threshold, score_curves


@dataclass(frozen=True)
class Judged:
    """`passes` is None where there is nothing to compare: no labels on val, or a float32 model that finds nothing. `thresholds` by class, chosen as
    `evaluate` chooses them for PyTorch.
    """

    passes: bool | None
    reasons: tuple[str, ...]
    ap: float | None
    drops: Drops
    thresholds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """What the metrics file says of it."""
        return {
            "passes": self.passes,
            "reasons": list(self.reasons),
            "AP": self.ap,
            "relative_drop": self.drops.mean,
            "per_class": {name: {"relative_drop": value} for name, value in self.drops.per_class.items()},
        }

    def sentence(self) -> str:
        """The answer in words."""
        if self.passes is None:
            return "nothing to compare"
        lost = f"AP is {self.drops.mean:.2%} below float32" if self.drops.mean is not None else "AP is unknown"
        return lost if self.passes else f"it FAILS: {'; '.join(self.reasons)}"


@dataclass(frozen=True)
class ValGate:
    """The val images with their labels, one entry an image; how detections are read; the float32 model's metrics; what a precision may lose."""

    images: tuple[Path, ...]
    truth: tuple[GroundTruth, ...]
    params: Params
    reference: Accuracy | None

    def judge(self, model: bytes) -> Judged:
        """Run an ONNX model on val and compare."""
        found = self.detections(model)
        classes, allowed = self.params.class_names, self.params.export
        curves = score_curves(self.truth, found, len(classes))
        thresholds = {name: best_threshold(curve, self.params.evaluate.min_score).value for name, curve in zip(classes, curves, strict=True)}
        accuracy = _accuracy(self.truth, found, classes)
        if self.reference is None or not self.reference.ap:
            return Judged(None, (), accuracy.ap, Drops(None, {}), thresholds)
        drops = drops_between(self.reference, accuracy)
        reasons = tuple(drop_reasons(drops, allowed.max_relative_drop, allowed.max_class_relative_drop, "float32"))
        return Judged(not reasons, reasons, accuracy.ap, drops, thresholds)

    def detections(self, model: bytes) -> list[Detections]:
        """What the model finds on each image."""
        predict = self.params.predict
        nms = NmsValues(predict.score_floor, predict.iou_threshold, predict.max_detections)
        with tempfile.TemporaryDirectory(prefix="detloop-val-") as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model)
            with open_runner("onnxruntime", path, threads=os.cpu_count() or 1) as runner:
                return [detect(runner, read_image(image), nms) for image in self.images]


def val_gate(samples: Sequence[Sample], raw: Path, params: Params, fp32: bytes) -> ValGate:
    """The gate for candidates of the float32 model `fp32`."""
    images = tuple(raw / sample.path for sample in samples)
    truth = tuple(ground_truth(sample, params.class_names) for sample in samples)
    unmeasured = ValGate(images, truth, params, None)
    return ValGate(images, truth, params, _accuracy(truth, unmeasured.detections(fp32), params.class_names) if samples else None)


def _accuracy(truth: Sequence[GroundTruth], found: Sequence[Detections], classes: Sequence[str]) -> Accuracy:
    metrics = coco_metrics(truth, found, classes)
    return Accuracy(metrics.ap, {name: item.ap for name, item in metrics.per_class.items()})
