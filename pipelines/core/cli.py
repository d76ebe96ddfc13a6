"""The one error boundary of the command line: errors that a person can mend become one line and exit status 2."""

from __future__ import annotations

import argparse
import errno
import gc
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path

from pipelines.core.errors import DetloopError

EXIT_USER_ERROR = 2
EXIT_READER_LEFT = 141  # as the shell says it of a program that SIGPIPE ended

_OS_HINTS = {
    errno.ENOSPC: "the disk is full: free some space, then run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space, then run the same command again",
    errno.EACCES: "permission denied: make it writable for this user (chown or chmod), then run the same command again",
    errno.EPERM: "not permitted: make it writable for this user (chown, chmod or chattr), then run the same command again",
    errno.EROFS: "the file system is read-only: mount it writable or move the project, then run the same command again",
    errno.ENOENT: "no such file: restore it, or run `dvc repro`",
    errno.ENOTDIR: "a file stands where a folder is wanted: name another path",
    errno.EISDIR: "a folder stands where a file is wanted: name another path",
    errno.ENAMETOOLONG: "the name is too long for the file system: name a shorter one",
}


def run_guarded(work: Callable[[], int | None]) -> int:
    """Run `work`; return its exit status, or 2 after printing one line for an error that a person can mend."""
    try:
        status = work() or 0
        sys.stdout.flush()  # here, so that a reader who went away is noticed before the interpreter ends
        return status
    except DetloopError as error:
        _say(str(error))
    except BrokenPipeError:
        if not _reader_left():
            raise
        return EXIT_READER_LEFT
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


def positive(text: str) -> int:
    """A number of things on the command line, 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 up")
    return value


def add_action(actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str) -> argparse.ArgumentParser:
    """An action of a command (`detloop queue build`); `text` stands in the command's help and in its own."""
    return actions.add_parser(name, help=text, description=text, allow_abbrev=False)


def stage_main(prog: str, work: Callable[[argparse.Namespace], int | None], paths: dict[str, str]) -> None:
    """Entry of a DVC stage: parse one `--NAME PATH` for each entry of `paths` (all required), run, exit.

    `paths` maps option names (with `-`) to help texts; values arrive as `pathlib.Path` under the same name with `_`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", allow_abbrev=False)
    for name, text in paths.items():
        parser.add_argument(f"--{name}", type=Path, required=True, help=text)
    args = parser.parse_args()
    gc.freeze()  # what the imports made stays: the collector need not look through it again and again
    gc.enable()
    status = run_guarded(lambda: work(args))
    gc.freeze()  # nor when the interpreter ends
    sys.exit(status)


def _reader_left() -> bool:
    """Whether it is standard output whose reader went away (`detloop … | head`); then what is left to write goes nowhere."""
    output = sys.stdout.fileno()
    poll = select.poll()
    poll.register(output, 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def _say(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
