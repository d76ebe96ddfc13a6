"""Is an ONNX model as good on val as the float32 one, and which thresholds does it want there? Choices are made on val, never on test.

Every CPU runner that is installed is asked, since they compute int8 each in its own way; `verify` holds each against PyTorch on test afterwards.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.artifacts import ONNX_RUNNERS
from export.check.drops import Accuracy, Drops, drop_reasons, drops_between, worst_drops
from export.runners import open_runner
from export.runners.detect import NmsValues, detect
from pipelines.core.errors import MissingPartError
from pipelines.core.images import read_for
from pipelines.core.io import sha256_bytes
from pipelines.core.params import Params
from pipelines.core.records import ground_truth
from pipelines.core.types import Detections, GroundTruth, Sample
from pipelines.evaluation.coco import coco_metrics
from pipelines.evaluation.thresholds import nearest_good_threshold, score_curves


@dataclass(frozen=True)
class Judged:
    """`passes` is None where there is nothing to compare: no labels on val, or a float32 model that finds nothing. `thresholds` are by class, fitted
    to the model.
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
    """The val images with their labels, one entry an image; by runner what the float32 model reaches; the thresholds by which it is shown."""

    images: tuple[Path, ...]
    truth: tuple[GroundTruth, ...]
    params: Params
    reference: dict[str, Accuracy]
    thresholds: dict[str, float]
    _judged: dict[str, Judged] = field(default_factory=dict, repr=False, compare=False)  # by the model's hash: each is asked about several times

    def judge(self, model: bytes) -> Judged:
        """Run an ONNX model on val with every runner that is here, once; the one that loses most counts, in each figure by itself."""
        key = sha256_bytes(model)
        if key not in self._judged:
            self._judged[key] = self._judge(model)
        return self._judged[key]

    def _judge(self, model: bytes) -> Judged:
        found = self.detections(model)
        classes, allowed = self.params.class_names, self.params.export
        reached = {kind: _accuracy(self.truth, items, classes) for kind, items in found.items()}
        thresholds = self._thresholds(found)
        lowest = min((item.ap for item in reached.values() if item.ap is not None), default=None)
        if not any(item.ap for item in self.reference.values()):
            return Judged(None, (), lowest, Drops(None, {}), thresholds)
        drops = worst_drops([drops_between(self.reference[kind], item) for kind, item in reached.items()])
        reasons = tuple(drop_reasons(drops, allowed.max_relative_drop, allowed.max_class_relative_drop, "float32"))
        return Judged(not reasons, reasons, lowest, drops, thresholds)

    def detections(self, model: bytes) -> dict[str, list[Detections]]:
        """What the model finds on each image, by runner.

        Raises:
            MissingPartError: no runner is installed.
        """
        predict = self.params.predict
        nms = NmsValues(predict.score_floor, predict.iou_threshold, predict.max_detections)
        found: dict[str, list[Detections]] = {}
        lacks = []
        with tempfile.TemporaryDirectory(prefix="detloop-val-") as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model)
            for kind in ONNX_RUNNERS:
                try:
                    with open_runner(kind, path, threads=os.cpu_count() or 1) as runner:
                        found[kind] = [detect(runner, read_for(image, runner.contract.decode_to_wh), nms) for image in self.images]
                except MissingPartError as error:
                    lacks.append(str(error))
        if not found:
            raise MissingPartError(f"no runner can judge the model on val: {'; '.join(lacks)}")
        return found

    def _thresholds(self, found: dict[str, list[Detections]]) -> dict[str, float]:
        """One for each class, fitted to all runners together, no further from float32's than F1 asks for beyond its noise on so many labels."""
        classes = self.params.class_names
        everything = [item for items in found.values() for item in items]
        curves = score_curves(self.truth * len(found), everything, len(classes))
        floor = self.params.evaluate.min_score
        return {
            name: nearest_good_threshold(curve, floor, self.thresholds[name], max(curve.boxes // len(found), 1))
            for name, curve in zip(classes, curves, strict=True)
        }


def val_gate(samples: Sequence[Sample], raw: Path, params: Params, fp32: bytes, thresholds: dict[str, float]) -> ValGate:
    """The gate for candidates of the float32 model `fp32`."""
    images = tuple(raw / sample.path for sample in samples)
    truth = tuple(ground_truth(sample, params.class_names) for sample in samples)
    unmeasured = ValGate(images, truth, params, {}, thresholds)
    return ValGate(
        images, truth, params, {kind: _accuracy(truth, found, params.class_names) for kind, found in unmeasured.detections(fp32).items()}, thresholds
    )


def _accuracy(truth: Sequence[GroundTruth], found: Sequence[Detections], classes: Sequence[str]) -> Accuracy:
    metrics = coco_metrics(truth, found, classes)
    return Accuracy(metrics.ap, {name: item.ap for name, item in metrics.per_class.items()})
