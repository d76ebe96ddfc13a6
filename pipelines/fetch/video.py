"""Frames of a clip that are worth keeping: those that show something which no kept frame shows yet.

Each frame is reduced to coarse grey cells and held against all frames that were kept before. Where enough cells differ from every one of them,
something came, moved or the scene changed, and the frame is kept. So an empty scene is kept once, however often people leave it, and a person who
walks through is kept at several places. A fixed gap bounds how many frames a busy clip gives.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.core.errors import DataError

SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"})  # FFmpeg would paint any text file as a clip
CELLS_WH = (96, 54)
CHANGED_GREY = 25  # a cell that differs by more shows something else; noise and slow light stay below
MEMORY_FRAMES = 256  # kept frames that a new one is held against
MIN_GAP_FRAMES = 10  # at most one frame in ten, whatever the frame rate
JPEG_QUALITY = 95
_WHOLE = 0.95  # of the frames and the time that a container tells; some tell a little too much

Cells = NDArray[np.float32]


class ClipCutShortError(Exception):
    """A clip ends, for its reader, before its container says; what came before has been read."""


@dataclass(frozen=True)
class Frame:
    """One kept frame: its place in the clip, its time from the start, its JPEG."""

    index: int
    seconds: float
    content: bytes


class Chooser:
    """Decides frame by frame; `min_change` is the fraction of cells that must differ, `gap_frames` the least distance of two kept frames."""

    def __init__(self, min_change: float, gap_frames: int) -> None:
        self._min_change, self._gap = min_change, gap_frames
        self._kept: deque[Cells] = deque(maxlen=MEMORY_FRAMES)
        self._last: int | None = None

    def waits(self, index: int) -> bool:
        """Whether frame `index` is too near to the last kept one to be looked at."""
        return self._last is not None and index - self._last < self._gap

    def takes(self, index: int, image: cv2.typing.MatLike) -> bool:
        """Whether frame `index` is kept."""
        cells = reduce_to_cells(image)
        if self._kept and float(changed_fractions(cells, np.stack(self._kept)).min()) < self._min_change:
            return False
        self._kept.append(cells)
        self._last = index
        return True


def reduce_to_cells(image: cv2.typing.MatLike) -> Cells:
    """Grey cells (54, 96) of a BGR image, without its mean, so that a change of exposure is no motion."""
    cells: Cells = cv2.cvtColor(cv2.resize(image, CELLS_WH, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY).astype(np.float32)
    return cells - np.float32(np.median(cells))


def changed_fractions(cells: Cells, others: Cells) -> NDArray[np.float64]:
    """For each of `others` (N, H, W) the fraction of its cells that differ from `cells` (H, W)."""
    return np.asarray((np.abs(others - cells) > CHANGED_GREY).mean(axis=(1, 2)), dtype=np.float64)


def choose_frames(clip: Path, min_gap_s: float, min_change: float) -> Iterator[Frame]:
    """Read a clip once and yield the frames to keep.

    Raises:
        DataError: no frame can be read.
        ClipCutShortError: after the last frame that can be read, when there should be more.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what cannot be read is told by us; FFmpeg's words name neither clip nor remedy
    video = cv2.VideoCapture(str(clip))
    seconds = 0.0
    try:
        rate, told = video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)
        rate = rate if 0 < rate < 1000 else 25.0  # some containers do not say
        chooser = Chooser(min_change, max(MIN_GAP_FRAMES, round(min_gap_s * rate)))
        index = -1
        while video.grab():
            index += 1
            seconds = video.get(cv2.CAP_PROP_POS_MSEC) / 1000 or index / rate  # its own clock: phones do not film at an even rate
            if chooser.waits(index):
                continue
            good, image = video.retrieve()
            if good and chooser.takes(index, image):
                content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
                yield Frame(index, seconds, content)
    finally:
        video.release()
    if index < 0:
        raise DataError(f"{clip} has no frame that can be read: remove it, or convert it to H.264 in MP4")
    if index + 1 < _WHOLE * told and seconds < _WHOLE * (told - 1) / rate:
        raise ClipCutShortError(f"{index + 1} of {round(told)} frames can be read, up to {seconds:.1f} s: copy it anew if there is a whole one")
