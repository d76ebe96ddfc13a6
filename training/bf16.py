"""What stays in float32 when ultralytics trains and validates in bf16: the loss, and the head, which decodes boxes."""

from __future__ import annotations

from typing import Any

import torch


class Float32Loss:
    """A criterion of ultralytics fed with float32 predictions; everything else is the criterion's own."""

    def __init__(self, criterion: Any) -> None:
        self.criterion = criterion

    def __call__(self, predictions: Any, batch: dict[str, Any]) -> Any:
        """The criterion's result outside autocast."""
        with torch.autocast(batch["img"].device.type, enabled=False):
            return self.criterion(as_float32(predictions), batch)

    def __getattr__(self, name: str) -> Any:
        if name == "criterion":  # not set yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.criterion, name)


def predict_in_bf16(network: Any, images: torch.Tensor, *_: Any) -> Any:
    """DetectionModel._predict_once with autocast, but the head in float32: it decodes boxes, which bf16 would round to whole pixels."""
    outputs: list[Any] = []
    x: Any = images
    for layer in network.model:
        if layer.f != -1:  # takes earlier layers' outputs
            x = outputs[layer.f] if isinstance(layer.f, int) else [x if j == -1 else outputs[j] for j in layer.f]
        head = layer is network.model[-1]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not head):
            x = layer(as_float32(x) if head else x)
        outputs.append(x if layer.i in network.save else None)
    return x


def as_float32(value: Any) -> Any:
    """`value` with every floating-point tensor in it as float32."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: as_float32(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(as_float32(item) for item in value)
    return value
