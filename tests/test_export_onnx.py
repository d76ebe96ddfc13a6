"""ONNX export: every family of detector gives what torch gives, for any batch; the file says how to feed it; same weights, same bytes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.convert.onnx_from_torch import onnx_from_torch
from export.convert.onnx_model import decode_nodes, head_nodes, metadata_of, read_onnx, tail_nodes
from export.runners import open_runner
from pipelines.core.contract import ModelContract
from pipelines.core.errors import DataError
from tests.small_yolos import CLASSES, MODELS, SIDE, checkpoint
from training.checkpoint import load_detector

ROOT = Path(__file__).resolve().parents[1]


def batch(count: int) -> np.ndarray:
    return np.random.default_rng(count).random((count, 3, SIDE, SIDE), dtype=np.float32)


@pytest.mark.parametrize("model", MODELS)
def test_runtimes_give_torchs_output(tmp_path: Path, model: str) -> None:
    module, contract = load_detector(checkpoint(tmp_path, model))
    assert contract.layout == ("xyxy_score_class" if model in ("yolov10n.yaml", "yolo26n.yaml") else "cxcywh_scores")
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_from_torch(module, contract, opset=17))
    onnx.checker.check_model(onnx.load(path), full_check=True)
    for kind in ("onnxruntime", "openvino") if model in ("yolo11n.yaml", "yolo26n.yaml") else ("onnxruntime",):
        with open_runner(kind, path, threads=1) as runner:
            assert runner.contract == contract
            assert runner.precision == "fp32"
            for count in (1, 3):
                with torch.no_grad():
                    wanted = module(torch.from_numpy(batch(count))).numpy()
                found = runner.infer(batch(count))
                assert found.shape == wanted.shape
                if contract.layout == "cxcywh_scores":
                    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
                else:
                    same_boxes(found, wanted)


def same_boxes(found: np.ndarray, wanted: np.ndarray) -> None:
    """NMS-free heads sort by score: neighbours in the last digits may change places, and the last ones of the list fall in or out."""
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one[:, 4], other[:, 4], rtol=1e-4, atol=1e-4)
        inside = other[other[:, 4] > other[-1, 4] + 1e-3]
        assert len(inside) > 10
        distance = np.abs(inside[:, None] - one[None]).max(axis=2)  # (inside, boxes): the largest difference of the six values
        assert distance.min(axis=1).max() < 1e-3


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    module, contract = load_detector(checkpoint(folder, "yolo11n.yaml"))
    (folder / "model.onnx").write_bytes(onnx_from_torch(module, contract, opset=17))
    return folder


def test_same_weights_same_bytes_in_another_process(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(f"classes: {json.dumps([{'name': name} for name in CLASSES])}\n")
    command = [sys.executable, "-m", "export.stages.export_onnx", "--params", str(tmp_path / "params.yaml")]
    thresholds = dict.fromkeys(CLASSES, 0.25) | {CLASSES[0]: 0.5}
    (tmp_path / "thresholds.json").write_text(json.dumps({"classes": thresholds}))
    command += ["--thresholds", str(tmp_path / "thresholds.json")]
    command += ["--model", str(exported / "model.pt"), "--onnx", str(tmp_path / "elsewhere" / "other.onnx")]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    content = (tmp_path / "elsewhere" / "other.onnx").read_bytes()
    module, contract = load_detector(exported / "model.pt")
    assert content == onnx_from_torch(module, contract, opset=17, thresholds=thresholds)
    with open_runner("openvino", tmp_path / "elsewhere" / "other.onnx", threads=1) as runner:
        assert runner.thresholds == thresholds
        assert list(runner.require_thresholds()) == [0.5, 0.25, 0.25]  # in class order
    assert str(ROOT).encode() not in content  # no stack traces of this machine


def test_metadata_for_us_and_for_others(exported: Path) -> None:
    model = read_onnx(exported / "model.onnx")
    metadata = metadata_of(model)
    contract = ModelContract.from_json(json.loads(metadata["detloop"]), "model.onnx")
    assert contract.classes == CLASSES
    assert metadata["class_hash"] == contract.class_hash
    assert ast.literal_eval(metadata["names"]) == dict(enumerate(CLASSES))  # as ultralytics reads it
    assert ast.literal_eval(metadata["imgsz"]) == [SIDE, SIDE]
    assert (metadata["task"], metadata["stride"]) == ("detect", "32")
    assert [item.name for item in model.graph.input] == ["images"]
    assert [item.name for item in model.graph.output] == ["output0"]
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param
    assert [dim.dim_value for dim in dims[1:]] == [3, SIDE, SIDE]
    assert {item.domain: item.version for item in model.opset_import}[""] == 17


def test_ultralytics_reads_the_file(exported: Path) -> None:
    """An oracle for names, size and letterbox: ultralytics' own predictor on our file (it takes a dynamic batch for a dynamic size)."""
    from ultralytics import YOLO

    image = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    result = YOLO(exported / "model.onnx", task="detect").predict(image, imgsz=SIDE, conf=0.3, verbose=False)[0]
    assert result.names == dict(enumerate(CLASSES))
    with open_runner("onnxruntime", exported / "model.onnx", threads=1) as runner:
        output = runner.infer(np.ascontiguousarray(image[None, ..., ::-1].transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255))[0]
    best = float(output[4:].max())
    assert best > 0.3
    assert float(result.boxes.conf.max()) == pytest.approx(best, abs=1e-4)


def test_a_layout_that_the_model_lacks_is_refused(exported: Path) -> None:
    module, contract = load_detector(exported / "model.pt")
    wrong = ModelContract((*contract.classes, "one more"), contract.input_wh, contract.layout)
    with pytest.raises(DataError, match=r"output \(1, 7, 84\).*says \(N, 8, anchors\)"):
        onnx_from_torch(module, wrong, opset=17)


def test_parts_of_the_head_by_node_names() -> None:
    head = [
        "/model.23/cv2.0/cv2.0.0/conv/Conv",
        "/model.23/cv2.0/cv2.0.2/Conv",
        "/model.23/one2one_cv3.1/one2one_cv3.1.2/Conv",
        "/model.23/dfl/conv/Conv",
    ]
    names = ["/model.2/conv/Conv", "/model.9/m/Add", "", *head, "/model.23/Concat_9"]
    assert head_nodes(names) == [*head, "/model.23/Concat_9"]
    assert decode_nodes(names) == [head[3], "/model.23/Concat_9"]
    assert sorted(tail_nodes(names)) == sorted([head[1], head[2], head[3], "/model.23/Concat_9"])
    with pytest.raises(DataError, match="not named after"):
        head_nodes(["Conv_1"])


def test_not_an_onnx_file(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\xff\xfenot protobuf")
    with pytest.raises(DataError, match="is not an ONNX file"):
        read_onnx(tmp_path / "model.onnx")
