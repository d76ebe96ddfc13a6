"""A bounded queue before worker threads that take micro-batches. Full is an answer at once, never a wait."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class QueueFullError(Exception):
    """There is no room for the items now."""


@dataclass(frozen=True)
class BatchLimits:
    """`waiting`: items in the queue at most; `batch`: items of one call; `wait_s`: how long a worker waits for a batch to fill."""

    waiting: int
    batch: int
    wait_s: float


class Batcher(Generic[Item, Result]):
    """`work(items)` gives as many results; `workers` threads call it with what is waiting, each with its share of it."""

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result]], *, limits: BatchLimits, workers: int) -> None:
        self._work, self._limits = work, limits
        self._waiting: deque[tuple[Item, Future[Result]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._serve, name=f"detloop-worker-{number}", daemon=True) for number in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, items: Sequence[Item]) -> list[Future[Result]]:
        """A future for each item: all of them wait from now on, or none.

        Raises:
            QueueFullError: no room for all of them, or the batcher is closed.
        """
        with self._changed:
            if self._closed or len(self._waiting) + len(items) > self._limits.waiting:
                raise QueueFullError
            futures: list[Future[Result]] = [Future() for _ in items]
            self._waiting.extend(zip(items, futures, strict=True))
            self._changed.notify(len(items))
        return futures

    def waiting(self) -> int:
        """Items that no worker has taken yet."""
        return len(self._waiting)

    def close(self) -> None:
        """Take nothing more, work off what waits, end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while batch := self._take():
            todo = [(item, future) for item, future in batch if future.set_running_or_notify_cancel()]  # whoever asked may have gone
            if not todo:
                continue
            try:
                results = self._work([item for item, _ in todo])
            except Exception as error:  # noqa: BLE001  belongs to those who wait for it; the worker goes on
                for _, future in todo:
                    future.set_exception(error)
            else:
                for (_, future), result in zip(todo, results, strict=True):
                    future.set_result(result)

    def _take(self) -> list[tuple[Item, Future[Result]]]:
        """The next batch; empty when the batcher is closed and nothing waits."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                end = time.monotonic() + self._limits.wait_s
                while len(self._waiting) < self._limits.batch and not self._closed and (left := end - time.monotonic()) > 0:
                    self._changed.wait(left)
                if self._waiting or self._closed:  # else another worker took them all
                    break
            share = -(-len(self._waiting) // len(self._threads))
            return [self._waiting.popleft() for _ in range(min(share, self._limits.batch))]
