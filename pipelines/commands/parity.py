"""`detloop parity A B --images …`: do two runners find the same things, and if not, what is wrong, and where do they part?"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.check.diagnosis import Reference, name_output_fault
from export.check.explain import TOLERANCES, Parting, first_parting, reason_for
from export.check.parity import CLASS_TIE, COUNTS, Parity, compare, total
from export.check.ties import detect_tied, lowest_of
from export.runners import Runner, open_runner
from export.runners.detect import Detector, NmsValues, detect, model_input
from pipelines.commands.predict import image_files
from pipelines.core.cli import positive
from pipelines.core.contract import ModelContract
from pipelines.core.errors import ClassContractError, DataError, GateError, ParamsError, counted
from pipelines.core.images import read_for
from pipelines.core.io import require_file
from pipelines.core.params import Params, load_params
from pipelines.core.types import Detections

KIND_OF_SUFFIX = {".pt": "torch", ".onnx": "onnxruntime", ".engine": "tensorrt"}
KINDS = ("torch", "onnxruntime", "openvino", "openvino-bf16", "openvino-f16", "tensorrt")
EXPLAINED_IMAGES = 2  # images whose inside is looked at
LOWER = ("fp32", "fp16", "int8")  # from the highest precision to the lowest


@dataclass(frozen=True)
class Side:
    """One of the two: how it is run and its file."""

    kind: str
    path: Path

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    form = f"[KIND:]FILE with KIND one of {', '.join(KINDS)} (default by ending: {', '.join(f'{a} {b}' for a, b in KIND_OF_SUFFIX.items())})"
    parser.add_argument("a", metavar="A", help=f"the reference: {form}")
    parser.add_argument("b", metavar="B", help="what is held against it, in the same form")
    parser.add_argument("--images", type=Path, nargs="+", required=True, metavar="PATH", help="image files, or folders of them")
    parser.add_argument("--explain", action="store_true", help="also find the first layer whose output differs")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="params.yaml (its predict and verify sections)")
    parser.add_argument("--threads", type=positive, default=os.cpu_count() or 1, help="CPU threads (default: all)")


def run(args: argparse.Namespace) -> int:
    """Compare, name the fault, explain; 0 when both find the same.

    Raises:
        GateError: they do not.
    """
    params = load_params(args.params)
    a, b = _side(args.a), _side(args.b)
    images = tuple(image_files(args.images)[0])
    with _open(a, args.threads) as runner:
        contract, thresholds = runner.contract, getattr(runner, "thresholds", None)
        reference = _found(runner, images, params)
    with _open(b, args.threads) as runner:
        _require_same_classes(a, contract, b, runner.contract)
        reference = [_in_order(item, contract, runner.contract) for item in reference]
        for line in (stated := _stated_differences(a, contract, b, runner.contract)):
            print(line)
        if isinstance(runner, Runner) and thresholds is None:
            thresholds = runner.thresholds
        if thresholds is None:
            raise DataError(f"neither {a} nor {b} states thresholds: name an exported model on one side")
        limits = np.array([thresholds[name] for name in runner.contract.classes])
        precision = max((_precision(a), getattr(runner, "precision", "fp32")), key=LOWER.index)
        lowest = lowest_of(limits, CLASS_TIE)
        found = [detect_tied(runner, read_for(image, runner.contract.decode_to_wh), _nms(params), lowest=lowest, tie=CLASS_TIE) for image in images]
        match_iou = params.verify.match_iou[precision]  # type: ignore[index]
        against = Reference(images, tuple(reference), limits, match_iou, params.verify.near_threshold, _nms(params))
        parity = _parity(against, found)
        same = _same(parity, params, precision)
        print(_counts(parity, len(images)))
        fault = None if same else name_output_fault(runner, against)
    if fault:
        print(f"fault: {fault}")
    parted = None
    if args.explain:
        parted = _explain(a, b, images[:EXPLAINED_IMAGES], precision, args.threads)
        print(parted)
    if not parity.counts.sum():
        raise DataError(f"neither shows a box on {counted(len(images), 'image')}, so nothing was compared: name images with objects on them")
    if same:
        print(f"same: {b} finds what {a} finds")
        return 0
    cause = fault or "; ".join(stated) or parted or "run it again with --explain"
    raise GateError(f"{b} does not find what {a} finds ({cause})")


def _side(text: str) -> Side:
    kind, colon, file = text.partition(":")
    path = Path(file if colon else text)
    if not colon:
        kind = KIND_OF_SUFFIX.get(path.suffix, "")
    if kind not in KINDS:
        raise ParamsError(f"{text!r} names no runner: write KIND:FILE with KIND one of {', '.join(KINDS)}")
    return Side(kind, require_file(path, "name a file that exists"))


def _open(side: Side, threads: int) -> AbstractContextManager[Detector]:
    if side.kind == "torch":
        from training.predictor import TorchRunner

        return TorchRunner(side.path)
    if side.kind.startswith("openvino-"):
        from export.runners.openvino import OpenVinoRunner

        return OpenVinoRunner(side.path, threads=threads, precision_hint=side.kind.removeprefix("openvino-"))
    return open_runner(side.kind, side.path, threads=threads)


def _nms(params: Params) -> NmsValues:
    return NmsValues(params.predict.score_floor, params.predict.iou_threshold, params.predict.max_detections)


def _require_same_classes(a: Side, ours: ModelContract, b: Side, theirs: ModelContract) -> None:
    if set(ours.classes) != set(theirs.classes):
        raise ClassContractError(f"{a} knows the classes {list(ours.classes)}, {b} knows {list(theirs.classes)}: name two models of the same classes")


def _in_order(found: Detections, ours: ModelContract, theirs: ModelContract) -> Detections:
    """Detections of a model of `ours` with the class numbers of `theirs`: it is names that are compared."""
    numbers = np.array([theirs.classes.index(name) for name in ours.classes], dtype=np.int64)
    return Detections(found.xyxy, found.score, numbers[found.class_index])


def _stated_differences(a: Side, ours: ModelContract, b: Side, theirs: ModelContract) -> list[str]:
    """What the two contracts ask for differently of whoever feeds them."""
    fields = {"decoding": "decoding", "input size": "input_wh", "pad value": "pad_value"}
    values = {name: (getattr(ours, field), getattr(theirs, field)) for name, field in fields.items()}
    return [f"{name}: {a} states {one}, {b} states {other}" for name, (one, other) in values.items() if one != other]


def _found(runner: Detector, images: tuple[Path, ...], params: Params) -> list[Detections]:
    return [detect(runner, read_for(image, runner.contract.decode_to_wh), _nms(params)) for image in images]


def _precision(side: Side) -> str:
    if side.kind == "torch":
        return "fp32"
    with _open(Side(side.kind, side.path), 1) as runner:
        return str(getattr(runner, "precision", "fp32"))


def _parity(reference: Reference, found: list[tuple[Detections, Detections]]) -> Parity:
    parts = [
        compare(ours, theirs, reference.thresholds, match_iou=reference.match_iou, near_threshold=reference.near_threshold, tied=tied)
        for ours, (theirs, tied) in zip(reference.found, found, strict=True)
    ]
    return total(parts, len(reference.thresholds))


def _same(parity: Parity, params: Params, precision: str) -> bool:
    wrong = any(parity.total(name) for name in ("missed", "extra", "class_flips"))
    return not wrong and (precision != "fp32" or parity.max_score_difference <= params.verify.max_score_difference)


def _counts(parity: Parity, images: int) -> str:
    counts = ", ".join(f"{parity.total(name)} {name.replace('_', ' ')}" for name in COUNTS)
    apart = f"scores up to {parity.max_score_difference:.6f} apart, boxes up to {parity.max_position_difference_px:.3f} px"
    return f"{counted(images, 'image')}: {counts}; {apart}"


# ---- where they part


@dataclass(frozen=True)
class Inside:
    """One side, opened up: the numbers and weights of a node by its ONNX name, and the type it is computed in, where that is told."""

    values: Callable[[str], NDArray[np.float32]]
    weights: Callable[[str], NDArray[np.float32] | None]
    has: Callable[[str], bool]
    arithmetic: dict[str, str]


def _explain(a: Side, b: Side, images: tuple[Path, ...], precision: str, threads: int) -> str:
    from export.convert.onnx_model import read_onnx
    from export.convert.onnx_probe import OnnxInside

    graphs = {side: OnnxInside(read_onnx(side.path), str(side.path)) for side in (a, b) if side.path.suffix == ".onnx"}
    if not graphs or any(side.kind == "tensorrt" for side in (a, b)):
        raise ParamsError("--explain looks into .onnx and .pt files, one .onnx at least: name the ONNX file that the engine was built from")
    for side, inside in graphs.items():
        if not inside.can_be_probed:
            return f"the inside of {side} cannot be looked at: that wants a dynamic batch and a fixed size, as `dvc repro export_onnx` gives them"
    graph = graphs[a] if a in graphs else graphs[b]
    with _open(a, threads) as runner:
        contract = runner.contract
        batch = np.concatenate([model_input(read_for(image, contract.decode_to_wh), contract)[0] for image in images])
    with _open(b, threads) as runner:
        if runner.contract.input_wh != contract.input_wh:
            return f"{a} and {b} have inputs of other sizes, so their insides cannot be compared: export one of them with the other's train.input_wh"
    with tempfile.TemporaryDirectory(prefix="detloop-parity-") as folder:
        ours, theirs = (_inside(side, graphs.get(side), graph, batch, Path(folder), threads) for side in (a, b))
        nodes = [name for name in graph.nodes if ours.has(name) and theirs.has(name)]
        parents = _among(nodes, graph.parents)
        parting = first_parting(nodes, parents, ours.values, theirs.values, TOLERANCES[precision])
        if parting is None:
            return f"no node differs by more than {TOLERANCES[precision]:g} (relative); {len(nodes)} are shared"
        return _sentence(parting, graph.kind(parting.node), ours, theirs, (a, b), len(nodes))


def _sentence(parting: Parting, kind: str, ours: Inside, theirs: Inside, sides: tuple[Side, Side], shared: int) -> str:
    told = [
        (str(side), "f32", inside.arithmetic[parting.node])
        for side, inside in zip(sides, (ours, theirs), strict=True)
        if parting.node in inside.arithmetic and inside.arithmetic[parting.node] in ("bf16", "f16", "f32")
    ]
    reason = reason_for(kind, parting, (ours.weights(parting.node), theirs.weights(parting.node)), told)
    return (
        f"they part at {parting.node}: its output differs by {parting.difference:.2%}, its inputs by {parting.input_difference:.4%} "
        f"({parting.asked} of {shared} nodes asked); {reason}"
    )


def _inside(side: Side, own: Any, graph: Any, batch: NDArray[np.float32], folder: Path, threads: int) -> Inside:
    """Open one side up and feed it `batch`; `graph` gives the names, `own` is the side's own ONNX graph (None for a .pt)."""
    with _open(side, threads) as runner:
        arithmetic = runner.arithmetic() if isinstance(runner, Runner) else {}
    if own is None:
        from training.inside import TorchInside

        torch = TorchInside(side.path, batch)
        modules = {node: weight.removesuffix(".weight") for node, weight in graph.weight_names().items()}
        return Inside(
            lambda node: torch.values(modules[node]),
            lambda node: torch.weights(modules[node]),
            lambda node: node in modules and modules[node] in torch,
            {},
        )

    def values(node: str) -> NDArray[np.float32]:
        path = folder / "probe.onnx"
        path.write_bytes(own.probe(node))
        with _open(Side(side.kind, path), threads) as probe:
            result: NDArray[np.float32] = own.values(node, probe.infer(batch))
        return result

    return Inside(values, own.weights, lambda node: node in own.parents, arithmetic)


def _among(nodes: list[str], parents: dict[str, set[str]]) -> dict[str, set[str]]:
    """For each of `nodes` those of them that feed it, through whatever lies between."""
    kept = set(nodes)
    found: dict[str, set[str]] = {}
    for node in nodes:
        near: set[str] = set()
        todo, seen = list(parents[node]), set()
        while todo:
            current = todo.pop()
            if current in seen:
                continue
            seen.add(current)
            if current in kept:
                near.add(current)
            else:
                todo.extend(parents[current])
        found[node] = near
    return found
