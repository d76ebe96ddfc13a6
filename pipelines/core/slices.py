"""The names of the parts in which images and boxes are looked at: brightness and box size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


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

    def sizes(self, area_px: NDArray[np.float64]) -> NDArray[Any]:
        """`small`, `medium` or `large` for each area, shape (N,); a box right on a limit counts as the smaller."""
        names: NDArray[Any] = np.array(["small", "medium", "large"])[(area_px > self.small_area_px).astype(int) + (area_px > self.medium_area_px)]
        return names
