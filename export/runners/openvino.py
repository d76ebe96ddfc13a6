"""OpenVINO on the CPU, reading the ONNX file as it is. Owner of `openvino`."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.metadata import contract_from_metadata, precision_from_metadata, thresholds_from_metadata
from export.runners.base import Runner, one_line
from pipelines.core.errors import DataError, MissingPartError

_METADATA = "framework"  # where OpenVINO keeps an ONNX file's metadata pairs


class OpenVinoRunner(Runner):
    """An `.onnx` file in OpenVINO, CPU device; `streams` callers share the `threads`. A batch is computed image by image: on CPUs that is as fast, a
    fixed shape is faster than a free one, and int8 with a free one crashes on CPUs with AMX (openvinotoolkit/openvino issue 37577).

    Computes in float32 where the file says float: left alone, OpenVINO takes bfloat16 on CPUs that have it, and boxes move by pixels.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, path: Path, *, threads: int, streams: int = 1) -> None:
        try:
            import openvino
        except ImportError as error:
            raise MissingPartError(f"OpenVINO is not installed ({error}): pip install openvino") from error
        self.path = path
        self.version = str(openvino.__version__).split("-")[0]
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        }
        try:
            core = openvino.Core()
            model = core.read_model(str(path))
            info = model.get_rt_info(_METADATA).value if model.has_rt_info(_METADATA) else {}
            metadata = {str(key): str(value) for key, value in info.items()}
            self.contract = contract_from_metadata(metadata, str(path))
            self.precision = precision_from_metadata(metadata, str(path))
            self.thresholds = thresholds_from_metadata(metadata, self.contract.classes, str(path))
            self.require_names([item.get_any_name() for item in model.inputs], [item.get_any_name() for item in model.outputs])
            width, height = self.contract.input_wh
            model.reshape([1, 3, height, width])
            compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise DataError(f"{path} cannot be loaded by OpenVINO ({one_line(error)}): run `dvc repro export_onnx`") from error
        self._requests: SimpleQueue[Any] = SimpleQueue()  # those that nobody computes with now
        for _ in range(streams):
            self._requests.put(compiled.create_infer_request())

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        request = self._requests.get()
        try:
            # copies: the request writes its next result to the same place
            outputs = [np.array(request.infer([image[None]], share_inputs=True)[0], dtype=np.float32) for image in batch]
        finally:
            self._requests.put(request)
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def close(self) -> None:
        """Free the compiled model."""
        self._requests = SimpleQueue()
