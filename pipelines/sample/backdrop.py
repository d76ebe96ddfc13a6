"""The three grounds: a brushed steel conveyor, a wooden bench, a moulded plastic tray; drawn flat, then seen through the camera.

Linear light, BGR, float32. Nothing here is an object of a class: no bolts in the rails, no rings on the bench.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.sample.camera import HEIGHT_PX, WIDTH_PX, Camera

F32 = NDArray[np.float32]
PX_PER_MM = 3.0
GROUND_W_MM, GROUND_H_MM = 520.0, 460.0  # the drawn ground, centred on the camera's origin


def noise(rng: np.random.Generator, width: int, height: int, cell_w: float, cell_h: float) -> F32:
    """Smooth noise with blobs of about cell_w x cell_h pixels, shape (height, width), mean 0, deviation about 1."""
    small = rng.standard_normal((max(2, int(np.ceil(height / cell_h)) + 1), max(2, int(np.ceil(width / cell_w)) + 1))).astype(np.float32)
    field = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32, copy=False)
    return field / np.float32(max(float(field.std()), 1e-6))


def _colour(field: F32, bgr: tuple[float, float, float]) -> F32:
    return field[..., None] * np.array(bgr, dtype=np.float32)


def _scratches(rng: np.random.Generator, field: F32, count: int, length_px: float, depth: float, angle: float, spread: float) -> None:
    """Thin light and dark lines, painted into `field` in place."""
    height, width = field.shape
    layer = np.zeros_like(field)
    for _ in range(count):
        x, y, turn = rng.uniform(0, width), rng.uniform(0, height), angle + spread * rng.standard_normal()
        reach = length_px * rng.uniform(0.3, 1.5)
        start, end = (int(x), int(y)), (int(x + reach * np.cos(turn)), int(y + reach * np.sin(turn)))
        cv2.line(layer, start, end, float(depth * rng.uniform(-1, 1)), 1, cv2.LINE_AA)
    field += layer


def _stains(rng: np.random.Generator, field: F32, count: int, radius_px: float, depth: float) -> None:
    """Soft dark spots of irregular outline (oil, dirt), multiplied into `field` in place."""
    height, width = field.shape
    for _ in range(count):
        radius = radius_px * rng.uniform(0.4, 1.6)
        size = int(3 * radius) + 3
        x, y = int(rng.uniform(0, width - size)), int(rng.uniform(0, height - size))
        grid_y, grid_x = np.mgrid[0:size, 0:size].astype(np.float32) / np.float32(size) - np.float32(0.5)
        blob = grid_x**2 + grid_y**2 + 0.05 * noise(rng, size, size, size / 3, size / 3) + 0.02 * noise(rng, size, size, size / 9, size / 9)
        part = 1 - np.float32(depth * rng.uniform(0.4, 1.0)) * np.clip((0.05 - blob) / 0.10, 0, 1).astype(np.float32)
        field[y : y + size, x : x + size] *= part


def _size() -> tuple[int, int]:
    return int(GROUND_W_MM * PX_PER_MM), int(GROUND_H_MM * PX_PER_MM)


def steel_belt(rng: np.random.Generator) -> F32:
    """Brushed steel slats, 60 mm wide, with oily spots."""
    width, height = _size()
    field = (
        0.30 + 0.020 * noise(rng, width, height, 90, 1.3) + 0.014 * noise(rng, width, height, 300, 3) + 0.012 * noise(rng, width, height, 200, 160)
    )
    slat = int(60 * PX_PER_MM)
    for x in range(int(rng.integers(0, slat)), width, slat):
        field[:, x - 2 if x > 2 else 0 : x + 2] *= 0.30
        field[:, x + 2 : x + 4] *= 1.35
        field[:, x + 4 : x + slat] *= np.float32(rng.uniform(0.92, 1.08))
    _scratches(rng, field, 240, 120, 0.05, 0.0, 0.5)
    _stains(rng, field, 14, 45, 0.35)
    return np.clip(_colour(field, (1.02, 1.0, 0.97)), 0.01, 1)


def wooden_bench(rng: np.random.Generator) -> F32:
    """Planks along x with grain, knots, dents and stains."""
    width, height = _size()
    image = np.zeros((height, width, 3), dtype=np.float32)
    top = 0
    while top < height:
        plank = min(int(rng.uniform(70, 110) * PX_PER_MM), height - top)
        x = np.arange(width, dtype=np.float32)[None, :] / width
        y = np.arange(plank, dtype=np.float32)[:, None] / (100 * PX_PER_MM)
        warp = 0.22 * noise(rng, width, plank, 420, 90) + 0.03 * noise(rng, width, plank, 120, 24)
        for _ in range(int(rng.integers(0, 3))):
            knot_x, knot_y = rng.uniform(0.05, 0.95), rng.uniform(0.1, 0.9) * plank / (100 * PX_PER_MM)
            warp = warp + 0.45 * np.exp(-(((x - knot_x) / 0.025) ** 2 + ((y - knot_y) / 0.11) ** 2)).astype(np.float32)
        rings = np.sin(2 * np.pi * (y * 3.2 + warp) * 3.0).astype(np.float32)
        pores = noise(rng, width, plank, 46, 1.4)
        grain = 0.5 + 0.22 * rings + 0.13 * noise(rng, width, plank, 160, 2.2) - 0.12 * np.clip(pores - 1.1, 0, 2)
        light, dark = np.array([0.155, 0.285, 0.46]), np.array([0.065, 0.135, 0.25])
        tone = np.float32(rng.uniform(0.85, 1.12))
        mixed = dark + (light - dark) * np.clip(grain, 0, 1)[..., None]
        image[top : top + plank] = (mixed * tone).astype(np.float32)
        image[max(0, top - 2) : top + 2] *= 0.35
        top += plank
    field = np.ones((height, width), dtype=np.float32)
    _scratches(rng, field, 90, 70, 0.3, 0.4, 1.2)
    _stains(rng, field, 16, 50, 0.5)
    return np.clip(image * field[..., None], 0.005, 1)


def plastic_tray(rng: np.random.Generator) -> F32:
    """Blue-grey moulded plastic: fine leather grain, raised ribs, worn spots."""
    width, height = _size()
    bump = noise(rng, width, height, 3.2, 3.2) + 0.7 * noise(rng, width, height, 7, 7)
    relief = np.diff(bump, axis=0, prepend=bump[:1]) - np.diff(bump, axis=1, prepend=bump[:, :1])
    field = 0.30 + 0.018 * relief + 0.014 * noise(rng, width, height, 120, 120)
    ribs_mm = 52
    for start in np.arange(float(rng.uniform(0, ribs_mm)), GROUND_W_MM, ribs_mm):
        x = int(start * PX_PER_MM)
        field[:, x : x + 3] *= 1.35
        field[:, x + 3 : x + 8] *= 1.08
        field[:, x + 8 : x + 12] *= 0.70
    for start in np.arange(float(rng.uniform(0, ribs_mm)), GROUND_H_MM, ribs_mm):
        y = int(start * PX_PER_MM)
        field[y : y + 3] *= 1.30
        field[y + 3 : y + 8] *= 1.08
        field[y + 8 : y + 12] *= 0.68
    _scratches(rng, field, 300, 40, 0.09, 0.0, 3.0)
    _stains(rng, field, 18, 30, 0.25)
    return np.clip(_colour(field, (1.25, 0.86, 0.52)), 0.005, 1)


def seen_through(ground: F32, camera: Camera, shift_mm: tuple[float, float]) -> F32:
    """The ground as the camera sees it, shape (HEIGHT_PX, WIDTH_PX, 3); `shift_mm` moves it; past its edge it is mirrored."""
    corners_mm = np.array([[-90.0, -70.0], [90.0, -70.0], [90.0, 70.0], [-90.0, 70.0]])
    pixels, _ = camera.project(np.column_stack([corners_mm, np.zeros(4)]))
    texture = np.column_stack([(corners_mm[:, 0] - shift_mm[0] + GROUND_W_MM / 2), (GROUND_H_MM / 2 - corners_mm[:, 1] + shift_mm[1])]) * PX_PER_MM
    matrix = cv2.getPerspectiveTransform(texture.astype(np.float32) - np.float32(0.5), pixels.astype(np.float32) - np.float32(0.5))
    seen = cv2.warpPerspective(ground, matrix, (WIDTH_PX, HEIGHT_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return seen.astype(np.float32, copy=False)
