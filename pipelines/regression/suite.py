"""data/badcases/suite.jsonl: confirmed bad cases, one line each, in git. Lines are only ever added; each keeps how every champion did on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.core.errors import DataError
from pipelines.core.io import iter_jsonl, jsonl_text, write_text
from pipelines.regression.cases import AskedCase, Case


@dataclass(frozen=True)
class SuiteItem:
    """A permanent item: the case, the round that asked about it, and whether each champion since (number, right) was right about it."""

    case: Case
    round: int
    history: tuple[tuple[int, bool], ...] = ()


def read_suite(path: Path) -> list[SuiteItem]:
    """All items, in file order.

    Raises:
        MissingInputError: no such file (a project without items has an empty one).
        DataError: lines of another form.
    """
    try:
        return [
            SuiteItem(Case.from_row(row), row["round"], tuple((int(entry["champion"]), bool(entry["right"])) for entry in row["history"]))
            for row in iter_jsonl(path, "restore it from git (a project without items has an empty file)")
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} has a line of another form ({error!r}): restore it from git") from error


def write_suite(path: Path, items: Iterable[SuiteItem]) -> None:
    """Write all items, oldest round first."""
    rows = sorted(((item.round, item.case.id, item) for item in items), key=lambda row: row[:2])
    write_text(path, jsonl_text(_row(item) for _, _, item in rows))


def with_confirmed(items: Sequence[SuiteItem], confirmed: Iterable[AskedCase]) -> list[SuiteItem]:
    """The suite with new items; one that is there already stays as it is."""
    known = {item.case.id for item in items}
    return [*items, *(SuiteItem(asked.case, asked.round) for asked in confirmed if asked.case.id not in known)]


def with_champion(items: Sequence[SuiteItem], number: int, right: Mapping[str, bool]) -> list[SuiteItem]:
    """The suite with a new champion's answers, by case id, in each item's history; items that could not be judged get none."""
    return [
        replace(item, history=(*(entry for entry in item.history if entry[0] != number), (number, right[item.case.id])))
        if item.case.id in right
        else item
        for item in items
    ]


def _row(item: SuiteItem) -> dict[str, Any]:
    return {**item.case.to_row(), "round": item.round, "history": [{"champion": number, "right": right} for number, right in item.history]}
