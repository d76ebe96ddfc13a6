"""A float32 ONNX model to int8 with explicit quantize/dequantize pairs, in the form that TensorRT, OpenVINO and ONNX Runtime all take.

Symmetric int8 activations and per-channel weights, biases in float (TensorRT's parser refuses int32 ones). The decoding of boxes always stays in
float: one scale cannot hold both pixels and scores.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.convert.onnx_model import decode_nodes, finished_bytes, metadata_of, replace_nodes, tail_nodes
from export.metadata import CALIBRATION_KEY, PRECISION_KEY
from pipelines.core.errors import MissingPartError

INT8 = "int8"
KeepFloat = Literal["none", "head"]
QUANTIZED_MAX = 127
# Inputs and weights of convolutions, where the time goes; their outputs stay in float, so that the activation behind them is fused and loses nothing.
QUANTIZED_OPS = ("Conv",)


def quantized_tensors(model: onnx.ModelProto, keep_float: KeepFloat) -> list[str]:
    """The tensors whose ranges `int8_from_onnx` needs: what the convolutions read that are not left in float.

    Raises:
        DataError: the graph's nodes are not named after the model's parts.
    """
    excluded = set(_excluded(model, keep_float))
    return list(dict.fromkeys(node.input[0] for node in model.graph.node if node.op_type in QUANTIZED_OPS and node.name not in excluded))


def int8_from_onnx(model: onnx.ModelProto, ranges: Mapping[str, float], *, keep_float: KeepFloat, calibration: str) -> bytes:
    """The int8 model's bytes, metadata kept, precision int8, `calibration` (see `export.convert.calibration.calibration_record`) added.

    `ranges` holds the end of the symmetric range of each of `quantized_tensors`; with `keep_float` "head" the last convolutions of the head stay in
    float too.

    Raises:
        DataError: the graph's nodes are not named after the model's parts.
        MissingPartError: ONNX Runtime is not installed.
    """
    try:
        from onnxruntime import quantization
        from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data
    except ImportError as error:
        raise MissingPartError(f"ONNX Runtime's quantizer is not installed ({error}): pip install onnxruntime") from error
    source = onnx.ModelProto()
    source.CopyFrom(model)
    method = quantization.CalibrationMethod.MinMax
    quiet = logging.getLogger()
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # it advises a step that has been done (`onnxslim`)
    try:
        with tempfile.TemporaryDirectory(prefix="detloop-int8-") as folder:
            target, measured = Path(folder) / "model.onnx", Path(folder) / "ranges.json"
            save_tensors_data(TensorsData(method, {name: (np.float32(-end), np.float32(end)) for name, end in ranges.items()}), measured)
            quantization.quantize_static(
                source,
                target,
                None,
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTIZED_OPS),
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=_excluded(model, keep_float),
                calibrate_method=method,
                calibration_cache_path=measured,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "OpTypesToExcludeOutputQuantization": list(QUANTIZED_OPS),
                },
            )
            quantized = onnx.load_from_string(target.read_bytes())
    finally:
        quiet.setLevel(level)
    _guard_concatenations(quantized)
    return finished_bytes(quantized, {**metadata_of(model), PRECISION_KEY: INT8, CALIBRATION_KEY: calibration})


def _excluded(model: onnx.ModelProto, keep_float: KeepFloat) -> list[str]:
    names = [node.name for node in model.graph.node]
    return tail_nodes(names) if keep_float == "head" else decode_nodes(names)


def _guard_concatenations(model: onnx.ModelProto) -> None:
    """Cap what a concatenation gives at the top of the quantized range, before it is quantized: the quantizer does that anyway, so no result changes.

    OpenVINO (2026.4, AVX-512) moves the quantizer of a concatenation up into its inputs and then takes signed int8 for unsigned: negative values
    become 0, which cost 23 % of AP. It leaves a quantizer behind a Min where it is. A multiplication by constants (`export.convert.equalize`) between
    the two is moved along.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    concatenated: set[str] = set()
    for node in graph.node:
        equalizes = node.op_type == "Mul" and node.input[0] in concatenated and node.input[1] in constants
        if node.op_type == "Concat" or equalizes:
            concatenated.add(node.output[0])
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in concatenated:
            source, top = node.input[0], f"{node.input[0]}_top"
            if top not in constants:
                scale = numpy_helper.to_array(constants[node.input[1]])
                constants[top] = numpy_helper.from_array(np.float32(QUANTIZED_MAX) * scale.astype(np.float32), top)
                graph.initializer.append(constants[top])
                nodes.append(helper.make_node("Min", [source, top], [f"{source}_capped"], name=f"{source}_cap"))
            node.input[0] = f"{source}_capped"
        nodes.append(node)
    replace_nodes(graph, nodes)
