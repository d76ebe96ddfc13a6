"""JSON lines as tables: the same rows and the same bytes as line by line, whatever stands in the file."""

from __future__ import annotations

import errno
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.errors import DataError, LeakError
from pipelines.core.io import jsonl_text
from pipelines.core.records import read_annotations, read_annotations_table, rounded_floats, row_from_annotation, write_annotations
from pipelines.core.tables import ANNOTATIONS_SCHEMA, read_jsonl_table, write_arrow, write_jsonl_table, write_lines, write_parquet
from pipelines.core.types import Annotation, Box
from pipelines.dataset.assignments import assignments_content, read_assignments, read_assignments_table, remember_assignments

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
NUMBERS = st.floats(-1e5, 1e5) | st.sampled_from([0.0, -0.0, 0.001, 0.0005, 1e-9, 2.6755, 1e15, 1e17, 3.0])
BOXES = st.builds(Box, TEXTS, st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS))
ANNOTATIONS = st.builds(
    Annotation,
    image_id=TEXTS,
    state=st.sampled_from(["labeled", "verified_empty", "skipped", "conflict"]),
    width_px=st.integers(1, 9999),
    height_px=st.integers(1, 9999),
    boxes=st.lists(BOXES, max_size=3).map(tuple),
    source=TEXTS,
    annotators=st.lists(TEXTS, max_size=2).map(tuple),
    annotation_ids=st.lists(TEXTS, max_size=2).map(tuple),
    annotated_at=st.none() | TEXTS,
)
LINE = (
    '{"annotated_at":null,"annotation_ids":[],"annotators":["ann"],"boxes":[{"class":"nut","xyxy":[1.0,2.0,30.0,40.0]}],"height_px":80,'
    '"image_id":"a","source":"team","state":"labeled","width_px":100}'
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ANNOTATIONS, max_size=4))
def test_a_table_of_annotations_is_its_lines(items: list[Annotation]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.jsonl"
        write_annotations(path, items)
        table = read_annotations_table(path)
        rows = [row_from_annotation(item) for item in read_annotations(path)]
        assert dict(table.schema) == ANNOTATIONS_SCHEMA
        assert table.to_dicts() == rows
        write_jsonl_table(path, table)
        assert path.read_text() == jsonl_text(rows)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats() | st.integers(-(10**6), 10**6).map(lambda number: number / 2000)), st.integers(0, 4))
def test_floats_are_rounded_as_python_rounds(values: list[float], digits: int) -> None:
    found = rounded_floats(np.array(values), digits).tolist()
    assert repr(found) == repr([round(value, digits) for value in values])


def test_what_we_write_is_read_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(LINE + "\n")
    table = read_jsonl_table(tmp_path / "a", ANNOTATIONS_SCHEMA)
    assert table is not None
    write_jsonl_table(tmp_path / "b", table)
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


WRITERS: dict[str, Callable[[Path, pl.DataFrame], None]] = {
    "parquet": write_parquet,
    "arrow": write_arrow,
    "jsonl": write_jsonl_table,
    "lines": lambda path, frame: write_lines(path, frame["a"]),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_fault_of_the_disk_has_its_number_and_leaves_the_old_file(kind: str, tmp_path: Path) -> None:
    """The command line tells people what to do by the number, and polars names it in words only."""
    frame = pl.DataFrame({"a": [str(number) for number in range(10_000)]})
    path = tmp_path / "table"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="table") as caught:
            WRITERS[kind](path, frame)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert [(item.name, item.read_bytes()) for item in tmp_path.iterdir()] == [("table", b"old")]


EDITS = {
    "spaces": LINE.replace(",", ", "),
    "another order of keys": "{" + LINE[LINE.index('"height_px"') : -1] + "," + LINE[1 : LINE.index(',"height_px"')] + "}",
    "one key more": LINE[:-1] + ',"problems":[]}',
    "whole numbers": LINE.replace(".0", ""),
    "boxes out of order": LINE.replace("[{", '[{"class":"z","xyxy":[1.0,2.0,3.0,4.0]},{'),
    "too many digits": LINE.replace("30.0", "30.12345"),
    "escapes": LINE.replace('"ann"', '"\\u0041"'),
    "empty lines": f"\n{LINE}\n\n",
    "carriage returns": LINE + "\r",
    "a key twice": LINE.replace('"width_px":100', '"width_px":50,"width_px":100'),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_file_is_read_as_before(name: str, tmp_path: Path) -> None:
    path = tmp_path / "annotations.jsonl"
    path.write_bytes(EDITS[name].encode() + b"\n")
    assert read_annotations_table(path).to_dicts() == [row_from_annotation(item) for item in read_annotations(path)]


@pytest.mark.parametrize(
    "line",
    ["x", "[]", "null", LINE[:-1], LINE.replace('"state"', '"stat"'), LINE.replace("[1.0,2.0,30.0,40.0]", "[1.0]"), LINE.replace("nut", "\udc80")],
)
def test_a_broken_line_is_named_as_before(line: str, tmp_path: Path) -> None:
    path = tmp_path / "annotations.jsonl"
    path.write_bytes(f"{LINE}\n{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError) as strict:
        read_annotations(path)
    with pytest.raises(DataError) as whole:
        read_annotations_table(path)
    assert str(whole.value) == str(strict.value)


def test_a_value_of_another_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "annotations.jsonl"
    path.write_text(LINE.replace("100}", '"wide"}') + "\n")
    with pytest.raises(DataError, match="line of another form"):
        read_annotations_table(path)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(TEXTS, st.sampled_from(["train", "val", "test"]), max_size=5))
def test_assignments_are_those_of_the_lines(sides: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "assignments.jsonl"
        rows = [{"image_id": name, "split": side, "component": name} for name, side in sides.items()]
        path.write_bytes(assignments_content(pl.DataFrame(rows, schema=dict.fromkeys(("image_id", "split", "component"), pl.String))))
        assert path.read_text() == jsonl_text(sorted(rows, key=lambda row: row["image_id"]))
        assert read_assignments_table(path).to_dicts() == [vars(entry) for entry in read_assignments(path).values()]


def test_remembered_assignments_are_those_of_the_file_as_it_is(tmp_path: Path) -> None:
    path, work = tmp_path / "assignments.jsonl", tmp_path / "work"
    rows = [{"image_id": name, "split": "train", "component": "a"} for name in "cab"]
    path.write_bytes(assignments_content(pl.DataFrame(rows)))
    remember_assignments(path.read_bytes(), pl.DataFrame(rows), work)
    assert read_assignments_table(path, work).equals(read_assignments_table(path))
    (memory,) = work.rglob("*.arrow")
    pl.read_ipc(memory).with_columns(component=pl.lit("remembered")).write_ipc(memory)
    assert set(read_assignments_table(path, work)["component"]) == {"remembered"}
    lines = path.read_text()
    path.write_text(lines.replace('"split":"train"', '"split":"test"', 1))
    with pytest.raises(LeakError, match="on another side than those they were dealt with"):
        read_assignments_table(path, work)
    path.write_text(lines)
    memory.write_bytes(b"torn")
    assert set(read_assignments_table(path, work)["component"]) == {"a"}
    remember_assignments(assignments_content(pl.DataFrame(rows[:2])), pl.DataFrame(rows[:2]), work)
    assert len(list(work.rglob("*.arrow"))) == 1
