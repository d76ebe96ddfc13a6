"""The catalogue: bolts, nuts and washers in standard sizes and real finishes, and things of no class that lie about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.sample.mesh import Mesh, bolt, nut, rotation_y, rotation_z, slab, tube, turned, washer
from pipelines.sample.render import Material

CLASSES = ("bolt", "nut", "washer")

# Thread diameter -> (width across flats, nut height) of ISO 4032 and (hole, rim, thickness) of ISO 7089, mm.
NUTS = {4: (7.0, 3.2), 5: (8.0, 4.7), 6: (10.0, 5.2), 8: (13.0, 6.8), 10: (16.0, 8.4), 12: (18.0, 10.8)}
WASHERS = {4: (4.3, 9.0, 0.8), 5: (5.3, 10.0, 1.0), 6: (6.4, 12.0, 1.6), 8: (8.4, 16.0, 1.6), 10: (10.5, 20.0, 2.0), 12: (13.0, 24.0, 2.5)}
USUAL, SMALL = (6, 8, 8, 10, 10, 12), (4, 4, 4, 5)

FINISHES: tuple[tuple[float, Material], ...] = (
    (0.44, Material((0.72, 0.75, 0.80), (0.06, 0.06, 0.065), 0.30, 0.05)),  # bright zinc
    (0.20, Material((0.62, 0.60, 0.56), (0.05, 0.05, 0.05), 0.22, 0.04)),  # stainless
    (0.15, Material((0.17, 0.17, 0.19), (0.025, 0.025, 0.03), 0.35, 0.08)),  # black oxide
    (0.11, Material((0.74, 0.60, 0.32), (0.06, 0.05, 0.02), 0.30, 0.06)),  # yellow zinc
    (0.05, Material((0.80, 0.56, 0.22), (0.05, 0.04, 0.015), 0.20, 0.04)),  # brass
    (0.05, Material((0.26, 0.18, 0.12), (0.13, 0.065, 0.03), 0.55, 0.22)),  # rusty
)
RUBBER = Material((0.03, 0.03, 0.03), (0.022, 0.022, 0.024), 0.5, 0.06)
CABLE_COLOURS = ((0.02, 0.02, 0.022), (0.45, 0.05, 0.04), (0.05, 0.09, 0.30), (0.38, 0.36, 0.32))
HANDLE_COLOURS = ((0.50, 0.04, 0.03), (0.62, 0.40, 0.02), (0.03, 0.08, 0.28), (0.03, 0.20, 0.06))
TOOL_STEEL = Material((0.40, 0.40, 0.42), (0.05, 0.05, 0.05), 0.25, 0.05)


@dataclass(frozen=True)
class Part:
    """A shape lying at rest (yaw still free) around the origin: `radius_mm` on the ground, `high_mm` above it."""

    kind: str
    mesh: Mesh
    materials: tuple[Material, ...]
    radius_mm: float
    high_mm: float

    @property
    def is_product(self) -> bool:
        """Whether it belongs to a class."""
        return self.kind in CLASSES


def _at_rest(kind: str, mesh: Mesh, materials: tuple[Material, ...]) -> Part:
    radius = float(np.abs(mesh.vertices[:, :2]).max())
    return Part(kind, mesh, materials, radius, float(np.ptp(mesh.vertices[:, 2])))


def _finish(rng: np.random.Generator) -> Material:
    return FINISHES[int(rng.choice(len(FINISHES), p=[share for share, _ in FINISHES]))][1]


def product(rng: np.random.Generator, kind: str, small: bool, px_per_mm: float) -> Part:
    """A bolt, nut or washer in a standard size, as it comes to lie: nuts now and then on a side, bolts now and then on their head."""
    thread = int(rng.choice(SMALL if small else USUAL))
    material = _finish(rng)
    steps = 24 if thread * px_per_mm < 16 else 48
    if kind == "washer":
        return _at_rest(kind, washer(*WASHERS[thread], steps + steps // 3), (material,))
    if kind == "nut":
        mesh = nut(thread, *NUTS[thread], steps, max(2, min(5, int(thread * px_per_mm / 9))))
        if rng.random() < 0.10:
            mesh = mesh.posed(rotation_y(np.pi / 2) @ rotation_z(np.pi / 6), 0, 0, 0)
        return _at_rest(kind, mesh, (material,))
    thread = min(thread, 8)
    length = thread * float(rng.uniform(2.0, 3.0))
    socket = bool(rng.random() < 0.2)
    drawn = min(1.0, 0.16 * thread * px_per_mm / 3.0)
    mesh = bolt(thread, length, 24, drawn, socket)
    if rng.random() < 0.06:
        return _at_rest(kind, mesh, (material,))
    head = 0.75 if socket else 0.8
    sink = np.arctan2((head - 0.5) * thread, length)
    lying = rotation_y(np.pi / 2 + sink) @ rotation_z(np.pi / 6)
    mesh = mesh.posed(lying, 0, 0, 0)
    middle = (mesh.vertices[:, 0].max() + mesh.vertices[:, 0].min()) / 2
    return _at_rest(kind, mesh.posed(np.eye(3), -middle, 0, 0), (material,))


def oring(rng: np.random.Generator) -> Part:
    """A black rubber ring: round in section, where a washer is flat."""
    radius, thick = float(rng.uniform(5, 10)), float(rng.uniform(0.9, 1.5))
    a = np.arange(40) * (2 * np.pi / 40)
    path = np.stack([radius * np.cos(a), radius * (1 + 0.1 * rng.uniform(-1, 1)) * np.sin(a), np.full(40, thick)], axis=1)
    return _at_rest("o-ring", tube(path, thick, 10, closed=True), (RUBBER,))


def tag(rng: np.random.Generator) -> Part:
    """A paper label."""
    shade = float(rng.uniform(0.5, 0.75))
    paper = Material((0.02, 0.02, 0.02), (shade, shade * 0.97, shade * rng.uniform(0.7, 0.95)), 0.4, 0.02)
    return _at_rest("tag", slab(float(rng.uniform(16, 30)), float(rng.uniform(10, 18)), 0.25), (paper,))


def cap(rng: np.random.Generator) -> Part:
    """A plastic cap."""
    colour = HANDLE_COLOURS[int(rng.integers(len(HANDLE_COLOURS)))]
    r, h = float(rng.uniform(4, 8)), float(rng.uniform(5, 9))
    profile = [(r, 0), (r, 0.8 * h), (0.9 * r, h), (0.7 * r, h), (0.6 * r, 0.97 * h), (0.01, 0.97 * h)]
    return _at_rest("cap", turned(profile, 30, [0] * 5), (Material((0.07, 0.07, 0.07), colour, 0.3, 0.03),))


def pencil(rng: np.random.Generator) -> Part:
    """A sharpened pencil."""
    colour = HANDLE_COLOURS[int(rng.integers(len(HANDLE_COLOURS)))]
    materials = (Material((0.08, 0.08, 0.08), colour, 0.2, 0.03), Material((0.03, 0.03, 0.03), (0.45, 0.30, 0.16), 0.3, 0.06), RUBBER)
    profile = [(0.01, 0.0), (3.5, 0.0), (3.5, 45.0), (3.5, 105.0), (0.9, 120.0), (0.01, 124.0)]
    mesh = turned(profile, 6, [1, 0, 0, 1, 2]).posed(rotation_y(np.pi / 2) @ rotation_z(np.pi / 6), -62, 0, 0)
    return _at_rest("pencil", mesh, materials)


def screwdriver(rng: np.random.Generator) -> Part:
    """A screwdriver with a plastic handle."""
    colour = HANDLE_COLOURS[int(rng.integers(len(HANDLE_COLOURS)))]
    materials = (TOOL_STEEL, Material((0.10, 0.10, 0.10), colour, 0.25, 0.02))
    profile = [(0.01, -80), (7, -78), (9, -70), (9, -45), (8, -30), (6, -20), (7, -6), (4, 0), (2.6, 0), (2.6, 30), (2.6, 62), (2.0, 70), (0.01, 71)]
    mesh = turned(profile, 20, [1] * 8 + [0] * 4).posed(rotation_y(np.pi / 2), 0, 0, 0)
    return _at_rest("screwdriver", mesh, materials)


def hex_key(rng: np.random.Generator) -> Part:
    """An L-shaped hexagon key."""
    long, short, radius = float(rng.uniform(55, 80)), float(rng.uniform(16, 24)), float(rng.uniform(1.4, 2.4))
    bend = np.linspace(0, np.pi / 2, 8)
    r = 3.2 * radius
    arc = np.stack([r * np.sin(bend), r * (1 - np.cos(bend))], axis=1)
    path = np.vstack([np.column_stack([np.linspace(-long, 0, 12)[:-1], np.zeros(11)]), arc, [[r, r + (short - r) * t] for t in (0.3, 0.65, 1.0)]])
    mesh = tube(np.column_stack([path[:, 0] + long / 2, path[:, 1], np.full(len(path), radius)]), radius, 6)
    finish = TOOL_STEEL if rng.random() < 0.4 else Material((0.15, 0.15, 0.16), (0.02, 0.02, 0.022), 0.3, 0.06)
    return _at_rest("hex key", mesh, (finish,))


def cable(rng: np.random.Generator) -> Part:
    """A cable that runs through the picture, now and then a little above the ground."""
    colour = CABLE_COLOURS[int(rng.integers(len(CABLE_COLOURS)))]
    x = np.linspace(-150, 150, 60)
    waves = sum(rng.uniform(2, 16 / k) * np.sin(x * k / rng.uniform(28, 45) + rng.uniform(0, 6)) for k in (1, 2))
    radius = float(rng.uniform(1.5, 2.6))
    lift = radius + 4.5 * np.clip(0.6 + np.sin(x / 30 + rng.uniform(0, 6)), 0, 1.3)
    mesh = tube(np.column_stack([x, waves, lift]), radius, 10)
    return _at_rest("cable", mesh, (Material((0.06, 0.06, 0.06), colour, 0.3, 0.03),))


LOOSE = (oring, tag, cap)
ACROSS = (cable, hex_key, screwdriver, pencil)
