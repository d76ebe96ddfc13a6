"""Every way in which the exported model can be run: a runner on a file. Names are `RUNNER_PRECISION`, as in the metrics files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.engine_records import ENGINES_FILE, NOT_BUILT
from pipelines.core.errors import DataError
from pipelines.core.io import read_json, sha256_file

ONNX_FILES = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}
ONNX_RUNNERS = ("onnxruntime", "openvino")
BEFORE_FILE = "before.onnx"  # int8 with all layers in int8, where `quantize` put some back to float: `benchmark` tells what that costs


@dataclass(frozen=True)
class Artifact:
    """`path` is None for an engine that was not built; `note` says why, or what its builder says of it. `onnx` is the file that an engine must have
    been built from.
    """

    name: str
    runner: str
    precision: str
    path: Path | None
    note: str = ""
    onnx: Path | None = None

    def sha256(self) -> str | None:
        """Hash of the very file, None without one."""
        return None if self.path is None else sha256_file(self.path)

    def size_mb(self) -> float | None:
        """Size of the file in MB (1e6 bytes), None without one."""
        return None if self.path is None else self.path.stat().st_size / 1e6


def list_artifacts(export: Path, engines: Path) -> list[Artifact]:
    """The ONNX files by precision and runner, then the engines that `engines.json` names.

    Raises:
        MissingInputError: a file is missing.
        DataError: engines.json cannot be read.
    """
    found = [Artifact(f"{runner}_{precision}", runner, precision, export / file) for precision, file in ONNX_FILES.items() for runner in ONNX_RUNNERS]
    record = read_json(engines / ENGINES_FILE)
    try:
        entries: dict[str, dict[str, Any]] = record["engines"]
        for precision in ONNX_FILES:
            if precision in entries:
                entry = entries[precision]
                path = None if entry["status"] == NOT_BUILT else engines / entry["file"]
                found.append(
                    Artifact(
                        f"tensorrt_{precision}", "tensorrt", precision, path, entry.get("reason") or entry["status"], export / ONNX_FILES[precision]
                    )
                )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{engines / ENGINES_FILE} has another form ({error!r}): run `dvc repro build_engine`") from error
    return found
