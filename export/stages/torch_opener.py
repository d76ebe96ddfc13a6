"""PyTorch's runner for the benchmark's workers. A module of its own, since a worker cannot unpickle what the stage's main module defines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.predictor import TorchRunner


def open_torch(path: Path, *, threads: int) -> TorchRunner:
    """PyTorch on the CPU, imported here, so that its load time counts and the stage itself stays without it."""
    import torch

    from training.predictor import TorchRunner

    torch.set_num_threads(threads)
    return TorchRunner(path)
