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


def saved(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], *, domains: tuple[str, ...] = ()) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


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
