"""Solid shapes as quad meshes in millimetres: bolts, nuts, washers, and what else lies about on a bench.

Shapes stand on the origin with their axis along +z; a pose (rotation, then translation) puts them into a scene. Every face carries what shading
needs: the direction across its machining grooves, how open it lies to the light, and which of the object's materials it is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
CHAMFER_SLOPE = float(np.tan(np.pi / 6))  # hexagon corners of nuts and bolt heads are turned off at 30 degrees (ISO 4032, ISO 4017)


@dataclass(frozen=True)
class Mesh:
    """Quads: `vertices` (V, 3) in mm; `faces` (F, 4) vertex indices, counter-clockwise from outside; `across` (F, 3) unit groove directions;
    `openness` (F,) in [0, 1], 0 sees no light; `material` (F,) index.
    """

    vertices: F64
    faces: NDArray[np.int64]
    across: F64
    openness: F64
    material: NDArray[np.int64]

    def posed(self, rotation: F64, x_mm: float, y_mm: float, base_mm: float) -> Mesh:
        """Rotated about the origin, then moved to (x, y) with its lowest point at height `base_mm`."""
        vertices = self.vertices @ rotation.T
        vertices = vertices + np.array([x_mm, y_mm, base_mm - vertices[:, 2].min()])
        return replace(self, vertices=vertices, across=self.across @ rotation.T)


def rotation_z(angle: float) -> F64:
    """Rotation about the z axis, radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=np.float64)


def rotation_y(angle: float) -> F64:
    """Rotation about the y axis, radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=np.float64)


def swept(points: F64, openness: F64, closed: bool, material: NDArray[np.int64] | int = 0) -> Mesh:
    """A mesh from rings of points (R, A, 3), each ring counter-clockwise about the direction in which the rings follow one another.

    `openness` (R,) belongs to rings, `material` to the bands between them. `closed`: the last ring joins the first.
    """
    rings, steps = points.shape[:2]
    bands = rings if closed else rings - 1
    i = np.arange(bands)[:, None]
    j = np.arange(steps)[None, :]
    i_next, j_next = (i + 1) % rings, (j + 1) % steps
    faces = np.stack(np.broadcast_arrays(i * steps + j, i * steps + j_next, i_next * steps + j_next, i_next * steps + j), axis=-1).reshape(-1, 4)
    flat = points.reshape(-1, 3)
    across = flat[faces[:, 3]] + flat[faces[:, 2]] - flat[faces[:, 0]] - flat[faces[:, 1]]
    across = across / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    open_bands = (openness[np.arange(bands)] + openness[(np.arange(bands) + 1) % rings]) / 2
    materials = np.broadcast_to(np.asarray(material, dtype=np.int64), (bands,))
    return Mesh(flat, faces, across, np.repeat(open_bands, steps), np.repeat(materials, steps))


def _lathe(profile: Sequence[tuple[F64 | float, F64 | float, float]], angles: F64, closed: bool, material: NDArray[np.int64] | int = 0) -> Mesh:
    """A turned shape from (radius, height, openness) rings; radius and height may vary with the angle."""
    rings = [np.broadcast_arrays(np.asarray(r, np.float64), np.asarray(z, np.float64), angles) for r, z, _ in profile]
    points = np.stack([np.stack([r * np.cos(a), r * np.sin(a), z], axis=-1) for r, z, a in rings])
    return swept(points, np.array([item[2] for item in profile]), closed, material)


def _angles(steps: int) -> F64:
    angles: F64 = np.arange(steps, dtype=np.float64) * (2 * np.pi / steps)
    return angles


def _hexagon(angles: F64, flats_mm: float) -> F64:
    """Distance from the centre of a hexagon with corners at 0, 60, … degrees, `flats_mm` across."""
    radius: F64 = flats_mm / 2 / np.cos(np.mod(angles, np.pi / 3) - np.pi / 6)
    return radius


def washer(inner_mm: float, outer_mm: float, thick_mm: float, steps: int) -> Mesh:
    """A flat washer: diameters of hole and rim, thickness; the rim slightly rounded by punching."""
    a, b = inner_mm / 2, outer_mm / 2
    edge = min(0.35 * thick_mm, 0.08 * (b - a))
    top = [(b - t * (b - a), thick_mm + 0.02 * thick_mm * np.sin(np.pi * t), 1.0) for t in (0.06, 0.35, 0.65, 0.94)]
    profile = [
        (a, 0, 0.3),
        (b - edge, 0, 0.2),
        (b, edge, 0.55),
        (b, thick_mm - edge, 0.9),
        *top,
        (a + edge / 2, thick_mm, 0.9),
        (a, thick_mm - edge, 0.7),
    ]
    return _lathe(profile, _angles(steps), closed=True)


def nut(thread_mm: float, flats_mm: float, high_mm: float, steps: int, turns: int) -> Mesh:
    """A hexagon nut: thread diameter, width across flats, height; `steps` a multiple of 6."""
    angles = _angles(steps)
    hexagon = _hexagon(angles, flats_mm)
    face = 0.95 * flats_mm / 2
    drop = np.maximum(hexagon - face, 0) * CHAMFER_SLOPE
    bore, sink = 0.46 * thread_mm, 0.54 * thread_mm
    profile: list[tuple[F64 | float, F64 | float, float]] = [(sink, 0, 0.2), (face, 0, 0.15), (hexagon, drop, 0.45), (hexagon, high_mm / 2, 0.75)]
    profile += [(hexagon, high_mm - drop, 0.95), (face, high_mm, 1.0), ((face + sink) / 2, high_mm, 1.0), (sink, high_mm, 0.9)]
    depth_from, depth_to = high_mm - (sink - bore), sink - bore
    for step in range(2 * turns + 1):
        deep = step / (2 * turns)
        radius = bore if step % 2 == 0 else 0.5 * thread_mm
        profile.append(
            (radius, depth_from + (depth_to - depth_from) * deep, float(0.62 * (1 - deep) ** 1.3 + 0.1) * (1.0 if step % 2 == 0 else 0.55))
        )
    return _lathe(profile, angles, closed=True)


def bolt(thread_mm: float, length_mm: float, steps: int, turns_per_pitch: float, socket: bool) -> Mesh:
    """A bolt, head down at z = 0: hexagon head (ISO 4017), or a cylinder head with a hexagon socket (ISO 4762).

    `turns_per_pitch` is the number of drawn threads for each real one (below 1 where the real ones would be finer than a pixel).
    """
    angles = _angles(steps)
    shank = thread_mm / 2
    profile: list[tuple[F64 | float, F64 | float, float]]
    if socket:
        head_r, head_h = 0.75 * thread_mm, thread_mm
        key = _hexagon(angles, 0.8 * thread_mm)
        rim = head_r * (1 + 0.015 * np.where(np.arange(steps) % 2 == 0, 1, -1))
        profile = [(0.01, 0.55 * head_h, 0.15), (key, 0.55 * head_h, 0.15), (key, 0.05 * head_h, 0.7), (1.08 * key, 0, 1.0), (0.9 * head_r, 0, 1.0)]
        profile += [
            (head_r, 0.08 * head_h, 1.0),
            (rim, 0.12 * head_h, 1.0),
            (rim, 0.5 * head_h, 1.0),
            (rim, 0.93 * head_h, 0.9),
            (0.93 * head_r, head_h, 0.6),
        ]
    else:
        head_h, flats = 0.65 * thread_mm, 1.6 * thread_mm
        hexagon = _hexagon(angles, flats)
        face = 0.94 * flats / 2
        drop = np.maximum(hexagon - face, 0) * CHAMFER_SLOPE
        profile = [(0.01, 0.02 * head_h, 1.0), (0.5 * face, 0.0, 1.0), (face, 0.0, 1.0), (hexagon, drop, 1.0), (hexagon, head_h / 2, 1.0)]
        profile += [(hexagon, 0.97 * head_h, 0.9), (0.97 * flats / 2, head_h, 0.6)]
    plain = head_h + 0.18 * length_mm
    profile += [(shank, head_h, 0.45), (shank, head_h + 0.3 * (plain - head_h), 0.8), (shank, plain, 1.0)]
    pitch = 0.16 * thread_mm / turns_per_pitch
    end = head_h + length_mm
    helix = pitch * angles / (2 * np.pi)
    count = int((end - plain - 1.6 * pitch) / pitch)
    for turn in range(count):
        z = plain + (turn + 0.3) * pitch
        profile += [(0.85 * shank, z + helix * min(1.0, turn), 0.5), (shank, z + 0.5 * pitch + helix * min(1.0, turn), 1.0)]
    profile += [(0.84 * shank, end - 0.15 * shank, 0.8), (0.7 * shank, end, 1.0), (0.01, end, 1.0)]
    return _lathe(profile, angles, closed=False)


def turned(profile: Sequence[tuple[float, float]], steps: int, material: Sequence[int]) -> Mesh:
    """A solid of revolution from (radius, height) rings, `material` for the bands between them: handles, caps, pens."""
    return _lathe([(r, z, 1.0) for r, z in profile], _angles(steps), closed=False, material=np.array(material, dtype=np.int64))


def tube(path: F64, radius_mm: float, steps: int, closed: bool = False) -> Mesh:
    """A round tube along a path of points (P, 3) that stays nearly level: cables, keys, O-rings."""
    ahead = np.roll(path, -1, axis=0) - np.roll(path, 1, axis=0)
    if not closed:
        ahead[0], ahead[-1] = path[1] - path[0], path[-1] - path[-2]
    ahead = ahead / np.linalg.norm(ahead, axis=1, keepdims=True)
    side = np.cross(np.array([0.0, 0.0, 1.0]), ahead)
    side = side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9)
    up = np.cross(ahead, side)
    a = _angles(steps)[None, :, None]
    points = path[:, None, :] + radius_mm * (np.cos(a) * side[:, None, :] + np.sin(a) * up[:, None, :])
    mesh = swept(points, np.ones(len(path)), closed)
    low = np.clip((mesh.vertices[mesh.faces].mean(axis=1)[:, 2] - path[:, 2].min()) / radius_mm + 1, 0, 2) / 2
    return replace(mesh, openness=0.25 + 0.75 * low)


def slab(width_mm: float, depth_mm: float, thick_mm: float) -> Mesh:
    """A flat plate, centred: tags, rags, paper."""
    w, d = width_mm / 2, depth_mm / 2
    corners = np.array([[-w, -d], [w, -d], [w, d], [-w, d]])
    rings = [
        np.column_stack([corners * s, np.full(4, z)]) for s, z in ((1.0, 0.0), (1.0, thick_mm), (0.98, thick_mm), (0.5, thick_mm), (0.001, thick_mm))
    ]
    return swept(np.stack(rings), np.ones(5), closed=False)
