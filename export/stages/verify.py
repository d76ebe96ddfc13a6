"""Stage verify: the same test images through every artifact, held against what PyTorch found; AP of each artifact from its own detections."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.artifacts import ONNX_FILES, Artifact, list_artifacts
from export.check import diagnosis
from export.check.drops import Accuracy, drops_between, relative_drop
from export.check.parity import COUNTS, Allowed, Parity, compare, judge, total
from export.check.verification import attempt, cause_of
from export.convert.calibration import require_train_only
from export.convert.onnx_model import metadata_of, read_onnx
from export.metadata import CALIBRATION_KEY
from export.runners.detect import NmsValues, above
from export.thresholds import read_thresholds
from pipelines.core.cli import stage_main
from pipelines.core.contract import class_hash
from pipelines.core.deploy_params import VerifyParams
from pipelines.core.errors import DataError, LeakError
from pipelines.core.io import read_json, sha256_file, write_metrics
from pipelines.core.params import load_params
from pipelines.core.records import ground_truth, read_detections, read_samples
from pipelines.core.types import Detections, GroundTruth
from pipelines.evaluation.coco import CocoMetrics, coco_metrics

CAUSE_IMAGES = 64  # test images among which a fault is looked for


@dataclass(frozen=True)
class Reference:
    """The test split and what PyTorch found on it, one entry an image; `thresholds` is (classes,)."""

    images: tuple[Path, ...]
    truth: tuple[GroundTruth, ...]
    found: tuple[Detections, ...]
    classes: tuple[str, ...]
    thresholds: NDArray[np.float64]
    metrics: CocoMetrics
    refusals: Mapping[str, Sequence[str]]  # by precision: what speaks against its ONNX file, whatever it finds

    def nothing(self) -> str | None:
        """Why an agreement with this reference would say nothing; None when it says something."""
        shown = sum(len(above(item, self.thresholds)) for item in self.found)
        if self.metrics.ap is not None and (self.metrics.ap == 0 or not shown):
            return (
                f"nothing to compare: PyTorch shows {shown} boxes on {len(self.images)} test images (AP {self.metrics.ap:g}): "
                "train longer or label more, then run `dvc repro`"
            )
        return None


def work(args: argparse.Namespace) -> int:
    """Write verify.json; an artifact that fails is an answer, the release stage decides what follows."""
    params = load_params(args.params)
    reference = _reference(args, params.class_names)
    nms = NmsValues(params.predict.score_floor, params.predict.iou_threshold, params.predict.max_detections)
    artifacts = {artifact.name: _verify(artifact, reference, params.verify, nms) for artifact in list_artifacts(args.export, args.engines)}
    about = {
        "runner": "torch",
        "detections_sha256": sha256_file(args.predictions / "test.parquet"),
        "class_hash": class_hash(reference.classes),
        "images": len(reference.images),
        "thresholds": dict(zip(reference.classes, reference.thresholds.tolist(), strict=True)),
        "AP": reference.metrics.ap,
        "AP50": reference.metrics.ap50,
        "per_class": _per_class(reference.metrics),
    }
    write_metrics(args.metrics, {"artifacts": artifacts, "reference": about})
    states = [item["status"] for item in artifacts.values()]
    failed = ", ".join(name for name, item in artifacts.items() if item["status"] == "fail")
    print(
        f"verify: {states.count('pass')} artifacts pass, {states.count('fail')} fail{f' ({failed})' if failed else ''}, "
        f"{states.count('not_run')} not run or nothing to compare"
    )
    if reason := reference.nothing():
        print(f"verify: {reason}")
    return 0


def _reference(args: argparse.Namespace, classes: tuple[str, ...]) -> Reference:
    samples = read_samples(args.dataset / "test.jsonl")
    if not samples:
        raise DataError(f"{args.dataset / 'test.jsonl'} has no images, so nothing can be verified: label more images, then run `dvc repro`")
    stored = read_detections(args.predictions / "test.parquet", classes)
    truth = tuple(ground_truth(sample, classes) for sample in samples)
    found = tuple(stored.get(sample.image_id, Detections.empty()) for sample in samples)
    return Reference(
        images=tuple(args.raw / sample.path for sample in samples),
        truth=truth,
        found=found,
        classes=classes,
        thresholds=np.array(list(read_thresholds(args.evaluation / "thresholds.json", classes).values())),
        metrics=coco_metrics(truth, found, classes),
        refusals=_refusals(args),
    )


def _refusals(args: argparse.Namespace) -> dict[str, list[str]]:
    """What `quantize` found on val, and calibration on images that are not train images."""
    refusals: dict[str, list[str]] = {}
    for precision, path in {"fp16": args.fp16, "int8": args.int8}.items():
        judged = read_json(path)
        if judged.get("passes") is False:
            refusals[precision] = [f"on val it lost too much, and no fallback helped: {'; '.join(judged['reasons'])}"]
    ids = {split: [sample.image_id for sample in read_samples(args.dataset / f"{split}.jsonl")] for split in ("train", "val", "test")}
    for precision in ("fp16", "int8"):  # fp16 has seen images where its activations were fitted to them
        try:
            metadata = metadata_of(read_onnx(args.export / ONNX_FILES[precision]))
            images = json.loads(metadata.get(CALIBRATION_KEY, "{}")).get("images", None if precision == "int8" else [])
            if images is None:
                raise LeakError("int8 states no calibration images, so nobody knows what it was calibrated on: run `dvc repro quantize`")
            require_train_only(images, ids["train"], [*ids["val"], *ids["test"]])
        except LeakError as error:
            refusals.setdefault(precision, []).append(str(error))
        except DataError:  # not an ONNX file: each runner says so
            pass
    return refusals


def _cause(artifact: Artifact, reference: Reference, match_iou: float, params: VerifyParams, nms: NmsValues) -> str:
    """The fault by its name, or how to find it."""
    part = diagnosis.Reference(
        images=reference.images[:CAUSE_IMAGES],
        found=reference.found[:CAUSE_IMAGES],
        thresholds=reference.thresholds,
        match_iou=match_iou,
        near_threshold=params.near_threshold,
        nms=nms,
    )
    named = cause_of(artifact, part, threads=os.cpu_count() or 1)
    if named is not None:
        return f"fault: {named}"
    side = f"{artifact.runner}:{artifact.path}"
    return f"no usual fault explains it; the first layer that differs: `detloop parity MODEL.pt {side} --images IMAGES --explain`"


def _verify(artifact: Artifact, reference: Reference, params: VerifyParams, nms: NmsValues) -> dict[str, Any]:
    record: dict[str, Any] = {
        "runner": artifact.runner,
        "precision": artifact.precision,
        "file": None if artifact.path is None else artifact.path.name,
        "sha256": artifact.sha256(),
    }
    result = attempt(artifact, reference.images, reference.classes, nms, threads=os.cpu_count() or 1)
    if result.found is None or result.thresholds is None:
        unknown = dict.fromkeys(("AP", "AP50", "relative_drop", *COUNTS, "max_score_difference", "max_position_difference_px"))
        return {**record, **unknown, "status": result.status, "reasons": [result.reason], "per_class": {}}
    match_iou = params.match_iou[artifact.precision]  # type: ignore[index]
    pairs = zip(reference.found, result.found, result.tied, strict=True)
    parts = [
        compare(
            ours,
            theirs,
            reference.thresholds,
            candidate_thresholds=result.thresholds,
            match_iou=match_iou,
            near_threshold=params.near_threshold,
            tied=tied,
        )
        for ours, theirs, tied in pairs
    ]
    parity = total(parts, len(reference.classes))
    metrics = coco_metrics(reference.truth, result.found, reference.classes)
    drops = drops_between(_accuracy(reference.metrics), _accuracy(metrics))
    status, reasons = judge(artifact.precision, drops, parity, _allowed(params))
    wrong = [*reference.refusals.get(artifact.precision, ())]
    if status == "fail" and not wrong:
        wrong.append(_cause(artifact, reference, match_iou, params, nms))
    if wrong:
        status, reasons = "fail", [*reasons, *wrong]
    if status == "pass" and (nothing := reference.nothing()):
        status, reasons = "not_run", [nothing]
    return {
        **record,
        "status": status,
        "reasons": reasons,
        "AP": metrics.ap,
        "AP50": metrics.ap50,
        "relative_drop": drops.mean,
        "match_iou": match_iou,
        **{name: parity.total(name) for name in COUNTS},
        "max_score_difference": parity.max_score_difference,
        "max_position_difference_px": parity.max_position_difference_px,
        "per_class": _per_class(metrics, reference.metrics, parity),
    }


def _accuracy(metrics: CocoMetrics) -> Accuracy:
    return Accuracy(metrics.ap, {name: item.ap for name, item in metrics.per_class.items()})


def _allowed(params: VerifyParams) -> Allowed:
    return Allowed(
        {str(name): value for name, value in params.max_relative_drop.items()},
        {str(name): value for name, value in params.max_class_relative_drop.items()},
        params.max_score_difference,
    )


def _per_class(metrics: CocoMetrics, reference: CocoMetrics | None = None, parity: Parity | None = None) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for index, (name, item) in enumerate(metrics.per_class.items()):
        rows[name] = {"AP": item.ap, "AP50": item.ap50}
        if reference is not None and parity is not None:
            rows[name]["relative_drop"] = relative_drop(reference.per_class[name].ap, item.ap)
            rows[name].update({count: int(parity.counts[index, column]) for column, count in enumerate(COUNTS)})
    return rows


if __name__ == "__main__":
    stage_main(
        "export.stages.verify",
        work,
        {
            "params": "params.yaml",
            "export": "folder of the ONNX files",
            "engines": "folder of the engines and engines.json",
            "dataset": "folder of the dataset",
            "raw": "folder that the samples' paths are relative to",
            "predictions": "folder of PyTorch's detections",
            "evaluation": "folder with thresholds.json",
            "fp16": "quantize_fp16.json",
            "int8": "quantize_int8.json",
            "metrics": "verify.json to write",
        },
    )
