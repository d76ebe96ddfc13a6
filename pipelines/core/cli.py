"""The one error boundary of the command line: errors that a person can mend become one line and exit status 2."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable
from pathlib import Path

from pipelines.core.errors import DetloopError

EXIT_USER_ERROR = 2

_OS_HINTS = {
    errno.ENOSPC: "the disk is full: free some space, then run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space, then run the same command again",
    errno.EACCES: "permission denied: make it writable for this user (chown or chmod), then run the same command again",
    errno.EPERM: "not permitted: make it writable for this user (chown, chmod or chattr), then run the same command again",
    errno.EROFS: "the file system is read-only: mount it writable or move the project, then run the same command again",
    errno.ENOENT: "no such file: restore it, or run `dvc repro`",
}


def run_guarded(work: Callable[[], int | None]) -> int:
    """Run `work`; return its exit status, or 2 after printing one line for an error that a person can mend."""
    try:
        return work() or 0
    except DetloopError as error:
        _say(str(error))
    except OSError as error:
        hint = _OS_HINTS.get(error.errno or 0)
        if hint is None:
            raise
        where = f" ({error.filename})" if error.filename else ""
        _say(f"{hint}{where}")
    except KeyboardInterrupt:
        _say("interrupted: run the same command again to go on")
        return 130
    return EXIT_USER_ERROR


def stage_main(prog: str, work: Callable[[argparse.Namespace], int | None], paths: dict[str, str]) -> None:
    """Entry of a DVC stage: parse one `--NAME PATH` for each entry of `paths` (all required), run, exit.

    `paths` maps option names (with `-`) to help texts; values arrive as `pathlib.Path` under the same name with `_`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", allow_abbrev=False)
    for name, text in paths.items():
        parser.add_argument(f"--{name}", type=Path, required=True, help=text)
    args = parser.parse_args()
    sys.exit(run_guarded(lambda: work(args)))


def _say(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
