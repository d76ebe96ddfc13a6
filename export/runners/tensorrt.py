"""A TensorRT engine (of `tensorrt` or `tensorrt_rtx`) on the first CUDA device. Needs a GPU: nothing else can load an engine."""

from __future__ import annotations

import math
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.engine_records import REBUILD, engine_record
from export.runners.base import MAX_MESSAGE, Runner, one_line
from export.runners.cuda import CudaMemory, driver_version, gpu_names
from export.runners.tensorrt_library import load_library, why_not_loaded
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
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._input_pointer = self._output_pointer = 0
        self._one_at_a_time = Lock()
        self._memory = CudaMemory()
        try:
            self._load(path)
        except BaseException:
            self.close()
            raise

    def _load(self, path: Path) -> None:
        library = self._library
        try:
            # the library's own logger, not one in Python: the library's threads would wait for Python to tell it something, and Python, when it frees
            # an engine, waits for those threads
            self._runtime = library.Runtime(library.Logger(library.Logger.ERROR))
            engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        except (TypeError, RuntimeError) as error:  # how its bindings tell of an object that could not be made
            raise MissingPartError(f"{self.version} does not start on {self.device} ({one_line(error)}): check the NVIDIA driver") from error
        if engine is None:
            reason = why_not_loaded(library, path.read_bytes())
            raise MissingPartError(f"{self.version} on {self.device} cannot load {path} ({reason[:MAX_MESSAGE]}): {REBUILD}")
        self._engine = engine
        tensors = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in tensors if engine.get_tensor_mode(name) == library.TensorIOMode.INPUT]
        self.require_names(inputs, [name for name in tensors if name not in inputs])
        for name in tensors:
            if engine.get_tensor_dtype(name) != library.float32:
                raise DataError(f"{path} has {name} as {engine.get_tensor_dtype(name)}, wanted float32: build it again with `dvc repro build_engine`")
        self._context = engine.create_execution_context()
        if self._context is None:
            raise MissingPartError(f"{self.device} has no room for {path}: free its memory or use another device (CUDA_VISIBLE_DEVICES)")
        width, height = self.contract.input_wh
        largest = (self.max_batch or 1, 3, height, width)
        output_shape = self._shape_for(largest)
        self._input_pointer = self._memory.allocate(4 * math.prod(largest))
        self._output_pointer = self._memory.allocate(4 * math.prod(output_shape))
        for name, pointer in ((self.contract.input_name, self._input_pointer), (self.contract.output_name, self._output_pointer)):
            if not self._context.set_tensor_address(name, pointer):
                raise DataError(f"{path} does not take an address for {name}: build it again with `dvc repro build_engine`")

    def _shape_for(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the output for an input of this shape, which the next run will have."""
        if not self._context.set_input_shape(self.contract.input_name, input_shape):
            raise DataError(f"{self.path} does not take {self.contract.input_name} {input_shape}: build it again with `dvc repro build_engine`")
        shape = tuple(self._context.get_tensor_shape(self.contract.output_name))
        if min(shape, default=-1) < 0:
            raise DataError(f"{self.path} gives {self.contract.output_name} of a size that hangs on the image ({shape}): export the model again")
        return shape

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._one_at_a_time:  # the context and its device memory serve one caller
            self._memory.use_here()
            output = np.empty(self._shape_for(batch.shape), dtype=np.float32)
            self._memory.to_device(self._input_pointer, batch)
            if not self._context.execute_async_v3(self._memory.stream):
                raise DataError(f"{self.version} could not run {self.path} on {self.device}: build it again with `dvc repro build_engine`")
            self._memory.to_host(output, self._output_pointer)
            self._memory.synchronize()
            return output

    def close(self) -> None:
        """Free the engine and its memory."""
        self._context = self._engine = self._runtime = None  # in this order
        self._memory.free()
