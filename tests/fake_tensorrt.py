"""Plain TensorRT for tests, under the names and with the answers of its Python API. An engine is an ONNX file behind its network's name, and ONNX
Runtime computes it on the memory of `fake_cuda.c`. Imports nothing of this project: the process that builds an engine has it as `tensorrt`.
"""

from __future__ import annotations

import ctypes
import enum
import os
import sys
import time
from typing import Any

__version__ = "11.0.0.1"
MARK = b"\0onnx\0"
THIS_GPU = b"timings of Fake GPU"
float32 = "DataType.FLOAT"
float16 = "DataType.HALF"


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1  # another number than TensorRT-RTX's


class BuilderFlag(enum.IntEnum):
    TF32 = 6


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        self.ready = True

    def log(self, severity: Any, message: str) -> None:
        raise NotImplementedError


class Logger(ILogger):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = ILogger.Severity

    def __init__(self, least: ILogger.Severity) -> None:
        super().__init__()
        self.least = least

    def log(self, severity: Any, message: str) -> None:
        if severity <= self.least:
            print(f"[TRT] {message}", file=sys.stderr)


class Tensor:
    name, shape = "images", (-1, 3, 64, 64)


class Network:
    def __init__(self, flags: int) -> None:
        self.flags, self.name, self.onnx = flags, "", b""

    def get_input(self, _: int) -> Tensor:
        return Tensor()


class OnnxParser:
    num_errors = 0

    def __init__(self, network: Network, logger: ILogger) -> None:
        self.network, self.logger = network, logger

    def parse(self, onnx: bytes) -> bool:
        self.network.onnx = onnx
        return True


class Profile:
    def set_shape(self, name: str, smallest: tuple[int, ...], usual: tuple[int, ...], largest: tuple[int, ...]) -> None:
        assert (name, smallest[1:], usual[1:], largest[1:]) == (Tensor.name, *[Tensor.shape[1:]] * 3)
        self.largest = largest


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content or THIS_GPU


class Config:
    def __init__(self, logger: ILogger) -> None:
        self.logger, self.flags, self.cache = logger, {BuilderFlag.TF32}, None

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profile = profile
        return 0

    def create_timing_cache(self, content: bytes) -> TimingCache | None:
        return None if content == b"damaged" else TimingCache(content)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache.content not in (b"", THIS_GPU) and not ignore_mismatch:
            self.logger.log(ILogger.Severity.ERROR, "the timing cache is of another device")
            return False
        self.cache = cache
        return True


class Builder:
    max_threads = 0

    def __init__(self, logger: ILogger) -> None:
        assert logger.ready
        self.logger = logger

    def create_network(self, flags: int) -> Network:
        return Network(flags)

    def create_builder_config(self) -> Config:
        return Config(self.logger)

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        if network.flags != 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED or config.flags:
            self.logger.log(ILogger.Severity.ERROR, "the network is weakly typed, or float32 may be tf32")
            return None
        refused = os.environ.get("FAKE_TENSORRT_REFUSES")  # part of an ONNX file's bytes
        if refused is not None and refused.encode() in network.onnx:
            self.logger.log(ILogger.Severity.ERROR, "no kernel of this GPU computes that")
            return None
        if config.cache is not None:
            config.cache.content = THIS_GPU
        return network.name.encode() + b"\0%d" % config.profile.largest[0] + MARK + network.onnx


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        assert logger.ready
        self.logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
        head, mark, onnx = content.partition(MARK)
        if not mark:
            self.logger.log(ILogger.Severity.ERROR, "the engine was built\n  for another compute capability")
            return None
        return Engine(onnx, int(head.rpartition(b"\0")[2]))


class Engine:
    num_io_tensors = 2

    def __init__(self, onnx: bytes, max_batch: int) -> None:
        self.onnx, self.max_batch = onnx, max_batch

    def get_tensor_name(self, index: int) -> str:
        return ("images", "output0")[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "images" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return float32 if name in ("images", "output0") else ""

    def create_execution_context(self) -> Context:
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(engine.onnx)
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self.max_batch, self.batch = engine.max_batch, -1
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        fits = name == "images" and 1 <= shape[0] <= self.max_batch and tuple(shape[1:]) == Tensor.shape[1:]
        self.batch = shape[0] if fits else self.batch
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.batch, *(Tensor.shape[1:] if name == "images" else (7, 64)))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in ("images", "output0")

    def execute_async_v3(self, stream: int) -> bool:
        import numpy as np

        if len(self.addresses) < 2 or self.batch < 1 or self.cuda.fake_flush(ctypes.c_void_p(stream)) != 0:
            return False
        shape = self.get_tensor_shape("images")
        fed = np.ctypeslib.as_array((ctypes.c_float * int(np.prod(shape))).from_address(self.addresses["images"])).reshape(shape)
        (answer,) = self.session.run(None, {"images": fed})
        time.sleep(0.001)  # another caller's turn, if nobody keeps it out
        ctypes.memmove(self.addresses["output0"], np.ascontiguousarray(answer).ctypes.data, answer.nbytes)
        return True
