"""The little of CUDA that running an engine needs, from the driver's own library: devices, memory, a stream. No package beyond the driver.

Function names, signatures and numbers: the CUDA driver API, cuda.h (the `_v2` entry points are what its macros name).
"""

from __future__ import annotations

import ctypes
import sys
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from pipelines.core.errors import DataError, MissingPartError

_MAX_NAME = 128
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…
_STREAM_DEFAULT = 0  # CU_STREAM_DEFAULT: waits for what the library does on the default stream


def _driver() -> ctypes.CDLL:
    """The driver's library, initialised.

    Raises:
        MissingPartError: no driver, or it finds no device.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise MissingPartError(f"no CUDA GPU can load the engine here (no NVIDIA driver: {error}): run it on a machine with one") from error
    status = library.cuInit(0)
    if status != 0:
        raise MissingPartError(f"no CUDA GPU can load the engine here (cuInit gave {_named(library, status)}): run it on a machine with one")
    return library


def _named(library: ctypes.CDLL, status: int) -> str:
    """A status with its name, as far as the driver knows it."""
    name = ctypes.c_char_p()
    known = library.cuGetErrorName(ctypes.c_int(status), ctypes.byref(name)) == 0 and name.value is not None
    return f"status {status}" + (f", {name.value.decode(errors='replace')}" if known and name.value is not None else "")


def driver_version() -> str | None:
    """The CUDA version that the driver supports, as 13.0; None where there is no driver."""
    try:
        library = _driver()
    except MissingPartError:
        return None
    version = ctypes.c_int(0)
    if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def gpu_names() -> list[str]:
    """Names of the CUDA devices, in the driver's order; empty where there is none."""
    try:
        library = _driver()
    except MissingPartError:
        return []
    count = ctypes.c_int(0)
    if library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    names = []
    for ordinal in range(count.value):
        device, buffer = ctypes.c_int(0), ctypes.create_string_buffer(_MAX_NAME)
        if library.cuDeviceGet(ctypes.byref(device), ordinal) == 0 and library.cuDeviceGetName(buffer, _MAX_NAME, device) == 0:
            names.append(buffer.value.decode(errors="replace"))
    return names


def gpu_capability() -> tuple[int, int] | None:
    """Compute capability of the first CUDA device, as (8, 9); None where there is none."""
    try:
        library = _driver()
    except MissingPartError:
        return None
    device, major, minor = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    if library.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    for value, attribute in ((major, _CAPABILITY_MAJOR), (minor, _CAPABILITY_MINOR)):
        if library.cuDeviceGetAttribute(ctypes.byref(value), ctypes.c_int(attribute), device) != 0:
            return None
    return major.value, minor.value


class CudaMemory:
    """Memory on the first CUDA device and a stream that works on it, in the device's primary context, which becomes current for this thread; `free`
    gives everything back.

    Copies, and an engine that is given `stream`, work one after another, and behind the caller's back: what they did is there after `synchronize`.

    Raises:
        MissingPartError: no driver or no device, or no room on it.
        DataError (from what works on the stream): the device failed.
    """

    def __init__(self) -> None:
        self._library = _driver()
        self._device, self._context, self._stream = ctypes.c_int(0), ctypes.c_void_p(), ctypes.c_void_p()
        self._pointers: list[int] = []
        if self._library.cuDeviceGet(ctypes.byref(self._device), 0) != 0:
            raise MissingPartError("no CUDA GPU can load the engine here (the driver finds no device): run it on a machine with one")
        self._require_room(self._library.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), self._device), "cuDevicePrimaryCtxRetain")
        self._held = True
        try:
            self.use_here()
            self._require_room(self._library.cuStreamCreate(ctypes.byref(self._stream), ctypes.c_uint(_STREAM_DEFAULT)), "cuStreamCreate")
        except BaseException:
            self.free()
            raise

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return self._stream.value or 0

    def use_here(self) -> None:
        """Make the context current for the calling thread, as every thread that uses the device must."""
        self._require_work(self._library.cuCtxSetCurrent(self._context), "cuCtxSetCurrent")

    def allocate(self, size_bytes: int) -> int:
        """Address of `size_bytes` bytes on the device."""
        pointer = ctypes.c_uint64(0)
        self._require_room(self._library.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size_bytes)), "cuMemAlloc")
        self._pointers.append(pointer.value)
        return pointer.value

    def to_device(self, pointer: int, array: NDArray[np.float32]) -> None:
        """Have a contiguous array copied to the device; it must stay as it is until `synchronize`."""
        source, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self._require_work(self._library.cuMemcpyHtoDAsync_v2(ctypes.c_uint64(pointer), source, size, self._stream), "cuMemcpyHtoDAsync")

    def to_host(self, array: NDArray[np.float32], pointer: int) -> None:
        """Have a contiguous array filled from the device by the time of `synchronize`."""
        target, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self._require_work(self._library.cuMemcpyDtoHAsync_v2(target, ctypes.c_uint64(pointer), size, self._stream), "cuMemcpyDtoHAsync")

    def synchronize(self) -> None:
        """Wait until the stream has done everything asked of it."""
        self._require_work(self._library.cuStreamSynchronize(self._stream), "cuStreamSynchronize")

    def free(self) -> None:
        """Free all memory and let stream and context go; from any thread, and more than once."""
        if not self._held:
            return
        self._held = False
        self._library.cuCtxSetCurrent(self._context)  # the thread that closes may be another than the one that opened
        for pointer in self._pointers:
            self._library.cuMemFree_v2(ctypes.c_uint64(pointer))
        self._pointers = []
        if self._stream.value is not None:
            self._library.cuStreamDestroy_v2(self._stream)
        self._library.cuDevicePrimaryCtxRelease_v2(self._device)

    def __enter__(self) -> CudaMemory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.free()

    def _require_room(self, status: int, call: str) -> None:
        if status != 0:
            raise MissingPartError(
                f"the CUDA device refused {call} ({_named(self._library, status)}): free its memory or use another device (CUDA_VISIBLE_DEVICES)"
            )

    def _require_work(self, status: int, call: str) -> None:
        if status != 0:
            raise DataError(
                f"the CUDA device failed at {call} ({_named(self._library, status)}): build the engine again, or use another device or runner"
            )
