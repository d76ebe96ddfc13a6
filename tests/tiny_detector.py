"""A real, tiny detector for tests: finds 8x8 cells of a 64x64 input that are red, green or blue. And a small test split that it solves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.metadata import CALIBRATION_KEY, PRECISION_KEY, metadata_from_contract, thresholds_entry
from export.runners import open_runner
from export.runners.detect import NmsValues, detect
from pipelines.core.contract import ModelContract
from pipelines.core.images import letterbox_for, read_for
from pipelines.core.io import sha256_bytes
from pipelines.core.records import write_detections, write_samples
from pipelines.core.types import Box, Sample

CLASSES = ("red", "green", "blue")
CELL, CELLS, SIDE = 8, 8, 64
CONTRACT = ModelContract(classes=CLASSES, input_wh=(SIDE, SIDE), layout="cxcywh_scores")
NMS = NmsValues(score_floor=0.001, iou_threshold=0.7, max_detections=300)
THRESHOLD = 0.5


def model_bytes(
    *,
    contract: ModelContract = CONTRACT,
    precision: str = "fp32",
    reads: Sequence[int] = (0, 1, 2),
    bias: float | Sequence[float] = -8.4,
    shift_px: float = 0.0,
    threshold: float = THRESHOLD,
    calibration: Sequence[str] = (),
) -> bytes:
    """The detector as ONNX: class i scores sigmoid(12 * mean of input channel reads[i] + bias, or bias[i]) a cell, boxes are the cells moved by
    `shift_px`.
    """
    weights = np.zeros((3, 3, 1, 1), np.float32)
    weights[np.arange(3), list(reads)] = 12
    centres = np.arange(CELLS, dtype=np.float32) * CELL + CELL / 2
    cells = np.zeros((1, 4, CELLS, CELLS), np.float32)
    cells[0, 0], cells[0, 1], cells[0, 2:] = centres[None, :] + shift_px, centres[:, None], CELL
    constants = {
        "weights": weights,
        "bias": np.full(3, bias, np.float32),
        "nothing": np.zeros((4, 3, 1, 1), np.float32),
        "cells": cells,
        "shape": np.array([0, 7, CELLS * CELLS], np.int64),
    }
    nodes = [
        helper.make_node("AveragePool", ["images"], ["pooled"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Conv", ["pooled", "weights", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Conv", ["pooled", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "cells"], ["boxes"]),
        helper.make_node("Concat", ["boxes", "scores"], ["grid"], axis=1),
        helper.make_node("Reshape", ["grid", "shape"], ["output0"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["batch", 7, CELLS * CELLS])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    stated = precision == "int8" or calibration
    calibrated = {CALIBRATION_KEY: json.dumps({"split": "train", "images": list(calibration)})} if stated else {}
    helper.set_model_props(
        model,
        {
            **metadata_from_contract(contract, stride=CELL),
            **thresholds_entry(dict.fromkeys(contract.classes, threshold)),
            **calibrated,
            PRECISION_KEY: precision,
        },
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


@dataclass(frozen=True)
class Project:
    """A folder with all that verify, benchmark and release read."""

    root: Path

    def __getattr__(self, name: str) -> Path:
        return self.root / name

    @property
    def metrics(self) -> Path:
        return self.root / "metrics"


def make_project(root: Path, *, images: int = 5, changes: dict[str, dict[str, object]] | None = None) -> Project:
    """Images with coloured squares and their labels; three precisions of the detector (`changes` by precision disturbs one); no engine; and as
    PyTorch's detections those of the undisturbed detector.
    """
    project = Project(root)
    samples = [_sample(project, number) for number in range(images)]
    write_samples(root / "dataset" / "test.jsonl", samples)
    (root / "export").mkdir(parents=True)
    for precision, name in {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}.items():
        (root / "export" / name).write_bytes(model_bytes(precision=precision, **(changes or {}).get(precision, {})))  # type: ignore[arg-type]
    (root / "engines").mkdir()
    entries = {"fp32": {"status": "not_built", "reason": "no TensorRT here", "file": None}}
    (root / "engines" / "engines.json").write_text(json.dumps({"contract": CONTRACT.to_json(), "engines": entries}))
    metrics = project.metrics
    metrics.mkdir()
    for precision in ("fp16", "int8"):
        (metrics / f"quantize_{precision}.json").write_text(json.dumps({"passes": True, "reasons": []}))
    train_id = sha256_bytes(b"an image that only int8 is calibrated on")
    write_samples(root / "dataset" / "train.jsonl", [replace(samples[0], image_id=train_id, path=f"images/{train_id}.png")])
    write_samples(root / "dataset" / "val.jsonl", [])
    (root / "evaluation").mkdir()
    (root / "evaluation" / "thresholds.json").write_text(json.dumps({"classes": dict.fromkeys(CLASSES, THRESHOLD)}))
    clean = root / "clean.onnx"
    clean.write_bytes(model_bytes())
    with open_runner("onnxruntime", clean, threads=1) as runner:
        found = {sample.image_id: detect(runner, read_for(root / "raw" / sample.path, CONTRACT.decode_to_wh), NMS) for sample in samples}
    write_detections(root / "predictions" / "test.parquet", found, CLASSES)
    (root / "params.yaml").write_text(
        "classes: [{name: red}, {name: green}, {name: blue}]\nbenchmark: {images: 4, warmup: 1, rounds: 1, threads: 1}\n"
    )
    return project


def _sample(project: Project, number: int) -> Sample:
    """A dark 96x64 picture with four squares, each of which covers one cell of the letterboxed input."""
    rng = np.random.default_rng(number)
    wh = (96, 64)
    box = letterbox_for(wh, (SIDE, SIDE))
    image = rng.integers(10, 50, size=(wh[1], wh[0], 3), dtype=np.uint8)
    boxes = []
    for column in (0, 2, 4, 6):
        row, class_index = int(rng.integers(2, 5)), int(rng.integers(0, 3))
        cell = np.array([[column, row, column + 1, row + 1]], np.float32) * CELL
        xyxy = box.to_original(cell, wh)[0]
        x1, y1, x2, y2 = (round(float(value)) for value in xyxy)
        image[y1:y2, x1:x2] = np.array([255 if channel == 2 - class_index else 30 for channel in range(3)])
        boxes.append(Box(CLASSES[class_index], (float(xyxy[0]), float(xyxy[1]), float(xyxy[2]), float(xyxy[3]))))
    content = cv2.imencode(".png", image)[1].tobytes()
    image_id = sha256_bytes(content)
    path = f"images/{image_id[:2]}/{image_id}.png"
    (project.raw / path).parent.mkdir(parents=True, exist_ok=True)
    (project.raw / path).write_bytes(content)
    return Sample(image_id, path, *wh, "labeled", tuple(boxes), "cam", image_id, None, 40.0)


def other_contract(**changes: object) -> ModelContract:
    """The contract with some fields changed."""
    return replace(CONTRACT, **changes)  # type: ignore[arg-type]
