"""YOLO text: by hand, by round trip, and read by ultralytics."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.core.types import Box
from pipelines.formats.yolo import boxes_from_yolo, yolo_from_boxes

CLASSES = ("bolt", "nut")
SIZE = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
CORNERS = st.tuples(*[st.floats(-50, 6000, allow_nan=False, width=32)] * 4)


def test_fractions_become_pixels():
    (read,), problems = boxes_from_yolo("1 0.5 0.25 0.1 0.2\n", CLASSES, (640, 480))
    # centre (320, 120), sides 64 and 96, worked by hand
    assert read.box == Box("nut", pytest.approx((288.0, 72.0, 352.0, 168.0)))
    assert problems == ()


@pytest.mark.parametrize("text", ["", "\n  \n", "\ufeff"], ids=["empty", "blank lines", "byte-order mark"])
def test_a_text_without_lines_has_no_boxes(text: str):
    assert boxes_from_yolo(text, CLASSES, (10, 10)) == ((), ())


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("0 0.5 0.5 0.1", "malformed_line"),
        ("0 0.5 0.5 0.1 0.1 0.9", "malformed_line"),
        ("bolt 0.5 0.5 0.1 0.1", "malformed_line"),
        ("0.5 0.5 0.5 0.1 0.1", "malformed_line"),
        ("0 nan 0.5 0.1 0.1", "malformed_line"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2", "polygon"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2", "polygon"),
        ("2 0.5 0.5 0.1 0.1", "unknown_class"),
        ("-1 0.5 0.5 0.1 0.1", "unknown_class"),
    ],
)
def test_other_lines_are_listed_with_their_number(line: str, kind: str):
    boxes, problems = boxes_from_yolo(f"0 0.5 0.5 0.2 0.2\n{line}\n", CLASSES, (100, 100))
    assert len(boxes) == 1
    assert [(item.kind, item.where) for item in problems] == [(kind, "line 2")]


def test_faulty_boxes_are_returned_as_they_are():
    boxes, problems = boxes_from_yolo("0 0.5 0.5 0 0\n1 1.0 0.5 0.2 0.2\n", CLASSES, (100, 100))
    assert [item.box.xyxy for item in boxes] == [pytest.approx((50, 50, 50, 50)), pytest.approx((90, 40, 110, 60))]
    assert problems == ()


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CLASSES), CORNERS), max_size=5), SIZE)
def test_writing_then_reading_gives_the_boxes(rows: list[tuple[str, tuple[float, float, float, float]]], size_wh: tuple[int, int]):
    boxes = [Box(name, xyxy) for name, xyxy in rows]
    read, problems = boxes_from_yolo(yolo_from_boxes(boxes, CLASSES, size_wh), CLASSES, size_wh)
    assert problems == ()
    assert [item.box.class_name for item in read] == [box.class_name for box in boxes]
    for item, box in zip(read, boxes, strict=True):
        # 8 decimals of a fraction, of a side of at most 5,000 px, on a centre and half a side
        assert item.box.xyxy == pytest.approx(box.xyxy, abs=1e-4)


# In a process of its own: on import ultralytics replaces PIL.Image.open for everyone.
_ORACLE = """
import json, sys
from ultralytics.data.utils import verify_image_label
found = verify_image_label((sys.argv[1], sys.argv[2], "", False, 2, 0, 0, False))
print(json.dumps({"rows": found[1].tolist(), "shape": found[2], "corrupt": found[8]}))
"""


def test_ultralytics_reads_what_we_write(tmp_path: Path):
    boxes = [Box("nut", (10.5, 20.25, 110.125, 220)), Box("bolt", (0, 0, 640, 480))]
    Image.new("RGB", (640, 480)).save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text(yolo_from_boxes(boxes, CLASSES, (640, 480)))
    command = [sys.executable, "-c", _ORACLE, str(tmp_path / "a.jpg"), str(tmp_path / "a.txt")]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    assert (found["shape"], found["corrupt"]) == ([480, 640], 0)
    rows = np.array(found["rows"])
    centre, sides = rows[:, 1:3] * [640, 480], rows[:, 3:5] * [640, 480]
    got = {CLASSES[int(row[0])]: xyxy for row, xyxy in zip(rows, np.hstack([centre - sides / 2, centre + sides / 2]), strict=True)}
    assert set(got) == {"bolt", "nut"}
    for box in boxes:
        assert got[box.class_name] == pytest.approx(box.xyxy, abs=1e-3)  # ultralytics reads float32


def test_an_unknown_class_is_not_written():
    with pytest.raises(ValueError, match="not in tuple"):
        yolo_from_boxes([Box("screw", (0, 0, 1, 1))], CLASSES, (10, 10))
