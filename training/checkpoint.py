"""The model file that training leaves: canonical bytes, readable by `ultralytics.YOLO(path)`, with our contract inside.

`data/models/model.pt` is a zip that torch wrote; under the key "model" lies an ultralytics DetectionModel (float32, weights of the best epoch), under
"detloop" our own record. It is a pickle, but it is read with ultralytics' list of allowed classes, so that a strange file is refused, not executed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines.core.contract import ModelContract, OutputLayout
from pipelines.core.errors import DataError
from pipelines.core.io import require_file
from training.environment import quiet_ultralytics

quiet_ultralytics()

from ultralytics import __version__ as ultralytics_version  # noqa: E402
from ultralytics.nn.tasks import torch_safe_load  # noqa: E402

RECORD = "detloop"  # the key of our own part of the file


def model_bytes(network: Any, weights: Mapping[str, torch.Tensor], contract: ModelContract, model_name: str) -> bytes:
    """Serialise a detector: the same architecture, weights and contract give the same bytes, with no date, path or timing in them.

    `network` is a fresh DetectionModel (`training.models.build_network`), which is changed; `weights` is the state dict it gets. A trained module is
    not taken, so that nothing which training leaves on it (hooks, arguments, cached anchors, memory layouts) comes along.
    """
    network.load_state_dict(weights)
    network.names = dict(enumerate(contract.classes))
    network.nc = len(contract.classes)
    network.task = "detect"
    network.eval().requires_grad_(requires_grad=False)
    content = {
        "model": network,
        "train_args": {"task": "detect", "imgsz": max(contract.input_wh)},
        "version": ultralytics_version,
        "license": "AGPL-3.0-or-later",
        RECORD: {"contract": contract.to_json(), "model": model_name},
    }
    buffer = io.BytesIO()  # a buffer, not a file: the archive's inner name would be the file's
    torch.save(content, buffer)
    return buffer.getvalue()


def load_detector(path: Path, classes: Sequence[str] | None = None) -> tuple[nn.Module, ModelContract]:
    """A trained detector ready to run or to export, and its contract.

    The module is fused, in eval mode, float32, on the CPU. `module(images)` takes float32 (N, 3, height, width), RGB in [0, 1], and returns the one
    raw output tensor that `contract.layout` describes (the head is in ultralytics' export mode, so that tracing gives the same output).

    Raises:
        MissingInputError: no such file.
        DataError: not a model file of detloop.
        ClassContractError: `classes` is given and differs from the model's.
    """
    require_file(path, "run `dvc repro train`")
    try:
        content, _ = torch_safe_load(str(path), safe_only=True)
        contract = ModelContract.from_json(content[RECORD]["contract"], str(path))
        model = content["model"]
    except (TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise DataError(f"{path} is not a model that detloop trained ({' '.join(str(error).split())[:200]}): run `dvc repro train`") from error
    if classes is not None:
        contract.require_classes(classes, str(path))
    return export_ready(model), contract


def export_ready(model: Any) -> nn.Module:
    """Fuse a DetectionModel in place and set its head so that it returns the raw output alone; returns the model."""
    model.float().eval().requires_grad_(requires_grad=False)
    if layout_of(model) == "xyxy_score_class":
        model.end2end = True  # before fusing: fusing removes the other branch
    head = model.model[-1]
    head.agnostic_nms, head.export, head.format = False, True, "onnx"
    fused: nn.Module = model.fuse(verbose=False)
    return fused


def layout_of(model: Any) -> OutputLayout:
    """The output layout of a DetectionModel: without NMS where its head has a one-to-one branch (YOLOv10, YOLO26)."""
    head = model.model[-1]
    return "xyxy_score_class" if getattr(head, "one2one_cv2", None) is not None else "cxcywh_scores"
