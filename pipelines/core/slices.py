"""The names of the parts in which images and boxes are looked at: brightness and box size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class SliceLimits:
    """Where slices are cut: areas in square pixels, brightness as mean grey level from 0 to 255."""

    small_area_px: float
    medium_area_px: float
    dark_below: float
    bright_above: float

    def brightness(self, grey_level: float) -> str:
        """`dark`, `normal` or `bright`."""
        if grey_level < self.dark_below:
            return "dark"
        return "bright" if grey_level > self.bright_above else "normal"

    def size_index(self, area_px: NDArray[np.float64]) -> NDArray[np.int64]:
        """Position in SIZES for each area, shape (N,); a box right on a limit counts as the smaller."""
        return (area_px > self.small_area_px).astype(np.int64) + (area_px > self.medium_area_px)
