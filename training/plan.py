"""What one training is, as plain values: the plan that every process of it reads, and the fingerprint that says whether two trainings are the same.

Imports neither torch nor ultralytics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.core.contract import Decoding
from pipelines.core.images import letterbox_for
from pipelines.core.io import canonical_json, read_json, sha256_bytes, write_json


@dataclass(frozen=True)
class Plan:
    """Paths and settings of a training. Written to the work folder, since the processes of a training on several GPUs know only a path.

    `precision` is what is really used: f32, bf16 (autocast on the CPU or a GPU) or amp (ultralytics' mixed fp16 on a GPU). `threads` is torch's
    number of CPU threads, `input_wh` the input (width, height) of the model that is made, `decoding` how its images are decoded, `overrides` are
    ultralytics' settings by its own names.
    """

    train_samples: str
    val_samples: str
    raw: str
    classes: tuple[str, ...]
    model: str
    state: str
    run: str
    fingerprint: str
    precision: str
    threads: int
    progress: bool
    input_wh: tuple[int, int]
    decoding: Decoding
    overrides: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))

    @staticmethod
    def read(path: Path) -> Plan:
        """Read what `write` wrote."""
        fields = read_json(path)
        return Plan(**{**fields, "classes": tuple(fields["classes"]), "input_wh": tuple(fields["input_wh"])})


def smallest_input(sizes_wh: Iterable[tuple[int, int]], imgsz: int, stride: int) -> tuple[int, int]:
    """The input (width, height) that holds images of all these sizes with their long side at `imgsz`, sides multiples of `stride`: a network's time
    goes with its input's area, and padding is area that holds nothing. `imgsz` must be a multiple of `stride`; without sizes it is the square.
    """
    fitted = [letterbox_for(size, (imgsz, imgsz)).resized_wh for size in set(sizes_wh)] or [(imgsz, imgsz)]
    width, height = (math.ceil(max(side) / stride) * stride for side in zip(*fitted, strict=True))
    return width, height


def fingerprint(inputs: Sequence[bytes], settings: Mapping[str, Any]) -> str:
    """Hex sha256 over the contents of files and over settings: trainings with the same fingerprint give the same model."""
    return sha256_bytes(canonical_json({"inputs": [sha256_bytes(content) for content in inputs], "settings": settings}).encode())
