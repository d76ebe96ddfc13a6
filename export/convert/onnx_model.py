"""ONNX files: read with their metadata, finish with checks, name the parts of a detector. Owner of `onnx`, together with its converters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from pipelines.core.errors import DataError
from pipelines.core.io import require_file

BATCH_AXIS = "batch"
_MODULE = re.compile(r"^(?P<module>/(?:.*/)?model\.(?P<number>\d+)/)")
_BRANCH = re.compile(r"^(?:one2one_)?cv[23]\.")  # the box and class branches of an ultralytics head; the rest of it decodes
_LAST_CONV = re.compile(r"^(?:one2one_)?cv[23]\.\d+/(?:one2one_)?cv[23]\.\d+\.\d+/Conv$")  # a bare convolution, no block around it


def read_onnx(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file, with the weights that it keeps in files beside it.

    Raises:
        MissingInputError: no such file.
        DataError: not ONNX, or its weights cannot be read.
    """
    try:
        model = onnx.load_from_string(require_file(path, "run `dvc repro export_onnx`").read_bytes())
    except DecodeError as error:
        raise DataError(f"{path} is not an ONNX file ({error}): run `dvc repro export_onnx`") from error
    if not model.graph.node:
        raise DataError(f"{path} is not an ONNX file (it has no nodes): run `dvc repro export_onnx`")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise DataError(f"{path} keeps weights in another file, which cannot be read ({error}): put it beside the model") from error
    return model


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """The model's metadata pairs."""
    return {entry.key: entry.value for entry in model.metadata_props}


def finished_bytes(model: onnx.ModelProto, metadata: Mapping[str, str]) -> bytes:
    """Set the metadata (sorted), drop what may differ between machines (doc strings, exporter traces), check the model in full, serialise.

    Raises:
        DataError: the graph is not valid ONNX, or its batch is not dynamic.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.metadata_props[:]
    for key in sorted(metadata):
        result.metadata_props.add(key=key, value=metadata[key])
    result.doc_string = ""
    for node in result.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*result.graph.input, *result.graph.output):
        if value.type.tensor_type.shape.dim[0].dim_param != BATCH_AXIS:
            raise DataError(f"the exported graph's `{value.name}` has no dynamic batch: this model cannot be exported with one")
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise DataError(f"the exported graph is not valid ONNX ({error}): export with another opset (export.opset in params.yaml)") from error
    content: bytes = result.SerializeToString(deterministic=True)
    return content


def with_metadata(content: bytes, extra: Mapping[str, str]) -> bytes:
    """The same model with more metadata pairs."""
    model = onnx.load_from_string(content)
    return finished_bytes(model, {**metadata_of(model), **extra})


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Make `nodes` (some of them the graph's own) the nodes of `graph`, in that order."""
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Take out nodes and constants that nothing reads any more."""
    outputs = {value.name for value in graph.output}
    while True:
        used = {name for node in graph.node for name in node.input} | outputs
        kept = [node for node in graph.node if used & set(node.output)]
        if len(kept) == len(graph.node):
            break
        replace_nodes(graph, kept)
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    made = {name for node in graph.node for name in node.output}
    values = [value for value in graph.value_info if value.name in made]
    del graph.value_info[:]
    graph.value_info.extend(values)


def head_nodes(names: Iterable[str]) -> list[str]:
    """Names of the detection head's nodes: those of the last numbered module, such as "/model.23/…".

    Raises:
        DataError: no node is named after a module.
    """
    found = [(int(match["number"]), name) for name in names if (match := _MODULE.match(name))]
    if not found:
        raise DataError("the ONNX graph's nodes are not named after the model's parts, so its head is unknown: run `dvc repro export_onnx`")
    last = max(number for number, _ in found)
    return [name for number, name in found if number == last]


def decode_nodes(names: Iterable[str]) -> list[str]:
    """Names of the head's nodes outside its convolution branches: they turn features into boxes in pixels and scores."""
    return [name for name in head_nodes(names) if not _BRANCH.match(name[len(_module_of(name)) :])]


def tail_nodes(names: Iterable[str]) -> list[str]:
    """Names of the head's decoding nodes and of the last convolution of each of its branches, which gives class scores and box distances."""
    everything = list(names)
    last = [name for name in head_nodes(everything) if _LAST_CONV.match(name[len(_module_of(name)) :])]
    return decode_nodes(everything) + last


def _module_of(name: str) -> str:
    match = _MODULE.match(name)
    return match["module"] if match else ""
