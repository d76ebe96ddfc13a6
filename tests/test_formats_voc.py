"""VOC XML: by hand, by round trip, and the real files of BCCD."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.errors import DataError
from pipelines.core.types import Box
from pipelines.formats.reading import geometry_problem
from pipelines.formats.voc import read_voc, voc_from_boxes

CORNERS = st.tuples(*[st.floats(-1e5, 1e5, allow_nan=False)] * 4)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=8)


def _xml(inside: str, size: str = "<size><width>100</width><height>50</height></size>") -> bytes:
    return f"<annotation><filename>a.jpg</filename>{size}{inside}</annotation>".encode()


def _object(name: str = "bolt", xmax: str = "30") -> str:
    return f"<object><name>{name}</name><bndbox><xmin>10</xmin><ymin>20</ymin><xmax>{xmax}</xmax><ymax>40.5</ymax></bndbox></object>"


def test_coordinates_are_taken_as_they_are():
    read = read_voc(_xml(_object()), "a.xml")
    assert (read.filename, read.size_wh) == ("a.jpg", (100, 50))
    assert [item.box for item in read.boxes] == [Box("bolt", (10.0, 20.0, 30.0, 40.5))]
    assert read.problems == ()


def test_a_file_without_objects_has_no_boxes():
    assert read_voc(_xml(""), "a.xml").boxes == ()


@pytest.mark.parametrize(
    ("inside", "kind"),
    [
        (_object(xmax=""), "malformed_object"),
        (_object(xmax="nan"), "malformed_object"),
        ("<object><name>x</name></object>", "malformed_object"),
        (_object(" "), "no_label"),
    ],
    ids=["empty", "nan", "no bndbox", "no name"],
)
def test_other_objects_are_listed(inside: str, kind: str):
    read = read_voc(_xml(_object() + inside), "a.xml")
    assert len(read.boxes) == 1
    assert [(item.kind, item.where) for item in read.problems] == [(kind, "object 2")]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>", "<size><width>x</width><height>9</height></size>"])
def test_a_missing_size_is_listed(size: str):
    read = read_voc(_xml("", size), "a.xml")
    assert read.size_wh is None
    assert [item.kind for item in read.problems] == ["missing_size"]


@pytest.mark.parametrize("content", [b"", b"<annotation>", b"<svg/>"], ids=["empty", "cut", "other"])
def test_other_files_are_refused(content: bytes):
    with pytest.raises(DataError, match=r"^a\.xml is"):
        read_voc(content, "a.xml")


@settings(deadline=None)
@given(st.lists(st.builds(Box, NAMES, CORNERS), max_size=4), st.tuples(st.integers(1, 9999), st.integers(1, 9999)))
def test_writing_then_reading_gives_the_boxes(boxes: list[Box], size_wh: tuple[int, int]):
    read = read_voc(voc_from_boxes("a & b.jpg", size_wh, boxes), "a.xml")
    assert (read.filename, read.size_wh, read.problems) == ("a & b.jpg", size_wh, ())
    assert [item.box for item in read.boxes] == boxes


def test_what_we_write_is_plain_voc():
    root = ET.fromstring(voc_from_boxes("a.jpg", (100, 50), [Box("nut", (1, 2.5, 3, 4))]))
    assert [root.findtext(path) for path in ("filename", "size/width", "size/height", "size/depth")] == ["a.jpg", "100", "50", "3"]
    assert [root.findtext(f"object/bndbox/{tag}") for tag in ("xmin", "ymin", "xmax", "ymax")] == ["1", "2.5", "3", "4"]


def test_bccd(shared: Path):
    files = sorted((shared / "data/bccd/Annotations").glob("*.xml"))
    read = {path.stem: read_voc(path.read_bytes(), path.name) for path in files}
    counts = Counter(item.box.class_name for image in read.values() for item in image.boxes)
    assert counts == {"RBC": 4155, "WBC": 372, "Platelets": 361}  # the figures of the data set's own notes
    faults = {
        stem: kind
        for stem, image in read.items()
        for item in image.boxes
        if image.size_wh and (kind := geometry_problem(item.box.xyxy, image.size_wh))
    }
    assert faults == {"BloodImage_00338": "zero_area_box", "BloodImage_00343": "zero_area_box"}
