"""SiLU by a fitted hard-swish: an activation without an exponential, for runtimes whose time goes there once convolutions are in 8 or 16 bits.

A hard-swish alone is a poor SiLU: its dip is a third too deep and the bends are elsewhere. Each channel therefore gets a scale and a shift before and
behind it, fitted to the values that the channel really has, and the dip is made flatter by a constant factor:

    silu(x) = x / (1 + exp(-x)) ~ c * leaky(hard_swish(a * x + b)) + d
    hard_swish(u) = u * min(max(u + 3, 0), 6) / 6 (Howard et al., Searching for MobileNetV3, 2019); leaky(v) = v where v >= 0, else DIP * v
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.convert.onnx_model import drop_unused, replace_nodes
from export.convert.ranges import tensor_values
from pipelines.core.errors import ParamsError

METHOD = "hard-swish by channel, least squared error over 1024 bins"  # part of the name of kept fits: change it with the method
FIRST_OPSET = 14  # of ONNX's HardSwish
DIP = 0.625  # 0.55 to 0.7 is best on every activation of a YOLO that was looked at, and none of them gains 2 % by one of its own
BINS = 1024  # even in the inverse hyperbolic sine: fine where SiLU bends, and wide enough for any value
_LARGEST = 1000.0
_POSITIONS = 4096  # of a channel in one image at most, evenly spread
_SCALES = (0.3, 2.001, 0.05)  # a: from, to, step
_SHIFTS = (-1.0, 1.001, 0.1)  # b
_UNSEEN, _UNSEEN_SPREAD = 1e-4, 4.0  # weight and standard deviation of values that a channel has not shown but may have; 0.01 bent the fits
_TINY = 1e-12


class Fit(NamedTuple):
    """The constants of the formula above, each a list with one for each channel."""

    a: list[float]
    b: list[float]
    c: list[float]
    d: list[float]


def silu_inputs(model: onnx.ModelProto) -> list[str]:
    """The tensors that a SiLU, Mul(x, Sigmoid(x)), reads from a convolution, in the graph's order."""
    convolved, sigmoids = {node.output[0] for node in model.graph.node if node.op_type == "Conv"}, _sigmoids(model)
    return [source for node in model.graph.node if (source := _silu_input(node, sigmoids)) in convolved]


def value_counts(
    model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]], input_name: str, tensors: Sequence[str]
) -> dict[str, NDArray[np.int64]]:
    """How often each channel of `tensors` has a value of each bin over all batches: (C, BINS) a tensor.

    Raises:
        DataError: there are no batches.
        MissingPartError: ONNX Runtime is not installed.
    """
    counts: dict[str, NDArray[np.int64]] = {}
    scale = BINS / (2 * np.arcsinh(_LARGEST))
    for values in tensor_values(model, batches, input_name, tensors):
        for name, value in values.items():
            images, channels = value.shape[:2]
            pixels = value.reshape(images, channels, -1)
            flat = pixels[:, :, :: max(1, pixels.shape[2] // _POSITIONS)]
            index = np.clip(np.arcsinh(flat) * scale + BINS / 2, 0, BINS - 1).astype(np.int64) + BINS * np.arange(channels)[:, None]
            found = np.bincount(index.ravel(), minlength=channels * BINS).reshape(channels, BINS)
            counts[name] = counts.get(name, 0) + found
    return counts


def fitted(counts: NDArray[np.int64]) -> Fit:
    """The fit of least squared error for a tensor's `value_counts`: a and b from a grid, c and d by linear regression."""
    x = np.sinh((np.arange(BINS) + 0.5) / BINS * 2 * np.arcsinh(_LARGEST) - np.arcsinh(_LARGEST))
    silu = x / (1 + np.exp(-np.maximum(x, -500)))
    unseen = np.exp(-0.5 * (x / _UNSEEN_SPREAD) ** 2) * np.cosh(np.arcsinh(x))  # density times the width of the bin
    weight = counts / counts.sum(axis=1, keepdims=True) * (1 - _UNSEEN) + unseen / unseen.sum() * _UNSEEN
    grid = np.array([(a, b) for a in np.arange(*_SCALES) for b in np.arange(*_SHIFTS)])
    shape = _flat_hard_swish(grid[:, :1] * x + grid[:, 1:])  # (G, BINS)
    mean, mean_square, product = weight @ shape.T, weight @ (shape**2).T, weight @ (shape * silu).T  # each (C, G)
    silu_mean, silu_square = (weight @ silu)[:, None], (weight @ silu**2)[:, None]
    slope = (product - mean * silu_mean) / np.maximum(mean_square - mean**2, _TINY)
    lost = silu_square - silu_mean**2 - slope * (product - mean * silu_mean)
    best = lost.argmin(axis=1)
    rows = np.arange(len(counts))
    c = slope[rows, best]
    d = silu_mean[:, 0] - c * mean[rows, best]
    return Fit(grid[best, 0].tolist(), grid[best, 1].tolist(), c.tolist(), d.tolist())


def with_fitted_activations(model: onnx.ModelProto, fits: Mapping[str, Fit]) -> onnx.ModelProto:
    """A new model in which each SiLU that reads a tensor in `fits` is its fit; the last of the new nodes has the old one's name and output.

    Raises:
        ParamsError: the model's opset has no hard-swish.
    """
    opset = next((int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset < FIRST_OPSET:
        raise ParamsError(
            f"fitted activations need export.opset {FIRST_OPSET} or more (got {opset}): set it, or export.*_activations, in params.yaml"
        )
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    sigmoids = _sigmoids(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        source = _silu_input(node, sigmoids)
        if source not in fits:
            nodes.append(node)
            continue
        name = node.name
        for constant, values in fits[source]._asdict().items():
            graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32).reshape(1, -1, 1, 1), f"{name}_{constant}"))
        nodes += [
            helper.make_node("Mul", [source, f"{name}_a"], [f"{name}_scaled"], name=f"{name}_scale"),
            helper.make_node("Add", [f"{name}_scaled", f"{name}_b"], [f"{name}_shifted"], name=f"{name}_shift"),
            helper.make_node("HardSwish", [f"{name}_shifted"], [f"{name}_swish"], name=f"{name}_hard_swish"),
            helper.make_node("LeakyRelu", [f"{name}_swish"], [f"{name}_flat"], name=f"{name}_leaky", alpha=DIP),
            helper.make_node("Mul", [f"{name}_flat", f"{name}_c"], [f"{name}_rescaled"], name=f"{name}_rescale"),
            helper.make_node("Add", [f"{name}_rescaled", f"{name}_d"], list(node.output), name=name),
        ]
    replace_nodes(graph, nodes)
    drop_unused(graph)
    return result


def _flat_hard_swish(u: NDArray[np.float64]) -> NDArray[np.float64]:
    value = u * np.clip(u + 3, 0, 6) / 6
    flat: NDArray[np.float64] = np.where(value < 0, DIP * value, value)
    return flat


def _sigmoids(model: onnx.ModelProto) -> dict[str, str]:
    """What each Sigmoid reads, by what it gives."""
    return {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Sigmoid"}


def _silu_input(node: onnx.NodeProto, sigmoids: Mapping[str, str]) -> str:
    """What a node reads whose operation is x times sigmoid(x); empty for others."""
    if node.op_type == "Mul":
        for one, other in (node.input, reversed(node.input)):
            if sigmoids.get(other) == one:
                return str(one)
    return ""
