"""Giving every channel of a quantized tensor the same range: the model computes what it did, but one range for all channels fits each of them.

A symmetric int8 range has one end for a whole tensor, and the largest of its channels sets it: a channel that stays ten times below has twelve steps
left of 127. Each channel is therefore divided by its own peak before it is rounded, and the weights that read it are multiplied by that peak; weights
have a range for each output channel. The scaling of SmoothQuant (Xiao et al., 2023) with all of it on the weights' side, which here disturbs the
output least.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.convert.onnx_model import drop_unused, replace_nodes
from export.convert.ranges import tensor_values

LOWEST_PEAK = 0.01  # of the tensor's largest: a channel that was nearly silent on the calibration images is not blown up more than this


def channel_peaks(model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]], input_name: str, tensors: Sequence[str]) -> dict[str, list[float]]:
    """The largest absolute value of each channel of `tensors` over all batches, relative to the tensor's largest, at least LOWEST_PEAK. The model's
    own input is left out: its channels have one range as it is.

    Raises:
        DataError: there are no batches.
        MissingPartError: ONNX Runtime is not installed.
    """
    peaks: dict[str, NDArray[np.float32]] = {}
    for values in tensor_values(model, batches, input_name, [name for name in tensors if name != input_name]):
        for name, value in values.items():
            peak = np.abs(value).max(axis=(0, *range(2, value.ndim)))
            peaks[name] = np.maximum(peaks.get(name, peak), peak)
    return {name: np.maximum(peak / peak.max(), LOWEST_PEAK).tolist() for name, peak in peaks.items() if peak.max() > 0}


def equalized(model: onnx.ModelProto, peaks: Mapping[str, Sequence[float]]) -> onnx.ModelProto:
    """The same function, with each channel of the tensors in `peaks` divided by its peak before the convolutions that read it; a new model."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made: dict[str, str] = {}  # tensor to its equalized form
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        source = node.input[0] if node.op_type == "Conv" else ""
        if source in peaks:
            scale = np.array(peaks[source], dtype=np.float32)
            if source not in made:
                made[source] = f"{source}_equalized"
                graph.initializer.append(numpy_helper.from_array((1 / scale).reshape(1, -1, 1, 1), f"{source}_peaks"))
                nodes.append(helper.make_node("Mul", [source, f"{source}_peaks"], [made[source]], name=f"{source}_equalize"))
            weight = _scaled(numpy_helper.to_array(constants[node.input[1]]), scale, _groups(node))
            graph.initializer.append(numpy_helper.from_array(weight, f"{node.name}_weight_equalized"))
            node.input[0], node.input[1] = made[source], f"{node.name}_weight_equalized"
        nodes.append(node)
    replace_nodes(graph, nodes)
    drop_unused(graph)
    return result


def _groups(node: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


def _scaled(weight: NDArray[np.float32], scale: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """Weights (out, in / groups, …) times the scale (in,) of the channel that each of them reads."""
    outputs, inputs = weight.shape[:2]
    group = np.arange(outputs) // (outputs // groups)
    read = group[:, None] * inputs + np.arange(inputs)  # (out, in / groups): a weight's input channel
    result: NDArray[np.float32] = (weight * scale[read].reshape(outputs, inputs, *[1] * (weight.ndim - 2))).astype(np.float32)
    return result
