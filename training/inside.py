"""Looking inside the trained model: what each convolution gives for a batch, and its weights. For finding where an exported model departs from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.checkpoint import load_detector


class TorchInside:
    """The fused convolutions of a model file by module path (`model.0.conv`), run once on a batch (N, 3, height, width)."""

    def __init__(self, path: Path, batch: NDArray[np.float32]) -> None:
        module, self.contract = load_detector(path)
        self._convolutions = {name: part for name, part in module.named_modules() if isinstance(part, nn.Conv2d)}
        self._outputs: dict[str, NDArray[np.float32]] = {}
        hooks = [part.register_forward_hook(self._keeper(name)) for name, part in self._convolutions.items()]
        try:
            with torch.inference_mode():
                module(torch.from_numpy(batch))
        finally:
            for hook in hooks:
                hook.remove()

    def values(self, module: str) -> NDArray[np.float32]:
        """What a convolution gave, (N, size)."""
        return self._outputs[module]

    def weights(self, module: str) -> NDArray[np.float32]:
        """A convolution's weights and bias in one row."""
        part = self._convolutions[module]
        tensors = [part.weight, *([part.bias] if part.bias is not None else [])]
        return np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors])

    def __contains__(self, module: str) -> bool:
        return module in self._outputs

    def _keeper(self, name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            self._outputs[name] = output.detach().float().cpu().numpy().reshape(len(output), -1)

        return keep
