"""What a target lacks: custom operators, forms that a parser refuses, and real models that all three take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.convert.operators import TARGETS, lacking
from export.runners.tensorrt_library import installed_libraries
from pipelines.cli import main
from pipelines.core.errors import ParamsError
from tests.tiny_detector import model_bytes

HERE = [target for target in TARGETS if target != "tensorrt" or installed_libraries()]


def saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    *,
    domains: tuple[str, ...] = (),
    functions: tuple[onnx.FunctionProto, ...] = (),
    weights: str | None = None,
) -> Path:
    """A model file; its constants go to the file `weights` beside it where one is named."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)
    onnx.save(model, path, save_as_external_data=weights is not None, location=weights, size_threshold=0)
    return path


def branch(name: str, operator: str, domain: str = "") -> onnx.GraphProto:
    """A branch of an If that reads `x` from outside."""
    result = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8])
    return helper.make_graph([helper.make_node(operator, ["x"], [name], name=f"in {name}", domain=domain)], name, [], [result])


@pytest.mark.parametrize("target", HERE)
def test_a_model_that_every_target_takes(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model_bytes())
    assert main(["ops", str(path), "--target", target]) == 0
    assert f"{target} has all 6 operators (7 nodes)" in capsys.readouterr().out


@pytest.mark.parametrize("target", HERE)
def test_an_operator_of_somebody_else_is_named_with_what_to_do(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="fine"),
        helper.make_node("Swish7", ["a"], ["b"], name="first", domain="com.example"),
        helper.make_node("Swish7", ["b"], ["y"], name="second", domain="com.example"),
    ]
    path = saved(tmp_path / "m.onnx", nodes, {}, domains=("com.example",))
    assert main(["ops", str(path), "--target", target]) == 2
    captured = capsys.readouterr()
    assert "com.example.Swish7: 2 nodes, first first:" in captured.out
    assert "export with another opset" in captured.out
    assert f"{target} lacks 1 of 2 operators" in captured.err


@pytest.mark.skipif("tensorrt" not in HERE, reason="needs TensorRT")
def test_int32_biases_are_refused_by_tensorrt_alone(tmp_path: Path) -> None:
    """The form in which ONNX Runtime's quantizer writes biases by default."""
    nodes = [
        helper.make_node("DequantizeLinear", ["bias", "scale"], ["b"], name="bias_dequantized"),
        helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv"),
    ]
    constants = {"bias": np.ones(3, np.int32), "scale": np.float32(0.1), "w": np.ones((3, 3, 1, 1), np.float32)}
    model = onnx.load(saved(tmp_path / "m.onnx", nodes, constants))
    assert lacking(model, "onnxruntime") == []
    (lack,) = lacking(model, "tensorrt")
    assert (lack.operator, lack.first) == ("DequantizeLinear", "bias_dequantized")
    assert "keep biases in float" in lack.advice


def test_unknown_target() -> None:
    with pytest.raises(ParamsError, match="target 'coreml' is unknown"):
        lacking(onnx.load_from_string(model_bytes()), "coreml")


@pytest.mark.parametrize("target", HERE)
def test_branches_are_looked_into(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both branches read a tensor from outside, which the `If` by itself lacks."""
    for operator, domain, status in (("Relu", "", 0), ("Swish7", "com.example", 2)):
        then = branch("then", operator, domain)
        nodes = [helper.make_node("If", ["yes"], ["y"], name="if", then_branch=then, else_branch=branch("else", "Neg"))]
        path = saved(tmp_path / "m.onnx", nodes, {"yes": np.array(True)}, domains=("com.example",))
        assert main(["ops", str(path), "--target", target]) == status
        captured = capsys.readouterr()
        assert (captured.out if status == 0 else captured.err).startswith(
            f"{target} has all 3 operators (3 nodes)" if status == 0 else f"error: {target} lacks 1 of 3 operators"
        )
    assert "com.example.Swish7: 1 nodes, first in then:" in captured.out


@pytest.mark.parametrize("target", sorted({"onnxruntime", *HERE} - {"openvino"}))
def test_the_models_own_functions_are_looked_into(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    for operator, domain, status in (("Sigmoid", "", 0), ("Swish7", "com.example", 2)):
        inner = [helper.make_node(operator, ["a"], ["s"], domain=domain), helper.make_node("Mul", ["a", "s"], ["b"])]
        function = helper.make_function("own", "OurSwish", ["a"], ["b"], inner, opsets)
        nodes = [helper.make_node("OurSwish", ["x"], ["y"], name="call", domain="own")]
        path = saved(tmp_path / "m.onnx", nodes, {}, domains=("own", "com.example"), functions=(function,))
        assert main(["ops", str(path), "--target", target]) == status
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == f"{target} has all 2 operators (2 nodes) of {path}"
    assert "com.example.Swish7: 1 nodes, first s:" in captured.out
    assert "lacks 1 of 2 operators" in captured.err


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("inputs", [["x", "b"], ["x", "nowhere"]], ids=["a ring", "an input from nowhere"])
def test_a_graph_that_does_not_hold_together_is_no_pass(target: str, inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [helper.make_node("Add", inputs, ["a"]), helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["y"])]
    path = saved(tmp_path / "m.onnx", nodes, {})
    assert main(["ops", str(path), "--target", target]) == 2
    captured = capsys.readouterr()
    assert "has all" not in captured.out
    assert f"{target} refuses the model as a whole" in captured.err or "lacks 1 of 3 operators" in captured.err


@pytest.mark.parametrize("target", HERE)
def test_weights_beside_the_model_are_read(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")]
    path = saved(tmp_path / "m.onnx", nodes, {"w": np.ones((3, 3, 1, 1), np.float32)}, weights="w.bin")
    assert main(["ops", str(path), "--target", target]) == 0
    assert f"{target} has all 1 operators" in capsys.readouterr().out
    (tmp_path / "w.bin").unlink()
    assert main(["ops", str(path), "--target", target]) == 2
    said = capsys.readouterr().err
    assert "keeps weights in another file, which cannot be read" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_what_is_no_model_is_told(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert main(["ops", str(tmp_path / "m.onnx"), "--target", "onnxruntime"]) == 2
    assert "is not an ONNX file" in capsys.readouterr().err
