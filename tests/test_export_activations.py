"""SiLU by a fitted hard-swish: against PyTorch's own activations, in a graph, and in the stage that may go back on it."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch.nn.functional import hardswish, leaky_relu, silu

from export.check.drops import Drops
from export.convert.activations import BINS, DIP, Fit, fitted, silu_inputs, value_counts, with_fitted_activations
from export.convert.onnx_model import metadata_of
from export.metadata import CALIBRATION_KEY
from export.stages.on_val import Judged
from export.stages.quantize import Quantized, _fp16, _int8
from pipelines.core.contract import ModelContract
from pipelines.core.errors import ParamsError
from pipelines.core.params import load_params
from pipelines.core.records import read_samples
from tests.small_yolos import project_to_quantize
from training.checkpoint import load_detector

CHANNELS, SIDE = 6, 48


def convolution(opset: int = 17, *, sigmoid_read_twice: bool = False) -> onnx.ModelProto:
    """A 1x1 convolution that passes its input on, and a SiLU."""
    nodes = [
        helper.make_node("Conv", ["images", "weight"], ["x"], name="conv"),
        helper.make_node("Sigmoid", ["x"], ["s"], name="sigmoid"),
        helper.make_node("Mul", ["x", "s"], ["y"], name="act"),
    ]
    outputs = ["y", "s"] if sigmoid_read_twice else ["y"]
    shape = ["batch", CHANNELS, SIDE, SIDE]
    weight = numpy_helper.from_array(np.eye(CHANNELS, dtype=np.float32).reshape(CHANNELS, CHANNELS, 1, 1), "weight")
    graph = helper.make_graph(
        nodes,
        "silu",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outputs],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def values(seed: int, images: int = 3) -> np.ndarray:
    """Each channel has its own centre and width."""
    generator = np.random.default_rng(seed)
    spread, centre = np.linspace(0.3, 3, CHANNELS), np.linspace(-1.5, 1, CHANNELS)
    drawn = generator.normal(size=(images, CHANNELS, SIDE, SIDE)) * spread[:, None, None] + centre[:, None, None]
    return drawn.astype(np.float32)


def test_the_fit_is_near_silu_where_the_channel_has_its_values() -> None:
    model, shown, later = convolution(), values(0), values(1)
    assert silu_inputs(model) == ["x"]
    counts = value_counts(model, [shown], "images", ["x"])["x"]
    assert counts.shape == (CHANNELS, BINS)
    assert counts.sum() == shown.size  # every value is in a bin
    near = ReferenceEvaluator(with_fitted_activations(model, {"x": fitted(counts)})).run(None, {"images": later})[0]
    exact = silu(torch.from_numpy(later)).numpy()
    lost = ((near - exact) ** 2).mean(axis=(0, 2, 3))
    by_hard_swish = ((hardswish(torch.from_numpy(later)).numpy() - exact) ** 2).mean(axis=(0, 2, 3))
    assert np.sqrt(lost.sum() / exact.var(axis=(0, 2, 3)).sum()) < 0.04
    assert (lost < by_hard_swish).all()
    assert lost.sum() < 0.25 * by_hard_swish.sum()


def test_the_graph_computes_the_formula_of_the_docstring() -> None:
    fit = Fit(*(np.linspace(low, high, CHANNELS).tolist() for low, high in ((0.5, 1.5), (-0.5, 0.5), (0.8, 1.2), (-0.1, 0.1))))
    shown = values(2)
    a, b, c, d = (torch.tensor(item, dtype=torch.float32).reshape(-1, 1, 1) for item in fit)
    wanted = c * leaky_relu(hardswish(a * torch.from_numpy(shown) + b), DIP) + d
    changed = with_fitted_activations(convolution(), {"x": fit})
    found = ReferenceEvaluator(changed).run(None, {"images": shown})[0]
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    assert "Sigmoid" not in [node.op_type for node in changed.graph.node]
    assert changed.graph.node[-1].name == "act"  # where two models are compared node by node


def test_a_sigmoid_that_others_read_stays() -> None:
    fit = Fit(*([1.0] * CHANNELS for _ in range(4)))
    changed = with_fitted_activations(convolution(sigmoid_read_twice=True), {"x": fit})
    assert [node.op_type for node in changed.graph.node].count("Sigmoid") == 1


def test_a_channel_that_showed_one_value_still_computes_others() -> None:
    model = convolution()
    still = np.full((1, CHANNELS, SIDE, SIDE), -3.0, np.float32)
    fit = fitted(value_counts(model, [still], "images", ["x"])["x"])
    shown = np.zeros((1, CHANNELS, SIDE, SIDE), np.float32) + np.linspace(-6, 6, SIDE, dtype=np.float32)
    found = ReferenceEvaluator(with_fitted_activations(model, {"x": fit})).run(None, {"images": shown})[0]
    assert np.abs(found - silu(torch.from_numpy(shown)).numpy()).max() < 0.5


def test_an_opset_without_hard_swish_is_refused() -> None:
    with pytest.raises(ParamsError, match="export.opset 14"):
        with_fitted_activations(convolution(opset=13), {})


class Gate:
    """Stands for val: answers as it was told, and keeps the operators of each model that it judged."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.operators: list[set[str]] = []

    def judge(self, model: bytes) -> Judged:
        self.operators.append({node.op_type for node in onnx.load_from_string(model).graph.node})
        passes = self.answers.pop(0)
        return Judged(passes, () if passes else ("class cap lost 9 %",), 0.5, Drops(0.0, {}), {})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    export = "{calibration_images: 4, int8_activations: fitted, fp16_activations: fitted}"
    return project_to_quantize(tmp_path_factory.mktemp("activations"), train=4, held_out=1, export=export)


def quantized(project: Path, gate: Gate, precision: str) -> Quantized:
    args = Namespace(dataset=project / "dataset", raw=project / "raw", work=project / "work")
    model = onnx.load(project / "model.onnx")
    _, contract = load_detector(project / "model.pt")
    assert isinstance(contract, ModelContract)
    work = {"fp16": _fp16, "int8": _int8}[precision]
    return work(args, load_params(project / "params.yaml"), model, contract, gate)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_fitted_activations_ship_where_val_allows_them(project: Path, precision: str) -> None:
    gate = Gate(True)
    result = quantized(project, gate, precision)
    silus = len(silu_inputs(onnx.load(project / "model.onnx")))
    assert result.activations == {"fitted": silus, "refused": None}
    assert "HardSwish" in gate.operators[0]
    assert f"{silus} activations fitted" in result.note
    again = quantized(project, Gate(True), precision)  # from what was kept
    assert again.content == result.content
    record = json.loads(metadata_of(onnx.load_from_string(result.content))[CALIBRATION_KEY])
    assert set(record["images"]) <= {sample.image_id[:16] for sample in read_samples(project / "dataset" / "train.jsonl")}
    assert len(record["images"]) == 4


@pytest.mark.parametrize(("precision", "answers"), [("fp16", [False]), ("int8", [False, True])])
def test_exact_activations_ship_where_fitted_ones_lose_too_much(project: Path, precision: str, answers: list[bool]) -> None:
    gate = Gate(*answers)
    result = quantized(project, gate, precision)
    assert ["HardSwish" in found for found in gate.operators] == [True, False][: len(answers)]
    assert result.activations is not None
    assert result.activations["fitted"] == 0
    assert result.activations["refused"]["reasons"] == ["class cap lost 9 %"]
    assert "lost too much" in result.note
    assert "HardSwish" not in {node.op_type for node in onnx.load_from_string(result.content).graph.node}
