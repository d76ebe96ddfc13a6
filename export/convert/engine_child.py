"""The process that builds one TensorRT engine: ONNX bytes on stdin, one line of JSON and then the engine's bytes on stdout.

A process of its own because the builder orders parts of an engine by the addresses of its objects: the same network gives other bytes each time,
unless the process lies in memory the same way. So it starts itself anew with address randomisation off, a bare Python without its own allocator, this
file and the packages under paths that are the same everywhere (/proc/self/fd/…), large blocks on the heap, where the library's other threads put
nothing in between, and one processor, on which those threads take turns without interrupting each other. Then the same ONNX gives the same bytes in
any clone and any virtual environment of one machine, int8 all but now and then. It also keeps a builder that crashes from taking the stage with it.

Imports the standard library and TensorRT only: whatever else Python loads would move the builder's objects.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.util
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

ADDR_NO_RANDOMIZE = 0x0040000  # linux/personality.h
QUERY = 0xFFFFFFFF  # asks personality(2) for the current flags
ISOLATED = "isolated"  # the last argument of a process that has started itself anew
PACKAGES_FD, SCRIPT_FD = 100, 101  # the packages' folder and this file, kept open under these numbers
# Blocks up to 32 MB (glibc's limit) come from the heap, and it is never trimmed; tunables that a C library does not know are ignored.
FIXED_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=4294967296",
}
RTX = "tensorrt_rtx"
RTX_LIBRARIES = ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1")  # in the order in which they need each other
ANY_TARGET = "any"  # whatever the library builds for unasked
NETWORK_NAME = "detloop-{onnx_sha256}"  # stands in the engine's bytes, so that an engine says what it was built from


def build(library_name: str, onnx: bytes, max_batch: int, target: str = ANY_TARGET, timing_cache: Path | None = None) -> tuple[dict[str, Any], bytes]:
    """The answer's header and the engine: `{"version": …}`, or `{"errors": […]}` and no bytes. `target` is the one compute capability that
    TensorRT-RTX shall build for, as SM75. The file `timing_cache` is read where there is one, and written.
    """
    library = importlib.import_module(library_name)
    messages: list[str] = []

    class Collector(library.ILogger):  # type: ignore[misc,name-defined]
        """Keeps the library's errors."""

        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.Severity.INTERNAL_ERROR, library.ILogger.Severity.ERROR):
                messages.append(message)

    logger = Collector()
    try:
        builder = library.Builder(logger)
    except TypeError as error:  # how its bindings tell that the library made none: without a GPU, or with a driver that is too old
        return {"errors": messages or [f"it made no builder: {error}"]}, b""
    builder.max_threads = 1
    # in TensorRT 10 the types of a network's tensors count only when asked; later ones know nothing else, and take the flag
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    network.name = NETWORK_NAME.format(onnx_sha256=hashlib.sha256(onnx).hexdigest())
    parser = library.OnnxParser(network, logger)
    if not parser.parse(onnx):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        return {"errors": [f"{item.desc()} (node {item.node_name() or item.node()})" for item in found] or messages or ["no reason given"]}, b""
    config = builder.create_builder_config()
    config.clear_flag(library.BuilderFlag.TF32)  # float32 means float32
    if target != ANY_TARGET:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(library.ComputeCapability, target), 0)
    profile = builder.create_optimization_profile()
    tensor = network.get_input(0)
    shape = tuple(tensor.shape)[1:]
    profile.set_shape(tensor.name, (1, *shape), (1, *shape), (max_batch, *shape))
    config.add_optimization_profile(profile)
    cache = None
    if timing_cache is not None:
        cache = config.create_timing_cache(timing_cache.read_bytes() if timing_cache.is_file() else b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):  # of another GPU or version, or damaged: measured anew
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, ignore_mismatch=False)
            messages.clear()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return {"errors": messages or ["no reason given"]}, b""
    if timing_cache is not None and cache is not None:
        temporary = timing_cache.with_name(f".{timing_cache.name}.tmp")
        temporary.write_bytes(bytes(cache.serialize()))
        temporary.replace(timing_cache)
    return {"version": str(library.__version__)}, bytes(engine)


def start_isolated(library_name: str, max_batch: int, target: str) -> None:
    """Replace this process by one that lies in memory the same way each time; return when this system or library does not allow it."""
    spec = importlib.util.find_spec(RTX)
    # plain TensorRT times kernels on the GPU to choose them: no layout makes that repeatable
    if library_name != RTX or not sys.platform.startswith("linux") or spec is None or spec.origin is None:
        return
    packages = Path(spec.origin).parents[1]
    if not all((packages / f"{RTX}_libs" / name).is_file() for name in RTX_LIBRARIES):
        return
    system = ctypes.CDLL(None)
    flags = system.personality(ctypes.c_ulong(QUERY))
    if flags == -1 or system.personality(ctypes.c_ulong(flags | ADDR_NO_RANDOMIZE)) == -1:  # some containers forbid it
        return
    # the compiler's threads take numbers in the order in which they run: on one processor, none interrupting another, that is always the same
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    except OSError:  # some containers forbid this too
        return
    for path, number in ((packages, PACKAGES_FD), (Path(__file__), SCRIPT_FD)):
        os.dup2(os.open(path, os.O_RDONLY), number, inheritable=True)
    python = getattr(sys, "_base_executable", "") or sys.executable  # not the virtual environment's own
    bare = ["-S", "-P", "-B", "-X", "pycache_prefix=/nonexistent", f"/proc/self/fd/{SCRIPT_FD}"]
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES") if name in os.environ}
    os.execve(python, [python, *bare, library_name, str(max_batch), target, ISOLATED], {**kept, **FIXED_ENVIRONMENT})


def load_isolated_library() -> None:
    """Import TensorRT-RTX by its fixed paths, file by file: its own packages would search folders and load libraries in the folder's order."""
    folder = f"/proc/self/fd/{PACKAGES_FD}"
    for name in RTX_LIBRARIES:
        ctypes.CDLL(f"{folder}/{RTX}_libs/{name}")
    sys.modules[f"{RTX}_libs"] = types.ModuleType(f"{RTX}_libs")
    bindings = f"{folder}/{RTX}_bindings"
    spec = importlib.util.spec_from_file_location(RTX, f"{bindings}/__init__.py", submodule_search_locations=[bindings])
    if spec is None or spec.loader is None:
        raise ImportError(f"{RTX} has no bindings")
    module = importlib.util.module_from_spec(spec)
    sys.modules[RTX] = module
    spec.loader.exec_module(module)


def main() -> None:
    """Start anew in isolation where possible, read, build, answer."""
    library_name, max_batch, target = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    isolated = sys.argv[-1] == ISOLATED
    if isolated:
        load_isolated_library()
    else:
        start_isolated(library_name, max_batch, target)
    answer_to = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever the library prints is not part of the answer
    onnx = sys.stdin.buffer.read()
    timing_cache = Path(sys.argv[4]) if len(sys.argv) > 4 and not isolated else None
    header, engine = build(library_name, onnx, max_batch, target, timing_cache)
    with os.fdopen(answer_to, "wb") as stream:
        stream.write(json.dumps({**header, "reproducible": isolated}).encode() + b"\n" + engine)


if __name__ == "__main__":
    main()
