"""What the cameras see and when: bursts of frames over three days and one night, and which parts lie in each.

Shares are dealt from shuffled decks, so they hold for few images as well as for many.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

CAMERAS = ("cam1", "cam2", "cam3")
DAYS = tuple(datetime(2025, 3, day, tzinfo=UTC) for day in (10, 11, 12))
DAY_HOURS, NIGHT_HOURS = (6.0, 21.0), (1.5, 4.5)
NIGHT = DAYS[1]
DARK_SHARE, EMPTY_SHARE = 0.14, 0.045  # of the bursts
BOLT_SHARE, NUT_SHARE, SMALL_SHARE = 0.115, 0.48, 0.17  # of the parts
LENGTHS = (0.45, 0.35, 0.20)  # of the bursts have 2, 3, 4 frames
PARTS = (4, 11)  # in view of a burst: from, below
ACROSS_SHARE = 0.30  # of the bursts: a cable or tool lies over parts


@dataclass(frozen=True)
class Burst:
    """Some frames of one camera within two seconds: `kinds` are the parts in view (class, small); `clutter` counts things of no class."""

    index: int
    camera: str
    times: tuple[datetime, ...]
    dark: bool
    kinds: tuple[tuple[str, bool], ...]
    clutter: int
    across: bool

    @property
    def name(self) -> str:
        """The burst's id in the log."""
        return f"{self.camera}-{self.times[0]:%Y%m%dT%H%M%S}"


def file_name(camera: str, time: datetime) -> str:
    """Path of a frame in the log's folder."""
    return f"{camera}/{time:%Y%m%d}/{time:%Y%m%dT%H%M%S}{time.microsecond // 1000:03d}.jpg"


def plan_bursts(frames: int, rng: np.random.Generator) -> list[Burst]:
    """Bursts of 2 to 4 frames, `frames` (at least 2) in all, in the order of time."""
    lengths = _lengths(frames, rng)
    count = len(lengths)
    order = rng.permutation(count)
    dark = set(order[: max(1, round(DARK_SHARE * count))].tolist())
    empty = set(order[len(dark) : len(dark) + max(1, round(EMPTY_SHARE * count))].tolist())
    cameras = np.array([CAMERAS[index % len(CAMERAS)] for index in range(count)])[rng.permutation(count)]
    parts = [0 if index in empty else int(rng.integers(*PARTS)) for index in range(count)]
    deck = _deck(sum(parts), rng)
    bursts = []
    starts: set[tuple[str, datetime]] = set()
    for index in range(count):
        start = _start(index in dark, rng)
        while (str(cameras[index]), start) in starts:
            start += timedelta(seconds=7)
        starts.add((str(cameras[index]), start))
        times = [start + timedelta(milliseconds=int(rng.integers(0, 1000)))]
        for _ in range(lengths[index] - 1):
            times.append(times[-1] + timedelta(milliseconds=int(rng.integers(180, 520))))
        kinds, deck = tuple(deck[: parts[index]]), deck[parts[index] :]
        clutter = int(rng.choice(3, p=[0.5, 0.35, 0.15])) + (index in empty)
        bursts.append(Burst(index, str(cameras[index]), tuple(times), index in dark, kinds, clutter, bool(rng.random() < ACROSS_SHARE)))
    return sorted(bursts, key=lambda burst: (burst.times[0], burst.camera))


def _lengths(frames: int, rng: np.random.Generator) -> list[int]:
    lengths: list[int] = []
    left = frames
    while left > 0:
        length = min(left, int(rng.choice((2, 3, 4), p=LENGTHS)))
        if left - length == 1:
            length += 1 if length == 2 else -1
        lengths.append(length)
        left -= length
    return lengths


def _deck(parts: int, rng: np.random.Generator) -> list[tuple[str, bool]]:
    bolts, nuts = round(BOLT_SHARE * parts), round(NUT_SHARE * parts)
    names = ["bolt"] * bolts + ["nut"] * nuts + ["washer"] * (parts - bolts - nuts)
    small = np.arange(parts) < round(SMALL_SHARE * parts)
    small = small[rng.permutation(parts)]
    return [(names[index], bool(small[index])) for index in rng.permutation(parts)]


def _start(dark: bool, rng: np.random.Generator) -> datetime:
    hours = NIGHT_HOURS if dark else DAY_HOURS
    day = NIGHT if dark else DAYS[int(rng.integers(len(DAYS)))]
    return day + timedelta(seconds=int(rng.uniform(hours[0] * 3600, hours[1] * 3600)))
