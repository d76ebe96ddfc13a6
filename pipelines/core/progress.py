"""A progress bar on a terminal, and nothing where no one looks: a stage that DVC runs need not even import tqdm."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(total: int, title: str) -> Iterator[Callable[[int], object]]:
    """A function to call with the number of images that are done."""
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=title, unit="image") as bar:
        yield bar.update
