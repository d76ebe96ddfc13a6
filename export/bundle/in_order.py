"""Work on many images by several threads, results in the order of the images and few of them in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 2  # items a thread that wait, so that none is idle while the first one is slow
_PORTION = 4  # images; more gain nothing
_MANY = 1000  # images from which it is worth half a second that a runner gets ready for portions
_TURNS = 2  # portions that each thread could still get of what is left: the last ones are single items, so that all threads end together


def portions(items: Sequence[Item], *, workers: int, most: int | None = None) -> Iterator[Sequence[Item]]:
    """A few items at a time, in order, not more than `most`, one where few are left. A thread that decodes some images, runs the network on them and
    then reads its outputs goes through each part's code and tables once, while they are in the processor's cache.
    """
    start = 0
    while start < len(items):
        size = max(1, min(_PORTION, most or _PORTION, (len(items) - start) // (_TURNS * workers)))
        yield items[start : start + size]
        start += size


def portion_for(count: int) -> int:
    """What a runner that is to see `count` images may be told of `portions`: how many come at once, 1 where they are too few to get ready for it."""
    return _PORTION if count >= _MANY else 1


def in_order(work: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> Iterator[Result]:
    """`work(item)` of each item, in order, by `workers` threads; a call's exception is raised at its place."""
    with ThreadPoolExecutor(workers, thread_name_prefix="detloop") as pool:
        ahead: deque[Future[Result]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > _AHEAD * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
