"""fp16 and int8: what is converted and what is not, that every runner still agrees, and that nothing but train images is calibrated on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.convert.calibration import calibration_batches, calibration_key, calibration_record, choose_calibration, require_train_only, strata
from export.convert.equalize import channel_peaks, equalized
from export.convert.float_layers import disturbance, fewest_layers, quantized_layers, sensitivities, with_float_layers
from export.convert.fp16_from_onnx import fp16_from_onnx
from export.convert.int8_from_onnx import int8_from_onnx, quantized_tensors
from export.convert.onnx_model import decode_nodes, metadata_of, tail_nodes, with_metadata
from export.convert.ranges import BINS, Magnitudes, measured_ranges
from export.metadata import metadata_from_contract
from export.runners import open_runner
from export.runners.openvino import OpenVinoRunner
from export.stages.on_val import val_gate
from pipelines.core.contract import ModelContract
from pipelines.core.errors import DataError, LeakError, MissingInputError
from pipelines.core.images import read_for
from pipelines.core.io import sha256_bytes
from pipelines.core.params import load_params
from pipelines.core.records import read_samples
from pipelines.core.slices import SliceLimits
from pipelines.core.types import Box, Sample
from tests.small_yolos import CLASSES, SIDE, pictures, project_to_quantize

ROOT = Path(__file__).resolve().parents[1]
LIMITS = SliceLimits(small_area_px=1024, medium_area_px=9216, dark_below=60, bright_above=190)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project_to_quantize(tmp_path_factory.mktemp("quantize"), train=12, held_out=2, export="{calibration_images: 8}")


def run_stage(project: Path, precision: str, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "export.stages.quantize", "--params", str(project / "params.yaml"), "--precision", precision]
    command += ["--onnx", str(project / "model.onnx"), "--dataset", str(project / "dataset"), "--raw", str(project / "raw")]
    command += ["--work", str(target.parent / "work"), "--search", str(target.parent / "search"), "--metrics", str(target.parent / "metrics.json")]
    return subprocess.run([*command, "--quantized", str(target)], check=False, cwd=ROOT, capture_output=True, text=True)


def ranged(model: onnx.ModelProto, batches: Iterable[np.ndarray], keep_float: Any, calibration: str = "{}", widened: float = 1.0) -> bytes:
    shown = list(batches)
    even = equalized(model, channel_peaks(model, shown, "images", quantized_tensors(model, keep_float)))
    ranges = measured_ranges(even, shown, "images", quantized_tensors(even, keep_float))
    return int8_from_onnx(even, {name: end * widened for name, end in ranges.items()}, keep_float=keep_float, calibration=calibration)


def quantized(project: Path, keep_float: str = "head", widened: float = 1.0) -> bytes:
    samples = choose_calibration(pictures(project, split="train", count=12, seed=0), 8, LIMITS)
    contract = ModelContract(CLASSES, (SIDE, SIDE), "cxcywh_scores")

    batches = calibration_batches(samples, contract, lambda sample: read_for(project / "raw" / sample.path, contract.decode_to_wh))
    record = calibration_record(samples, LIMITS)
    model = onnx.load(project / "model.onnx")
    return ranged(model, batches, keep_float, record, widened)


@pytest.fixture(scope="module")
def int8(project: Path) -> Path:
    path = project / "model_int8.onnx"
    path.write_bytes(quantized(project))
    return path


def random_input(count: int) -> np.ndarray:
    return np.random.default_rng(5).random((count, 3, SIDE, SIDE), dtype=np.float32)


def outputs(path: Path, count: int = 2) -> dict[str, np.ndarray]:
    """OpenVINO's in float32, also of an int8 file."""
    batch = random_input(count)
    runners = {"onnxruntime": open_runner("onnxruntime", path, threads=1), "openvino": OpenVinoRunner(path, threads=1, precision_hint="f32")}
    found = {}
    for kind, opened in runners.items():
        with opened as runner:
            found[kind] = runner.infer(batch)
    return found


def test_fp16_keeps_float_at_the_door_and_in_the_decoding(project: Path, tmp_path: Path) -> None:
    path = tmp_path / "model_fp16.onnx"
    path.write_bytes(fp16_from_onnx(onnx.load(project / "model.onnx")))
    model = onnx.load(path)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert types == {"images": TensorProto.FLOAT, "output0": TensorProto.FLOAT}
    weights = Counter(tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4)
    assert weights[TensorProto.FLOAT16] == 87
    assert weights[TensorProto.FLOAT] == 1  # the fixed convolution of the box decoding
    decoding = set(decode_nodes(node.name for node in model.graph.node))
    produced = {name: node.name for node in model.graph.node for name in node.output}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == 7  # the input, and what enters the decoding: boxes and scores of three levels
    assert not [node.name for node in casts if produced.get(node.input[0]) in decoding], "a round trip through float16 is left"
    assert metadata_of(model)["detloop_precision"] == "fp16"
    assert path.stat().st_size < 0.6 * (project / "model.onnx").stat().st_size
    wanted = outputs(project / "model.onnx")["onnxruntime"]
    for found in outputs(path).values():
        np.testing.assert_allclose(found[:, :4], wanted[:, :4], atol=0.5)
        np.testing.assert_allclose(found[:, 4:], wanted[:, 4:], atol=0.02)


def test_int8_is_symmetric_and_fit_for_tensorrt(int8: Path) -> None:
    model = onnx.load(int8)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = {name: node for node in model.graph.node for name in node.output}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        assert constants[node.input[2]].data_type == TensorProto.INT8  # TensorRT refuses int32 biases and uint8
        assert not numpy_helper.to_array(constants[node.input[2]]).any()  # and zero points
    for node in model.graph.node:
        weight = nodes.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is not None:
            assert weight.op_type == "DequantizeLinear"
            shape = numpy_helper.to_array(constants[weight.input[0]]).shape
            assert numpy_helper.to_array(constants[weight.input[1]]).shape == shape[:1]  # a scale for each output channel


@pytest.mark.parametrize("keep_float", ["head", "none"])
def test_int8_leaves_the_tail_in_float(project: Path, keep_float: str) -> None:
    model = onnx.load_from_string(quantized(project, keep_float))
    from_pair = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    names = [node.name for node in model.graph.node]
    decoding, tail = set(decode_nodes(names)), set(tail_nodes(names))
    touched = {node.name for node in model.graph.node if any(name in from_pair for name in node.input) and not node.name.endswith("Linear")}
    assert not touched & decoding
    assert bool(touched & tail) == (keep_float == "none")
    assert len(tail - decoding) == 6


def test_runners_agree_on_int8(project: Path, int8: Path) -> None:
    """In float32 OpenVINO is nearer to ONNX Runtime than int8 is to the float model; as deployed it is within bfloat16's 8 bits."""
    found, exact = outputs(int8), outputs(project / "model.onnx")["onnxruntime"]
    own_error = np.abs(found["onnxruntime"] - exact)[:, 4:].mean()
    assert np.abs(found["openvino"] - found["onnxruntime"])[:, 4:].mean() < own_error < 0.1
    with open_runner("openvino", int8, threads=1) as runner:
        deployed = runner.infer(random_input(2))
    assert np.abs(deployed - found["onnxruntime"])[:, 4:].mean() < found["onnxruntime"][:, 4:].mean() * 2**-7


@pytest.fixture(scope="module")
def fp16(project: Path) -> Path:
    path = project / "model_fp16.onnx"
    path.write_bytes(fp16_from_onnx(onnx.load(project / "model.onnx")))
    return path


@pytest.mark.parametrize(("name", "may"), [("model.onnx", {"f32"}), ("model_fp16.onnx", {"f32", "bf16"}), ("model_int8.onnx", {"f32", "bf16"})])
def test_only_fp16_and_int8_files_are_computed_in_bf16(project: Path, int8: Path, fp16: Path, name: str, may: set[str]) -> None:
    with OpenVinoRunner(project / name, threads=1, precision_hint="bf16") as runner:
        here = "bf16" in runner.arithmetic().values()
    with OpenVinoRunner(project / name, threads=1) as runner:
        kinds = {kind for kind in runner.arithmetic().values() if "f" in kind}
    assert kinds <= may
    assert ("bf16" in kinds) == (here and "bf16" in may)


@pytest.mark.parametrize("name", ["model.onnx", "model_fp16.onnx", "model_int8.onnx"])
def test_a_portion_gives_what_its_images_give_one_by_one(project: Path, int8: Path, fp16: Path, name: str) -> None:
    """To the last digit: a folder's images must not hang on which others stood beside them."""
    images = [*np.random.default_rng(3).integers(0, 256, (11, SIDE, SIDE, 3), dtype=np.uint8)]
    with open_runner("openvino", project / name, threads=2, streams=2) as runner:
        expected = np.concatenate([runner.infer_images([image]) for image in images])
    with open_runner("openvino", project / name, threads=2, streams=2, portion=4) as runner:
        for count in (1, 4, 5, 11):
            np.testing.assert_array_equal(runner.infer_images(images[:count]), expected[:count])
            np.testing.assert_array_equal(runner.infer_images([*map(np.asfortranarray, images[:count])]), expected[:count])


def test_quantized_concatenation_keeps_its_negative_values(tmp_path: Path) -> None:
    """OpenVINO takes signed int8 behind a concatenation for unsigned, unless the export guards it: then values differ by tenths."""
    path = tmp_path / "model.onnx"
    batches = [np.random.default_rng(seed).random((1, 3, SIDE, SIDE), dtype=np.float32) for seed in range(3)]
    path.write_bytes(ranged(concatenation(), batches, "none"))
    model = onnx.load(path)
    assert [node.op_type for node in model.graph.node].count("DequantizeLinear") == 8  # four inputs, four weights
    found = outputs(path)
    assert np.abs(found["onnxruntime"]).max() > 1
    difference = np.abs(found["openvino"] - found["onnxruntime"])
    assert difference.max() < 0.1
    assert difference.mean() < 0.002


def concatenation() -> onnx.ModelProto:
    """Two convolutions with SiLU, concatenated and convolved: what every YOLO block ends with. The "head" is one more convolution."""
    generator = np.random.default_rng(0)
    shapes = {"w0": (8, 3, 3, 3), "w1": (8, 8, 3, 3), "w2": (8, 16, 1, 1), "w3": (7, 8, 1, 1)}
    constants = {name: generator.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = []
    for number, (source, target) in enumerate({"images": "a", "a": "b"}.items()):
        at = f"/model.{number}"
        nodes.append(helper.make_node("Conv", [source, f"w{number}"], [f"{target}c"], name=f"{at}/conv/Conv", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Sigmoid", [f"{target}c"], [f"{target}s"], name=f"{at}/act/Sigmoid"))
        nodes.append(helper.make_node("Mul", [f"{target}c", f"{target}s"], [target], name=f"{at}/act/Mul"))
    nodes.append(helper.make_node("Concat", ["a", "b"], ["ab"], name="/model.2/Concat", axis=1))
    nodes.append(helper.make_node("Conv", ["ab", "w2"], ["c"], name="/model.2/cv2/conv/Conv"))
    nodes.append(helper.make_node("Conv", ["c", "w3"], ["d"], name="/model.3/cv2.0/cv2.0.2/Conv"))
    nodes.append(helper.make_node("Reshape", ["d", "shape"], ["output0"], name="/model.3/Reshape"))
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    initializers.append(numpy_helper.from_array(np.array([0, 7, SIDE * SIDE], np.int64), "shape"))
    graph = helper.make_graph(
        nodes,
        "concatenation",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["batch", 7, SIDE * SIDE])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata_from_contract(ModelContract(CLASSES, (SIDE, SIDE), "cxcywh_scores"), stride=1))
    return model


def test_int8_stage_same_bytes_and_what_it_was_calibrated_on(project: Path, tmp_path: Path) -> None:
    done = run_stage(project, "int8", tmp_path / "other.onnx")
    assert done.returncode == 0, done.stderr
    metadata = metadata_of(onnx.load(tmp_path / "other.onnx"))
    by_hand = quantized(project, widened=json.loads((tmp_path / "metrics.json").read_text())["ranges_widened_by"])
    assert (tmp_path / "other.onnx").read_bytes() == with_metadata(by_hand, {"detloop_thresholds": metadata["detloop_thresholds"]})
    assert set(json.loads(metadata["detloop_thresholds"])) == set(CLASSES)
    record = json.loads(metadata["detloop_calibration"])
    assert (record["split"], record["count"], len(record["images"])) == ("train", 8, 8)
    ids = sorted(item.image_id for item in choose_calibration(pictures(project, split="train", count=12, seed=0), 8, LIMITS))
    assert record["sha256"] == sha256_bytes("".join(f"{item}\n" for item in ids).encode())
    assert record["images"] == [item[:16] for item in ids]
    assert record["strata"]["light normal"] == 8
    assert metadata["detloop_precision"] == "int8"
    assert metadata["detloop"] == metadata_of(onnx.load(project / "model.onnx"))["detloop"]


def test_a_model_is_run_on_val_once(project: Path, fp16: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(project / "raw", tmp_path / "raw"))
    samples, params = read_samples(project / "dataset" / "val.jsonl"), load_params(project / "params.yaml")
    gate = val_gate(samples, raw, params, (project / "model.onnx").read_bytes(), dict.fromkeys(CLASSES, 0.3))
    first = gate.judge(fp16.read_bytes())
    shutil.rmtree(raw)
    assert gate.judge(fp16.read_bytes()) is first
    with pytest.raises(MissingInputError):
        gate.judge((project / "model.onnx").read_bytes())


def test_stage_refuses_held_out_images_and_other_classes(project: Path, tmp_path: Path) -> None:
    broken = tmp_path / "project"
    broken.mkdir()
    for name in ("model.onnx", "params.yaml", "raw"):
        (broken / name).symlink_to(project / name)
    (broken / "dataset").mkdir()
    lines = (project / "dataset" / "train.jsonl").read_text()
    for name, text in {"train": lines, "val": "", "test": lines.splitlines(keepends=True)[0]}.items():
        (broken / "dataset" / f"{name}.jsonl").write_text(text)
    (broken / "params.yaml").unlink()
    (broken / "params.yaml").write_text((project / "params.yaml").read_text().replace("calibration_images: 8", "calibration_images: 50"))
    leak = run_stage(broken, "int8", tmp_path / "never.onnx")
    assert leak.returncode == 2
    assert "is held out for val or test" in leak.stderr
    (broken / "params.yaml").write_text("classes: [{name: bolt}]\n")
    other = run_stage(broken, "fp16", tmp_path / "never.onnx")
    assert other.returncode == 2
    assert "was made for classes ['bolt', 'nut'" in other.stderr
    assert run_stage(broken, "int4", tmp_path / "never.onnx").returncode == 2
    assert not (tmp_path / "never.onnx").exists()


def sample(image_id: str, source: str, classes: tuple[str, ...]) -> Sample:
    return Sample(
        image_id, f"images/{image_id}.jpg", 8, 8, "labeled", tuple(Box(name, (0, 0, 4, 4)) for name in classes), source, image_id, None, 1.0
    )


def test_calibration_images_by_hand() -> None:
    train = [
        sample("a", "x", ("bolt",)),
        sample("b", "x", ("bolt",)),
        sample("c", "x", ("bolt",)),
        sample("d", "y", ("nut", "nut")),
        sample("e", "x", ()),
    ]
    assert [item.image_id for item in choose_calibration(train, 3, LIMITS)] == ["a", "d", "e"]  # "class none" and "class nut" are the rarest
    assert [item.image_id for item in choose_calibration(train, 4, LIMITS)] == ["a", "b", "d", "e"]
    assert [item.image_id for item in choose_calibration(train, 99, LIMITS)] == ["a", "b", "c", "d", "e"]
    with pytest.raises(DataError, match="no images to calibrate"):
        choose_calibration([], 3, LIMITS)


def test_strata_of_an_image() -> None:
    big = replace(sample("a", "line3", ("bolt",)), boxes=(Box("bolt", (0, 0, 32, 32)), Box("nut", (0, 0, 100, 100))), brightness=200.0)
    assert strata(big, LIMITS) == {"class bolt", "class nut", "size small", "size large", "light bright", "source line3"}
    assert strata(replace(big, boxes=(), brightness=60.0), LIMITS) == {"class none", "light normal", "source line3"}


def test_a_rare_stratum_is_not_drowned() -> None:
    """300 bright images of one source and one dark image of another: 4 of them show both lights, whatever the ids."""
    many = [replace(sample(f"{number:03d}", "a", ("bolt",)), brightness=200.0) for number in range(300)]
    rare = replace(sample("zzz", "z", ("bolt",)), brightness=5.0)
    assert rare in choose_calibration([*many, rare], 4, LIMITS)


def test_ranges_are_named_by_model_images_and_versions() -> None:
    key = calibration_key("m", "r", {"onnxruntime": "1"})
    assert key == calibration_key("m", "r", {"onnxruntime": "1"})
    assert (
        len({key, calibration_key("n", "r", {"onnxruntime": "1"}), calibration_key("m", "s", {"onnxruntime": "1"}), calibration_key("m", "r", {})})
        == 4
    )


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("xy"), st.sets(st.sampled_from(CLASSES))), min_size=1, max_size=30), st.integers(1, 40), st.randoms())
def test_calibration_images_show_every_stratum_in_any_order(kinds: list[tuple[str, set[str]]], count: int, shuffler: object) -> None:
    train = [sample(f"{number:02d}", source, tuple(sorted(classes))) for number, (source, classes) in enumerate(kinds)]
    chosen = choose_calibration(train, count, LIMITS)
    assert len({item.image_id for item in chosen}) == len(chosen) == min(count, len(train))
    assert set(chosen) <= set(train)
    shuffler.shuffle(train)  # type: ignore[attr-defined]
    assert choose_calibration(train, count, LIMITS) == chosen
    wanted, shown = ({tag for item in items for tag in strata(item, LIMITS)} for items in (train, chosen))
    assert shown == wanted or count < len(wanted)


def test_only_train_images() -> None:
    require_train_only(["a", "b"], ["a", "b", "c"], ["d"])
    with pytest.raises(LeakError, match="z is not in train"):
        require_train_only(["a", "z"], ["a"], [])
    with pytest.raises(LeakError, match="a is held out"):
        require_train_only(["a"], ["a"], ["a"])
    with pytest.raises(LeakError, match="0123456789abcdef is held out for val or test"):  # as model files state them
        require_train_only(["0123456789abcdef"], ["f" * 64], ["0123456789abcdef" + "0" * 48])


def test_calibration_sees_what_the_runners_are_fed(project: Path) -> None:
    first = pictures(project, split="train", count=12, seed=0)[0]
    contract = replace(ModelContract(CLASSES, (SIDE, SIDE), "cxcywh_scores"), pad_value=7)
    (found,) = calibration_batches([first], contract, lambda item: read_for(project / "raw" / item.path, contract.decode_to_wh))
    assert found.shape == (1, 3, SIDE, SIDE)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0, :, :8], np.float32(7) / np.float32(255))  # 80x60 becomes 64x48, 8 px of padding above and below
    assert found[0, :, 8:56].std() > 0.1


# ---- channels of one range


def grouped(groups: int, spread: float) -> onnx.ModelProto:
    """Eight channels, each `spread` times as large as the one before, and a convolution in groups that weighs them all alike in what it gives."""
    generator = np.random.default_rng(groups)
    sizes = (spread ** np.arange(8)).astype(np.float32)
    first = np.eye(8, dtype=np.float32)[..., None, None] * sizes[:, None, None, None]
    read = (np.arange(8) // (8 // groups))[:, None] * (8 // groups) + np.arange(8 // groups)
    second = generator.normal(0, 0.3, (8, 8 // groups, 3, 3)).astype(np.float32) / sizes[read][:, :, None, None]
    nodes = [
        helper.make_node("Conv", ["images", "first"], ["a"], name="/model.0/conv/Conv"),
        helper.make_node("Conv", ["a", "second"], ["b"], name="/model.1/conv/Conv", pads=[1, 1, 1, 1], group=groups),
        helper.make_node("Identity", ["b"], ["output0"], name="/model.2/Identity"),  # the "head"
    ]
    graph = helper.make_graph(
        nodes,
        "grouped",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 8, 16, 16])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["batch", 8, 16, 16])],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto | bytes, batch: np.ndarray) -> np.ndarray:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    found: np.ndarray = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"images": batch})[0]
    return found


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_an_equalized_model_computes_the_same_and_int8_loses_less(groups: int) -> None:
    model = grouped(groups, spread=3.0)
    batch = np.random.default_rng(1).normal(size=(2, 8, 16, 16)).astype(np.float32)
    peaks = channel_peaks(model, [batch], "images", ["images", "a"])
    assert set(peaks) == {"a"}
    by_hand = np.abs(batch).max(axis=(0, 2, 3)) * 3.0 ** np.arange(8)
    np.testing.assert_allclose(peaks["a"], np.maximum(by_hand / by_hand.max(), 0.01), rtol=1e-5)
    even = equalized(model, peaks)
    onnx.checker.check_model(even, full_check=True)
    np.testing.assert_allclose(run(even, batch), run(model, batch), atol=1e-5)

    def lost(candidate: onnx.ModelProto) -> float:
        ranges = measured_ranges(candidate, [batch], "images", quantized_tensors(candidate, "none"))
        found = run(int8_from_onnx(candidate, ranges, keep_float="none", calibration="{}"), batch)
        return float(np.square(found - run(model, batch)).mean())

    assert lost(even) < lost(model) / 10


def test_a_silent_channel_is_not_blown_up() -> None:
    model = grouped(1, spread=1.0)
    batch = np.ones((1, 8, 16, 16), np.float32)
    batch[:, 3] = 0
    batch[:, 4] = 0.001
    assert channel_peaks(model, [batch], "images", ["a"])["a"] == pytest.approx([1, 1, 1, 0.01, 0.01, 1, 1, 1])
    assert channel_peaks(model, [batch * 0], "images", ["a"]) == {}
    with pytest.raises(DataError, match="no images to measure"):
        channel_peaks(model, [], "images", ["a"])


# ---- layers back to float


def test_kept_ranges_give_the_same_model_without_reading_an_image(project: Path, tmp_path: Path) -> None:
    first = run_stage(project, "int8", tmp_path / "first.onnx")
    assert first.returncode == 0, first.stderr
    blind = tmp_path / "blind"  # the same project, but the train images are gone
    blind.mkdir()
    for name in ("model.onnx", "params.yaml", "dataset"):
        (blind / name).symlink_to(project / name)
    for sample in [item for split in ("val", "test") for item in read_samples(project / "dataset" / f"{split}.jsonl")]:
        (blind / "raw" / sample.path).parent.mkdir(parents=True, exist_ok=True)
        (blind / "raw" / sample.path).symlink_to(project / "raw" / sample.path)
    again = run_stage(blind, "int8", tmp_path / "again.onnx")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "first.onnx").read_bytes()
    for kept in (tmp_path / "work").iterdir():
        kept.unlink()
    assert "is missing" in run_stage(blind, "int8", tmp_path / "never.onnx").stderr


@settings(max_examples=30)
@example([[1.401298464324817e-45], [3.0]])
@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50), min_size=1, max_size=5))
def test_the_histogram_keeps_every_value_however_its_end_grows(batches: list[list[float]]) -> None:
    kept = Magnitudes()
    for batch in batches:
        kept.add(np.array(batch, np.float32))
    everything = np.abs(np.concatenate([np.array(batch, np.float32) for batch in batches]))
    leading_zeros = next((index for index, batch in enumerate(batches) if any(batch)), len(batches))
    assert kept._counts.sum() == sum(len(batch) for batch in batches[leading_zeros:])
    assert kept.best_end() <= max(float(everything.max()) * 2, 1.0)


def test_the_best_end_is_the_one_that_loses_least() -> None:
    """The oracle rounds the values themselves for each end of the histogram's bins."""
    values = np.random.default_rng(0).normal(0, 1, 20_000).astype(np.float32)
    values[:3] = 60.0  # outliers
    kept = Magnitudes()
    kept.add(values)
    width = float(np.abs(values).max()) / BINS
    ends = np.arange(64, BINS + 1) * width

    def lost(end: float) -> float:
        step = end / 127
        return float(np.square(np.clip(np.round(values / step), -127, 127) * step - values).mean())

    best = min(lost(end) for end in ends[::8])
    assert lost(kept.best_end()) < 1.05 * best
    assert kept.best_end() < 60


def test_all_layers_back_in_float_is_the_float_model(project: Path, int8: Path, tmp_path: Path) -> None:
    fp32 = onnx.load(project / "model.onnx")
    quantized_model = onnx.load(int8)
    layers = quantized_layers(quantized_model)
    assert len(layers) == len([node for node in fp32.graph.node if node.op_type == "Conv"]) - len(
        [name for name in tail_nodes(node.name for node in fp32.graph.node) if name.endswith("Conv")]
    )
    path = tmp_path / "float.onnx"
    path.write_bytes(with_float_layers(quantized_model, fp32, layers))
    again = onnx.load(path)
    assert Counter(node.op_type for node in again.graph.node) == Counter(node.op_type for node in fp32.graph.node)
    assert len(again.graph.initializer) == len(fp32.graph.initializer)
    assert json.loads(metadata_of(again)["detloop_float_layers"]) == sorted(layers)
    for kind, found in outputs(path).items():
        np.testing.assert_allclose(found, outputs(project / "model.onnx")[kind], atol=1e-4, err_msg=kind)


def test_one_layer_back_in_float_leaves_the_others(project: Path, int8: Path) -> None:
    fp32, quantized_model = onnx.load(project / "model.onnx"), onnx.load(int8)
    layers = quantized_layers(quantized_model)
    changed = onnx.load_from_string(with_float_layers(quantized_model, fp32, layers[3:4]))
    assert quantized_layers(changed) == layers[:3] + layers[4:]
    assert with_float_layers(quantized_model, fp32, []) == with_metadata(int8.read_bytes(), {"detloop_float_layers": "[]"})
    with pytest.raises(DataError, match="no quantized layers"):
        with_float_layers(quantized_model, fp32, ["/model.99/Conv"])


def test_the_layer_with_the_widest_ranges_ranks_first(tmp_path: Path) -> None:
    """In a chain of three convolutions the second one gets a range that is a hundred times too wide: it must be found, and giving it up must help."""
    fp32 = concatenation()
    batches = [np.random.default_rng(seed).random((1, 3, SIDE, SIDE), dtype=np.float32) for seed in range(3)]
    broken = onnx.load_from_string(ranged(fp32, batches, "none"))
    victim = "/model.1/conv/Conv"
    source = next(node for node in broken.graph.node if node.name == victim).input[0]
    scale = next(node for node in broken.graph.node if source in node.output).input[1]
    tensor = next(item for item in broken.graph.initializer if item.name == scale)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(100), scale))

    def run(model: bytes) -> np.ndarray:
        path = tmp_path / "candidate.onnx"
        path.write_bytes(model)
        with open_runner("onnxruntime", path, threads=1) as runner:
            return np.concatenate([1 / (1 + np.exp(-runner.infer(batch))) for batch in batches])

    found = sensitivities(broken, fp32, run, "cxcywh_scores")
    assert set(found) == set(quantized_layers(broken))
    assert next(iter(found)) == victim
    assert found[victim] > 5 * sorted(found.values())[-2]
    exact = run(fp32.SerializeToString())
    before = disturbance(exact, run(broken.SerializeToString()), "cxcywh_scores")
    assert disturbance(exact, run(with_float_layers(broken, fp32, [victim])), "cxcywh_scores") < before / 5


def test_disturbance_by_hand() -> None:
    exact = np.array([[[10.0], [10], [4], [4], [0.8], [0.2]]], np.float32)  # one anchor, 4x4 px, two classes
    found = np.array([[[12.0], [10], [4], [4], [0.4], [0.2]]], np.float32)
    # scores: (0.4 / 0.8 + 0) / 2; boxes: 2 px moved of 4 + 4
    assert disturbance(exact, found, "cxcywh_scores") == pytest.approx(0.25 + 0.25, abs=1e-6)
    assert disturbance(exact, exact, "cxcywh_scores") == 0
    ends = np.array([[[0, 0, 9, 9, 0.9, 1], [0, 0, 5, 5, 0.1, 0]]], np.float32)
    assert disturbance(ends, ends[:, ::-1], "xyxy_score_class") == 0  # two boxes that changed places
    assert disturbance(ends, ends * np.float32(0.5), "xyxy_score_class") == pytest.approx(0.5)


@settings(max_examples=60)
@given(st.integers(0, 40), st.integers(0, 45), st.integers(0, 40))
def test_the_fewest_layers_are_found_with_few_questions(count: int, needed: int, most: int) -> None:
    """Where more layers never make it worse, the search is exact; the oracle is the definition."""
    ranking = [str(number) for number in range(count)]
    asked: list[int] = []

    def passes(group: tuple[str, ...]) -> bool:
        assert list(group) == ranking[: len(group)]
        asked.append(len(group))
        return len(group) >= max(needed, 1)

    search = fewest_layers(ranking, passes, most=most)
    wanted = max(needed, 1)
    assert search.layers == (tuple(ranking[:wanted]) if wanted <= min(count, most) else None)
    assert len(asked) == len(set(asked)) <= 2 * max(count, 1).bit_length() + 2
