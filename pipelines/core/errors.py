"""The exceptions that detloop raises on purpose.

    DetloopError            anything that a person can mend; the command line prints it in one line and exits with 2
    ├── ParamsError         a value in params.yaml is wrong, unknown or missing
    ├── MissingInputError   a file or folder that the work needs is not there
    ├── DataError           a file is there, but its content cannot be used
    │   ├── ClassContractError  a class name or a contract hash does not fit params.yaml
    │   └── LeakError       the same scene stands on two sides of the split
    ├── GateError           a result is below what params.yaml asks for
    ├── ServerError         a server is down, refuses, or answers what it should not
    └── MissingPartError    a library, tool or device is not on this machine

A message says what was wanted, what was found, where, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_LISTED = 20


class DetloopError(Exception):
    """Base of all errors that a person can mend."""


class ParamsError(DetloopError):
    """A value in params.yaml is wrong, unknown or missing."""


class MissingInputError(DetloopError):
    """A file or folder that the work needs is not there."""


class DataError(DetloopError):
    """A file is there, but its content cannot be used."""


class ClassContractError(DataError):
    """A class name or a contract hash does not fit params.yaml."""


class LeakError(DataError):
    """The same scene stands on two sides of the split."""


class GateError(DetloopError):
    """A result is below what params.yaml asks for."""


class ServerError(DetloopError):
    """A server is down, refuses, or answers what it should not."""


class MissingPartError(DetloopError):
    """A library, tool or device is not on this machine."""


def counted(count: int, noun: str) -> str:
    """`1 image`, `2 images`: for nouns whose plural is an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(records: Sequence[str], limit: int = MAX_LISTED) -> str:
    """Join many bad records into one readable list: the first `limit`, then the count of the rest."""
    shown = "; ".join(records[:limit])
    rest = len(records) - limit
    return shown if rest <= 0 else f"{shown}; and {rest} more"
