"""Which operators of an ONNX model a target lacks, before an hour goes into building for it. Each target is asked itself, not a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper, shape_inference

from export.runners.base import one_line
from export.runners.tensorrt_library import installed_libraries, load_library
from pipelines.core.errors import DataError, MissingPartError, ParamsError, listed

TARGETS = ("onnxruntime", "openvino", "tensorrt")
_ERRORS_ONLY = 3
_ADVICE = {
    "QuantizeLinear": "quantize symmetrically to int8, as `dvc repro quantize` does",
    "DequantizeLinear": "keep biases in float and zero points int8, as `dvc repro quantize` does",
    "NonMaxSuppression": "leave NMS out of the model: it is done outside, see the contract's layout",
}
_ELSE = "export with another opset (export.opset in params.yaml), replace it in the network, or choose another target"


@dataclass(frozen=True)
class Lack:
    """An operator that the target cannot run: how many nodes need it, the first of them, what the target says, and what to do."""

    operator: str
    nodes: int
    first: str
    reason: str
    advice: str


def lacking(model: onnx.ModelProto, target: str) -> list[Lack]:
    """What `target` lacks of the model's operators, by operator; empty when it takes the model.

    Raises:
        ParamsError: an unknown target.
        DataError: it refuses the model for another reason than an operator.
        MissingPartError: the target's library is not installed here, so nobody can tell.
    """
    if target not in TARGETS:
        raise ParamsError(f"target {target!r} is unknown: use one of {', '.join(TARGETS)}")
    if target == "tensorrt":
        return _gathered(_refused_by_tensorrt(model))
    refuses = _onnxruntime_refuses() if target == "onnxruntime" else _openvino_refuses()
    whole = refuses(model.SerializeToString())
    found = [] if whole is None else _gathered(_refused_singly(model, refuses))
    if whole is not None and not found:
        raise DataError(_other_reason(target, whole))
    return found


def _other_reason(target: str, reason: str) -> str:
    return f"{target} refuses the model as a whole, though it takes its operators one by one ({reason}): mend the export, or choose another target"


def operator_counts(model: onnx.ModelProto) -> dict[str, int]:
    """How often each operator stands in the model, by name (with its domain where that is not ONNX's own)."""
    counts: dict[str, int] = {}
    functions = _functions(model)
    for place in _places(model):
        name = _name(place.node)
        if name not in functions:
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


@dataclass(frozen=True)
class _Place:
    """A node and the tensors by name, as far as they are known where it stands; `inner` tells whether it holds graphs of its own."""

    node: onnx.NodeProto
    values: dict[str, onnx.ValueInfoProto]
    constants: dict[str, onnx.TensorProto]
    inner: bool = False


def _places(model: onnx.ModelProto) -> Iterator[_Place]:
    """All nodes: the graph's, those of the graphs inside them (branches, loops) and those of the model's own functions."""
    yield from _inside(model.graph, {}, {})
    for function in model.functions:
        for node in function.node:
            yield _Place(node, {}, {})


def _inside(graph: onnx.GraphProto, values: dict[str, onnx.ValueInfoProto], constants: dict[str, onnx.TensorProto]) -> Iterator[_Place]:
    values = {**values, **{item.name: item for item in (*graph.value_info, *graph.input, *graph.output)}}
    constants = {**constants, **{item.name: item for item in graph.initializer}}
    for node in graph.node:
        graphs = [inner for attribute in node.attribute for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)]
        yield _Place(node, values, constants, bool(graphs))
        for inner in graphs:
            yield from _inside(inner, values, constants)


def _functions(model: onnx.ModelProto) -> set[str]:
    return {f"{function.domain}.{function.name}" if function.domain else str(function.name) for function in model.functions}


def _refused_singly(model: onnx.ModelProto, refuses: Callable[[bytes], str | None]) -> Iterable[tuple[onnx.NodeProto, str]]:
    """Ask about each operator with its types once, in a model of that one node. What is made of others is not asked about: they are."""
    try:
        typed = shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, RuntimeError):
        typed = model
    functions = _functions(model)
    asked: dict[tuple[object, ...], str | None] = {}
    for place in _places(typed):
        node = place.node
        if place.inner or _name(node) in functions or any(attribute.ref_attr_name for attribute in node.attribute):
            continue
        key = (_name(node), *(_type(name, place.values, place.constants) for name in node.input))
        if key not in asked:
            asked[key] = refuses(_single(place, typed))
        reason = asked[key]
        if reason is not None:
            yield node, reason


def _single(place: _Place, model: onnx.ModelProto) -> bytes:
    node, values, constants = place.node, place.values, place.constants
    names = list(dict.fromkeys(name for name in node.input if name))
    inputs = [values.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in constants]
    outputs = [values.get(name) or onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "one", inputs, outputs, [constants[name] for name in names if name in constants])
    single = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    content: bytes = single.SerializeToString()
    return content


def _onnxruntime_refuses() -> Callable[[bytes], str | None]:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPartError(f"ONNX Runtime is not installed ({error}): pip install onnxruntime") from error

    def refuses(model: bytes) -> str | None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, _ERRORS_ONLY
        try:
            onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001  the binding's exceptions have no common base below Exception
            return one_line(error)
        return None

    return refuses


def _openvino_refuses() -> Callable[[bytes], str | None]:
    try:
        import openvino
    except ImportError as error:
        raise MissingPartError(f"OpenVINO is not installed ({error}): pip install openvino") from error
    core = openvino.Core()

    def refuses(model: bytes) -> str | None:
        try:
            core.read_model(model)
        except RuntimeError as error:
            return one_line(error)
        return None

    return refuses


def _refused_by_tensorrt(model: onnx.ModelProto) -> Iterable[tuple[onnx.NodeProto, str]]:
    """TensorRT's parser reads the whole model and says which nodes it does not take."""
    installed = installed_libraries()
    if not installed:
        raise MissingPartError("neither tensorrt nor tensorrt_rtx can be imported here: pip install tensorrt-rtx on x86-64 Linux")
    library = load_library(installed[-1])  # tensorrt_rtx where there is one: it needs no GPU
    logger = library.Logger(library.Logger.INTERNAL_ERROR)
    try:
        network = library.Builder(logger).create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))  # as engines are built
    except TypeError as none:  # how its bindings tell that the library made no builder
        raise MissingPartError(
            f"{installed[-1]} does not start here (it needs a GPU and its driver): pip install tensorrt-rtx on x86-64 Linux"
        ) from none
    parser = library.OnnxParser(network, logger)
    if parser.supports_model_v2(model.SerializeToString()):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not any(error.node_operator() for error in errors):
        reasons = listed([one_line(RuntimeError(error.desc())) for error in errors]) or "no reason given"
        raise DataError(_other_reason("tensorrt", reasons))
    nodes = [place.node for place in _places(model)]
    for error in errors:
        alike = [node for node in nodes if node.op_type == error.node_operator()]
        named = [node for node in alike if node.name == error.node_name()]
        if alike:
            yield (named or alike)[0], one_line(RuntimeError(error.desc()))


def _gathered(refused: Iterable[tuple[onnx.NodeProto, str]]) -> list[Lack]:
    found: dict[str, Lack] = {}
    for node, reason in refused:
        name = _name(node)
        before = found.get(name)
        if before is None:
            found[name] = Lack(name, 1, node.name or next(iter(node.output), "without a name"), reason, _ADVICE.get(node.op_type, _ELSE))
        else:
            found[name] = Lack(name, before.nodes + 1, before.first, before.reason, before.advice)
    return sorted(found.values(), key=lambda item: item.operator)


def _name(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)


def _type(name: str, values: dict[str, onnx.ValueInfoProto], constants: dict[str, onnx.TensorProto]) -> int:
    if name in constants:
        return int(constants[name].data_type)
    return int(values[name].type.tensor_type.elem_type) if name in values else 0
