"""Looking inside an ONNX model: a copy whose output is one tensor of the inside, which parts feed which, and their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

from export.convert.onnx_model import BATCH_AXIS, finished_bytes, metadata_of, replace_nodes
from export.metadata import contract_from_metadata
from pipelines.core.errors import DataError

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "Cast")  # what converters put between the nodes of the float model


class OnnxInside:
    """A model that can be looked into. `nodes` are the names of its computing nodes in the graph's order; `parents` those among them whose outputs a
    node reads (through casts and quantizers); `size` how many numbers a node gives for one image.
    """

    def __init__(self, model: onnx.ModelProto, where: str) -> None:
        self._model = shape_inference.infer_shapes(model)
        self._where = where
        graph = self._model.graph
        self._shapes = {item.name: item.type.tensor_type for item in (*graph.value_info, *graph.output, *graph.input)}
        self._by_name = {node.name: node for node in graph.node if node.name and node.op_type not in (*_QUANTIZERS, "Constant")}
        made = {name: node for node in graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self.nodes = [name for name, node in self._by_name.items() if self._countable(node)]
        self.parents = {name: self._parents(name, made) for name in self.nodes}

    @property
    def can_be_probed(self) -> bool:
        """Whether the model takes any number of images, each of one fixed size."""
        batch, *others = self._model.graph.input[0].type.tensor_type.shape.dim
        return batch.dim_param == BATCH_AXIS and all(dim.dim_value > 0 for dim in others)

    def kind(self, node: str) -> str:
        """The node's operator, as `Conv`."""
        return str(self._by_name[node].op_type)

    def probe(self, node: str) -> bytes:
        """A model of the same contract whose output holds the numbers of `node`'s first output, filled up with zeros; `values` reads them.

        Raises:
            DataError: no such node.
        """
        if node not in self.parents:
            raise DataError(f"{self._where} has no node {node!r} that can be looked at: choose one of its named nodes")
        result = onnx.ModelProto()
        result.CopyFrom(self._model)
        graph = result.graph
        contract = contract_from_metadata(metadata_of(result), self._where)
        rows = 4 + len(contract.classes) if contract.layout == "cxcywh_scores" else 6
        shape = [0, rows, -1] if contract.layout == "cxcywh_scores" else [0, -1, rows]
        tensor, count = self._by_name[node].output[0], self.size(node)
        added = [
            helper.make_node("Cast", [tensor], ["probe/float"], name="probe/Cast", to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["probe/float"], ["probe/flat"], name="probe/Flatten", axis=1),
            helper.make_node("Pad", ["probe/flat", "probe/pads"], ["probe/padded"], name="probe/Pad"),
            helper.make_node("Reshape", ["probe/padded", "probe/shape"], [contract.output_name], name="probe/Reshape"),
        ]
        graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 0, -count % rows], np.int64), "probe/pads"))
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "probe/shape"))
        kept = [item for item in _needed(graph.node, tensor) if contract.output_name not in item.output]
        if len(kept) < len(_needed(graph.node, tensor)):  # the node makes the model's own output: it needs another name
            kept = [_renamed(item, contract.output_name) for item in _needed(graph.node, tensor)]
            added[0].input[0] = f"{contract.output_name}/probed" if tensor == contract.output_name else tensor
        replace_nodes(graph, [*kept, *added])
        dims = graph.output[0].type.tensor_type.shape.dim
        for dim in dims[1:]:
            dim.Clear()
        del graph.value_info[:]
        return finished_bytes(result, metadata_of(self._model))

    def values(self, node: str, output: NDArray[np.float32]) -> NDArray[np.float32]:
        """The node's numbers (N, size) out of its probe's output."""
        return output.reshape(len(output), -1)[:, : self.size(node)]

    def size(self, node: str) -> int:
        """See the class."""
        dims = self._shapes[self._by_name[node].output[0]].shape.dim
        return int(np.prod([dim.dim_value for dim in dims[1:]], dtype=np.int64))

    def weight_names(self) -> dict[str, str]:
        """Each convolution's weight constant, by node."""
        return {name: node.input[1] for name, node in self._by_name.items() if node.op_type == "Conv" and node.input[1] in self._constants}

    def weights(self, node: str) -> NDArray[np.float32] | None:
        """A convolution's weights and bias in one row; None for other nodes, and where they are not kept in float."""
        tensors = [self._constants.get(name) for name in list(self._by_name[node].input)[1:]]
        if self.kind(node) != "Conv" or any(item is None for item in tensors):
            return None
        return np.concatenate([numpy_helper.to_array(item).astype(np.float32).ravel() for item in tensors if item is not None])

    def _countable(self, node: onnx.NodeProto) -> bool:
        """Whether the node gives float numbers, one set an image, of a known size."""
        tensor = self._shapes.get(node.output[0])
        if tensor is None or tensor.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16) or len(tensor.shape.dim) < 2:
            return False
        return bool(tensor.shape.dim[0].dim_param) and all(dim.dim_value > 0 for dim in tensor.shape.dim[1:])

    def _parents(self, name: str, made: Mapping[str, onnx.NodeProto]) -> set[str]:
        found: set[str] = set()
        seen: set[str] = set()
        todo = list(self._by_name[name].input)
        while todo:
            tensor = todo.pop()
            node = made.get(tensor)
            if node is None or tensor in seen:
                continue
            seen.add(tensor)
            if node.name in self._by_name and self._countable(node):
                found.add(node.name)
            else:
                todo.extend(node.input)
        return found


def _needed(nodes: Sequence[onnx.NodeProto], tensor: str) -> list[onnx.NodeProto]:
    """The nodes that make `tensor`, in their order."""
    wanted, kept = {tensor}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted.update(node.input)
    return kept[::-1]


def _renamed(node: onnx.NodeProto, output: str) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for index, name in enumerate(copy.output):
        if name == output:
            copy.output[index] = f"{output}/probed"
    return copy
