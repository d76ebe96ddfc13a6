"""Label Studio JSON: by hand, by round trip, against its own SDK's conversions, and real exports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.errors import DataError
from pipelines.core.types import Box
from pipelines.formats.labelstudio import (
    LabelStudioAnnotation,
    annotation_from_boxes,
    read_tasks,
    region_from_box,
    task_from_annotations,
    xyxy_from_percent,
)

PERCENT = st.floats(0, 100, allow_nan=False)
SIZES = st.tuples(st.integers(1, 9999), st.integers(1, 9999))


def _region(change: dict[str, Any] | None = None, value: dict[str, Any] | None = None) -> dict[str, Any]:
    """A box of 40 x 25 px at (20, 10) on an image of 200 x 50."""
    box = {"x": 10, "y": 20, "width": 20, "height": 50, "rotation": 0, "rectanglelabels": ["bolt"]} | (value or {})
    return {"id": "r1", "type": "rectanglelabels", "original_width": 200, "original_height": 50, "image_rotation": 0, "value": box} | (change or {})


def _read(*regions: Any) -> LabelStudioAnnotation:
    (task,) = read_tasks([{"id": 1, "data": {}, "annotations": [{"id": 2, "result": list(regions)}]}], "x.json")
    return task.annotations[0]


def test_percent_become_pixels_of_the_annotations_own_size():
    read = _read(_region())
    assert [item.box for item in read.boxes] == [Box("bolt", (20.0, 10.0, 60.0, 35.0))]
    assert (read.sizes_wh, read.problems, read.empty) == (((200, 50),), (), False)


@pytest.mark.parametrize(
    ("region", "kind"),
    [
        ("text", "malformed_region"),
        (_region({"value": None}), "malformed_region"),
        (_region(value={"width": None}), "malformed_region"),
        (_region({"type": "polygonlabels"}), "polygon"),
        (_region({"type": "polygon"}), "polygon"),
        (_region({"type": "brushlabels"}), "brush"),
        (_region({"type": "keypointlabels"}), "keypoint"),
        (_region({"type": "ellipselabels"}), "ellipse"),
        (_region({"type": "vectorlabels"}), "other_region"),
        (_region({"original_width": None}), "missing_size"),
        (_region({"image_rotation": 90}), "rotated_image"),
        (_region({"item_index": 1}), "other_image"),
        (_region(value={"rectanglelabels": []}), "no_label"),
        (_region(value={"rectanglelabels": ["bolt", "nut"]}), "several_labels"),
    ],
)
def test_what_is_no_box_is_listed(region: Any, kind: str):
    read = _read(region)
    assert read.boxes == ()
    assert [item.kind for item in read.problems] == [kind]
    assert not read.empty


def test_answers_about_the_image_are_no_regions():
    assert _read({"id": "q", "type": "choices", "value": {"choices": ["good"]}}, {"type": "relation", "from_id": "a", "to_id": "b"}).empty


def test_a_region_id_used_twice_is_listed_and_both_boxes_returned():
    read = _read(_region(), _region(value={"x": 50}), {"id": "r1", "type": "textarea", "value": {"text": ["rusty"]}})
    assert [item.box.xyxy[0] for item in read.boxes] == [20.0, 100.0]
    assert [item.kind for item in read.problems] == ["duplicate_region_id"]


def test_labels_may_stand_in_a_result_of_their_own():
    shape = _region({"type": "rectangle"})
    del shape["value"]["rectanglelabels"]
    label = {"id": "r1", "type": "labels", "value": {"labels": ["nut"]}}
    assert [item.box.class_name for item in _read(shape, label).boxes] == ["nut"]


def test_boxes_of_two_sizes_are_told():
    assert _read(_region(), _region({"id": "r2", "original_width": 400})).sizes_wh == ((200, 50), (400, 50))


def test_a_quarter_turn_by_hand():
    # 40 x 20 px at (100, 50), turned clockwise about (100, 50): it lies left of and below the corner
    assert xyxy_from_percent([50, 50, 20, 20], (200, 100), 90) == pytest.approx((80, 50, 100, 90))


@settings(deadline=None)
@given(PERCENT, PERCENT, PERCENT, PERCENT, st.floats(0.5, 359.5), SIZES)
def test_a_turned_box_is_inside_the_box_around_its_corners(x: float, y: float, w: float, h: float, turn: float, size_wh: tuple[int, int]):
    from label_studio_sdk.converter.utils import convert_annotation_to_yolo_obb

    label = {"x": x, "y": y, "width": w, "height": h, "rotation": turn, "original_width": size_wh[0], "original_height": size_wh[1]}
    corners = convert_annotation_to_yolo_obb(label, normalize=False)
    xs, ys = [point[0] for point in corners], [point[1] for point in corners]
    assert xyxy_from_percent([x, y, w, h], size_wh, turn) == pytest.approx((min(xs), min(ys), max(xs), max(ys)), abs=1e-6)


@settings(deadline=None)
@given(PERCENT, PERCENT, PERCENT, PERCENT, SIZES)
def test_an_upright_box_agrees_with_the_sdk(x: float, y: float, w: float, h: float, size_wh: tuple[int, int]):
    from label_studio_sdk.converter.utils import convert_annotation_to_yolo

    cx, cy, bw, bh = convert_annotation_to_yolo({"x": x, "y": y, "width": w, "height": h})
    width, height = size_wh
    wanted = ((cx - bw / 2) * width, (cy - bh / 2) * height, (cx + bw / 2) * width, (cy + bh / 2) * height)
    assert xyxy_from_percent([x, y, w, h], size_wh) == pytest.approx(wanted, abs=1e-6)


@settings(deadline=None)
@given(st.tuples(*[st.floats(-100, 1e4, allow_nan=False)] * 4), SIZES)
def test_writing_then_reading_gives_the_box(xyxy: tuple[float, float, float, float], size_wh: tuple[int, int]):
    (read,) = _read(region_from_box(Box("nut", xyxy), size_wh, "r")).boxes
    assert read.box.class_name == "nut"
    assert read.box.xyxy == pytest.approx(xyxy, abs=1e-6)


def test_a_task_round_trip():
    boxes = [Box("nut", (1, 2, 3, 4)), Box("bolt", (5, 6, 7, 8))]
    done = annotation_from_boxes(boxes, (100, 100), 9, 3, "2026-01-02T03:04:05Z", ground_truth=True)
    skipped = annotation_from_boxes([], (100, 100), 10, 4, "2026-01-02T03:04:06Z", cancelled=True)
    (task,) = read_tasks(json.loads(json.dumps([task_from_annotations(5, "ab" * 32, "/x/a.jpg", [done, skipped])])), "x")
    assert (task.task_id, task.image_id, task.image) == ("5", "ab" * 32, "/x/a.jpg")
    first, second = task.annotations
    assert [item.box.class_name for item in first.boxes] == ["nut", "bolt"]
    assert (first.annotation_id, first.annotator, first.cancelled, first.ground_truth, first.updated_at) == (
        "9",
        "3",
        False,
        True,
        "2026-01-02T03:04:05Z",
    )
    assert (second.annotator, second.cancelled, second.empty) == ("4", True, True)


@pytest.mark.parametrize(
    "value",
    [{}, [1], [{"id": 1, "image": "a.jpg", "label": []}], [{"data": {}, "annotations": [{"id": 1}]}]],
    ids=["no list", "no task", "JSON-MIN", "no result"],
)
def test_other_files_are_refused(value: Any):
    with pytest.raises(DataError, match=r"^x\.json.*export the project again"):
        read_tasks(value, "x.json")


def test_real_exports(shared: Path):
    folder = shared / "data/label_studio_exports/sdk_converter"

    def tasks(name: str) -> Any:
        return read_tasks(json.loads((folder / name).read_bytes()), name)

    (mixed,) = tasks("test_export_coco/data.json")
    (annotation,) = mixed.annotations
    # 500 x 320, x 31.941923774954628 %, y 4.113475177304964 %, 6.352087114337568 % x 9.929078014184398 %, worked out with a calculator
    assert [item.box for item in annotation.boxes] == [Box("rectangle_label", pytest.approx((159.70962, 13.16312, 191.47005, 44.93617), abs=1e-4))]
    assert [item.kind for item in annotation.problems] == ["polygon", "keypoint", "keypoint"]

    two, one = tasks("test_export_yolo/data.json")
    assert [item.annotator for item in two.annotations] == ["2", "1"]
    assert [item.annotator for item in one.annotations] == ["1"]
    assert [len(item.boxes) for item in (*two.annotations, *one.annotations)] == [2, 2, 2]

    sizeless, _, cancelled = tasks("test_export_doclang/data.json")
    assert [item.kind for item in sizeless.annotations[0].problems] == ["missing_size"]
    assert [item.cancelled for item in cancelled.annotations] == [True]

    person, *_ = tasks("test_export_csv/csv_test.json")
    assert (person.annotations[0].annotator, person.predictions) == ("1", 1)  # a number, not the e-mail address that stands beside it


def test_formats_import_without_heavy_libraries():
    code = (
        "import sys, pipelines.formats.coco, pipelines.formats.labelstudio, pipelines.formats.voc, pipelines.formats.yolo\n"
        "print([name for name in ('torch', 'cv2', 'polars', 'PIL', 'label_studio_sdk') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"
