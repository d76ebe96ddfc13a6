"""What earlier syncs found out, so that a sync reads and judges only what is new. Never an output: without it a sync gives the same bytes, later.

    stamps.json           for each label file its size, times and inode when its KEY was found: as long as they stay, it is not read again
    source-KEY.arrow      for each opinion of a label file its image, a hash of what it says, and where it stands in the file
    source-KEY.json       what else the file has; the key holds its name and content
    outcomes-NNNNN.arrow  what all opinions on one image came to, and the issues of that image; a segment for each sync

All lies in a folder that is named by the code and the rules that judge; what others left is removed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.core.errors import DetloopError
from pipelines.core.growing import GrowingTable
from pipelines.core.io import TRUSTED_AGE_NS, code_folder, read_json, write_json
from pipelines.core.tables import read_arrows, write_arrow

_PREFIX, _STAMPS = "judged-", "stamps.json"

OPINIONS_SCHEMA: dict[str, pl.DataType] = {
    "image_id": pl.String(),
    "says": pl.String(),  # a hash of the source's name and the opinion
    "line": pl.Int64(),  # of the file, and its bytes, where an opinion is a line
    "start": pl.Int64(),
    "end": pl.Int64(),
}
ISSUES_SCHEMA: dict[str, pl.DataType] = dict.fromkeys(("source", "image_id", "annotation_id", "kind", "detail", "action", "class"), pl.String())
# What became of an image: its line of annotations.jsonl as it is written, and of it the state and the source (null where the image is not in the
# manifest), why it is a conflict, what it adds to the figures, and its issues. `key` holds all opinions on it and what the manifest says.
OUTCOMES_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("key", "image_id", "line", "state", "source", "reason", "figures"), pl.String()),
    "issues": pl.List(pl.Struct(ISSUES_SCHEMA)),
}


class Memory:
    """The memory in a work folder, under one set of rules. `outcomes` (OUTCOMES_SCHEMA) is empty where there is nothing readable."""

    def __init__(self, work: Path, rules: str) -> None:
        self._folder = code_folder(work, _PREFIX, rules)
        self._outcomes = GrowingTable(self._folder, "outcomes", OUTCOMES_SCHEMA)
        self.outcomes = self._outcomes.read_or_clear()
        self._sources: set[str] = set()
        self._started_ns = time.time_ns()
        self._stamps: dict[str, list[Any]] = {}
        try:
            self._known_stamps = read_json(self._folder / _STAMPS)
        except DetloopError:
            self._known_stamps = {}

    @property
    def issues(self) -> pl.DataFrame:
        """The issues of all outcomes: `key` and ISSUES_SCHEMA, those of an image in their order."""
        return self.outcomes.select("key", "issues").filter(pl.col("issues").list.len() > 0).explode("issues").unnest("issues")

    def key_of(self, path: Path, find: Callable[[], str]) -> str:
        """The key of a label file; `find` reads the file for it, and is called where the file may have changed since."""
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        known = self._known_stamps.get(path.name, [])
        key = known[-1] if known[:-1] == stamp else find()
        if max(stat.st_mtime_ns, stat.st_ctime_ns) < self._started_ns - TRUSTED_AGE_NS:
            self._stamps[path.name] = [*stamp, key]
        return key

    def source(self, key: str) -> tuple[pl.DataFrame, dict[str, Any]] | None:
        """The opinions of a label file (OPINIONS_SCHEMA) and what else it has; None where it was not read before."""
        self._sources.add(key)
        try:
            facts = read_json(self._folder / f"source-{key}.json")
            return read_arrows([self._folder / f"source-{key}.arrow"], OPINIONS_SCHEMA), facts
        except DetloopError:
            return None

    def save_source(self, key: str, opinions: pl.DataFrame, facts: dict[str, Any]) -> None:
        """Keep what was read of a label file."""
        write_json(self._folder / f"source-{key}.json", facts)
        write_arrow(self._folder / f"source-{key}.arrow", opinions)

    def add(self, outcomes: pl.DataFrame) -> None:
        """Keep new outcomes."""
        if len(outcomes):
            self._outcomes.add(outcomes)
            self.outcomes = pl.concat([self.outcomes, outcomes])

    def forget_others(self, keys: pl.Series) -> None:
        """Remove label files that were not asked for, and outcomes apart from `keys` where they are the most."""
        if self._stamps != self._known_stamps:
            write_json(self._folder / _STAMPS, self._stamps)
        for path in self._folder.glob("source-*"):
            if path.stem.removeprefix("source-") not in self._sources:
                path.unlink()
        if self._outcomes.is_bulky(len(self.outcomes), len(keys)):
            self.outcomes = self.outcomes.join(pl.DataFrame({"key": keys}), "key", "semi")
            self._outcomes.replace(self.outcomes)
