"""ONNX bytes to a TensorRT engine, with `tensorrt` or `tensorrt_rtx`, whichever is there; without a GPU too, where the library can.

Precision is in the ONNX file (fp16 tensors, quantize/dequantize pairs): the networks are strongly typed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.convert.engine_child import ANY_TARGET
from export.engine_records import BUILT, BUILT_NOT_RUN, NOT_BUILT
from export.runners.cuda import driver_version, gpu_capability, gpu_names
from export.runners.tensorrt_library import installed_libraries
from pipelines.core.errors import listed
from pipelines.core.io import sha256_bytes

INT8 = "int8"
MOST_BUILDS = 8  # of one int8 network, until two agree
MAX_BATCH = 8  # the largest batch of the engine's one profile; it is tuned for 1
# What TensorRT-RTX builds unasked runs from compute capability 8.0 on; an older GPU (Turing, 7.5) wants an engine of its own, for it alone:
# docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html
PORTABLE_FROM = (8, 0)
PORTABLE_TARGET = "any GPU of compute capability 8.0 or later that TensorRT-RTX supports (finished on the device)"
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Toolchain:
    """Which library builds engines here (None: none), the GPUs that could load them, and the first one's compute capability."""

    library: str | None
    gpus: tuple[str, ...]
    driver: str | None = None
    capability: tuple[int, int] | None = None

    def own_target(self) -> str | None:
        """The GPU here as the library names it, where an engine must be built for it alone; None where what is built unasked does."""
        if self.library != "tensorrt_rtx" or self.capability is None or self.capability >= PORTABLE_FROM:
            return None
        return f"SM{self.capability[0]}{self.capability[1]}"


def toolchain() -> Toolchain:
    """`tensorrt` where it is installed and there is a GPU (it cannot build without one), else `tensorrt_rtx`."""
    installed, gpus = installed_libraries(), tuple(gpu_names())
    order = ("tensorrt", "tensorrt_rtx") if gpus else ("tensorrt_rtx", "tensorrt")
    return Toolchain(next((name for name in order if name in installed), None), gpus, driver_version(), gpu_capability())


def engine_from_onnx(onnx: bytes, precision: str, tools: Toolchain, *, timing_cache: Path | None = None) -> tuple[dict[str, Any], bytes | None]:
    """The entry for `engines.json` and the engine's bytes; None with the reason in the entry when it could not be built.

    The file `timing_cache` keeps what plain TensorRT measured of its kernels, so that the next build need not measure again.
    `reproducible` says whether the process could be laid out so that the same ONNX gives the same bytes (see `export.convert.engine_child`); of int8,
    whether these bytes came out twice.
    """
    source = {"onnx_sha256": sha256_bytes(onnx)}
    if tools.library is None:
        reason = "neither tensorrt nor tensorrt_rtx can be imported here: pip install tensorrt-rtx on x86-64 Linux"
        return {**source, "status": NOT_BUILT, "reason": reason}, None
    own, portable = tools.own_target(), tools.library == "tensorrt_rtx" and tools.own_target() is None
    command = [sys.executable, "-m", "export.convert.engine_child", tools.library, str(MAX_BATCH), own or ANY_TARGET]
    if timing_cache is not None and tools.library == "tensorrt":  # TensorRT-RTX measures nothing while it builds
        timing_cache.parent.mkdir(parents=True, exist_ok=True)
        command.append(str(timing_cache.resolve()))
    header, engine = _build(command, onnx)
    if "reason" in header:
        return {**source, "status": NOT_BUILT, "reason": f"{tools.library}{header['reason']}"}, None
    reproducible = header["reproducible"]
    if reproducible and precision == INT8:
        engine, reproducible = built_twice(engine, lambda: _build(command, onnx)[1])
    return {
        **source,
        "status": BUILT if tools.gpus else BUILT_NOT_RUN,
        "file": f"{precision}.engine",
        "sha256": sha256_bytes(engine),
        "size_bytes": len(engine),
        "library": tools.library,
        "library_version": header["version"],
        "target": PORTABLE_TARGET if portable else tools.gpus[0],
        "gpu": None if portable else tools.gpus[0],
        "driver": None if tools.library == "tensorrt_rtx" else tools.driver,
        "max_batch": MAX_BATCH,
        "reproducible": reproducible,
    }, engine


def _build(command: list[str], onnx: bytes) -> tuple[dict[str, Any], bytes]:
    """What one process of `export.convert.engine_child` answers; `reason`, to follow the library's name, when it built nothing."""
    finished = subprocess.run(command, input=onnx, capture_output=True, check=False, cwd=_ROOT)
    line, _, engine = finished.stdout.partition(b"\n")
    if finished.returncode != 0 or not line:
        tail = " ".join(finished.stderr.decode(errors="replace").split())[-300:]
        return {"reason": f"'s builder ended with status {finished.returncode}: {tail}"}, b""
    header: dict[str, Any] = json.loads(line)
    return ({"reason": f" refused the network: {listed(header['errors'])}"} if "errors" in header else header), engine


def built_twice(first: bytes, build: Callable[[], bytes]) -> tuple[bytes, bool]:
    """The first engine that comes out a second time, and True; after MOST_BUILDS the first of all, and False. `build` gives b"" when it fails.

    Of 40 builds of one int8 network 38 gave the same bytes. In the others the compiler's threads had handed out the numbers in its internal names in
    another order, each time another one.
    """
    seen = {first}
    for _ in range(MOST_BUILDS - 1):
        engine = build()
        if engine and engine in seen:
            return engine, True
        seen.add(engine)
    return first, False
