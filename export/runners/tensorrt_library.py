"""`tensorrt` or `tensorrt_rtx`, whichever is there: one API under two names. Owner of both."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from pipelines.core.errors import MissingPartError

LIBRARIES = ("tensorrt", "tensorrt_rtx")
_INSTALL = "pip install tensorrt-rtx (x86-64 Linux and Windows only), or tensorrt on a machine with an NVIDIA GPU"


def load_library(name: str) -> ModuleType:
    """Import `tensorrt` or `tensorrt_rtx`.

    Raises:
        MissingPartError: it is not installed, or its libraries do not load.
    """
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingPartError(f"{name} is not usable here ({' '.join(str(error).split())[:200]}): {_INSTALL}") from error
    if not hasattr(module, "Builder"):
        raise MissingPartError(f"{name} is installed without its libraries: {_INSTALL}")
    return module


def why_not_loaded(library: ModuleType, engine: bytes) -> str:
    """What the library says first when it cannot load an engine, in one line: what follows, follows from it."""
    messages: list[str] = []

    class Collector(library.ILogger):  # type: ignore[misc,name-defined]
        """Keeps the library's errors."""

        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.Severity.INTERNAL_ERROR, library.ILogger.Severity.ERROR):
                messages.append(" ".join(message.split()))

    library.Runtime(Collector()).deserialize_cuda_engine(engine)
    return messages[0] if messages else "it gave no reason"


def installed_libraries() -> list[str]:
    """Those of LIBRARIES that can be imported."""
    found = []
    for name in LIBRARIES:
        try:
            load_library(name)
        except MissingPartError:
            continue
        found.append(name)
    return found
