"""What every label reader returns: boxes as the source has them, and the problems beside them. Nothing is mended here.

A reader lists what cannot become a box (a polygon, a malformed line) and what is odd about a box that it still returns. Faults of a box's geometry
depend on the image's true size, so `geometry_problem` finds them apart from reading; whoever uses the boxes decides what becomes of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pipelines.core.types import Box

EDGE_TOLERANCE_PX = 0.1  # text formats round their coordinates (YOLO: 6 decimals of the width); less than this past the edge is rounding

ZERO_AREA, OUTSIDE, PAST_EDGE = "zero_area_box", "outside_image", "past_edge"


@dataclass(frozen=True)
class Problem:
    """One record that is not an ordinary box: what is wrong, where in the source it stands, and what was found there.

    `around` is the upright box around a shape that has one.
    """

    kind: str
    where: str
    detail: str
    around: Box | None = None


@dataclass(frozen=True)
class ReadBox:
    """One box as the source has it, perhaps without area or past the edge. When `rotation_deg` is not 0, `box` is the upright box around it."""

    box: Box
    where: str
    rotation_deg: float = 0.0


def geometry_problem(xyxy: tuple[float, float, float, float], size_wh: tuple[int, int]) -> str | None:
    """What is wrong with a box on an image of `size_wh`: zero_area_box, outside_image, past_edge, or None."""
    x1, y1, x2, y2 = xyxy
    width, height = size_wh
    if x2 <= x1 or y2 <= y1:
        return ZERO_AREA
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return OUTSIDE
    slack = EDGE_TOLERANCE_PX
    return PAST_EDGE if x1 < -slack or y1 < -slack or x2 > width + slack or y2 > height + slack else None


def finite_numbers(values: list[Any]) -> list[float] | None:
    """The values as finite floats, or None when one is not a number."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return None
    return numbers if all(math.isfinite(number) for number in numbers) else None


def positive_size(width: Any, height: Any) -> tuple[int, int] | None:
    """`(width, height)` in whole pixels, or None when either is missing or not positive."""
    numbers = finite_numbers([width, height])
    if numbers is None or min(numbers) < 1:
        return None
    return int(numbers[0]), int(numbers[1])
