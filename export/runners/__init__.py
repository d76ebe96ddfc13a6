"""Runners by name; each runtime is imported when it is asked for."""

from __future__ import annotations

from pathlib import Path

from export.runners.base import Runner
from pipelines.core.errors import ParamsError
from pipelines.core.io import require_file

RUNNER_KINDS = ("onnxruntime", "openvino", "tensorrt")

__all__ = ["RUNNER_KINDS", "Runner", "open_runner"]


def open_runner(kind: str, path: Path, *, threads: int, streams: int = 1, portion: int = 1) -> Runner:
    """Load a model file (`.onnx` for onnxruntime and openvino, `.engine` with its `engines.json` for tensorrt).

    For the CPU runtimes: `threads` is how many they compute with, `streams` how many images at the same time share them. One stream answers one
    image soonest; as many streams as threads get through many images soonest.

    Raises:
        ParamsError: an unknown kind.
        MissingInputError: no such file.
        MissingPartError: the library or the device is not on this machine.
        DataError: not a model of this export.
    """
    if kind not in RUNNER_KINDS:
        raise ParamsError(f"runner {kind!r} is unknown: use one of {', '.join(RUNNER_KINDS)}")
    require_file(path)
    if kind == "onnxruntime":
        from export.runners.onnxruntime import OnnxRuntimeRunner

        return OnnxRuntimeRunner(path, threads=threads, streams=streams)
    if kind == "openvino":
        from export.runners.openvino import OpenVinoRunner

        return OpenVinoRunner(path, threads=threads, streams=streams, portion=portion)
    from export.runners.tensorrt import TensorRtRunner

    return TensorRtRunner(path)
