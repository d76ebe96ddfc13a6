"""From the inbox to data/raw: look at every file, keep what is usable, say of the rest why not. The thresholds judge here.

Work is spread over threads (hashing, decoding and writing release the interpreter lock) and joined in inbox order, so the result depends on the
inbox and the params alone. Only one measurement a file stays in memory, about 1.5 kB.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
from tqdm import tqdm

from pipelines.collect.containers import HEAD_BYTES, RefusedError, sniff
from pipelines.collect.inbox import InboxFile
from pipelines.collect.measure import REASON_TOO_LARGE, Measurement, measure

MAX_THREADS = 8  # beyond this the interpreter lock is the limit
_FILES_A_TASK = 32
_BLOCK_BYTES = 1 << 20

REASON_TOO_SMALL = "too_small"
REASON_TOO_DARK = "too_dark"
REASON_TOO_BRIGHT = "too_bright"
REASON_BLURRED = "blurred"
REASON_EXACT_DUPLICATE = "exact_duplicate"

IMAGES_FOLDER = "images"


@dataclass(frozen=True)
class Thresholds:
    """What an image must have to be kept."""

    min_side_px: int
    max_pixels: int
    min_brightness: float
    max_brightness: float
    min_sharpness: float


@dataclass(frozen=True)
class Screened:
    """One inbox file after looking at it: its measurement where one could be taken, and why it is dropped (None: usable)."""

    file: InboxFile
    image_id: str | None
    bytes: int | None
    measurement: Measurement | None
    reason: str | None


def raw_path(image_id: str, extension: str) -> str:
    """Where a kept image lies, relative to data/raw."""
    return f"{IMAGES_FOLDER}/{image_id[:2]}/{image_id}.{extension}"


def judge(measurement: Measurement, thresholds: Thresholds) -> str | None:
    """The reason word for dropping an image with these figures, or None."""
    if min(measurement.width_px, measurement.height_px) < thresholds.min_side_px:
        return REASON_TOO_SMALL
    if measurement.width_px * measurement.height_px > thresholds.max_pixels:
        return REASON_TOO_LARGE
    if measurement.brightness < thresholds.min_brightness:
        return REASON_TOO_DARK
    if measurement.brightness > thresholds.max_brightness:
        return REASON_TOO_BRIGHT
    return REASON_BLURRED if measurement.sharpness < thresholds.min_sharpness else None


def screen(
    files: Sequence[InboxFile], raw: Path, thresholds: Thresholds, known: Mapping[str, Measurement], threads: int | None = None
) -> Iterator[Screened]:
    """Look at every file in turn; a usable one lies under `raw` when it is yielded. `known` measurements are not taken again."""
    ensure = _ImageWriter(raw)
    batches = [files[start : start + _FILES_A_TASK] for start in range(0, len(files), _FILES_A_TASK)]
    pool = ThreadPoolExecutor(threads or min(os.cpu_count() or 1, MAX_THREADS))
    log_level = cv2.getLogLevel()
    cv2.setLogLevel(0)  # broken files are counted and listed by us
    try:
        with tqdm(total=len(files), desc="collect", unit="image", disable=None) as bar:
            for done in pool.map(lambda batch: [screen_file(file, thresholds, known, ensure) for file in batch], batches):
                bar.update(len(done))
                yield from done
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setLogLevel(log_level)


def screen_file(file: InboxFile, thresholds: Thresholds, known: Mapping[str, Measurement], ensure: Callable[[str, bytes], None]) -> Screened:
    """Look at one file; `ensure(path relative to raw, content)` stores it when it is usable."""
    if file.refused is not None:
        return Screened(file, None, None, None, file.refused)
    with file.path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
        try:
            sniff(head)
        except RefusedError as error:  # no image, perhaps a huge one: hash it in blocks
            image_id, size = _digest(head, stream.read)
            return Screened(file, image_id, size, None, error.reason)
        content = head + stream.read()
    image_id = hashlib.sha256(content).hexdigest()
    measurement = known.get(image_id)
    if measurement is None:
        try:
            measurement = measure(content, thresholds.max_pixels)
        except RefusedError as error:
            return Screened(file, image_id, len(content), None, error.reason)
    reason = judge(measurement, thresholds)
    if reason is None:
        ensure(raw_path(image_id, measurement.extension), content)
    return Screened(file, image_id, len(content), measurement, reason)


def mark_exact_duplicates(screened: Sequence[Screened]) -> list[tuple[Screened, str | None]]:
    """Pair every file with the image_id of its kept twin: of usable files with the same bytes the first stays, the others get that id."""
    seen: set[str] = set()
    result: list[tuple[Screened, str | None]] = []
    for item in screened:
        twin = item.image_id if item.reason is None and item.image_id in seen else None
        if item.reason is None and item.image_id is not None:
            seen.add(item.image_id)
        result.append((item, twin))
    return result


def remove_strays(raw: Path, kept: set[str]) -> int:
    """Remove files below data/raw/images that are not in `kept` (paths relative to data/raw), and what a killed run left half-written in data/raw.

    Returns how many.
    """
    left = [path for path in raw.glob(".*.tmp") if path.is_file()]
    for path in left:
        path.unlink()
    removed = len(left)
    for folder, _, names in os.walk(raw / IMAGES_FOLDER, topdown=False):
        for name in names:
            path = Path(folder) / name
            if path.relative_to(raw).as_posix() not in kept:
                path.unlink()
                removed += 1
        if not os.listdir(folder) and Path(folder) != raw / IMAGES_FOLDER:  # noqa: PTH208
            Path(folder).rmdir()
    return removed


class _ImageWriter:
    """Stores images by content: written under a temporary name, then renamed. Not flushed to the disk one by one: after a power cut sizes tell."""

    def __init__(self, raw: Path) -> None:
        self._raw = str(raw)
        self._folders: set[str] = set()

    def __call__(self, relative: str, content: bytes) -> None:
        path = f"{self._raw}/{relative}"  # plain strings: this runs once a file, and Path objects cost as much as the system calls
        folder = path[: path.rindex("/")]
        if folder not in self._folders:  # several threads may make the same folder
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._folders.add(folder)
        try:
            if os.stat(path).st_size == len(content):  # noqa: PTH116
                return
        except FileNotFoundError:
            pass
        temporary = f"{path}.{threading.get_ident()}.tmp"
        try:
            with open(temporary, "wb", buffering=0) as file:
                file.write(content)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _digest(head: bytes, read: Callable[[int], bytes]) -> tuple[str, int]:
    digest, size = hashlib.sha256(head), len(head)
    while block := read(_BLOCK_BYTES):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size
