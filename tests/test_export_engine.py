"""TensorRT engines: built without a GPU where the library can, the same bytes each time; what cannot be built or run is said, never passed over."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from export.convert.engine_from_onnx import Toolchain, built_twice, engine_from_onnx, toolchain
from export.convert.onnx_from_torch import onnx_from_torch
from export.engine_records import EngineRecord, engine_record, engines_document, require_built_from
from export.runners import open_runner
from export.runners.cuda import gpu_names
from export.runners.tensorrt_library import installed_libraries, load_library, why_not_loaded
from pipelines.core.contract import ModelContract
from pipelines.core.errors import DataError, MissingInputError, MissingPartError
from pipelines.core.io import sha256_bytes, sha256_file
from tests.small_yolos import CLASSES, checkpoint
from training.checkpoint import load_detector

ROOT = Path(__file__).resolve().parents[1]
NO_GPU = not gpu_names()
CAN_BUILD = pytest.mark.skipif("tensorrt_rtx" not in installed_libraries(), reason="needs tensorrt-rtx (x86-64 Linux)")


@pytest.fixture(scope="module")
def onnx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    module, contract = load_detector(checkpoint(folder, "yolov8n.yaml"))
    (folder / "model.onnx").write_bytes(onnx_from_torch(module, contract, opset=17))
    classes = json.dumps([{"name": name} for name in CLASSES])
    (folder / "params.yaml").write_text(f"classes: {classes}\nexport: {{engines: [fp32]}}\n")
    return folder


def run_stage(folder: Path, engines: Path, *, python: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*(python or [sys.executable, "-m", "export.stages.build_engine"]), "--params", str(folder / "params.yaml")]
    environment = {**os.environ, "PADDING": "x" * len(str(engines)) * 37}  # another environment each time
    command += ["--export", str(folder), "--work", str(folder / "work"), "--engines", str(engines)]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def built(onnx_folder: Path) -> Path:
    done = run_stage(onnx_folder, onnx_folder / "engines")
    assert done.returncode == 0, done.stderr
    return onnx_folder / "engines"


@CAN_BUILD
def test_record_says_what_was_built(onnx_folder: Path, built: Path) -> None:
    document = json.loads((built / "engines.json").read_text())
    entry = document["engines"]["fp32"]
    assert entry["status"] == ("built, not run" if NO_GPU else "built")
    assert entry["sha256"] == sha256_file(built / entry["file"])
    assert entry["size_bytes"] == (built / entry["file"]).stat().st_size > 1_000_000
    assert entry["onnx_sha256"] == sha256_file(onnx_folder / entry["onnx"])
    assert (entry["library"], entry["max_batch"]) == ("tensorrt_rtx", 8)
    record = engine_record(built / "fp32.engine")
    assert f"detloop-{entry['onnx_sha256']}".encode() in (built / "fp32.engine").read_bytes()
    require_built_from(built / "fp32.engine", onnx_folder / "model.onnx")
    with pytest.raises(DataError, match="is the engine of another ONNX file"):
        require_built_from(built / "fp32.engine", onnx_folder / "params.yaml")
    assert record.contract.classes == CLASSES
    assert record.library_version == entry["library_version"]
    assert sorted(path.name for path in built.iterdir()) == ["engines.json", "fp32.engine"]
    assert not list(built.parent.glob(".engines*"))  # no temporary folder left


@CAN_BUILD
def test_same_onnx_same_engine_from_another_clone(onnx_folder: Path, built: Path, tmp_path: Path) -> None:
    """The builder's own bytes change with each process; see `export.convert.engine_child`."""
    clone = tmp_path / "a clone under a longer path"
    for part in ("export", "pipelines"):
        shutil.copytree(ROOT / part, clone / part, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-c",
        f"import sys, runpy; sys.path.insert(0, {str(clone)!r}); runpy.run_module('export.stages.build_engine', run_name='__main__')",
    ]
    done = run_stage(onnx_folder, tmp_path / "engines", python=command)
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "engines" / "engines.json").read_text())["engines"]["fp32"]
    if not again["reproducible"]:
        pytest.skip("this system does not let a process switch address randomisation off")
    assert (tmp_path / "engines" / "fp32.engine").read_bytes() == (built / "fp32.engine").read_bytes()
    assert (tmp_path / "engines" / "engines.json").read_bytes() == (built / "engines.json").read_bytes()


@pytest.mark.parametrize(
    ("builds", "wanted"),
    [
        ("aa", ("a", True)),
        ("aba", ("a", True)),
        ("abcb", ("b", True)),
        ("a--a", ("a", True)),  # builds that fail agree on nothing
        ("abcdefghi", ("a", False)),
    ],
)
def test_the_engine_that_comes_out_twice_is_taken(builds: str, wanted: tuple[str, bool]) -> None:
    made = iter([b"" if name == "-" else name.encode() for name in builds])
    engine, reproducible = built_twice(next(made), lambda: next(made))
    assert (engine.decode(), reproducible) == wanted


@pytest.mark.parametrize(
    ("library", "capability", "target"),
    [
        ("tensorrt_rtx", (7, 5), "SM75"),
        ("tensorrt_rtx", (8, 0), None),
        ("tensorrt_rtx", (12, 0), None),
        ("tensorrt_rtx", None, None),
        ("tensorrt", (7, 5), None),  # builds for the GPU at hand anyway
    ],
)
def test_what_must_be_built_for_one_gpu_alone(library: str, capability: tuple[int, int] | None, target: str | None) -> None:
    assert Toolchain(library, ("GPU",), "13.0", capability).own_target() == target


@CAN_BUILD
def test_an_old_gpu_gets_an_engine_of_its_own(onnx_folder: Path, built: Path) -> None:
    """What TensorRT-RTX builds unasked cannot be loaded before compute capability 8.0."""
    entry, engine = engine_from_onnx((onnx_folder / "model.onnx").read_bytes(), "fp32", Toolchain("tensorrt_rtx", ("RTX 2080",), "13.0", (7, 5)))
    assert engine is not None
    assert engine != (built / "fp32.engine").read_bytes()
    assert (entry["status"], entry["target"], entry["gpu"], entry["driver"]) == ("built", "RTX 2080", "RTX 2080", None)
    assert entry["reproducible"] == json.loads((built / "engines.json").read_text())["engines"]["fp32"]["reproducible"]


@CAN_BUILD
@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
def test_an_engine_is_not_run_without_a_gpu(built: Path) -> None:
    with pytest.raises(MissingPartError, match="no CUDA GPU can load the engine here"):
        open_runner("tensorrt", built / "fp32.engine", threads=1)


@CAN_BUILD
@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
def test_the_librarys_reason_for_not_loading_an_engine_is_told(built: Path) -> None:
    assert "CUDA" in why_not_loaded(load_library("tensorrt_rtx"), (built / "fp32.engine").read_bytes())


@CAN_BUILD
def test_a_refused_network_gives_the_librarys_reason() -> None:
    entry, engine = engine_from_onnx(b"not a network", "fp32", Toolchain("tensorrt_rtx", ()))
    assert engine is None
    assert entry["status"] == "not_built"
    assert "refused the network" in entry["reason"]
    assert "Failed to parse the ONNX model" in entry["reason"]
    assert entry["onnx_sha256"] == sha256_bytes(b"not a network")


def test_a_builder_that_dies_is_said() -> None:
    entry, engine = engine_from_onnx(b"", "fp32", Toolchain("no_such_library", ()))
    assert engine is None
    assert entry["status"] == "not_built"
    assert "no_such_library" in entry["reason"]


def test_without_a_library_there_is_a_record_and_no_engine() -> None:
    entry, engine = engine_from_onnx(b"x", "int8", Toolchain(None, ()))
    assert engine is None
    assert entry["status"] == "not_built"
    assert "pip install tensorrt-rtx" in entry["reason"]
    with pytest.raises(MissingPartError, match="pip install tensorrt-rtx"):
        load_library("no_such_library")


def test_toolchain_fits_this_machine() -> None:
    tools = toolchain()
    assert tools.library is None or tools.library in installed_libraries()
    assert tools.gpus == tuple(gpu_names())


def test_engine_and_record_must_fit(tmp_path: Path) -> None:
    contract = ModelContract(CLASSES, (64, 64), "cxcywh_scores")
    engine = tmp_path / "fp32.engine"
    onnx_sha256 = sha256_bytes(b"the model")
    content = f"engine detloop-{onnx_sha256}".encode()
    engine.write_bytes(content)
    with pytest.raises(MissingInputError, match=r"engines\.json is missing: keep it beside the engine"):
        engine_record(engine)
    entry = {
        "file": "fp32.engine",
        "sha256": sha256_bytes(content),
        "onnx_sha256": onnx_sha256,
        "library": "tensorrt_rtx",
        "library_version": "1",
        "max_batch": 8,
    }
    listing = tmp_path / "engines.json"
    listing.write_text(json.dumps(engines_document({"fp32": entry}, contract)))
    assert engine_record(engine).contract == contract
    engine.write_bytes(b"another engine")
    with pytest.raises(DataError, match=r"fp32\.engine has sha256 [0-9a-f]{12}…, engines\.json says"):
        engine_record(engine)
    listing.write_text(json.dumps(engines_document({"fp32": {"status": "not_built", "reason": "x"}}, contract)))
    with pytest.raises(DataError, match=r"does not list fp32\.engine"):
        engine_record(engine)
    listing.write_text(json.dumps({"contract": contract.to_json(), "engines": {"fp32": {"file": "fp32.engine"}}}))
    with pytest.raises(DataError, match="has another form"):
        engine_record(engine)


@pytest.mark.parametrize(
    ("changes", "here", "says"),
    [
        ({}, ("11.0", "GPU A", "13.0"), None),
        ({}, ("11.1", "GPU A", "13.0"), "built by tensorrt 11.0, here is 11.1"),
        ({}, ("11.0", "GPU B", "13.0"), "built for GPU A, here is GPU B"),
        ({}, ("11.0", "GPU A", "13.1"), "built under driver 13.0, here is 13.1"),
        ({"gpu": None, "driver": None}, ("11.0", "GPU B", "13.1"), None),  # a portable engine
        ({"gpu": None, "driver": None}, ("11.1", "GPU B", "13.1"), "built by tensorrt 11.0, here is 11.1"),
        ({"driver": None}, ("11.0", "GPU A", "13.1"), None),  # for one GPU, finished by the driver there
        ({"driver": None}, ("11.0", "GPU B", "13.1"), "built for GPU A, here is GPU B"),
    ],
)
def test_a_foreign_engine_is_told(changes: dict[str, None], here: tuple[str, str, str], says: str | None) -> None:
    contract = ModelContract(CLASSES, (64, 64), "cxcywh_scores")
    record = EngineRecord("tensorrt", "11.0", "fp32", contract, None, 8, "0", "0", "GPU A", "13.0")
    assert replace(record, **changes).foreign_here(*here) == says  # type: ignore[arg-type]
