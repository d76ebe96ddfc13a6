"""A fixed pinhole camera over a level ground: millimetres to pixels and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
WIDTH_PX, HEIGHT_PX = 640, 480


@dataclass(frozen=True)
class Camera:
    """Looks at the origin of the ground (z = 0; x to the right, y away from the viewer) from `distance_mm`, `tilt` radians off the vertical.

    `scale` is pixels for a millimetre at the origin. Pixel (0, 0) is the image's top left corner, not the middle of its first pixel.
    """

    distance_mm: float
    tilt: float
    scale: float

    @property
    def position(self) -> F64:
        """Where the camera is, (3,) mm."""
        return -self.distance_mm * self._forward

    @property
    def _forward(self) -> F64:
        return np.array([0.0, np.sin(self.tilt), -np.cos(self.tilt)])

    def project(self, points: F64) -> tuple[F64, F64]:
        """Points (N, 3) in mm to pixels (N, 2) and depths (N,) in mm."""
        up = np.array([0.0, np.cos(self.tilt), np.sin(self.tilt)])
        away = points - self.position
        depth = away @ self._forward
        factor = self.scale * self.distance_mm / depth
        return np.stack([WIDTH_PX / 2 + factor * away[:, 0], HEIGHT_PX / 2 - factor * (away @ up)], axis=1), depth

    def ground(self, pixels: F64) -> F64:
        """Ground points (N, 2) in mm that are seen at pixels (N, 2)."""
        up = np.array([0.0, np.cos(self.tilt), np.sin(self.tilt)])
        focal = self.scale * self.distance_mm
        rays = np.outer((pixels[:, 0] - WIDTH_PX / 2) / focal, [1.0, 0.0, 0.0]) + np.outer((HEIGHT_PX / 2 - pixels[:, 1]) / focal, up) + self._forward
        reach = -self.position[2] / rays[:, 2]
        points: F64 = self.position[:2] + reach[:, None] * rays[:, :2]
        return points
