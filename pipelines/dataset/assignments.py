"""The sticky record of the split: data/splits/assignments.jsonl, one line an image, in git. Lines are only ever added."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import polars as pl

from pipelines.core import tables
from pipelines.core.errors import DataError, LeakError, listed
from pipelines.core.io import code_folder, code_key, numbered_jsonl, sha256_bytes, sha256_file
from pipelines.core.tables import jsonl_bytes, read_arrows, read_jsonl_table, write_arrow
from pipelines.core.types import LABELED_SPLITS, Split

ASSIGNMENTS_SCHEMA: dict[str, pl.DataType] = {"image_id": pl.String(), "split": pl.String(), "component": pl.String()}
_HINT = "restore it from git"


@dataclass(frozen=True)
class Assignment:
    """An image's side. `component` names what it was dealt with: the smallest image_id of that time."""

    image_id: str
    split: Split
    component: str


def read_assignments(path: Path) -> dict[str, Assignment]:
    """Assignments by image_id; empty where the file does not exist yet.

    Raises:
        DataError: lines of another form, or one image with two lines that differ (a bad merge).
        LeakError: images that were dealt together stand on two sides: someone edited the file.
    """
    found: dict[str, Assignment] = {}
    problems: list[str] = []
    if not path.exists():
        return found
    sides: dict[str, Split] = {name: name for name in get_args(Split) if name in LABELED_SPLITS}
    for number, row in numbered_jsonl(path, _HINT):
        if (
            set(row) != set(ASSIGNMENTS_SCHEMA)
            or not isinstance(row["image_id"], str)
            or not isinstance(row["component"], str)
            or row["split"] not in sides
        ):
            problems.append(f"line {number} is not image_id, split (train, val or test) and component")
            continue
        entry = Assignment(row["image_id"], sides[row["split"]], row["component"])
        if found.setdefault(entry.image_id, entry) != entry:
            problems.append(f"line {number} gives image {entry.image_id} another side or component than an earlier one")
    if problems:
        raise DataError(f"{path} has {len(problems)} bad lines: {listed(problems)}; restore it from git, or keep one line an image")
    first: dict[str, Assignment] = {}
    cut = [
        f"{first[entry.component].image_id} ({first[entry.component].split}) and {entry.image_id} ({entry.split})"
        for entry in found.values()
        if first.setdefault(entry.component, entry).split != entry.split
    ]
    if cut:
        raise LeakError(f"{path} has {len(cut)} images on another side than those they were dealt with: {listed(cut)}; restore it from git")
    return found


def read_assignments_table(path: Path, work: Path | None = None) -> pl.DataFrame:
    """As `read_assignments`, as a table (ASSIGNMENTS_SCHEMA): as a whole where the file is as `assignments_content` makes it, else line by line.

    What it left last is remembered in the folder `work`, if there is one, and is not parsed again.
    """
    table = _remembered(path, work) if work is not None and path.exists() else None
    if table is not None:
        return table
    table = read_jsonl_table(path, ASSIGNMENTS_SCHEMA, _HINT) if path.exists() else None
    if table is not None:
        table = table.select(list(ASSIGNMENTS_SCHEMA))
        sides = table["split"].is_in(list(LABELED_SPLITS)).all() and not table.null_count().sum_horizontal().sum()
        if sides and table["image_id"].n_unique() == len(table) and _each_on_one_side(table):
            return table
    return pl.DataFrame([vars(entry) for entry in read_assignments(path).values()], schema=ASSIGNMENTS_SCHEMA)


def _each_on_one_side(table: pl.DataFrame) -> bool:
    """Whether no component stands on two sides; most are one image."""
    several = table.filter(pl.col("component").is_duplicated())
    return len(several.unique(["component", "split"])) == several["component"].n_unique()


def assignments_content(assignments: pl.DataFrame) -> bytes:
    """The file of these assignments (ASSIGNMENTS_SCHEMA): all lines, sorted by image_id."""
    return jsonl_bytes(assignments.select(list(ASSIGNMENTS_SCHEMA)).sort("image_id"))


def remember_assignments(content: bytes, assignments: pl.DataFrame, work: Path) -> None:
    """Have in the folder `work` the table of the file with this `content`, in place of any other."""
    memory = _memory(sha256_bytes(content), work)
    for other in memory.parent.iterdir():
        other.unlink()
    write_arrow(memory, assignments.select(list(ASSIGNMENTS_SCHEMA)).sort("image_id"))


def _remembered(path: Path, work: Path) -> pl.DataFrame | None:
    """The table of exactly this file; None where it is not known."""
    try:
        return read_arrows([_memory(sha256_file(path), work)], ASSIGNMENTS_SCHEMA)
    except DataError:
        return None


def _memory(content_hash: str, work: Path) -> Path:
    """Where the table of a file with this content is remembered."""
    return code_folder(work, "assigned-", code_key([tables, sys.modules[__name__]], [pl.__version__])) / f"assignments-{content_hash}.arrow"
