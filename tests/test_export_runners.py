"""Runners: what they refuse at the door, and that they need no more than their own library."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from export.metadata import metadata_from_contract
from export.runners import RUNNER_KINDS, open_runner
from pipelines.core.contract import ModelContract
from pipelines.core.errors import ClassContractError, DataError, MissingInputError, ParamsError
from pipelines.core.images import tensor_from_letterboxed
from tests.tiny_detector import CLASSES, CONTRACT, SIDE, model_bytes, other_contract

ROOT = Path(__file__).resolve().parents[1]
ONNX_KINDS = ("onnxruntime", "openvino")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(model_bytes())
    return path


def with_metadata(path: Path, metadata: dict[str, str]) -> Path:
    changed = onnx.load(path)
    del changed.metadata_props[:]
    helper.set_model_props(changed, metadata)
    path.write_bytes(changed.SerializeToString())
    return path


@pytest.mark.parametrize("kind", ONNX_KINDS)
def test_a_hand_made_network_gives_hand_made_scores(model: Path, kind: str) -> None:
    """A red cell scores sigmoid(12 * 1 - 8.4), a dark one sigmoid(-8.4)."""
    batch = np.zeros((2, 3, SIDE, SIDE), np.float32)
    batch[1, 0, 8:16, 16:24] = 1  # the cell in row 1, column 2
    with open_runner(kind, model, threads=1) as runner:
        assert (runner.name, runner.device, runner.precision) == (kind, "cpu", "fp32")
        assert runner.version
        output = runner.infer(batch)
        first = output.copy()
        runner.infer(np.ones_like(batch))
        np.testing.assert_array_equal(output, first)  # an array of its own
    assert output.shape == (2, 7, 64)
    dark, red = 1 / (1 + np.exp(8.4)), 1 / (1 + np.exp(-3.6))
    np.testing.assert_allclose(output[0, 4:], dark, rtol=1e-4)
    np.testing.assert_allclose(output[1, 4:, 8 + 2], [red, dark, dark], rtol=1e-4)
    np.testing.assert_allclose(output[1, :4, 8 + 2], [20, 12, 8, 8], rtol=1e-6)


@pytest.mark.parametrize("streams", [2, 9])
@pytest.mark.parametrize("kind", ONNX_KINDS)
def test_callers_in_several_threads_get_their_own_answers(model: Path, kind: str, streams: int) -> None:
    """More threads than streams: each batch lights another cell, and each answer is of that cell."""

    def lit(cell: int) -> list[int]:
        batch = np.zeros((1, 3, SIDE, SIDE), np.float32)
        batch[0, cell % 3, cell // 8 * 8 : cell // 8 * 8 + 8, cell % 8 * 8 : cell % 8 * 8 + 8] = 1
        output = runner.infer(batch)
        return [int(index) for index in np.argwhere(output[0, 4:] > 0.5).ravel()]

    with open_runner(kind, model, threads=2, streams=streams) as runner, ThreadPoolExecutor(3 * streams) as pool:
        assert list(pool.map(lit, range(64))) == [[cell % 3, cell] for cell in range(64)]


@pytest.mark.parametrize("kind", ONNX_KINDS)
def test_pixels_and_their_tensor_give_the_same(model: Path, kind: str) -> None:
    """Noise, so that a swapped colour, a moved axis or another scale would show."""
    images = [*np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)]
    with open_runner(kind, model, threads=1) as runner:
        output = runner.infer_images(images)
        np.testing.assert_allclose(output, runner.infer(tensor_from_letterboxed(images)), rtol=1e-4, atol=1e-6)
        first = output.copy()
        runner.infer_images(images[::-1])
        np.testing.assert_array_equal(output, first)  # an array of its own


@pytest.mark.parametrize("kind", ONNX_KINDS)
def test_other_pixels_than_this_code_makes_are_refused(model: Path, kind: str) -> None:
    model.write_bytes(model_bytes(contract=other_contract(colour="BGR")))
    with open_runner(kind, model, threads=1) as runner, pytest.raises(DataError, match="wants BGR divided by 255"):
        runner.infer_images([np.zeros((SIDE, SIDE, 3), np.uint8)])


@pytest.mark.parametrize("kind", ONNX_KINDS)
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros((1, 3, SIDE, SIDE), np.float64), "wants float32 .* got float64"),
        (np.zeros((1, 3, SIDE, SIDE), np.uint8), "got uint8"),
        (np.zeros((3, SIDE, SIDE), np.float32), r"got shape \(3, 64, 64\)"),
        (np.zeros((1, 3, SIDE, SIDE + 32), np.float32), r"got shape \(1, 3, 64, 96\): letterbox"),
        (np.zeros((1, SIDE, SIDE, 3), np.float32), "got shape"),
        (np.zeros((0, 3, SIDE, SIDE), np.float32), "N at least 1"),
        ([[0.0]], "got list"),
    ],
    ids=["float64", "uint8", "no batch", "width", "channels last", "empty", "list"],
)
def test_wrong_input_is_refused_at_the_door(model: Path, kind: str, batch: np.ndarray, message: str) -> None:
    with open_runner(kind, model, threads=1) as runner, pytest.raises(DataError, match=message):
        runner.infer(batch)


@pytest.mark.parametrize("kind", ONNX_KINDS)
def test_files_of_others_are_refused(model: Path, kind: str) -> None:
    with_metadata(model, {"names": "{0: 'red'}"})
    with pytest.raises(DataError, match="carries no `detloop` metadata"):
        open_runner(kind, model, threads=1)
    good = metadata_from_contract(CONTRACT, stride=8)
    with_metadata(model, {**good, "detloop": good["detloop"].replace('"red"', '"blue?"')})
    with pytest.raises(ClassContractError, match="states class hash"):
        open_runner(kind, model, threads=1)
    with_metadata(model, {key: value for key, value in good.items() if key != "detloop"})  # what is left looks like a file of ultralytics
    with pytest.raises(DataError, match="carries no `detloop` metadata"):
        open_runner(kind, model, threads=1)
    with_metadata(model, {**good, "detloop": "{"})
    with pytest.raises(DataError, match="no readable `detloop` metadata"):
        open_runner(kind, model, threads=1)
    with_metadata(model, {"detloop": good["detloop"]})
    with pytest.raises(DataError, match="detloop_precision"):
        open_runner(kind, model, threads=1)
    with_metadata(model, metadata_from_contract(ModelContract(CLASSES, (SIDE, SIDE), "cxcywh_scores", input_name="x"), stride=8))
    with pytest.raises(DataError, match=r"has inputs \['images'\].*contract says \['x'\]"):
        open_runner(kind, model, threads=1)
    model.write_bytes(b"no model at all")
    with pytest.raises(DataError, match="cannot be loaded by"):
        open_runner(kind, model, threads=1)


@pytest.mark.parametrize("kind", ONNX_KINDS)
def test_an_input_of_another_size_than_the_contract_is_refused(model: Path, kind: str) -> None:
    with_metadata(model, metadata_from_contract(ModelContract(CLASSES, (2 * SIDE, SIDE), "cxcywh_scores"), stride=8))
    with pytest.raises(DataError, match=r"has an input of \[.*3, 64, 64\], its contract says \(N, 3, 64, 128\)"):
        open_runner(kind, model, threads=1)


@pytest.mark.parametrize("kind", ONNX_KINDS)
def test_output_that_breaks_the_contract_is_refused(model: Path, kind: str) -> None:
    more = ModelContract((*CLASSES, "a fourth"), (SIDE, SIDE), "cxcywh_scores")
    with_metadata(model, metadata_from_contract(more, stride=8))
    with open_runner(kind, model, threads=1) as runner, pytest.raises(DataError, match=r"its contract says float32 \(1, 8, anchors\)"):
        runner.infer(np.zeros((1, 3, SIDE, SIDE), np.float32))


def test_another_contract_is_refused(model: Path) -> None:
    with open_runner("onnxruntime", model, threads=1) as runner:
        runner.require_contract(CONTRACT.class_hash)
        with pytest.raises(ClassContractError, match="has class hash"):
            runner.require_contract("0" * 16)


def test_unknown_kind_and_missing_file(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=f"runner 'onnx' is unknown: use one of {', '.join(RUNNER_KINDS)}"):
        open_runner("onnx", model, threads=1)
    with pytest.raises(MissingInputError, match="is missing"):
        open_runner("openvino", tmp_path / "none.onnx", threads=1)


@pytest.mark.parametrize("kind", ONNX_KINDS)
def test_a_runner_needs_its_own_library_only(model: Path, kind: str) -> None:
    """Run in a process where every other heavy package is barred."""
    barred = {"torch", "ultralytics", "polars", "msgspec", "onnx", "tensorrt_rtx", "tensorrt", "matplotlib", *ONNX_KINDS} - {kind}
    code = f"""
import sys
for name in {sorted(barred)}:
    sys.modules[name] = None
import numpy as np
from pathlib import Path
from export.runners import open_runner
import pipelines.core.images, pipelines.core.postprocess
with open_runner({kind!r}, Path({str(model)!r}), threads=1) as runner:
    print(runner.infer(np.zeros((1, 3, {SIDE}, {SIDE}), np.float32)).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "(1, 7, 64)", done.stderr


@pytest.mark.parametrize(("kind", "hint"), [("onnxruntime", "pip install onnxruntime"), ("openvino", "pip install openvino")])
def test_a_missing_library_is_said(model: Path, kind: str, hint: str) -> None:
    code = f"""
import sys
sys.modules[{kind!r}] = None
from pathlib import Path
from export.runners import open_runner
from pipelines.core.errors import MissingPartError
try:
    open_runner({kind!r}, Path({str(model)!r}), threads=1)
except MissingPartError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True)
    assert hint in done.stdout
