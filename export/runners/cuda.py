"""The little of CUDA that running an engine needs, from the driver's own library: devices, memory, copies. No package beyond the driver.

Function names and signatures: the CUDA driver API, cuda.h (the `_v2` entry points are what its macros name).
"""

from __future__ import annotations

import ctypes
import sys
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from pipelines.core.errors import MissingPartError

_MAX_NAME = 128


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
        raise MissingPartError(f"no CUDA GPU can load the engine here (cuInit gave status {status}): run it on a machine with one")
    return library


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


class CudaMemory:
    """Memory on the first CUDA device, in its primary context, which becomes current for this thread; `free` gives everything back.

    Raises:
        MissingPartError: no driver or no device.
    """

    def __init__(self) -> None:
        self._library = _driver()
        self._device, self._context = ctypes.c_int(0), ctypes.c_void_p()
        self._pointers: list[int] = []
        if self._library.cuDeviceGet(ctypes.byref(self._device), 0) != 0:
            raise MissingPartError("no CUDA GPU can load the engine here (the driver finds no device): run it on a machine with one")
        self._check(self._library.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), self._device), "cuDevicePrimaryCtxRetain")
        self.use_here()

    def use_here(self) -> None:
        """Make the context current for the calling thread, as every thread that uses the device must."""
        self._check(self._library.cuCtxSetCurrent(self._context), "cuCtxSetCurrent")

    def allocate(self, size_bytes: int) -> int:
        """Address of `size_bytes` bytes on the device."""
        pointer = ctypes.c_uint64(0)
        self._check(self._library.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size_bytes)), "cuMemAlloc")
        self._pointers.append(pointer.value)
        return pointer.value

    def to_device(self, pointer: int, array: NDArray[np.float32]) -> None:
        """Copy a contiguous array to the device."""
        source = ctypes.c_void_p(array.ctypes.data)
        self._check(self._library.cuMemcpyHtoD_v2(ctypes.c_uint64(pointer), source, ctypes.c_size_t(array.nbytes)), "cuMemcpyHtoD")

    def to_host(self, array: NDArray[np.float32], pointer: int) -> None:
        """Fill a contiguous array from the device."""
        target = ctypes.c_void_p(array.ctypes.data)
        self._check(self._library.cuMemcpyDtoH_v2(target, ctypes.c_uint64(pointer), ctypes.c_size_t(array.nbytes)), "cuMemcpyDtoH")

    def synchronize(self) -> None:
        """Wait until the device has done everything asked of it."""
        self._check(self._library.cuCtxSynchronize(), "cuCtxSynchronize")

    def free(self) -> None:
        """Free all memory and let the context go."""
        for pointer in self._pointers:
            self._library.cuMemFree_v2(ctypes.c_uint64(pointer))
        self._pointers = []
        self._library.cuDevicePrimaryCtxRelease_v2(self._device)

    def __enter__(self) -> CudaMemory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.free()

    def _check(self, status: int, call: str) -> None:
        if status != 0:
            raise MissingPartError(f"the CUDA device refused {call} (status {status}): free its memory or use another device (CUDA_VISIBLE_DEVICES)")
