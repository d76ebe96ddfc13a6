"""COCO JSON: by hand, by round trip, and read by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.errors import DataError
from pipelines.core.types import Box
from pipelines.formats.coco import coco_from_boxes, read_coco

CLASSES = ("bolt", "nut")
CORNER = st.integers(-1000, 80_000).map(lambda value: value / 8)  # eighths of a pixel: exact in binary, so the round trip is exact
BOXES = st.lists(st.builds(Box, st.sampled_from(CLASSES), st.tuples(CORNER, CORNER, CORNER, CORNER)), max_size=4)
SIZES = st.tuples(st.integers(1, 9000), st.integers(1, 9000))


def _file(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 100, "height": 50}],
        "categories": [{"id": 3, "name": "bolt"}, {"id": 90, "name": "nut"}],
        "annotations": list(annotations),
    }


def test_sparse_ids_find_their_names_and_corners():
    (image,) = read_coco(_file({"id": 1, "image_id": 7, "category_id": 90, "bbox": [10, 20, 30.5, 5]}), "x").images
    assert (image.file_name, image.size_wh, image.labeled) == ("a.jpg", (100, 50), True)
    assert [item.box for item in image.boxes] == [Box("nut", (10.0, 20.0, 40.5, 25.0))]


def test_an_image_list_says_nothing_about_its_images():
    value = _file()
    del value["annotations"]
    assert [image.labeled for image in read_coco(value, "x").images] == [False]
    assert [image.labeled for image in read_coco(_file(), "x").images] == [True]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"iscrowd": 1}, "crowd"),
        ({"bbox": None}, "malformed_annotation"),
        ({"bbox": [1, 2, 3]}, "malformed_annotation"),
        ({"bbox": [1, 2, 3, "wide"]}, "malformed_annotation"),
        ({"bbox": [1, 2, 3, float("inf")]}, "malformed_annotation"),
        ({"category_id": 1}, "unknown_class"),
        ({"category_id": None}, "unknown_class"),
    ],
)
def test_other_annotations_are_listed_with_their_image(change: dict[str, Any], kind: str):
    (image,) = read_coco(_file({"id": 5, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]} | change), "x").images
    assert image.boxes == ()
    assert [(item.kind, item.where) for item in image.problems] == [(kind, "annotation 5")]


def test_annotations_of_no_image_and_ids_used_twice_are_listed():
    row = {"id": 5, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]}
    read = read_coco(_file(row, row, row | {"id": 6, "image_id": 8}, "text"), "x")  # type: ignore[arg-type]
    assert [item.kind for item in read.problems] == ["unknown_image", "malformed_annotation"]
    assert [item.kind for item in read.images[0].problems] == ["duplicate_id"]
    assert len(read.images[0].boxes) == 2


def test_a_missing_size_is_listed():
    value = _file()
    del value["images"][0]["width"]
    (image,) = read_coco(value, "x").images
    assert image.size_wh is None
    assert [item.kind for item in image.problems] == ["missing_size"]


@pytest.mark.parametrize("value", [[], {"annotations": []}, {"images": [{"id": 1}]}, {"images": [{"id": 1, "file_name": "a"}] * 2}])
def test_other_files_are_refused(value: Any):
    with pytest.raises(DataError, match=r"^x"):
        read_coco(value, "x")


@settings(deadline=None)
@given(st.lists(st.tuples(SIZES, BOXES), max_size=4))
def test_writing_then_reading_gives_the_boxes(rows: list[tuple[tuple[int, int], list[Box]]]):
    images = [(f"{number}.jpg", size_wh, boxes) for number, (size_wh, boxes) in enumerate(rows)]
    read = read_coco(json.loads(json.dumps(coco_from_boxes(images, CLASSES))), "x")
    assert [(image.file_name, image.size_wh, [item.box for item in image.boxes]) for image in read.images] == images
    assert not read.problems
    assert not any(image.problems for image in read.images)


def test_pycocotools_reads_what_we_write():
    from pycocotools.coco import COCO

    boxes = [Box("nut", (10, 20, 40.5, 25)), Box("bolt", (0, 0, 100, 50))]
    oracle = COCO()
    oracle.dataset = coco_from_boxes([("empty.jpg", (9, 9), []), ("a.jpg", (100, 50), boxes)], CLASSES)
    with contextlib.redirect_stdout(io.StringIO()):
        oracle.createIndex()
    (second,) = [row["id"] for row in oracle.loadImgs(oracle.getImgIds()) if row["file_name"] == "a.jpg"]
    found = oracle.loadAnns(oracle.getAnnIds(imgIds=[second]))
    names = {row["id"]: row["name"] for row in oracle.loadCats(oracle.getCatIds())}
    assert {(names[row["category_id"]], tuple(row["bbox"])) for row in found} == {("nut", (10, 20, 30.5, 5)), ("bolt", (0, 0, 100, 50))}
    # areas by hand: 30.5 x 5 and 100 x 50; pycocotools selects by them
    assert [len(oracle.getAnnIds(imgIds=[second], areaRng=[0, 152.6])), len(oracle.getAnnIds(imgIds=[second], areaRng=[152.6, 5001]))] == [1, 1]
    assert len(oracle.getAnnIds(imgIds=[1])) == 0
