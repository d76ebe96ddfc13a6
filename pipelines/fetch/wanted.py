"""What a source offers: one entry a picture, and the name that it gets below the source's folder. Pure."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from pipelines.core.filelog import LOG_NAMES

_PLAIN = re.compile(r"[\w.,+=@ ()-]+(?:/[\w.,+=@ ()-]+)*", re.ASCII)
_MAX_NAME = 150  # file systems take 255 bytes a part

REASON_UNREACHABLE = "unreachable"
REASON_UNREADABLE = "unreadable"
REASON_BAD_ADDRESS = "bad_address"
REASON_PART_OF_CLIP = "clip_cut_short"  # its frames up to there are taken
REASON_TOO_MANY_BYTES = "too_many_bytes"
REASON_PRIVATE_ADDRESS = "private_address"
REASON_SYMLINK_OUTSIDE = "symlink_outside"
REASON_NOT_A_FILE = "not_a_file"


WITHOUT_IT = (
    "to go on with what was fetched before: `dvc repro --downstream collect`"  # as on a machine that has pulled it and cannot reach the source
)


class FetchRefusedError(Exception):
    """One entry cannot be had; `reason` is the word for the manifest, its cause what was said."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Wanted:
    """One picture of a source: where it is, and what the source says of it.

    `source` is what a log inside the source calls it instead. `refused` is the reason word of what is not even tried or could not be had, `why` what
    was said then. `other_groups` are named for it as well, and do not count.
    """

    uri: str
    name: str  # below the source's folder, always a plain relative path
    group: str | None = None
    captured_at: str | None = None
    split: str | None = None
    refused: str | None = None
    why: str | None = None
    other_groups: tuple[str, ...] = ()
    source: str | None = None


def safe_name(name: str, unique: str) -> str:
    """`name` where it is a plain relative path, else its harmless part behind a hash of `unique`: no way out of the folder, no odd bytes, no log."""
    parts = name.split("/")
    odd = any(part.startswith(".") or part.strip(" ") != part or part in LOG_NAMES for part in parts)  # logs mean something in data/fetched
    if _PLAIN.fullmatch(name) and len(name) <= _MAX_NAME and not odd:
        return name
    tail = re.sub(r"[^\w.-]+", "_", parts[-1], flags=re.ASCII).strip("._")[-60:]
    return f"{hashlib.sha256(os.fsencode(unique)).hexdigest()[:16]}-{tail or 'file'}"


def address_name(uri: str) -> str:
    """The name for something that is told by its address: always behind a hash, since other addresses end alike."""
    tail = re.sub(r"[^\w.-]+", "_", uri.partition("?")[0].rpartition("/")[2], flags=re.ASCII).strip("._")[-60:]
    return f"{hashlib.sha256(os.fsencode(uri)).hexdigest()[:16]}-{tail or 'file'}"
