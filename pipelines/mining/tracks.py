"""What a sequence of frames gives away: an object that blinks out between frames, a class that flips, a box that stands in one frame only.

Frames are linked by overlap alone, each box with the best one of the next frame near the place that its track's last step leads to. A track that ends
and goes on at most MAX_GAP frames later is one track with a gap. At the first and last frame nothing is said of a single box: it may just come or go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.core.boxes import iou_matrix
from pipelines.core.types import Detections

TrackKind = Literal["gap", "flip", "single"]
LINK_IOU = 0.3
MAX_GAP = 2  # frames
MIN_FRAMES = 3
MIN_FLIP_LENGTH = 3  # boxes of a track, for its usual class to be known
MIN_LINKED = 0.5  # of all boxes but the last frame's: with fewer links the images are no sequence


@dataclass(frozen=True)
class TrackFault:
    """One oddity at `frame`. `detection` is its box there, None for a gap; `xyxy` (4,) is the box, for a gap where it should be.

    `class_index` is what the track says, `found_class` what the frame says (None for a gap).
    """

    kind: TrackKind
    frame: int
    detection: int | None
    xyxy: tuple[float, float, float, float]
    class_index: int
    found_class: int | None


@dataclass
class _Track:
    frames: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    boxes: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, frame: int, row: int, box: NDArray[np.float64]) -> None:
        self.frames.append(frame)
        self.rows.append(row)
        self.boxes.append(box)

    def expected(self, frame: int) -> NDArray[np.float64]:
        """Where the box should be at `frame`: its last step goes on."""
        if len(self.boxes) < 2:
            return self.boxes[-1]
        step = (self.boxes[-1] - self.boxes[-2]) / (self.frames[-1] - self.frames[-2])
        result: NDArray[np.float64] = self.boxes[-1] + step * (frame - self.frames[-1])
        return result


def track_faults(frames: Sequence[Detections]) -> list[TrackFault] | None:
    """The oddities of a sequence, by frame; None when the images are no sequence: too few frames, or boxes that do not follow each other."""
    if len(frames) < MIN_FRAMES:
        return None
    tracks = _linked(frames)
    continued = sum(later == earlier + 1 for track in tracks for earlier, later in pairwise(track.frames))
    if continued < MIN_LINKED * sum(len(item) for item in frames[:-1]) or not continued:
        return None
    faults = [fault for track in tracks for fault in _faults(track, frames)]
    return sorted(faults, key=lambda fault: (fault.frame, fault.kind, fault.xyxy))


def _linked(frames: Sequence[Detections]) -> list[_Track]:
    tracks: list[_Track] = []
    for number, found in enumerate(frames):
        boxes = found.xyxy.astype(np.float64)
        open_tracks = [track for track in tracks if number - track.frames[-1] <= MAX_GAP + 1]
        expected = np.array([track.expected(number) for track in open_tracks]).reshape(-1, 4)
        overlap = np.maximum(iou_matrix(expected, boxes), iou_matrix(np.array([track.boxes[-1] for track in open_tracks]).reshape(-1, 4), boxes))
        late = np.array([number - track.frames[-1] for track in open_tracks], dtype=np.int64).reshape(-1)
        taken: set[int] = set()
        for place in np.lexsort((-overlap.ravel(), np.repeat(late, len(boxes)))):  # tracks of the frame before go first, the best overlap first
            track, row = divmod(int(place), len(boxes))
            if overlap[track, row] < LINK_IOU or row in taken or open_tracks[track].frames[-1] == number:
                continue
            open_tracks[track].add(number, row, boxes[row])
            taken.add(row)
        tracks += [_Track([number], [row], [boxes[row]]) for row in sorted(set(range(len(boxes))) - taken)]
    return tracks


def _faults(track: _Track, frames: Sequence[Detections]) -> list[TrackFault]:
    found = [int(frames[frame].class_index[row]) for frame, row in zip(track.frames, track.rows, strict=True)]
    usual = Counter(found).most_common(1)[0][0]
    faults: list[TrackFault] = []
    if len(track.frames) == 1:
        if 0 < track.frames[0] < len(frames) - 1:
            faults.append(TrackFault("single", track.frames[0], track.rows[0], _box(track.boxes[0]), usual, usual))
        return faults
    for place, (earlier, later) in enumerate(pairwise(track.frames)):
        for frame in range(earlier + 1, later):
            share = (frame - earlier) / (later - earlier)
            box = track.boxes[place] * (1 - share) + track.boxes[place + 1] * share
            faults.append(TrackFault("gap", frame, None, _box(box), usual, None))
    if len(found) >= MIN_FLIP_LENGTH and Counter(found)[usual] * 2 > len(found):
        for frame, row, box, name in zip(track.frames, track.rows, track.boxes, found, strict=True):
            if name != usual:
                faults.append(TrackFault("flip", frame, row, _box(box), usual, name))
    return faults


def _box(xyxy: NDArray[np.float64]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in xyxy)
    return x1, y1, x2, y2
