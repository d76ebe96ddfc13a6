"""The way to a GPU, on a driver and a TensorRT of our own that are as strict as the real ones: call order, threads, errors, and that nothing stays.

What a real GPU and a real TensorRT do is not covered.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from export.engine_records import engines_document
from pipelines.core.io import sha256_bytes, sha256_file
from tests.conftest import ROOT
from tests.serving import encoded, running
from tests.test_release import run_release
from tests.tiny_detector import CLASSES, CONTRACT, make_project, model_bytes

COMPILER = shutil.which("cc")
pytestmark = pytest.mark.skipif(COMPILER is None or not sys.platform.startswith("linux"), reason="needs a C compiler, on Linux")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that finds the driver and the library."""
    folder = tmp_path_factory.mktemp("gpu")
    assert COMPILER is not None
    command = [COMPILER, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(folder / "libcuda.so.1"), str(ROOT / "tests" / "fake_cuda.c")]
    subprocess.run(command, check=True)
    shutil.copy(ROOT / "tests" / "fake_tensorrt.py", folder / "tensorrt.py")
    return {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def run(machine: dict[str, str], code: str, *arguments: str, fail: str = "") -> str:
    """What a process says that runs `code` there; `fail` is FAKE_CUDA_FAIL. It must leave nothing behind on the device."""
    code += "\nimport ctypes\nassert ctypes.CDLL('libcuda.so.1').fake_left() == 0, 'left on the device'\n"
    environment = {**machine, **({"FAKE_CUDA_FAIL": fail} if fail else {})}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


DEVICE = """
from export.runners.cuda import driver_version, gpu_capability, gpu_names
print(gpu_names(), driver_version(), gpu_capability())
"""


def test_the_device_is_told(machine: dict[str, str]) -> None:
    assert run(machine, DEVICE) == "['Fake GPU'] 13.0 (8, 9)"
    assert run(machine, DEVICE, fail="cuInit=100") == "[] None None"


COPIES = """
import threading
import numpy as np
from export.runners.cuda import CudaMemory
there, back = np.arange(6, dtype=np.float32), np.zeros(6, np.float32)
memory = CudaMemory()
pointer = memory.allocate(there.nbytes)
def elsewhere():
    memory.use_here()
    memory.to_device(pointer, there)
    memory.to_host(back, pointer)
    memory.synchronize()
def last():
    memory.free()
    memory.free()  # a second time does nothing: the context may be somebody else's as well
for work in (elsewhere, last):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print(back.tolist())
"""


def test_copies_arrive_and_all_is_given_back_from_another_thread(machine: dict[str, str]) -> None:
    assert run(machine, COPIES) == str([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])


FAILS = """
import numpy as np
from export.runners.cuda import CudaMemory
from pipelines.core.errors import DetloopError
try:
    with CudaMemory() as memory:
        pointer = memory.allocate(8)
        memory.allocate(8)
        memory.to_device(pointer, np.zeros(2, np.float32))
        memory.to_host(np.zeros(2, np.float32), pointer)
        memory.synchronize()
except DetloopError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("fail", "says"),
    [
        ("cuInit=100", "MissingPartError no CUDA GPU can load the engine here (cuInit gave status 100)"),
        ("cuDevicePrimaryCtxRetain=2", "MissingPartError the CUDA device refused cuDevicePrimaryCtxRetain (status 2, CUDA_ERROR_OUT_OF_MEMORY)"),
        ("cuStreamCreate=2", "MissingPartError the CUDA device refused cuStreamCreate (status 2, CUDA_ERROR_OUT_OF_MEMORY)"),
        ("cuMemAlloc_v2=2@2", "MissingPartError the CUDA device refused cuMemAlloc (status 2, CUDA_ERROR_OUT_OF_MEMORY)"),
        ("cuMemcpyHtoDAsync_v2=700", "DataError the CUDA device failed at cuMemcpyHtoDAsync (status 700, CUDA_ERROR_ILLEGAL_ADDRESS)"),
        ("cuStreamSynchronize=700", "DataError the CUDA device failed at cuStreamSynchronize (status 700, CUDA_ERROR_ILLEGAL_ADDRESS)"),
    ],
)
def test_what_the_driver_refuses_is_told_and_leaves_nothing(machine: dict[str, str], fail: str, says: str) -> None:
    assert run(machine, FAILS, fail=fail).startswith(says)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the tiny detector as the library of this machine would have built it, and the ONNX file beside it."""
    folder = tmp_path_factory.mktemp("engine")
    onnx = model_bytes()
    (folder / "model.onnx").write_bytes(onnx)
    put_engine(folder, f"detloop-{sha256_bytes(onnx)}".encode() + b"\0004\0onnx\0" + onnx)
    return folder / "fp32.engine"


def put_engine(folder: Path, content: bytes, **changes: object) -> None:
    (folder / "fp32.engine").write_bytes(content)
    entry = {"file": "fp32.engine", "sha256": sha256_bytes(content), "onnx_sha256": sha256_file(folder / "model.onnx"), "max_batch": 4}
    entry |= {"library": "tensorrt", "library_version": "11.0.0.1", "gpu": "Fake GPU", "driver": "13.0", "thresholds": dict.fromkeys(CLASSES, 0.5)}
    (folder / "engines.json").write_text(json.dumps(engines_document({"fp32": {**entry, **changes}}, CONTRACT)))


RUNNER = """
import sys
import threading
from pathlib import Path
import numpy as np
from export.runners import open_runner
path = Path(sys.argv[1])
batches = [np.random.default_rng(number).random((size, 3, 64, 64), dtype=np.float32) for number, size in enumerate((1, 4, 2, 1, 3))]
with open_runner("onnxruntime", path.with_name("model.onnx"), threads=1) as runner:
    wanted = [runner.infer(batch) for batch in batches]
runner = open_runner("tensorrt", path, threads=1)
right = []
def caller(number):
    for _ in range(20):
        right.append(np.array_equal(runner.infer(batches[number]), wanted[number]))
threads = [threading.Thread(target=caller, args=(number,)) for number in range(len(batches))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(right.count(True), runner.device, runner.version, runner.max_batch)
closing = threading.Thread(target=runner.close)
closing.start()
closing.join()
runner.close()
"""


def test_an_engine_gives_what_its_onnx_file_gives(machine: dict[str, str], engine: Path) -> None:
    """Batches of all sizes from several threads, each its own answer."""
    assert run(machine, RUNNER, str(engine)) == "100 Fake GPU tensorrt 11.0.0.1 4"


OPENED = """
import sys
from pathlib import Path
import numpy as np
from export.runners import open_runner
from pipelines.core.errors import DetloopError
try:
    with open_runner("tensorrt", Path(sys.argv[1]), threads=1) as runner:
        runner.infer(np.zeros((1, 3, 64, 64), np.float32))
except DetloopError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("content", "changes", "fail", "says"),
    [
        (
            b"not its form",
            {},
            "",
            "MissingPartError tensorrt 11.0.0.1 on Fake GPU cannot load {path} (the engine was built for another compute capability): ",
        ),
        (None, {"max_batch": 5}, "", "DataError {path} does not take images (5, 3, 64, 64)"),
        (None, {"gpu": "GPU B"}, "", "MissingPartError {path} is a foreign engine (built for GPU B, here is Fake GPU)"),
        (None, {}, "cuMemAlloc_v2=2@2", "MissingPartError the CUDA device refused cuMemAlloc (status 2, CUDA_ERROR_OUT_OF_MEMORY)"),
        (None, {}, "cuStreamSynchronize=700", "DataError the CUDA device failed at cuStreamSynchronize (status 700, CUDA_ERROR_ILLEGAL_ADDRESS)"),
        (None, {}, "", ""),
    ],
    ids=["unloadable", "batch", "foreign", "room", "crash", "none"],
)
def test_an_engine_that_cannot_be_used_is_told_and_leaves_nothing(
    machine: dict[str, str], engine: Path, tmp_path: Path, content: bytes | None, changes: dict[str, object], fail: str, says: str
) -> None:
    shutil.copy(engine.with_name("model.onnx"), tmp_path)
    mark = f"detloop-{sha256_file(tmp_path / 'model.onnx')}".encode()
    put_engine(tmp_path, engine.read_bytes() if content is None else mark + content, **changes)
    said = run(machine, OPENED, str(tmp_path / "fp32.engine"), fail=fail)
    assert said.startswith(says.format(path=tmp_path / "fp32.engine"))
    assert bool(said) == bool(says)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = make_project(tmp_path_factory.mktemp("bundle") / "p")
    assert run_release(project)["verdict"] == "released"
    return project.root / "release"


def detloop(machine: dict[str, str], *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**machine, **environment}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("before", [None, b"damaged", b"timings of another GPU"], ids=["none", "damaged", "another"])
def test_engines_are_built_checked_and_used_on_the_target(
    machine: dict[str, str], released: Path, tmp_path: Path, before: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Path(shutil.copytree(released, tmp_path / "bundle"))
    if before is not None:
        (bundle / "timing.cache").write_bytes(before)
    built = detloop(machine, "engine", "build", "--bundle", str(bundle))
    assert (built.returncode, built.stderr) == (0, "")
    assert [line.split()[:2] for line in built.stdout.splitlines()] == [["pass", precision] for precision in ("fp16", "fp32", "int8")]
    assert (bundle / "timing.cache").read_bytes() == b"timings of Fake GPU"
    entry = json.loads((bundle / "local" / "engines.json").read_text())["engines"]["fp32"]
    assert (entry["status"], entry["library"], entry["gpu"], entry["driver"]) == ("built", "tensorrt", "Fake GPU", "13.0")
    if before is None:
        tested = detloop(machine, "bundle", "test", str(bundle))
        assert tested.returncode == 0, tested.stdout + tested.stderr
        assert [line.split()[1] for line in tested.stdout.splitlines() if line.startswith("ok ")][2:5] == [
            f"tensorrt_{precision}" for precision in ("fp16", "fp32", "int8")
        ]
        predicted = detloop(machine, "predict", "--bundle", str(bundle), str(bundle / "golden" / "00.png"), "--threads", "2")
        assert json.loads(predicted.stdout)["runner"] == "tensorrt_fp16"
        for name in ("LD_LIBRARY_PATH", "PYTHONPATH"):
            monkeypatch.setenv(name, machine[name])
        with running(bundle) as server:
            answer = server.predict(*[encoded(".png")] * 12).json()
            status, said = server.stop()
        assert (answer["runner"], len(answer["images"])) == ("tensorrt_fp16", 12)
        assert (status, "error" in said) == (0, False)


def test_an_engine_that_fails_on_the_gpu_is_no_engine_that_was_not_run(machine: dict[str, str], released: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(released, tmp_path / "bundle"))
    built = detloop(machine, "engine", "build", "--bundle", str(bundle), FAKE_CUDA_FAIL="cuStreamSynchronize=700")
    assert built.returncode == 2
    assert [line.split()[:2] for line in built.stdout.splitlines()] == [["fail", precision] for precision in ("fp16", "fp32", "int8")]
    assert "failed at cuStreamSynchronize (status 700, CUDA_ERROR_ILLEGAL_ADDRESS)" in built.stdout
    assert built.stderr.startswith("error: engines fp16, fp32, int8 do not find what their ONNX files find")


def test_an_engine_that_cannot_be_built_is_told_apart_from_one_that_finds_something_else(
    machine: dict[str, str], released: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(released, tmp_path / "bundle"))
    built = detloop(machine, "engine", "build", "--bundle", str(bundle), FAKE_TENSORRT_REFUSES="fp16")
    assert built.returncode == 2
    assert [line.split()[:2] for line in built.stdout.splitlines()] == [["fail", "fp16"], ["pass", "fp32"], ["pass", "int8"]]
    assert "no kernel of this GPU computes that" in built.stdout
    assert built.stderr == "error: engines fp16 could not be built: they will not be used, see the lines above\n"


def test_a_server_whose_gpu_failed_is_not_ready(machine: dict[str, str], released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whoever watches it, such as the container's HEALTHCHECK, can start it again: a GPU that has failed fails until the process ends."""
    bundle = Path(shutil.copytree(released, tmp_path / "bundle"))
    assert detloop(machine, "engine", "build", "--bundle", str(bundle)).returncode == 0
    for name in ("LD_LIBRARY_PATH", "PYTHONPATH"):
        monkeypatch.setenv(name, machine[name])
    monkeypatch.setenv("FAKE_CUDA_FAIL", "cuStreamSynchronize=700@3")  # the golden image, one request, and no more
    with running(bundle) as server:
        answers = [(server.predict(encoded(".png")).status_code, server.client.get("/ready").status_code) for _ in range(3)]
        health = server.client.get("/health").status_code
        status, said = server.stop()
    assert answers == [(200, 200), (503, 503), (503, 503)]
    assert (health, status) == (200, 0)
    assert said.count("error: the CUDA device failed at cuStreamSynchronize (status 700, CUDA_ERROR_ILLEGAL_ADDRESS)") == said.count("\n") == 2
