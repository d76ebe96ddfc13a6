"""Oddities of tracks: planted in synthetic sequences they are found, all of them and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.core.types import Detections
from pipelines.mining.tracks import track_faults
from tests.detection_sets import found

Planted = set[tuple[str, int, tuple[int, ...]]]


def sequence(seed: int, frames: int = 30, objects: int = 6) -> tuple[list[Detections], Planted]:
    """Objects on straight paths in lanes of their own, with gaps, flips and single boxes planted; what was planted: kind, frame, rounded box."""
    rng = np.random.default_rng(seed)
    side = rng.uniform(30, 60, objects)
    start, speed = rng.uniform(0, 200, objects), rng.uniform(-20, 20, objects)  # up to two thirds of a side in a frame
    names = rng.integers(0, 3, objects)
    boxes: list[list[tuple[tuple[float, ...], int]]] = []
    planted: Planted = set()
    gaps = {(0, 7), (1, 12), (1, 13)}
    flips = {(2, 9), (3, 20)}
    for frame in range(frames):
        boxes.append([])
        for number in range(objects):
            x, y = start[number] + speed[number] * frame, 100.0 * number
            box = (x, y, x + side[number], y + side[number])
            if (number, frame) in gaps:
                planted.add(("gap", frame, tuple(round(value) for value in box)))
                continue
            name = int(names[number])
            if (number, frame) in flips:
                planted.add(("flip", frame, tuple(round(value) for value in box)))
                name = (name + 1) % 3
            boxes[-1].append((box, name))
    for frame in (5, 16, 25):
        box = (float(1000 + frame), 1000.0, float(1040 + frame), 1040.0)
        boxes[frame].append((box, 0))
        planted.add(("single", frame, tuple(round(value) for value in box)))
    return [found(*((box, 0.9, name) for box, name in part)) for part in boxes], planted


@pytest.mark.parametrize("seed", range(8))
def test_precision_and_recall_are_one_on_synthetic_tracks(seed: int) -> None:
    frames, planted = sequence(seed)
    faults = track_faults(frames)
    assert faults is not None
    assert len(faults) == len(planted) == 8
    by_place = {(kind, frame): box for kind, frame, box in planted}
    for fault in faults:
        assert fault.xyxy == pytest.approx(by_place[(fault.kind, fault.frame)], abs=1.1)


def test_a_clean_sequence_has_no_faults() -> None:
    box = [(10.0 * frame, 0.0, 10.0 * frame + 30, 30.0) for frame in range(10)]
    assert track_faults([found((item, 0.9, 1)) for item in box]) == []


def test_coming_and_going_is_no_fault() -> None:
    """An object of the first frame or of the last alone may just leave or come; one that comes in between and stays is ordinary."""
    stays = ((0.0, 0.0, 30.0, 30.0), 0.9, 0)
    other = ((100.0, 0.0, 130.0, 30.0), 0.8, 1)
    assert track_faults([found(stays, other), found(stays), found(stays), found(stays)]) == []
    assert track_faults([found(stays), found(stays), found(stays), found(stays, other)]) == []
    assert track_faults([found(stays), found(stays), found(stays, other), found(stays, other)]) == []


def test_a_long_absence_is_no_gap() -> None:
    stays, other = ((0.0, 0.0, 30.0, 30.0), 0.9, 0), ((100.0, 0.0, 130.0, 30.0), 0.8, 1)
    both, one = found(stays, other), found(stays)
    assert track_faults([both, both, one, one, one, both, both]) == []
    gaps = track_faults([both, both, one, one, both, both])
    assert gaps is not None
    assert [(fault.kind, fault.frame, fault.class_index, fault.found_class) for fault in gaps] == [("gap", 2, 1, None), ("gap", 3, 1, None)]


def test_a_flip_names_both_classes() -> None:
    box = (0.0, 0.0, 30.0, 30.0)
    faults = track_faults([found((box, 0.9, name)) for name in (2, 2, 0, 2)])
    assert faults is not None
    assert [(fault.kind, fault.frame, fault.detection, fault.class_index, fault.found_class) for fault in faults] == [("flip", 2, 0, 2, 0)]


@pytest.mark.parametrize(
    "frames",
    [[], [found(((0, 0, 9, 9), 0.9, 0))] * 2, [found()] * 5, [found(((50 * number, 0, 50 * number + 9, 9), 0.9, 0)) for number in range(6)]],
    ids=["no frames", "two frames", "no boxes", "boxes that do not follow each other"],
)
def test_no_sequence(frames: list[Detections]) -> None:
    assert track_faults(frames) is None
