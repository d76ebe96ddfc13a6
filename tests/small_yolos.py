"""Real YOLO networks with random weights at 64 px for the export tests, and a small labeled split to calibrate on."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from export.convert.onnx_from_torch import onnx_from_torch
from pipelines.core.contract import ModelContract
from pipelines.core.io import sha256_bytes
from pipelines.core.records import write_samples
from pipelines.core.types import Box, Sample
from training.checkpoint import layout_of, load_detector, model_bytes
from training.models import build_network

CLASSES = ("bolt", "nut", "a 'washer'")
SIDE = 64
MODELS = ("yolo11n.yaml", "yolov8n.yaml", "yolov5nu.yaml", "yolov10n.yaml", "yolo26n.yaml")


def checkpoint(folder: Path, model: str) -> Path:
    """A model file as training writes it. Class biases and weights are spread, so that scores lie apart and none is near its neighbour's."""
    torch.manual_seed(0)
    network = build_network(model, CLASSES)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
            if isinstance(module, nn.Conv2d) and module.bias is not None and "cv3" in name:
                module.bias.uniform_(-1, 1, generator=generator)
                module.weight.mul_(8)
    contract = ModelContract(CLASSES, (SIDE, SIDE), layout_of(network))
    path = folder / "model.pt"
    path.write_bytes(model_bytes(network, network.state_dict(), contract, model))
    return path


def pictures(folder: Path, *, split: str, count: int, seed: int) -> list[Sample]:
    """`count` noisy pictures under `folder/raw`, listed in `folder/dataset/SPLIT.jsonl`, with a box each, of two sources."""
    generator = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        content = cv2.imencode(".png", cv2.resize(coarse, (80, 60), interpolation=cv2.INTER_CUBIC))[1].tobytes()
        image_id = sha256_bytes(content)
        path = f"images/{image_id[:2]}/{image_id}.png"
        (folder / "raw" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "raw" / path).write_bytes(content)
        box = Box(CLASSES[number % len(CLASSES)], (1.0, 2.0, 30.0, 40.0))
        samples.append(Sample(image_id, path, 80, 60, "labeled", (box,), f"cam{number % 2}", image_id, None, 100.0))
    write_samples(folder / "dataset" / f"{split}.jsonl", samples)
    return samples


def project_to_quantize(folder: Path, *, train: int, held_out: int, export: str) -> Path:
    """A folder with model.pt, model.onnx, pictures in three splits, and a params.yaml whose section `export` is the given text."""
    module, contract = load_detector(checkpoint(folder, "yolo11n.yaml"))
    (folder / "model.onnx").write_bytes(onnx_from_torch(module, contract, opset=17, thresholds=dict.fromkeys(CLASSES, 0.3)))
    for seed, (split, count) in enumerate({"train": train, "val": held_out, "test": held_out}.items()):
        pictures(folder, split=split, count=count, seed=seed)
    classes = json.dumps([{"name": name} for name in CLASSES])
    (folder / "params.yaml").write_text(f"classes: {classes}\nexport: {export}\n")
    return folder
