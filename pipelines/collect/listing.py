"""What lies below a folder and how large it is, seen by a process of its own: whoever asks goes on meanwhile, on another core.

The process is this file run as a script without any package, so that it is there at once.
"""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Files whose name is ASCII, their bytes (int64), other files, folders, and those of the folders that are empty.
Listing = tuple[list[str], bytes, list[str], list[str], list[str]]


@contextmanager
def listing_beside(root: str, name: str) -> Iterator[Callable[[], Listing]]:
    """Begin a `listing`; the function waits for it."""
    command = [sys.executable, "-I", "-S", __file__, root, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:

        def listed() -> Listing:
            content = process.communicate()[0]
            return listing(root, name) if process.returncode else marshal.loads(content)

        try:
            yield listed
        finally:
            process.kill()


def listing(root: str, name: str) -> Listing:
    """What lies in the folder `name` of `root`, and in the folders therein, by path from `root`; nothing where there is no such folder."""
    paths: list[str] = []
    sizes = array("q")
    odd: list[str] = []
    folders: list[str] = []
    empty: list[str] = []

    def add(files: list[os.DirEntry[str]], folder: str) -> None:
        for file in files:
            path = f"{folder}/{file.name}"
            if path.isascii():
                paths.append(path)
                sizes.append(file.stat().st_size)
            else:
                odd.append(path)

    for entry in os.scandir(f"{root}/{name}") if os.path.isdir(f"{root}/{name}") else ():  # noqa: PTH112
        if not entry.is_dir(follow_symlinks=False):
            add([entry], name)
            continue
        path = f"{name}/{entry.name}"
        opened = os.open(entry.path, os.O_RDONLY)  # names of an open folder are looked up at once, paths from their beginning
        try:
            files = list(os.scandir(opened))
            add(files, path)
        finally:
            os.close(opened)
        folders.append(path)
        if not files:
            empty.append(path)
    return paths, sizes.tobytes(), odd, folders, empty


if __name__ == "__main__":
    sys.stdout.buffer.write(marshal.dumps(listing(*sys.argv[1:])))
