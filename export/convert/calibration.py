"""Which images int8 ranges are measured on: train images only, chosen the same way each time, spread over classes, box sizes, light and sources.

A val or test image here would leak the very pictures that the precision is judged on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.runners.detect import model_input
from pipelines.core.boxes import area
from pipelines.core.contract import ModelContract
from pipelines.core.errors import DataError, LeakError, listed
from pipelines.core.images import Decoded
from pipelines.core.io import canonical_json, sha256_bytes
from pipelines.core.slices import SIZES, SliceLimits
from pipelines.core.types import Sample

RECORDED_DIGITS = 16  # of an image_id in the model file: enough to tell images apart


def strata(sample: Sample, limits: SliceLimits) -> frozenset[str]:
    """The parts that an image stands for: its classes, the sizes of its boxes, its light and its source."""
    classes = {f"class {box.class_name}" for box in sample.boxes} or {"class none"}
    sizes = {f"size {SIZES[index]}" for index in limits.size_index(area(sample.xyxy().astype(np.float64)).astype(np.float64))}
    return frozenset({*classes, *sizes, f"light {limits.brightness(sample.brightness)}", f"source {sample.source}"})


def choose_calibration(train: Sequence[Sample], count: int, limits: SliceLimits) -> list[Sample]:
    """At most `count` samples, sorted by image_id, that show every stratum as evenly as train allows.

    One by one: the stratum that has fewest images so far (of several, the one that train has fewest of) gives its next image by image_id. image_id
    is a hash of the picture, so its order is as good as a shuffle, and the same on every machine.

    Raises:
        DataError: `train` is empty.
    """
    if not train:
        raise DataError("the train split has no images to calibrate int8 on: label some, then run `dvc repro`")
    by_id = sorted(train, key=lambda item: item.image_id)
    tags = {sample.image_id: strata(sample, limits) for sample in by_id}
    members: dict[str, list[Sample]] = {}
    for sample in reversed(by_id):
        for tag in tags[sample.image_id]:
            members.setdefault(tag, []).append(sample)  # last one first, to be popped from the end
    total = {tag: len(items) for tag, items in members.items()}
    shown: Counter[str] = Counter()
    chosen: dict[str, Sample] = {}
    while members and len(chosen) < count:
        tag = min(members, key=lambda item: (shown[item], total[item], item))
        while members[tag] and members[tag][-1].image_id in chosen:
            members[tag].pop()
        if not members[tag]:
            del members[tag]
            continue
        sample = members[tag].pop()
        chosen[sample.image_id] = sample
        shown.update(tags[sample.image_id])
    return sorted(chosen.values(), key=lambda item: item.image_id)


def require_train_only(image_ids: Collection[str], train_ids: Collection[str], held_out_ids: Collection[str]) -> None:
    """Refuse calibration images that are not train images; ids may be cut to their first RECORDED_DIGITS.

    Raises:
        LeakError: an id stands in a held-out split, or not in train.
    """
    known, held_out = ({item[:RECORDED_DIGITS] for item in ids} for ids in (train_ids, held_out_ids))
    wrong = [
        f"{item[:RECORDED_DIGITS]} is {'held out for val or test' if item[:RECORDED_DIGITS] in held_out else 'not in train'}"
        for item in sorted(image_ids)
        if item[:RECORDED_DIGITS] in held_out or item[:RECORDED_DIGITS] not in known
    ]
    if wrong:
        raise LeakError(f"int8 may be calibrated on train images only; {listed(wrong)}: run `dvc repro dataset`, then this stage again")


def calibration_record(samples: Sequence[Sample], limits: SliceLimits) -> str:
    """What int8 was calibrated on, for the model file: the images, the sha256 over their sorted ids (one a line), how many show each stratum."""
    ids = sorted(sample.image_id for sample in samples)
    shown = Counter(tag for sample in samples for tag in strata(sample, limits))
    return canonical_json(
        {
            "split": "train",
            "count": len(ids),
            "sha256": sha256_bytes("".join(f"{item}\n" for item in ids).encode()),
            "images": [item[:RECORDED_DIGITS] for item in ids],
            "strata": dict(shown),
        }
    )


def calibration_key(model_sha256: str, record: str, versions: Mapping[str, str]) -> str:
    """The name under which measured ranges may be kept: another model, another image or another library gives another name."""
    about: dict[str, Any] = {"model": model_sha256, "calibration": record, "versions": dict(versions)}
    return sha256_bytes(canonical_json(about).encode())[:32]


def calibration_batches(samples: Iterable[Sample], contract: ModelContract, read: Callable[[Sample], Decoded]) -> Iterator[NDArray[np.float32]]:
    """One letterboxed input (1, 3, H, W) a sample, exactly as the runners are fed."""
    for sample in samples:
        yield model_input(read(sample), contract)[0]
