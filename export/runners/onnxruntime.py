"""ONNX Runtime on the CPU. Owner of ONNX Runtime's sessions."""

from __future__ import annotations

from pathlib import Path
from threading import Semaphore
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.metadata import contract_from_metadata, precision_from_metadata, thresholds_from_metadata
from export.runners.base import Runner, one_line
from pipelines.core.errors import DataError, MissingPartError

_ERRORS_ONLY = 3


class OnnxRuntimeRunner(Runner):
    """An `.onnx` file in ONNX Runtime, CPU provider; each of `streams` callers computes with its share of the `threads`."""

    name = "onnxruntime"
    device = "cpu"

    def __init__(self, path: Path, *, threads: int, streams: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingPartError(f"ONNX Runtime is not installed ({error}): pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = max(1, threads // streams), 1
        options.use_deterministic_compute = True
        options.log_severity_level = _ERRORS_ONLY
        try:
            session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the binding's exceptions have no common base below Exception
            raise DataError(f"{path} cannot be loaded by ONNX Runtime ({one_line(error)}): run `dvc repro export_onnx`") from error
        metadata = dict(session.get_modelmeta().custom_metadata_map)
        self.version = str(onnxruntime.__version__)
        self.path = path
        self.contract = contract_from_metadata(metadata, str(path))
        self.precision = precision_from_metadata(metadata, str(path))
        self.thresholds = thresholds_from_metadata(metadata, self.contract.classes, str(path))
        self.require_names([item.name for item in session.get_inputs()], [item.name for item in session.get_outputs()])
        self.require_input_shape(session.get_inputs()[0].shape)
        self._session: Any = session
        self._free = Semaphore(streams)

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._free:
            output: NDArray[np.float32] = self._session.run([self.contract.output_name], {self.contract.input_name: batch})[0]
        return output

    def close(self) -> None:
        """Free the session."""
        self._session = None
