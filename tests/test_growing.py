"""Tables that only grow: what was added is there in its order, whatever was killed, and what was put together stands once."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from pipelines.core.errors import DataError
from pipelines.core.growing import MAX_PARTS, GrowingTable
from pipelines.core.records import read_annotations_table, write_annotations
from pipelines.core.types import Annotation, Box

SCHEMA = {"name": pl.String(), "number": pl.Int64()}


def rows(*numbers: int) -> pl.DataFrame:
    return pl.DataFrame({"name": [str(number) for number in numbers], "number": numbers}, schema=SCHEMA)


def test_rows_come_back_in_their_order(tmp_path: Path) -> None:
    table = GrowingTable(tmp_path, "t", SCHEMA)
    assert table.read().equals(rows())
    for number in range(3):
        table.add(rows(2 * number, 2 * number + 1))
    GrowingTable(tmp_path, "other", SCHEMA).add(rows(9))
    assert GrowingTable(tmp_path, "t", SCHEMA).read().equals(rows(*range(6)))


def test_killed_while_it_was_put_together_no_row_stands_twice(tmp_path: Path) -> None:
    table = GrowingTable(tmp_path, "t", SCHEMA)
    table.add(rows(1))
    table.add(rows(2))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    table.replace(rows(1, 2))
    assert len(list(tmp_path.iterdir())) == 1
    for path, content in before.items():  # what a kill before the last step leaves
        path.write_bytes(content)
    assert table.read().equals(rows(1, 2))
    table.add(rows(3))
    assert table.read().equals(rows(1, 2, 3))


@pytest.mark.parametrize("content", [b"", b"broken", None], ids=["empty", "broken", "half"])
def test_what_cannot_be_read_is_told_or_cleared(content: bytes | None, tmp_path: Path) -> None:
    table = GrowingTable(tmp_path, "t", SCHEMA)
    table.add(rows(1))
    table.add(rows(2))
    path = sorted(tmp_path.iterdir())[0]
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(DataError, match="cannot be read"):
        table.read()
    assert table.read_or_clear().equals(rows())
    assert not list(tmp_path.iterdir())


def test_other_columns_are_refused(tmp_path: Path) -> None:
    GrowingTable(tmp_path, "t", {"name": pl.String()}).add(rows(1))
    with pytest.raises(DataError, match="columns"):
        GrowingTable(tmp_path, "t", SCHEMA).read()


def test_it_is_bulky_when_most_is_unwanted_or_the_files_are_many(tmp_path: Path) -> None:
    table = GrowingTable(tmp_path, "t", SCHEMA)
    assert not table.is_bulky(12_000, 4000)
    assert table.is_bulky(12_097, 4000)
    for _ in range(MAX_PARTS):
        assert not table.is_bulky(1, 1)
        table.add(rows(1))
    assert table.is_bulky(1, 1)


def label(number: int, *boxes: Box) -> Annotation:
    return Annotation(f"{number:02d}", "labeled" if boxes else "verified_empty", 100, 80, boxes, "team")


def test_annotations_read_with_a_memory_are_those_without(tmp_path: Path) -> None:
    """Lines added, changed, taken away, edited by hand and put back; the image of each row once."""
    path, work = tmp_path / "annotations.jsonl", tmp_path / "work"
    box = Box("nut", (1, 2, 30.5, 40))
    states = [
        [label(1, box), label(3)],
        [label(1, box), label(2, box), label(3)],
        [label(2, box, box), label(3, box)],
        [],
        [label(1, box), label(2, box, box)],
    ]
    for state in [*states, *reversed(states)]:
        write_annotations(path, state)
        assert read_annotations_table(path, work).sort("image_id").equals(read_annotations_table(path))
    whole = path.read_text()
    for edited in (whole.replace(",", ", "), whole + whole.replace("nut", "bolt"), whole + whole):
        path.write_text(edited)
        assert read_annotations_table(path, work).equals(read_annotations_table(path))


def test_only_new_lines_are_parsed(tmp_path: Path) -> None:
    """The memory is edited; the next reading tells so of the old lines alone."""
    path, work = tmp_path / "annotations.jsonl", tmp_path / "work"
    write_annotations(path, [label(1), label(2)])
    read_annotations_table(path, work)
    (part,) = work.glob("*/annotations-*")
    known = pl.read_ipc(part)
    part.unlink()
    known.with_columns(source=pl.lit("remembered")).write_ipc(part)
    write_annotations(path, [label(1), label(2), label(3)])
    assert dict(read_annotations_table(path, work).select("image_id", "source").iter_rows()) == {"01": "remembered", "02": "remembered", "03": "team"}
