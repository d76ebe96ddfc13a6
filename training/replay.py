"""What a training that starts from a champion sees: everything that is new to it, and a share of what it was trained on.

Training on new images alone makes a model forget; a share of the old ones, drawn so that rare classes keep theirs, holds it back. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.core.types import Sample


@dataclass(frozen=True)
class Selection:
    """The images to train on, sorted by image_id: `new` ones (never trained on, or labeled otherwise since) and the `replayed` of `old` ones."""

    samples: tuple[Sample, ...]
    new: int
    old: int
    replayed: int


def select_replay(train: Sequence[Sample], seen: Sequence[Sample], share: float, seed: int) -> Selection:
    """Take all of `train` that is not in `seen` as it is now, and about the `share` of the rest, of each class's images at least that share."""
    before = {sample.image_id: sample.boxes for sample in seen}
    new = [sample for sample in train if before.get(sample.image_id) != sample.boxes]
    old = sorted((sample for sample in train if before.get(sample.image_id) == sample.boxes), key=lambda sample: sample.image_id)
    order = [old[index] for index in np.random.default_rng(seed).permutation(len(old))]
    members = {name: [sample for sample in order if any(box.class_name == name for box in sample.boxes)] for name in _classes(old)}
    taken: dict[str, Sample] = {}
    for name in sorted(members, key=lambda name: (len(members[name]), name)):  # rarest first
        wanted = math.ceil(share * len(members[name]))
        have = sum(sample.image_id in taken for sample in members[name])
        rest = [sample for sample in members[name] if sample.image_id not in taken]
        taken |= {sample.image_id: sample for sample in rest[: max(0, wanted - have)]}
    rest = [sample for sample in order if sample.image_id not in taken]
    taken |= {sample.image_id: sample for sample in rest[: max(0, math.ceil(share * len(old)) - len(taken))]}
    chosen = sorted([*new, *taken.values()], key=lambda sample: sample.image_id)
    return Selection(tuple(chosen), len(new), len(old), len(taken))


def _classes(samples: Sequence[Sample]) -> set[str]:
    return {box.class_name for sample in samples for box in sample.boxes}
