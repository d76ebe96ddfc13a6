"""Everything that a training needs to go on after its last whole epoch, in one file that is replaced at once.

Read back with `weights_only`, so nothing in it is executed. Not synced to the disk: a killed process loses nothing, a machine that loses power may;
a damaged file is found by its checksums and the training starts anew.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class TrainState:
    """The state after `epoch` whole epochs. Tensors are float32 as they were; `gradients` are those that wait for their optimizer step."""

    fingerprint: str
    epoch: int
    finished: bool
    batches: int
    last_step: int
    updates: int
    best_epoch: int
    best_fitness: float
    stopper: dict[str, float]
    history: list[dict[str, float]]
    model: dict[str, Any] = field(repr=False)
    ema: dict[str, Any] = field(repr=False)
    best: dict[str, Any] = field(repr=False)
    optimizer: dict[str, Any] = field(repr=False)
    scaler: dict[str, Any] = field(repr=False)
    gradients: dict[str, Any] = field(repr=False)


def write_state(path: Path, state: TrainState) -> None:
    """Write under a temporary name, then rename: the file is the old state or the new one."""
    buffer = io.BytesIO()
    fields = {name: getattr(state, name) for name in TrainState.__dataclass_fields__}  # asdict would copy every tensor
    torch.save(fields, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_bytes(buffer.getbuffer())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # a full disk must not stay full for our sake
        raise


def read_state(path: Path, fingerprint: str) -> TrainState | None:
    """The state in `path` if it belongs to the training with this fingerprint; None if there is none, another's, or a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        state = TrainState(**torch.load(path, map_location="cpu", weights_only=True))
    except (FileNotFoundError, zipfile.BadZipFile, TypeError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None
    return state if state.fingerprint == fingerprint else None
