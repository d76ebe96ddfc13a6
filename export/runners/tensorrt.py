"""A TensorRT engine (of `tensorrt` or `tensorrt_rtx`) on the first CUDA device. Needs a GPU: nothing else can load an engine."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.engine_records import REBUILD, engine_record
from export.runners.base import Runner
from export.runners.cuda import CudaMemory, driver_version, gpu_names
from export.runners.tensorrt_library import load_library
from pipelines.core.errors import DataError, MissingPartError


class TensorRtRunner(Runner):
    """An `.engine` file with its `engines.json` beside it, which names the library, the contract and the largest batch."""

    name = "tensorrt"

    def __init__(self, path: Path) -> None:
        record = engine_record(path)
        gpus = gpu_names()
        if not gpus:
            raise MissingPartError(f"no CUDA GPU can load the engine here ({path}): run it on a machine with one")
        library = load_library(record.library)
        foreign = record.foreign_here(str(library.__version__), gpus[0], driver_version() or "unknown")
        if foreign is not None:
            raise MissingPartError(f"{path} is a foreign engine ({foreign}): {REBUILD}")
        self.path = path
        self.version = f"{record.library} {library.__version__}"
        self.device = gpus[0]
        self.contract = record.contract
        self.precision = record.precision
        self.thresholds = record.thresholds
        self.max_batch = record.max_batch
        self._library = library
        self._memory = CudaMemory()
        self._one_at_a_time = Lock()
        try:
            self._load(path)
        except BaseException:
            self._memory.free()
            raise

    def _load(self, path: Path) -> None:
        library = self._library
        self._runtime = library.Runtime(library.Logger(library.Logger.ERROR))
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise MissingPartError(f"{self.version} on {self.device} cannot load {path}: {REBUILD}")
        tensors = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in tensors if engine.get_tensor_mode(name) == library.TensorIOMode.INPUT]
        self.require_names(inputs, [name for name in tensors if name not in inputs])
        for name in tensors:
            if engine.get_tensor_dtype(name) != library.float32:
                raise DataError(f"{path} has {name} as {engine.get_tensor_dtype(name)}, wanted float32: build it again with `dvc repro build_engine`")
        self._engine: Any = engine
        self._context: Any = engine.create_execution_context()
        if self._context is None:
            raise MissingPartError(f"{self.device} has no room for {path}: free its memory or use another device (CUDA_VISIBLE_DEVICES)")
        width, height = self.contract.input_wh
        largest = self.max_batch or 1
        output_shape = self._shape_for((largest, 3, height, width))
        self._input_pointer = self._memory.allocate(4 * largest * 3 * height * width)
        self._output_pointer = self._memory.allocate(4 * int(np.prod(output_shape)))
        self._context.set_tensor_address(self.contract.input_name, self._input_pointer)
        self._context.set_tensor_address(self.contract.output_name, self._output_pointer)

    def _shape_for(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        if not self._context.set_input_shape(self.contract.input_name, input_shape):
            raise DataError(f"{self.path} does not take {self.contract.input_name} {input_shape}: build it again with `dvc repro build_engine`")
        return tuple(self._context.get_tensor_shape(self.contract.output_name))

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._one_at_a_time:  # the context and its device memory serve one caller
            self._memory.use_here()
            output = np.empty(self._shape_for(batch.shape), dtype=np.float32)
            self._memory.to_device(self._input_pointer, batch)
            if not self._context.execute_async_v3(0):  # the default stream, so that the copies before and after wait for it
                raise DataError(f"{self.version} could not run {self.path} on {self.device}: build it again with `dvc repro build_engine`")
            self._memory.synchronize()
            self._memory.to_host(output, self._output_pointer)
            return output

    def close(self) -> None:
        """Free the engine and its memory."""
        self._context = self._engine = self._runtime = None
        self._memory.free()
