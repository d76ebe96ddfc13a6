"""A detector as a torch module to ONNX bytes: dynamic batch, fixed height and width, metadata inside, same weights give the same bytes.

Owner of the torch exporter. It uses the TorchScript exporter, whose node names follow the module tree ("/model.23/cv2.0/…"): the precisions need them
to tell the detection head from the rest.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping

import onnx
import onnxslim
import torch
from torch import nn

from export.convert.onnx_model import BATCH_AXIS, finished_bytes
from export.metadata import metadata_from_contract, thresholds_entry
from pipelines.core.contract import ModelContract
from pipelines.core.errors import DataError

MAX_END2END_BOXES = 300  # what ultralytics' NMS-free heads give at most


def onnx_from_torch(module: nn.Module, contract: ModelContract, *, opset: int, thresholds: Mapping[str, float] | None = None) -> bytes:
    """Trace `module` (fused, eval, float32; takes (N, 3, H, W)) and return the ONNX file's bytes; `thresholds` by class travel in its metadata.

    Raises:
        DataError: the module's output is not what `contract.layout` says, or the exported graph is not valid ONNX.
    """
    width, height = contract.input_wh
    detector = _prepared(module)
    example = torch.zeros(1, 3, height, width)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the exporter announces its successor
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]  # heads compare shapes, which are constants here
        output = detector(example)  # also lets the head cache its anchors, so that they become constants
        _check_layout(tuple(output.shape), contract)
        buffer = io.BytesIO()
        torch.onnx.export(
            detector,
            (example,),
            buffer,  # type: ignore[arg-type]  # it takes a stream too
            opset_version=opset,
            input_names=[contract.input_name],
            output_names=[contract.output_name],
            dynamic_axes={contract.input_name: {0: BATCH_AXIS}, contract.output_name: {0: BATCH_AXIS}},
            dynamo=False,
        )
    model = onnxslim.slim(onnx.load_from_string(buffer.getvalue()))
    stated = {} if thresholds is None else thresholds_entry(thresholds)
    return finished_bytes(model, {**metadata_from_contract(contract, stride=_stride(module)), **stated})


def _prepared(module: nn.Module) -> nn.Module:
    """A copy set to give its decoded output alone. Speaks of ultralytics' head attributes without importing it."""
    detector = copy.deepcopy(module).float().cpu().eval()
    for part in detector.modules():
        if hasattr(part, "export") and hasattr(part, "max_det"):
            part.export, part.dynamic, part.format, part.shape = True, False, "onnx", None  # type: ignore[assignment]
            part.max_det = MAX_END2END_BOXES  # type: ignore[assignment]
        elif hasattr(part, "forward_split"):
            part.forward = part.forward_split  # type: ignore[assignment]  # one Split node instead of pairs of Slice
    return detector


def _stride(module: nn.Module) -> int:
    stride = getattr(module, "stride", None)
    return int(stride.max()) if isinstance(stride, torch.Tensor) else 32


def _check_layout(shape: tuple[int, ...], contract: ModelContract) -> None:
    if contract.layout == "cxcywh_scores":
        fits, wanted = len(shape) == 3 and shape[1] == 4 + len(contract.classes), f"(N, {4 + len(contract.classes)}, anchors)"
    else:
        fits, wanted = len(shape) == 3 and shape[2] == 6, "(N, boxes, 6)"
    if not fits:
        raise DataError(f"the model gives output {shape}, its contract ({contract.layout}) says {wanted}: train it again with `dvc repro train`")
