"""Faults planted in real networks and real runners, each of which must be called by its name."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn
from ultralytics import YOLO

from export.check.diagnosis import name_input_fault, stretched_input
from export.check.explain import Parting, first_parting, reason_for, relative_difference
from export.convert.onnx_from_torch import onnx_from_torch
from export.convert.onnx_model import metadata_of, read_onnx, with_metadata
from export.convert.onnx_probe import OnnxInside
from export.metadata import CONTRACT_KEY, contract_from_metadata
from export.runners import open_runner
from export.runners.detect import model_input
from export.runners.openvino import OpenVinoRunner
from pipelines.cli import main
from pipelines.core.contract import ModelContract
from pipelines.core.images import Decoded, read_for
from pipelines.core.io import canonical_json
from tests.small_yolos import CLASSES, SIDE, pictures
from tests.tiny_detector import CONTRACT, make_project, other_contract
from tests.tiny_detector import model_bytes as tiny_model
from training.checkpoint import load_detector, model_bytes
from training.models import build_network

LAYER = "/model.4/cv1/conv/Conv"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real network, exported, and pictures. Its weights are random, but its batch norms have seen the pictures: what it gives depends on them."""
    folder = tmp_path_factory.mktemp("parity")
    samples = pictures(folder, split="test", count=4, seed=0)
    contract = ModelContract(CLASSES, (SIDE, SIDE), "cxcywh_scores")
    torch.manual_seed(0)
    network = build_network("yolo11n.yaml", CLASSES)
    for name, part in network.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the mean over all batches
        if isinstance(part, nn.Conv2d) and part.bias is not None and "cv3" in name:
            nn.init.normal_(part.weight, std=0.5)
            nn.init.normal_(part.bias, mean=-2.0, std=0.2)
    with torch.no_grad():
        network.train()(torch.from_numpy(np.concatenate([model_input(read_for(folder / "raw" / item.path, None), contract)[0] for item in samples])))
    (folder / "model.pt").write_bytes(model_bytes(network.eval(), network.state_dict(), contract, "yolo11n.yaml"))
    module, contract = load_detector(folder / "model.pt")
    (folder / "model.onnx").write_bytes(onnx_from_torch(module, contract, opset=17, thresholds=dict.fromkeys(CLASSES, 0.3)))
    classes = json.dumps([{"name": name} for name in CLASSES])
    (folder / "params.yaml").write_text(f"classes: {classes}\n")
    return folder


def changed(project: Path, target: Path, change: Callable[[onnx.ModelProto, dict[str, onnx.TensorProto]], None]) -> Path:
    """The project's model with something done to its constants."""
    model = onnx.load(project / "model.onnx")
    change(model, {tensor.name: tensor for tensor in model.graph.initializer})
    path = target / "changed.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def put(tensor: onnx.TensorProto, value: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))


def parity(project: Path, a: str, b: str, capsys: pytest.CaptureFixture[str], *, explain: bool = True) -> tuple[int, str]:
    command = ["parity", a, b, "--images", str(project / "raw"), "--params", str(project / "params.yaml"), "--threads", "1"]
    status = main([*command, *(["--explain"] if explain else [])])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_a_faithful_export_is_the_same(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for b in (str(project / "model.onnx"), f"openvino:{project / 'model.onnx'}"):
        status, said = parity(project, str(project / "model.pt"), b, capsys)
        assert status == 0, said
        assert "no node differs" in said
        assert "same:" in said


@pytest.mark.parametrize("node", ["/model.0/conv/Conv", LAYER, "/model.23/cv3.1/cv3.1.0/cv3.1.0.1/conv/Conv"])
def test_one_layer_disturbed_by_one_percent_is_named(project: Path, tmp_path: Path, node: str, capsys: pytest.CaptureFixture[str]) -> None:
    def disturb(model: onnx.ModelProto, constants: dict[str, onnx.TensorProto]) -> None:
        tensor = constants[next(item for item in model.graph.node if item.name == node).input[1]]
        weights = numpy_helper.to_array(tensor)
        noise = np.random.default_rng(0).choice([-0.01, 0.01], weights.shape).astype(np.float32)
        put(tensor, weights * (1 + noise))

    path = changed(project, tmp_path, disturb)
    for kind in ("onnxruntime", "openvino"):
        _, said = parity(project, str(project / "model.pt"), f"{kind}:{path}", capsys)
        assert f"they part at {node}:" in said
        assert re.search(r"the weights of this Conv differ by (0\.9|1\.0)\d%", said)  # its bias, undisturbed, counts along
    _, said = parity(project, str(project / "model.onnx"), str(path), capsys)
    assert f"they part at {node}:" in said


def test_bf16_where_f32_was_asked_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "model.onnx"
    with OpenVinoRunner(path, threads=1, precision_hint="bf16") as runner:
        if "bf16" not in runner.arithmetic().values():
            pytest.skip("this CPU computes no bf16")
    with OpenVinoRunner(path, threads=1) as runner:
        assert not {"bf16", "f16"} & set(runner.arithmetic().values())
    status, said = parity(project, str(path), f"openvino-bf16:{path}", capsys)
    assert status == 2
    assert "they part at /model.0/conv/Conv" in said
    assert "computes this Conv in bf16 where f32 was asked" in said


def swap_channels(model: onnx.ModelProto, constants: dict[str, onnx.TensorProto]) -> None:
    put(constants["model.0.conv.weight"], numpy_helper.to_array(constants["model.0.conv.weight"])[:, ::-1])


def test_bgr_inside_the_network_is_named(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = parity(project, str(project / "model.pt"), str(changed(project, tmp_path, swap_channels)), capsys, explain=False)
    assert status == 2
    assert "fault: colour order: they agree when red and blue are swapped" in said


@pytest.mark.parametrize("options", [{}, {"dynamic": True}, {"nms": True}], ids=["plain", "dynamic", "nms"])
def test_a_file_that_ultralytics_exported_is_held_against_ours(
    project: Path, tmp_path: Path, options: dict[str, bool], capsys: pytest.CaptureFixture[str]
) -> None:
    """As a team has it that comes with files of its own."""
    shutil.copy(project / "model.pt", tmp_path / "theirs.pt")
    YOLO(str(tmp_path / "theirs.pt")).export(format="onnx", imgsz=SIDE, simplify=False, **options)
    capsys.readouterr()
    status, said = parity(project, str(project / "model.onnx"), str(tmp_path / "theirs.onnx"), capsys, explain=False)
    assert (status, "0 missed, 0 extra, 0 class flips" in said, "\nsame: " in said) == (0, True, True)
    status, said = parity(project, f"openvino:{tmp_path / 'theirs.onnx'}", str(project / "model.onnx"), capsys, explain=False)
    assert (status, "0 missed, 0 extra, 0 class flips" in said) == (0, True)
    status, said = parity(project, str(project / "model.onnx"), str(tmp_path / "theirs.onnx"), capsys, explain=True)
    assert (status, "theirs.onnx cannot be looked at: that wants a dynamic batch and a fixed size" in said) == (0, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "segment"}, "is a model for the task 'segment': name one that detects"),
        ({"args": "{'half': True}"}, "takes and gives 16-bit floats: export it with half=False"),
        ({"names": "{0: 'bolt', 2: 'nut'}"}, "no readable metadata of ultralytics"),
        ({"imgsz": "[64"}, "no readable metadata of ultralytics"),
    ],
    ids=["task", "half", "names", "imgsz"],
)
def test_files_of_ultralytics_that_cannot_be_compared_are_one_line(
    project: Path, tmp_path: Path, changes: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(project / "model.onnx")
    pairs = {"names": str(dict(enumerate(CLASSES))), "imgsz": "[64, 64]", "task": "detect", "args": "{}", **changes}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, pairs)
    (tmp_path / "theirs.onnx").write_bytes(model.SerializeToString())
    status, said = parity(project, str(project / "model.onnx"), str(tmp_path / "theirs.onnx"), capsys, explain=False)
    assert (status, message in said, said.count("\n")) == (2, True, 1)


def stating(project: Path, path: Path, **changes: object) -> Path:
    """The project's model with another contract in its metadata, as someone else's export might state it."""
    model = onnx.load(project / "model.onnx")
    contract = replace(contract_from_metadata(metadata_of(model), "model.onnx"), **changes)  # type: ignore[arg-type]
    path.write_bytes(with_metadata(model.SerializeToString(), {CONTRACT_KEY: canonical_json(contract.to_json())}))
    return path


@pytest.mark.parametrize(("ours", "theirs"), [("full", "reduced"), ("reduced", "full")])
def test_another_decoding_is_named(project: Path, tmp_path: Path, ours: str, theirs: str, capsys: pytest.CaptureFixture[str]) -> None:
    """JPEGs of four times the input's size with much fine detail: at 1/4 the decoder leaves it out, resizing afterwards makes patterns of it."""
    for number in range(3):
        (tmp_path / "raw").mkdir(exist_ok=True)
        detail = np.random.default_rng(number).integers(0, 256, (4 * SIDE, 4 * SIDE, 3), dtype=np.uint8)
        assert cv2.imwrite(str(tmp_path / "raw" / f"{number}.jpg"), detail)
    shutil.copy(project / "params.yaml", tmp_path)
    a, b = (str(stating(project, tmp_path / f"{decoding}.onnx", decoding=decoding)) for decoding in (ours, theirs))
    status, said = parity(tmp_path, a, b, capsys)
    assert status == 2
    assert f"decoding: onnxruntime:{a} states {ours}, onnxruntime:{b} states {theirs}\n" in said
    assert f"fault: decoding: they agree when images are decoded as {ours}, the contract says {theirs}\n" in said
    assert "no node differs" in said  # both are looked into with one input
    assert parity(tmp_path, a, a, capsys)[0] == 0


def tiny(folder: Path, name: str, **changes: Any) -> str:
    """One more tiny detector: which classes it names, in which order, and which colours it reads for them."""
    path = folder / f"{name}.onnx"
    path.write_bytes(tiny_model(**changes))
    return str(path)


def test_classes_are_compared_by_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_project(tmp_path / "p", images=2).root
    moved = other_contract(classes=("green", "red", "blue"))  # not red and blue: that could be BGR as well
    model = str(folder / "export" / "model.onnx")
    for a, b in itertools.permutations((model, tiny(folder, "permuted", contract=moved, reads=(1, 0, 2)))):
        status, said = parity(folder, a, b, capsys, explain=False)
        assert (status, "8 matched, 0 missed" in said) == (0, True), said
    for a, b in itertools.permutations((model, tiny(folder, "swapped", contract=moved))):
        status, said = parity(folder, a, b, capsys, explain=False)
        assert status == 2
        assert "fault: class order: " in said
    for classes in (("cat", "dog", "cow"), ("red", "green", "blue?")):
        for a, b in itertools.permutations((model, tiny(folder, "other", contract=other_contract(classes=classes)))):
            status, said = parity(folder, a, b, capsys, explain=False)
            assert status == 2
            assert said.startswith("error: ")
            assert "name two models of the same classes" in said


def test_another_pad_value_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_project(tmp_path / "p", images=2).root
    a, b = str(folder / "export" / "model.onnx"), tiny(folder, "white", contract=other_contract(pad_value=255))
    status, said = parity(folder, a, b, capsys, explain=False)
    assert status == 2
    assert f"pad value: onnxruntime:{a} states 114, onnxruntime:{b} states 255\n" in said
    assert "fault: pad value: they agree when padded with 114, the contract says 255\n" in said


def test_classes_that_tie_are_no_flips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_project(tmp_path / "p", images=2).root
    tied = tiny(folder, "tied", reads=(0, 0, 2))  # red and green score alike
    for bias, status, words in (
        ((-8.4, -8.39999, -8.4), 0, "0 class flips, 0 near threshold, "),
        ((-8.4, -8.3, -8.4), 2, " 0 near tie; "),
    ):
        answer, said = parity(folder, tied, tiny(folder, "other", reads=(0, 0, 2), bias=bias), capsys, explain=False)
        assert (answer, words in said) == (status, True), said


def test_nothing_compared_is_no_agreement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_project(tmp_path / "p", images=1).root
    shutil.rmtree(folder / "raw")
    (folder / "raw").mkdir()
    assert cv2.imwrite(str(folder / "raw" / "dark.png"), np.full((64, 96, 3), 30, np.uint8))
    model = str(folder / "export" / "model.onnx")
    status, said = parity(folder, model, model, capsys, explain=False)
    assert status == 2
    assert "neither shows a box on 1 image, so nothing was compared: name images with objects on them" in said
    assert "same:" not in said


def test_inputs_of_other_sizes_are_stated(tmp_path: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    larger = tmp_path / "larger"
    larger.mkdir()
    module, contract = load_detector(project / "model.pt")
    contract = replace(contract, input_wh=(2 * SIDE, SIDE))
    (larger / "model.onnx").write_bytes(onnx_from_torch(module, contract, opset=17, thresholds=dict.fromkeys(CLASSES, 0.3)))
    status, said = parity(project, str(project / "model.pt"), str(larger / "model.onnx"), capsys)
    assert status == 2
    assert (
        f"input size: torch:{project / 'model.pt'} states ({SIDE}, {SIDE}), onnxruntime:{larger / 'model.onnx'} states ({2 * SIDE}, {SIDE})" in said
    )
    assert "have inputs of other sizes, so their insides cannot be compared" in said


def test_another_precision_is_looked_into_by_its_own_measure(project: Path, tmp_path: Path) -> None:
    """Every node of the graph can be looked at, in both runners, and gives what the other one gives."""
    inside = OnnxInside(read_onnx(project / "model.onnx"), "model.onnx")
    assert len(inside.nodes) > 250
    batch = np.random.default_rng(1).random((2, 3, SIDE, SIDE), dtype=np.float32)
    for node in (inside.nodes[0], LAYER, "/model.10/m/m.0/attn/MatMul", inside.nodes[-1]):
        found = []
        for kind in ("onnxruntime", "openvino"):
            path = tmp_path / "probe.onnx"
            path.write_bytes(inside.probe(node))
            with open_runner(kind, path, threads=1) as runner:
                found.append(inside.values(node, runner.infer(batch)))
        assert found[0].shape == (2, inside.size(node))
        assert relative_difference(found[0], found[1]) < 1e-4
    with open_runner("onnxruntime", project / "model.onnx", threads=1) as runner:
        np.testing.assert_allclose(found[0], runner.infer(batch).reshape(2, -1), rtol=1e-4, atol=1e-4)  # the last node's numbers are the output


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 14), st.randoms(use_true_random=False))
def test_the_bisection_finds_a_node_that_parts_by_itself(count: int, chance: object) -> None:
    """On random graphs with one broken node: the oracle is the graph itself. And it asks about few."""
    nodes = [str(number) for number in range(count)]
    parents = {node: {nodes[i] for i in range(index) if chance.random() < 0.3} for index, node in enumerate(nodes)}  # type: ignore[attr-defined]
    broken = chance.choice(nodes)  # type: ignore[attr-defined]
    reached = {broken}
    for node in nodes:
        if parents[node] & reached:
            reached.add(node)

    def values(node: str, fault: float) -> np.ndarray:
        return np.array([1.0 + (fault if node in reached else 0.0)], np.float32)

    parting = first_parting(nodes, parents, lambda node: values(node, 0.0), lambda node: values(node, 0.1), 1e-3)
    assert parting is not None
    assert parting.node == broken
    assert parting.difference == pytest.approx(0.1, rel=1e-5)
    assert parting.input_difference == 0.0
    assert first_parting(nodes, parents, lambda node: values(node, 0.0), lambda node: values(node, 0.0), 1e-3) is None


def test_a_long_chain_is_bisected() -> None:
    nodes = [f"{number:03d}" for number in range(500)]
    parents = {node: set(nodes[index - 1 : index]) if index else set() for index, node in enumerate(nodes)}
    parting = first_parting(
        nodes, parents, lambda _: np.ones(1, np.float32), lambda node: np.full(1, 1.1 if node >= "321" else 1.0, np.float32), 1e-3
    )
    assert parting is not None
    assert (parting.node, parting.asked <= 12) == ("321", True)


def test_a_difference_that_shrinks_on_its_way_hides_nothing() -> None:
    """p1 differs and feeds the end, beside a way on which the difference is lost; what is called the first has inputs that agree."""
    parents = {"p0": [], "p1": ["p0"], "m": ["p1"], "n": ["m"], "o": ["n"], "end": ["o", "p1"]}
    parting = first_parting(
        list(parents), parents, lambda _: np.ones(1, np.float32), lambda node: np.full(1, 1.1 if node in ("p1", "end") else 1.0, np.float32), 1e-3
    )
    assert parting is not None
    assert (parting.node, parting.input_difference) == ("p1", 0.0)


def test_what_adds_up_is_not_put_down_to_one_layer() -> None:
    weights = np.ones(3, np.float32), np.full(3, 1.01, np.float32)
    assert "add up" in reason_for("Conv", Parting("c", 0.015, 0.009, 5), weights, [])
    assert "the weights of this Conv differ by 1.00%" in reason_for("Conv", Parting("c", 0.015, 0.001, 5), weights, [])


# ---- the network's input


def fed(image: Decoded, fault: str) -> np.ndarray:
    """What faulty code would feed."""
    tensor, _ = model_input(image, CONTRACT)
    if fault == "BGR":
        return np.ascontiguousarray(tensor[:, ::-1])
    if fault == "padded with black":
        return model_input(image, other_contract(pad_value=0))[0]
    if fault == "stretched":
        return stretched_input(image, CONTRACT)
    if fault == "0 to 255":
        return tensor * np.float32(255)
    return {"one grey level": tensor + np.float32(1 / 255), "noise": tensor[..., ::-1], "none": tensor}[fault]


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("none", None),
        ("one grey level", None),
        ("BGR", "colour order: BGR is fed where RGB is wanted"),
        ("padded with black", "pad value: 0 is fed where 114 is wanted"),
        ("stretched", "geometry: the image is stretched where it should be letterboxed"),
        ("0 to 255", "scale: values from 0 to 255 are fed where 0 to 1 is wanted"),
        ("noise", "pixels: up to"),
    ],
)
def test_faults_of_the_input_are_named(tmp_path: Path, fault: str, name: str | None) -> None:
    project = make_project(tmp_path / "p", images=1)
    image = read_for(next((project.raw / "images").rglob("*.png")), None)
    wanted, _ = model_input(image, CONTRACT)
    found = name_input_fault(fed(image, fault), wanted, image, CONTRACT)
    assert found is None if name is None else str(found).startswith(name)
