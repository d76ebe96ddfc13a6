"""Which layers of an int8 model go back to float: surgery on the graph, how much each layer's rounding disturbs the result, and the search for the
fewest that satisfy a gate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from export.convert.onnx_model import drop_unused, finished_bytes, metadata_of
from pipelines.core.contract import OutputLayout
from pipelines.core.errors import DataError
from pipelines.core.io import canonical_json

FLOAT_LAYERS_KEY = "detloop_float_layers"
_TINY = 1e-9  # keeps a class that is nowhere from dividing by zero


def quantized_layers(int8: onnx.ModelProto) -> list[str]:
    """Names of the convolutions that compute on quantized input, in the graph's order."""
    made = {name: node.op_type for node in int8.graph.node for name in node.output}
    return [node.name for node in int8.graph.node if node.op_type == "Conv" and made.get(node.input[0]) == "DequantizeLinear"]


def with_float_layers(int8: onnx.ModelProto, fp32: onnx.ModelProto, layers: Collection[str]) -> bytes:
    """The int8 model with `layers` computing in float again, on the float model's own weights; the ranges of the others stay.

    Raises:
        DataError: a name is not one of `quantized_layers`.
    """
    unknown = sorted(set(layers) - set(quantized_layers(int8)))
    if unknown:
        raise DataError(f"the int8 model has no quantized layers {unknown}: run `dvc repro quantize`")
    source = {node.name: node for node in fp32.graph.node}
    weights = {tensor.name: tensor for tensor in fp32.graph.initializer}
    result = onnx.ModelProto()
    result.CopyFrom(int8)
    present = {tensor.name for tensor in result.graph.initializer}
    for node in result.graph.node:
        if node.name in layers:
            del node.input[:]
            node.input.extend(source[node.name].input)
            missing = [name for name in node.input if name in weights and name not in present]
            result.graph.initializer.extend(weights[name] for name in missing)
            present.update(missing)
    _release_readers(result)
    drop_unused(result.graph)
    return finished_bytes(result, {**metadata_of(int8), FLOAT_LAYERS_KEY: canonical_json(sorted(layers))})


def disturbance(exact: NDArray[np.float32], found: NDArray[np.float32], layout: OutputLayout) -> float:
    """How far raw outputs (N, …) lie apart where there is something to detect: the relative change of each class's scores, mean over classes, and
    for `cxcywh_scores` the change of the boxes in their own sizes, weighted by score. 0 for equal outputs.

    Averaged over classes, so that a class with few or weak detections counts as much as the others.
    """
    if layout == "xyxy_score_class":
        ours, theirs = (np.sort(item[..., 4].astype(np.float64), axis=-1) for item in (exact, found))
        return float(np.abs(ours - theirs).sum() / (ours.sum() + _TINY))
    ours, theirs = exact.astype(np.float64), found.astype(np.float64)
    change = np.abs(ours[:, 4:] - theirs[:, 4:]).sum(axis=(0, 2)) / (ours[:, 4:].sum(axis=(0, 2)) + _TINY)
    weight = ours[:, 4:].max(axis=1)
    moved = np.abs(ours[:, :4] - theirs[:, :4]).sum(axis=1) / (ours[:, 2:4].sum(axis=1) + _TINY)
    return float(change.mean() + (weight * moved).sum() / (weight.sum() + _TINY))


def sensitivities(
    int8: onnx.ModelProto,
    fp32: onnx.ModelProto,
    run: Callable[[bytes], NDArray[np.float32]],
    layout: OutputLayout,
    progress: Callable[[Sequence[str]], Sequence[str]] = lambda layers: layers,
) -> dict[str, float]:
    """The `disturbance` that each quantized layer causes alone, all others in float; largest first. `run` gives a model's raw outputs (N, …)."""
    layers = quantized_layers(int8)
    exact = run(with_float_layers(int8, fp32, layers))
    found = {name: disturbance(exact, run(with_float_layers(int8, fp32, set(layers) - {name})), layout) for name in progress(layers)}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True)
class Search:
    """`layers` is the smallest beginning of the ranking that passed, None when none did; `tried` maps a number of layers to the answer."""

    layers: tuple[str, ...] | None
    tried: Mapping[int, bool]


def fewest_layers(ranking: Sequence[str], passes: Callable[[tuple[str, ...]], bool], *, most: int) -> Search:
    """Look for the shortest beginning of `ranking` (1 to `most` layers) that `passes`: doubled until one does, then halved back.

    Finds the shortest when more layers never make it worse; otherwise one that passes, with a shorter one next to it that does not.
    """
    tried: dict[int, bool] = {}

    def ask(count: int) -> bool:
        if count not in tried:
            tried[count] = passes(tuple(ranking[:count]))
        return tried[count]

    most = min(most, len(ranking))
    low, high = 0, 1
    while high < most and not ask(high):
        low, high = high, min(2 * high, most)
    if most == 0 or not ask(high):
        return Search(None, tried)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if ask(middle) else (middle, high)
    return Search(tuple(ranking[:high]), tried)


def _release_readers(model: onnx.ModelProto) -> None:
    """Let every node read a tensor as it is where no quantized layer reads its quantized form any more: additions and concatenations read along."""
    made = {name: node for node in model.graph.node for name in node.output}
    layers = set(quantized_layers(model))
    needed = {node.input[0] for node in model.graph.node if node.name in layers}
    exact: dict[str, str] = {}
    for node in model.graph.node:
        quantizer = made.get(node.input[0]) if node.op_type == "DequantizeLinear" and node.output[0] not in needed else None
        if quantizer is not None and quantizer.op_type == "QuantizeLinear":
            cap = made.get(quantizer.input[0])
            exact[node.output[0]] = cap.input[0] if cap is not None and cap.op_type == "Min" else quantizer.input[0]
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = exact.get(name, name)
