"""The bundle's fastest runner behind a batcher: bytes of images in, boxes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from export.bundle.golden import require_golden
from export.bundle.reader import Bundle, detect_shown, load_bundle, open_fastest
from export.runners import Runner
from export.serve.batcher import Batcher, BatchLimits
from export.serve.uploads import RefusedUploadError, decode_upload
from pipelines.core.errors import DetloopError
from pipelines.core.images import Decoded, use_one_thread_a_call
from pipelines.core.types import Detections


@dataclass(frozen=True)
class Answer:
    """What was found on one image: its upright size in pixels, the detections that a user sees, and how many images its batch had."""

    width_px: int
    height_px: int
    detections: Detections
    batch: int


class BundleDetector:
    """A loaded bundle that answers from several threads; `name` is the runner's name in the bundle, `failure` why it could not compute when it was
    last asked, None when it could: a GPU that has failed once fails until the process ends.
    """

    def __init__(self, bundle: Bundle, name: str, runner: Runner, *, limits: BatchLimits, workers: int) -> None:
        self.bundle, self.name, self.runner = bundle, name, runner
        self.failure: str | None = None
        self._batcher: Batcher[bytes, Answer | RefusedUploadError] = Batcher(self._answers, limits=limits, workers=workers)

    def submit(self, contents: Sequence[bytes]) -> list[Future[Answer | RefusedUploadError]]:
        """A future for each checked upload; it raises DetloopError where the model could not compute.

        Raises:
            QueueFullError: no room for all of them.
        """
        return self._batcher.submit(contents)

    def waiting(self) -> int:
        """Images that nobody works on yet."""
        return self._batcher.waiting()

    def close(self) -> None:
        """Answer what waits, then free the model."""
        self._batcher.close()
        self.runner.close()

    def _answers(self, contents: Sequence[bytes]) -> list[Answer | RefusedUploadError]:
        decoded = [self._decoded(content) for content in contents]
        images = [item for item in decoded if not isinstance(item, RefusedUploadError)]
        try:
            found = iter(detect_shown(self.runner, images, self.bundle))
        except DetloopError as error:
            self.failure = str(error)
            raise
        if images:
            self.failure = None
        return [item if isinstance(item, RefusedUploadError) else Answer(*item.original_wh, next(found), len(images)) for item in decoded]

    def _decoded(self, content: bytes) -> Decoded | RefusedUploadError:
        try:
            return decode_upload(content, self.bundle.contract.decode_to_wh)
        except RefusedUploadError as error:
            return error


def open_detector(
    folder: Path, wanted: str | None, *, threads: int, waiting: int, batch: int | None, wait_s: float, say: Callable[[str], None]
) -> BundleDetector:
    """Load a bundle and its fastest runner (or `wanted`) with a worker for each thread; without `batch`, 1 on a CPU and 8 elsewhere.

    Raises:
        DetloopError: no such bundle, it was refused, or nothing here can run it.
    """
    use_one_thread_a_call()
    bundle = load_bundle(folder)
    name, runner = open_fastest(bundle, wanted, threads=threads, streams=threads, say=say)
    require_golden(bundle, name, runner)
    # measured on CPUs: a batch takes as long as its images one by one, so it would only make the first one wait for the last
    size = min(batch or (1 if runner.device == "cpu" else 8), runner.max_batch or waiting)
    return BundleDetector(bundle, name, runner, limits=BatchLimits(waiting, size, wait_s), workers=threads)
