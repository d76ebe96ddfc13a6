"""A float32 ONNX model to float16 weights and arithmetic; inputs, outputs and the decoding of boxes stay float32.

Boxes are decoded in pixels, and float16 holds numbers between 256 and 512 to 0.25 only, beyond to 0.5. Leaving that part alone costs next to nothing.
"""

from __future__ import annotations

import heapq

import onnx
from onnx import TensorProto, helper

from export.convert.onnx_model import decode_nodes, finished_bytes, metadata_of, replace_nodes
from export.metadata import PRECISION_KEY
from pipelines.core.errors import MissingPartError

FP16 = "fp16"


def fp16_from_onnx(model: onnx.ModelProto) -> bytes:
    """The float16 model's bytes, metadata kept, precision fp16.

    Raises:
        DataError: the graph's nodes are not named after the model's parts.
        MissingPartError: ONNX Runtime is not installed.
    """
    try:
        from onnxruntime.transformers import float16
    except ImportError as error:
        raise MissingPartError(f"ONNX Runtime's converter is not installed ({error}): pip install onnxruntime") from error
    source = onnx.ModelProto()
    source.CopyFrom(model)
    keep = decode_nodes(node.name for node in source.graph.node)
    converted = float16.convert_float_to_float16(source, keep_io_types=True, node_block_list=keep)
    _without_round_trips(converted)
    _sort_nodes(converted)
    return finished_bytes(converted, {**metadata_of(model), PRECISION_KEY: FP16})


def _without_round_trips(model: onnx.ModelProto) -> None:
    """Take out pairs of casts float32 -> float16 -> float32: the converter puts them between neighbours left in float32, and they lose digits."""
    graph = model.graph
    narrowed = {node.output[0]: node.input[0] for node in graph.node if _is_cast(node, TensorProto.FLOAT16)}
    outputs = {value.name for value in graph.output}
    replaced: dict[str, str] = {}
    for node in graph.node:
        if _is_cast(node, TensorProto.FLOAT) and node.input[0] in narrowed:
            replaced[node.output[0]] = narrowed[node.input[0]]
    # an output keeps its name: what feeds it takes the name on
    renamed = {source: target for target, source in replaced.items() if target in outputs}
    for node in graph.node:
        for index, name in enumerate(node.input):
            source = replaced.get(name, name)
            node.input[index] = renamed.get(source, source)
        for index, name in enumerate(node.output):
            if name in renamed and not _is_cast(node, TensorProto.FLOAT):
                node.output[index] = renamed[name]
    kept = [node for node in graph.node if not (_is_cast(node, TensorProto.FLOAT) and node.output[0] in replaced)]
    used = {name for node in kept for name in node.input} | outputs
    replace_nodes(graph, (node for node in kept if not _is_cast(node, TensorProto.FLOAT16) or node.output[0] in used))
    names = {name for node in graph.node for name in node.output}
    values = [value for value in graph.value_info if value.name in names]
    del graph.value_info[:]
    graph.value_info.extend(values)


def _is_cast(node: onnx.NodeProto, target: int) -> bool:
    return node.op_type == "Cast" and helper.get_node_attr_value(node, "to") == target


def _sort_nodes(model: onnx.ModelProto) -> None:
    """Put each node after those that feed it, otherwise in the order they stand in (the converter appends its casts at the end)."""
    graph = model.graph
    producer = {name: index for index, node in enumerate(graph.node) for name in node.output}
    waiting = [len({producer[name] for name in node.input if name in producer}) for node in graph.node]
    users: list[set[int]] = [set() for _ in graph.node]
    for index, node in enumerate(graph.node):
        for name in node.input:
            if name in producer:
                users[producer[name]].add(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]  # sorted, so a heap
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    replace_nodes(graph, [graph.node[index] for index in order])
