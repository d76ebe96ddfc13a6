"""Drawing one solid object: which face is seen where, how metal or plastic looks there, and the shadow it throws.

Light is linear here. A mesh is drawn face by face from far to near into a finer grid and averaged down, so edges are smooth. There is no light
between objects beyond shadows.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.sample.camera import HEIGHT_PX, WIDTH_PX, Camera
from pipelines.sample.mesh import Mesh

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
FIXED_BITS = 4  # fraction bits of OpenCV's fixed-point corners
GROOVE_SPREAD = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])


@dataclass(frozen=True)
class Material:
    """A surface: `mirror` (R, G, B) is what it reflects, `matte` what it scatters; `spread` is how far its grooves smear a reflection."""

    mirror: tuple[float, float, float]
    matte: tuple[float, float, float]
    spread: float = 0.25
    grain: float = 0.06


@dataclass(frozen=True)
class Light:
    """A lamp in direction `towards` (unit, z up), a tube light whose reflection runs along x at `tube_y`, and the sky of the room."""

    towards: tuple[float, float, float]
    strength: float
    ambient: float
    tube_y: float
    ground: tuple[float, float, float]
    shadow: float


@dataclass(frozen=True)
class Sprite:
    """A drawn object: `left`, `top` place it in the image; `colour` (h, w, 3) is premultiplied by `alpha` (h, w); BGR, linear."""

    left: int
    top: int
    colour: F32
    alpha: F32

    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the image that it covers."""
        return slice(self.top, self.top + self.alpha.shape[0]), slice(self.left, self.left + self.alpha.shape[1])


def _unit(vectors: F64) -> F64:
    result: F64 = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return result


def _step(low: float, high: float, value: F64) -> F64:
    t = np.clip((value - low) / (high - low), 0, 1)
    result: F64 = t * t * (3 - 2 * t)
    return result


def _surroundings(ray: F64, light: Light) -> F64:
    """What a mirror sees along `ray` (..., 3): lamp, tube, ceiling, a dark band at the horizon, the ground; (..., 3) RGB."""
    up = ray[..., 2]
    lamp = 2.6 * light.strength * np.exp((ray @ np.array(light.towards) - 1) / 0.05)
    halo = 0.6 * light.strength * np.exp((ray @ np.array(light.towards) - 1) / 0.3)
    tube = 1.1 * light.strength * np.exp(-(((ray[..., 1] - light.tube_y) / 0.13) ** 2)) * _step(0.1, 0.4, up)
    ceiling = light.ambient * (0.16 + 0.75 * _step(0.15, 1.0, up))
    seen = (lamp + halo + tube + ceiling)[..., None] * np.array([1.0, 1.0, 1.0])
    below = _step(0.06, -0.12, up)[..., None]
    ground: F64 = seen * (1 - below) + below * np.array(light.ground) * 0.55 * (light.ambient + 0.5 * light.strength)
    return ground


def shade(mesh: Mesh, materials: tuple[Material, ...], camera: Camera, light: Light) -> F64:
    """Colour of every face, (F, 3) BGR, linear."""
    corners = mesh.vertices[mesh.faces]
    normal = _unit(np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]).astype(np.float64, copy=False))
    centre = corners.mean(axis=1)
    view = _unit(camera.position - centre)
    pick = mesh.material
    spread = np.array([item.spread for item in materials])[pick]
    bent = _unit(normal[:, None, :] + GROOVE_SPREAD[None, :, None] * spread[:, None, None] * mesh.across[:, None, :])
    facing = np.sum(bent * view[:, None, :], axis=-1, keepdims=True)
    mirrored = _surroundings(2 * facing * bent - view[:, None, :], light).mean(axis=1)
    mirror = np.array([item.mirror for item in materials])[pick]
    edge = (1 - np.clip(np.sum(normal * view, axis=-1), 0, 1))[:, None] ** 5
    mirror = mirror + (1 - mirror) * edge * 0.5
    matte = np.array([item.matte for item in materials])[pick]
    lit = light.strength * np.clip(normal @ np.array(light.towards), 0, None) + light.ambient * (0.55 + 0.45 * normal[:, 2])
    colour = mirror * mirrored + matte * lit[:, None]
    near_ground = 0.55 + 0.45 * np.clip(centre[:, 2] / 2.0, 0, 1)
    result: F64 = (colour * (mesh.openness * near_ground)[:, None])[:, ::-1]
    return result


def _window(pixels: F64, pad: int) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of the part of the image that `pixels` cover; None when they miss it."""
    low, high = np.floor(pixels.min(axis=0)).astype(int) - pad, np.ceil(pixels.max(axis=0)).astype(int) + pad
    left, top, right, bottom = max(0, int(low[0])), max(0, int(low[1])), min(WIDTH_PX, int(high[0])), min(HEIGHT_PX, int(high[1]))
    return (left, top, right, bottom) if right > left and bottom > top else None


def _fill(canvas: NDArray[np.int32] | NDArray[np.uint8], quads: F64, origin: tuple[int, int], fine: int, values: NDArray[np.int64]) -> None:
    """Paint `quads` (N, 4, 2), in order, each with its value."""
    corners = np.rint(((quads - np.array(origin)) * fine - 0.5) * (1 << FIXED_BITS)).astype(np.int32)
    for corner, value in zip(corners, values.tolist(), strict=True):
        cv2.fillConvexPoly(canvas, corner, (value,), lineType=cv2.LINE_8, shift=FIXED_BITS)


def _signed_area(quads: F64) -> F64:
    diagonal_a, diagonal_b = quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1]
    area: F64 = diagonal_a[:, 0] * diagonal_b[:, 1] - diagonal_a[:, 1] * diagonal_b[:, 0]
    return area


def draw(mesh: Mesh, materials: tuple[Material, ...], camera: Camera, light: Light, grain: F32) -> Sprite | None:
    """Draw a posed mesh; None when it lies outside the image. `grain` is a noise field, at least as large as the image, mean 0, deviation 1."""
    pixels, depth = camera.project(mesh.vertices)
    window = _window(pixels, 1)
    if window is None:
        return None
    left, top, right, bottom = window
    width, height = right - left, bottom - top
    fine = 4 if width * height < 160 * 160 else 2
    quads = pixels[mesh.faces]
    seen = np.flatnonzero(_signed_area(quads) < 0)  # the image's y runs down, so faces that look at the camera turn the other way
    seen = seen[np.argsort(-depth[mesh.faces[seen]].mean(axis=1), kind="stable")]
    which = np.zeros((height * fine, width * fine), dtype=np.int32)
    _fill(which, quads[seen], (left, top), fine, seen + 1)
    table = np.zeros((len(mesh.faces) + 1, 4), dtype=np.float32)
    table[1:, :3] = shade(mesh, materials, camera, light)
    table[1:, 3] = 1
    averaged = cv2.resize(table[which], (width, height), interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
    noise = 1 + np.float32(materials[0].grain) * grain[:height, :width, None]
    return Sprite(left, top, averaged[..., :3] * np.maximum(noise, np.float32(0.2)), averaged[..., 3])


def shadow(mesh: Mesh, camera: Camera, light: Light, ground_mm: float) -> tuple[slice, slice, F32] | None:
    """What is left of the light beside a posed mesh: rows, columns and a factor (h, w, 1) in [0, 1]; None outside the image.

    A thrown shadow of the lamp and a soft one where the object keeps the room's light from the ground.
    """
    towards = np.array(light.towards)
    lifted = np.clip(mesh.vertices[:, 2:] - ground_mm, 0, None)
    thrown = mesh.vertices - lifted * (towards / towards[2])
    below = mesh.vertices - lifted * np.array([0.0, 0.0, 1.0])
    pixels, _ = camera.project(thrown)
    pixels_below, _ = camera.project(below)
    window = _window(np.concatenate([pixels, pixels_below]), 14)
    if window is None:
        return None
    left, top, right, bottom = window
    lamp = np.zeros((bottom - top, right - left), dtype=np.uint8)
    for points, target in ((pixels, lamp), (pixels_below, room := np.zeros_like(lamp))):
        quads = points[mesh.faces]
        area = _signed_area(quads)
        keep = np.flatnonzero(area < -0.02)
        _fill(target, quads[keep], (left, top), 1, np.full(len(keep), 255))
    high_px = float(lifted.max()) * camera.scale
    soft = 0.7 + 0.05 * high_px
    lamp_part = cv2.GaussianBlur(lamp, (0, 0), soft).astype(np.float32) / np.float32(255)
    near = cv2.GaussianBlur(room, (0, 0), 1.6).astype(np.float32) / np.float32(255)
    wide = cv2.GaussianBlur(room, (0, 0), 2.5 + 0.12 * high_px).astype(np.float32) / np.float32(255)
    factor = (1 - light.shadow * lamp_part) * (1 - 0.45 * near) * (1 - 0.35 * wide)
    return slice(top, bottom), slice(left, right), factor[..., None].astype(np.float32)
