"""Looking at files: read, hash, check and measure what is new, store what could be measured. What stays is decided later, see `fates`.

Work is spread over threads (hashing, decoding and writing release the interpreter lock) and joined in inbox order, so the result depends on the
inbox and the params alone. Only one measurement a file stays in memory, about 1.5 kB.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import cv2

from pipelines.collect.measure import Measurement, measure
from pipelines.collect.store import ImageStore, put_image, raw_path
from pipelines.core.cluster import map_on_ray
from pipelines.core.containers import HEAD_BYTES, RefusedError, sniff
from pipelines.core.progress import progress

MAX_THREADS = 8  # beyond this the interpreter lock is the limit
FILES_A_TASK = 32
_WHOLE_READ_BYTES = 1 << 26  # a larger file is read whole only when it starts as an image does
_BLOCK_BYTES = 1 << 20

REASON_UNREADABLE = "unreadable"

Store = Callable[[str, bytes], None]


class Looked(NamedTuple):
    """What looking at one file gave. `measurement` is None where it was refused, or where an image of these bytes was measured before."""

    image_id: str | None
    bytes: int | None
    refused: str | None
    measurement: Measurement | None


def look_at_all(paths: Sequence[str], max_pixels: int, known: Set[str], store: ImageStore) -> Iterator[list[Looked]]:
    """Look at every file; results come in order, in batches. See `look_at`."""
    batches = [paths[start : start + FILES_A_TASK] for start in range(0, len(paths), FILES_A_TASK)]
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS))
    try:
        with progress(len(paths), "collect") as tell:
            for done in pool.map(lambda batch: look_at_batch(batch, max_pixels, known, store.put), batches):
                tell(len(done))
                yield done
    finally:
        pool.shutdown(cancel_futures=True)


def look_at_all_on_ray(paths: Sequence[str], max_pixels: int, known: Set[str], store: ImageStore) -> Iterator[list[Looked]]:
    """As `look_at_all`, on the nodes of a Ray cluster, which see the same folders."""
    batches = [tuple(os.path.abspath(path) for path in paths[start : start + FILES_A_TASK]) for start in range(0, len(paths), FILES_A_TASK)]  # noqa: PTH100
    work = partial(_look_for_ray, max_pixels, known, os.path.abspath(store.raw))  # noqa: PTH100
    for done in map_on_ray(work, batches):
        for item in done:
            if item.measurement is not None and item.image_id is not None and item.bytes is not None:
                store.add(raw_path(item.image_id, item.measurement.extension), item.bytes)
        yield done


def _look_for_ray(max_pixels: int, known: Set[str], raw: str, paths: Sequence[str]) -> list[Looked]:
    return look_at_batch(paths, max_pixels, known, partial(put_image, raw))


def look_at_batch(paths: Sequence[str], max_pixels: int, known: Set[str], store: Store) -> list[Looked]:
    """Look at some files in turn."""
    log_level = cv2.getLogLevel()
    cv2.setLogLevel(0)  # broken files are counted and listed by us
    try:
        return [look_at(path, max_pixels, known, store) for path in paths]
    finally:
        cv2.setLogLevel(log_level)


def look_at(path: str, max_pixels: int, known: Set[str], store: Store) -> Looked:
    """Look at one file. `known` image_ids are not measured again; `store(path relative to raw, content)` gets a measured one."""
    try:
        with open(path, "rb", buffering=0) as stream:
            if os.fstat(stream.fileno()).st_size > _WHOLE_READ_BYTES:
                head = stream.read(HEAD_BYTES)
                try:
                    sniff(head)
                except RefusedError as error:  # no image, and a huge one: hash it in blocks
                    return Looked(*_digest(head, stream.read), error.reason, None)
                stream.seek(0)
            content = stream.read()
    except OSError:  # gone since it was seen, or not ours to read
        return Looked(None, None, REASON_UNREADABLE, None)
    image_id = hashlib.sha256(content).hexdigest()
    if image_id in known:
        return Looked(image_id, len(content), None, None)
    try:
        measurement = measure(content, max_pixels)
    except RefusedError as error:
        return Looked(image_id, len(content), error.reason, None)
    store(raw_path(image_id, measurement.extension), content)
    return Looked(image_id, len(content), None, measurement)


def _digest(head: bytes, read: Callable[[int], bytes]) -> tuple[str, int]:
    digest, size = hashlib.sha256(head), len(head)
    while block := read(_BLOCK_BYTES):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size
