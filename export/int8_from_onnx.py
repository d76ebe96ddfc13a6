"""A float32 ONNX model to int8 with explicit quantize/dequantize pairs, in the form that TensorRT, OpenVINO and ONNX Runtime all take.

Symmetric int8 activations and per-channel weights, biases in float (TensorRT's parser refuses int32 ones).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from export.metadata import CALIBRATION_KEY, PRECISION_KEY
from export.onnx_model import finished_bytes, head_nodes, metadata_of
from pipelines.core.errors import MissingPartError

INT8 = "int8"
KeepFloat = Literal["none", "head"]
QUANTIZED_OPS = ("Conv", "MatMul", "Add", "Concat", "MaxPool", "Resize")


def int8_from_onnx(
    model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]], *, input_name: str, keep_float: KeepFloat, calibration: str
) -> bytes:
    """The int8 model's bytes, metadata kept, precision int8, `calibration` (see `export.metadata.calibration_record`) added.

    `batches` are inputs to measure the ranges on (their minimum and maximum); `keep_float` "head" leaves the detection head in float.

    Raises:
        DataError: the graph's nodes are not named after the model's parts.
        MissingPartError: ONNX Runtime is not installed.
    """
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise MissingPartError(f"ONNX Runtime's quantizer is not installed ({error}): pip install onnxruntime") from error

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Feeds the batches one by one."""

        def __init__(self) -> None:
            self._batches: Iterator[NDArray[np.float32]] = iter(batches)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {input_name: batch}

    source = onnx.ModelProto()
    source.CopyFrom(model)
    excluded = head_nodes(node.name for node in source.graph.node) if keep_float == "head" else []
    quiet = logging.getLogger()
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # it advises a step that has been done (`onnxslim`)
    try:
        with tempfile.TemporaryDirectory(prefix="detloop-int8-") as folder:
            target = Path(folder) / "model.onnx"
            quantization.quantize_static(
                source,
                target,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTIZED_OPS),
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=excluded,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "CalibMaxIntermediateOutputs": 8,  # ranges are merged every 8 images: bounded memory, same result
                },
            )
            quantized = onnx.load_from_string(target.read_bytes())
    finally:
        quiet.setLevel(level)
    return finished_bytes(quantized, {**metadata_of(model), PRECISION_KEY: INT8, CALIBRATION_KEY: calibration})
