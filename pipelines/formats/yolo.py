"""YOLO text labels: one line a box, `class_index cx cy width height`, centre and size as fractions of the image.

A text that is there but empty means "no object here"; whether a text is there is the caller's to know. Lines with more numbers (segments, oriented
boxes, confidences) are listed, not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipelines.core.types import Box
from pipelines.formats.reading import Problem, ReadBox, finite_numbers

DECIMALS = 8  # 1e-8 of a 10,000 px side is a ten-thousandth of a pixel


def boxes_from_yolo(text: str, classes: Sequence[str], size_wh: tuple[int, int]) -> tuple[tuple[ReadBox, ...], tuple[Problem, ...]]:
    """Boxes in pixels of an image of `size_wh`, and the lines that are none (malformed_line, polygon, unknown_class)."""
    boxes: list[ReadBox] = []
    problems: list[Problem] = []
    width, height = size_wh
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        fields, where = line.split(), f"line {number}"
        if not fields:
            continue
        values = finite_numbers(list(fields))
        if values is None or len(values) < 5 or len(values) == 6 or values[0] != int(values[0]):
            problems.append(Problem("malformed_line", where, f"wanted `class cx cy width height`, got {line.strip()!r}"))
        elif len(values) > 6:
            problems.append(Problem("polygon", where, f"a line of {len(values)} numbers is a segment or an oriented box"))
        elif not 0 <= values[0] < len(classes):
            problems.append(Problem("unknown_class", where, f"class index {int(values[0])}, there are {len(classes)} names"))
        else:
            cx, cy, w, h = values[1:]
            xyxy = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
            boxes.append(ReadBox(Box(classes[int(values[0])], xyxy), where))
    return tuple(boxes), tuple(problems)


def yolo_from_boxes(boxes: Iterable[Box], classes: Sequence[str], size_wh: tuple[int, int]) -> str:
    """The label text for an image of `size_wh`, boxes in their order, DECIMALS decimals; no box gives an empty text.

    Raises:
        ValueError: a class that `classes` lacks.
    """
    width, height = size_wh
    lines = []
    for box in boxes:
        x1, y1, x2, y2 = box.xyxy
        numbers = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(f"{classes.index(box.class_name)} " + " ".join(f"{number:.{DECIMALS}f}" for number in numbers) + "\n")
    return "".join(lines)
