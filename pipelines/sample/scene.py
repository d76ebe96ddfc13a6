"""Arranging parts on a ground, moving them between the frames of a burst, and drawing a frame with the true boxes.

A box is the extent of an object's VISIBLE pixels (those of which it covers more than half), in pixels, x2 and y2 one past the last. An
object of which too little is seen is not labeled: less than MIN_VISIBLE of its pixels inside the image, or a side below MIN_SIDE_PX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.sample.camera import HEIGHT_PX, WIDTH_PX, Camera
from pipelines.sample.mesh import F64, rotation_z
from pipelines.sample.parts import ACROSS, LOOSE, Part, product
from pipelines.sample.render import F32, Light, draw, shadow

MIN_VISIBLE = 0.25
MIN_SIDE_PX = 10
GRAIN_SIDE = 1024


@dataclass(frozen=True)
class Placed:
    """A part in the scene; `clump` is the pile it moves with, `layer` orders what lies on what."""

    part: Part
    x_mm: float
    y_mm: float
    yaw: float
    lean: tuple[float, float, float]  # direction (x, y) that is lifted, and by how many radians
    base_mm: float
    layer: int
    clump: int
    grain_xy: tuple[int, int]


@dataclass(frozen=True)
class TrueBox:
    """One object as it is seen: `xyxy` in whole pixels, `occlusion` the hidden fraction of its pixels inside the image."""

    class_name: str
    xyxy: tuple[int, int, int, int]
    occlusion: float


@dataclass(frozen=True)
class Drawn:
    """A frame in linear light (height, width, 3), its boxes, and the visible mask (height, width, bool) of each box."""

    light: F32
    boxes: tuple[TrueBox, ...]
    masks: tuple[NDArray[np.bool_], ...]


def _lifted(direction: tuple[float, float], angle: float) -> F64:
    """Rotation that raises the side of a thing that points in `direction` by `angle` radians."""
    axis = np.array([direction[1], -direction[0], 0.0])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation: F64 = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return rotation


def arrange(rng: np.random.Generator, camera: Camera, kinds: Sequence[tuple[str, bool]], clutter: int, across: bool) -> list[Placed]:
    """Lay out products (kind, small) without contact or leaning on one another, `clutter` loose things, and maybe one thing across some of them."""
    placed: list[Placed] = []
    things = [product(rng, kind, small, camera.scale) for kind, small in kinds]
    things += [LOOSE[int(rng.integers(len(LOOSE)))](rng) for _ in range(clutter)]
    for index, part in enumerate(things):
        item = _leaning(rng, placed, part) if placed and part.is_product and rng.random() < 0.22 else None
        if item is None:
            item = _free(rng, camera, placed, part, index)
        if item is not None:
            placed.append(item)
    if across:
        part = ACROSS[int(rng.integers(len(ACROSS)))](rng)
        targets = [item for item in placed if item.part.is_product] or placed
        x, y = (targets[int(rng.integers(len(targets)))].x_mm, targets[int(rng.integers(len(targets)))].y_mm) if targets else rng.uniform(-40, 40, 2)
        base = max((item.part.high_mm for item in targets), default=0.0) * 0.6 if part.kind != "cable" else 1.0
        shift = rng.uniform(5, 11) * rng.choice([-1, 1]), rng.uniform(5, 11) * rng.choice([-1, 1])
        yaw = float(rng.uniform(0, 2 * np.pi))
        placed.append(Placed(part, x + shift[0], y + shift[1], yaw, (1, 0, 0), base, 9, 1000, _grain_xy(rng)))
    return placed


def _grain_xy(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(0, GRAIN_SIDE - WIDTH_PX)), int(rng.integers(0, GRAIN_SIDE - HEIGHT_PX))


def _free(rng: np.random.Generator, camera: Camera, placed: Sequence[Placed], part: Part, index: int) -> Placed | None:
    """A place where the part touches nothing; None when forty tries find none."""
    for _ in range(40):
        pixel = np.array([[rng.uniform(0.05, 0.95) * WIDTH_PX, rng.uniform(0.07, 0.93) * HEIGHT_PX]])
        x, y = camera.ground(pixel)[0]
        if all(np.hypot(x - other.x_mm, y - other.y_mm) > part.radius_mm + other.part.radius_mm + 1.0 for other in placed):
            return Placed(part, float(x), float(y), float(rng.uniform(0, 2 * np.pi)), (1, 0, 0), 0.0, 0, index, _grain_xy(rng))
    return None


def _leaning(rng: np.random.Generator, placed: Sequence[Placed], part: Part) -> Placed | None:
    """The part leaning on a product that nothing leans on yet; None when there is none."""
    anchors = [item for item in placed if item.part.is_product and item.layer == 0 and sum(other.clump == item.clump for other in placed) == 1]
    if not anchors:
        return None
    under = anchors[int(rng.integers(len(anchors)))]
    away = float(rng.uniform(0, 2 * np.pi))
    reach = float(rng.uniform(0.60, 0.85)) * (under.part.radius_mm * 0.8 + part.radius_mm)
    direction = (-np.cos(away), -np.sin(away))
    slope = float(min(0.6, np.arctan2(under.part.high_mm, part.radius_mm * 1.6)))
    x, y = under.x_mm + reach * np.cos(away), under.y_mm + reach * np.sin(away)
    return Placed(part, x, y, float(rng.uniform(0, 2 * np.pi)), (*direction, slope), 0.0, 1, under.clump, _grain_xy(rng))


def carried(items: Sequence[Placed], x_mm: float) -> list[Placed]:
    """Everything moved along x, as a conveyor does."""
    return [replace(item, x_mm=item.x_mm + x_mm) for item in items]


def shaken(rng: np.random.Generator, items: Sequence[Placed], step_mm: float, turn: float, share: float) -> list[Placed]:
    """A `share` of the piles moved by about `step_mm` and single things turned by about `turn` radians, as vibration or a hand does."""
    clumps = sorted({item.clump for item in items})
    moves = {clump: rng.normal(0, step_mm, 2) * (rng.random() < share) for clump in clumps}
    single = {clump for clump in clumps if sum(item.clump == clump for item in items) == 1}
    result = []
    for item in items:
        move = moves[item.clump]
        turned = float(rng.normal(0, turn)) * bool(np.any(move)) if item.clump in single else 0.0
        result.append(replace(item, x_mm=item.x_mm + float(move[0]), y_mm=item.y_mm + float(move[1]), yaw=item.yaw + turned))
    return result


def draw_frame(items: Sequence[Placed], ground: F32, camera: Camera, light: Light, grain: F32) -> Drawn:
    """Draw things over `ground` (as the camera sees it, lit), far ones and lower ones first."""
    canvas = ground.copy()
    ordered = sorted(items, key=lambda item: (item.layer, -item.y_mm))
    sprites = []
    for item in ordered:
        rotation = _lifted((item.lean[0], item.lean[1]), item.lean[2]) @ rotation_z(item.yaw)
        mesh = item.part.mesh.posed(rotation, item.x_mm, item.y_mm, item.base_mm)
        dimmed = shadow(mesh, camera, light, 0.0)
        if dimmed is not None:
            canvas[dimmed[0], dimmed[1]] *= dimmed[2]
        x, y = item.grain_xy
        sprite = draw(mesh, item.part.materials, camera, light, grain[y : y + HEIGHT_PX, x : x + WIDTH_PX])
        if sprite is not None:
            window = canvas[sprite.window()]
            window *= 1 - sprite.alpha[..., None]
            window += sprite.colour
        sprites.append(sprite)
    boxes: list[TrueBox] = []
    masks: list[NDArray[np.bool_]] = []
    above = np.zeros((HEIGHT_PX, WIDTH_PX), dtype=np.float32)
    for item, sprite in zip(reversed(ordered), reversed(sprites), strict=True):
        if sprite is None:
            continue
        covered = above[sprite.window()]
        seen = sprite.alpha * (1 - covered)
        whole = float(sprite.alpha.sum())
        visible = float(seen.sum()) / max(whole, 1e-6)
        above[sprite.window()] = covered + seen
        mask = seen > 0.5  # of two objects that share a pixel only one can have it
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not item.part.is_product or visible < MIN_VISIBLE or not len(rows) or min(np.ptp(rows), np.ptp(columns)) + 1 < MIN_SIDE_PX:
            continue
        xyxy = (sprite.left + int(columns[0]), sprite.top + int(rows[0]), sprite.left + int(columns[-1]) + 1, sprite.top + int(rows[-1]) + 1)
        boxes.append(TrueBox(item.part.kind, xyxy, round(1 - visible, 3)))
        full = np.zeros((HEIGHT_PX, WIDTH_PX), dtype=np.bool_)
        full[sprite.window()] = mask
        masks.append(full)
    return Drawn(canvas, tuple(reversed(boxes)), tuple(reversed(masks)))
