"""Which images int8 ranges are measured on: train images only, chosen the same way each time, spread over sources and classes.

A val or test image here would leak the very pictures that the precision is judged on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.core.contract import ModelContract
from pipelines.core.errors import DataError, LeakError, listed
from pipelines.core.images import Image, apply_letterbox, letterbox_for, tensor_from_letterboxed
from pipelines.core.types import Sample


def choose_calibration(train: Sequence[Sample], count: int) -> list[Sample]:
    """At most `count` samples, sorted by image_id: one from each stratum (source and set of classes) in turn, within a stratum by image_id.

    image_id is a hash of the picture, so its order is as good as a shuffle, and the same on every machine.

    Raises:
        DataError: `train` is empty.
    """
    if not train:
        raise DataError("the train split has no images to calibrate int8 on: label some, then run `dvc repro`")
    strata: dict[tuple[str, tuple[str, ...]], list[Sample]] = {}
    for sample in sorted(train, key=lambda item: item.image_id):
        classes = tuple(sorted({box.class_name for box in sample.boxes}))
        strata.setdefault((sample.source, classes), []).append(sample)
    queues = [strata[key] for key in sorted(strata)]
    rounds = (queue[position] for position in range(max(map(len, queues))) for queue in queues if position < len(queue))
    chosen = [sample for sample, _ in zip(rounds, range(count), strict=False)]
    return sorted(chosen, key=lambda item: item.image_id)


def require_train_only(image_ids: Collection[str], train_ids: Collection[str], held_out_ids: Collection[str]) -> None:
    """Refuse calibration images that are not train images.

    Raises:
        LeakError: an id stands in a held-out split, or not in train.
    """
    known, held_out = set(train_ids), set(held_out_ids)
    wrong = [
        f"{item} is {'held out for val or test' if item in held_out else 'not in train'}"
        for item in sorted(image_ids)
        if item in held_out or item not in known
    ]
    if wrong:
        raise LeakError(f"int8 may be calibrated on train images only; {listed(wrong)}: run `dvc repro dataset`, then this stage again")


def calibration_batches(samples: Iterable[Sample], contract: ModelContract, read: Callable[[Sample], Image]) -> Iterator[NDArray[np.float32]]:
    """One letterboxed input (1, 3, H, W) a sample, exactly as the runners are fed."""
    for sample in samples:
        image = read(sample)
        box = letterbox_for((image.shape[1], image.shape[0]), contract.input_wh)
        yield tensor_from_letterboxed([apply_letterbox(image, box, contract.pad_value)])
