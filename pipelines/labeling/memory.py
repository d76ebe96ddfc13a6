"""What earlier syncs found out, so that a sync reads and judges only what is new. Never an output: without it a sync gives the same bytes, later.

    source-KEY.parquet      for each opinion of a label file its image, a hash of what it says, and where it stands in the file
    source-KEY.json         what else the file has; the key holds its name and content
    outcomes-NNNNN.parquet  what all opinions on one image came to; a segment for each sync, written after
    issues-NNNNN.parquet    the issues of those images

All lies in a folder that is named by the code and the rules that judge; what others left is removed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from pipelines.core.errors import DetloopError
from pipelines.core.io import code_folder, load_or_empty, read_json, write_json
from pipelines.core.tables import read_parquet, read_parquets, write_parquet

_PREFIX = "judged-"
MAX_SEGMENTS = 64
_SPARE_ROWS = 4096  # outcomes that nobody asks for and that are kept all the same

OPINIONS_SCHEMA: dict[str, pl.DataType] = {
    "image_id": pl.String(),
    "says": pl.String(),  # a hash of the source's name and the opinion
    "start": pl.Int64(),  # bytes of the file, where an opinion is a line
    "end": pl.Int64(),
}
# What became of an image: its line of annotations.jsonl as it is written, and of it the state and the source (null where the image is not in the
# manifest), why it is a conflict, and what it adds to the figures. `key` holds all opinions on it and what the manifest says.
OUTCOMES_SCHEMA: dict[str, pl.DataType] = dict.fromkeys(("key", "image_id", "line", "state", "source", "reason", "figures"), pl.String())
ISSUES_SCHEMA: dict[str, pl.DataType] = {
    "key": pl.String(),
    **dict.fromkeys(("source", "image_id", "annotation_id", "kind", "detail", "action", "class"), pl.String()),
}


class Memory:
    """The memory in a work folder, under one set of rules. `outcomes` and `issues` are tables, empty where there is nothing readable."""

    def __init__(self, work: Path, rules: str) -> None:
        self._folder = code_folder(work, _PREFIX, rules)
        self.outcomes = pl.DataFrame(schema=OUTCOMES_SCHEMA)
        self.issues = pl.DataFrame(schema=ISSUES_SCHEMA)
        self._segments = 0
        self._sources: set[str] = set()
        load_or_empty(self._folder, self._load)

    def _load(self) -> None:
        names = sorted(path.name.removeprefix("outcomes-") for path in self._folder.glob("outcomes-*.parquet"))
        if not names:
            return
        outcomes = read_parquets([self._folder / f"outcomes-{name}" for name in names], OUTCOMES_SCHEMA)
        self.issues = read_parquets([self._folder / f"issues-{name}" for name in names], ISSUES_SCHEMA)
        self.outcomes = outcomes
        self._segments = int(names[-1].partition(".")[0]) + 1

    def source(self, key: str) -> tuple[pl.DataFrame, dict[str, Any]] | None:
        """The opinions of a label file (OPINIONS_SCHEMA) and what else it has; None where it was not read before."""
        self._sources.add(key)
        try:
            facts = read_json(self._folder / f"source-{key}.json")
            return read_parquet(self._folder / f"source-{key}.parquet", OPINIONS_SCHEMA), facts
        except DetloopError:
            return None

    def save_source(self, key: str, opinions: pl.DataFrame, facts: dict[str, Any]) -> None:
        """Keep what was read of a label file."""
        write_json(self._folder / f"source-{key}.json", facts)
        write_parquet(self._folder / f"source-{key}.parquet", opinions)

    def add(self, outcomes: pl.DataFrame, issues: pl.DataFrame) -> None:
        """Keep new outcomes and their issues."""
        if len(outcomes):
            write_parquet(self._folder / f"issues-{self._segments:05d}.parquet", issues)
            write_parquet(self._folder / f"outcomes-{self._segments:05d}.parquet", outcomes)
            self._segments += 1
            self.outcomes, self.issues = pl.concat([self.outcomes, outcomes]), pl.concat([self.issues, issues])

    def forget_others(self, keys: pl.Series) -> None:
        """Remove label files that were not asked for, and outcomes apart from `keys` where they are the most."""
        for path in self._folder.glob("source-*"):
            if path.stem.removeprefix("source-") not in self._sources:
                path.unlink()
        if len(self.outcomes) <= 2 * len(keys) + _SPARE_ROWS and self._segments <= MAX_SEGMENTS:
            return
        wanted = pl.DataFrame({"key": keys})
        outcomes, issues = self.outcomes.join(wanted, "key", "semi"), self.issues.join(wanted, "key", "semi", maintain_order="left")
        for kind in ("outcomes", "issues"):
            for path in self._folder.glob(f"{kind}-*.parquet"):
                path.unlink()
        self.outcomes, self.issues, self._segments = self.outcomes.clear(), self.issues.clear(), 0
        self.add(outcomes, issues)
