"""The three places where cameras hang, and shooting a burst there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import numpy as np

from pipelines.core.images import Image
from pipelines.sample.backdrop import noise, plastic_tray, seen_through, steel_belt, wooden_bench
from pipelines.sample.camera import HEIGHT_PX, WIDTH_PX, Camera
from pipelines.sample.photo import Exposure, develop, falloff
from pipelines.sample.plan import Burst
from pipelines.sample.render import F32, Light
from pipelines.sample.scene import GRAIN_SIDE, Placed, TrueBox, arrange, carried, draw_frame, shaken

BELT_MM_S = 55.0
NIGHT_GAIN = (0.06, 0.13)


@dataclass(frozen=True)
class Station:
    """A camera over a ground under a lamp; `motion` says how things move between frames."""

    camera: Camera
    ground: Callable[[np.random.Generator], F32]
    light: Light
    motion: Literal["belt", "hand", "vibration"]
    lamp_at: tuple[float, float]  # brightest spot, fractions of width and height
    exposure: Exposure


@dataclass(frozen=True)
class Shot:
    """One frame: the picture, its true boxes, and where it belongs."""

    camera: str
    burst: str
    captured_at: datetime
    dark: bool
    image: Image
    boxes: tuple[TrueBox, ...]


def _unit(x: float, y: float, z: float) -> tuple[float, float, float]:
    length = float(np.sqrt(x * x + y * y + z * z))
    return x / length, y / length, z / length


STATIONS: dict[str, Station] = {
    "cam1": Station(
        Camera(420, 0.16, 3.4),
        steel_belt,
        Light(_unit(-0.5, 0.45, 1.0), 1.0, 0.50, 0.25, (0.30, 0.30, 0.30), 0.58),
        "belt",
        (0.38, 0.34),
        Exposure(0.95, 0.55, 0.011, (1.03, 1.0, 0.97)),
    ),
    "cam2": Station(
        Camera(360, 0.62, 3.3),
        wooden_bench,
        Light(_unit(0.6, 0.25, 0.9), 1.15, 0.40, 0.50, (0.35, 0.22, 0.12), 0.66),
        "hand",
        (0.66, 0.40),
        Exposure(1.0, 0.65, 0.011, (0.94, 1.0, 1.05)),
    ),
    "cam3": Station(
        Camera(460, 0.32, 3.2),
        plastic_tray,
        Light(_unit(-0.3, 0.7, 1.0), 0.95, 0.50, 0.10, (0.20, 0.30, 0.45), 0.55),
        "vibration",
        (0.45, 0.25),
        Exposure(0.95, 0.60, 0.012, (1.0, 1.0, 1.0)),
    ),
}


@dataclass(frozen=True)
class Set:
    """What stays the same over all frames: the drawn grounds by camera name and the grain of surfaces."""

    grounds: dict[str, F32]
    grain: F32


def build_set(seed: int) -> Set:
    """Draw the grounds."""
    grounds = {name: station.ground(np.random.default_rng([seed, 2, index])) for index, (name, station) in enumerate(STATIONS.items())}
    rng = np.random.default_rng([seed, 3])
    grain = 0.75 * noise(rng, GRAIN_SIDE, GRAIN_SIDE, 1.5, 1.5) + 0.65 * noise(rng, GRAIN_SIDE, GRAIN_SIDE, 12, 12)
    return Set(grounds, grain.astype(np.float32))


def shoot(burst: Burst, stage: Set, seed: int) -> list[Shot]:
    """All frames of a burst. The same burst, set and seed give the same pixels."""
    rng = np.random.default_rng([seed, 1, burst.index])
    station = STATIONS[burst.camera]
    light, exposure = _conditions(station, burst.dark, rng)
    items = arrange(rng, station.camera, burst.kinds, burst.clutter, burst.across)
    shift = _ground_shift(station, rng)
    tone = float(rng.uniform(0.8, 1.15)) if station.motion == "vibration" else float(rng.uniform(0.93, 1.07))
    lamp = falloff(WIDTH_PX, HEIGHT_PX, (station.lamp_at[0] + rng.normal(0, 0.03), station.lamp_at[1] + rng.normal(0, 0.03)), 1.4)
    lit = (tone * (light.strength * light.towards[2] * lamp + light.ambient)).astype(np.float32)
    middle = burst.times[len(burst.times) // 2]
    shots = []
    for number, time in enumerate(burst.times):
        moved, moved_shift = items, shift
        if station.motion == "belt":
            run = BELT_MM_S * (time - middle).total_seconds()
            moved, moved_shift = carried(items, run), (shift[0] + run, shift[1])
        elif number:
            items = moved = _moved(rng, station, items)
        ground = seen_through(stage.grounds[burst.camera], station.camera, moved_shift) * lit
        drawn = draw_frame(moved, ground, station.camera, light, stage.grain)
        picture = develop(drawn.light, exposure, np.random.default_rng([seed, 4, burst.index, number]))
        shots.append(Shot(burst.camera, burst.name, time, burst.dark, picture, drawn.boxes))
    return shots


def _conditions(station: Station, dark: bool, rng: np.random.Generator) -> tuple[Light, Exposure]:
    """Light and exposure of one burst: they drift by day; by night one lamp from the side is left and the sensor is noisy."""
    gain = station.exposure.gain * float(rng.uniform(0.85, 1.15))
    blur = station.exposure.blur_px * float(rng.uniform(0.85, 1.3)) + (0.5 if rng.random() < 0.08 else 0.0)
    if not dark:
        return station.light, replace(station.exposure, gain=gain, blur_px=blur)
    x, y, z = station.light.towards
    night = replace(station.light, towards=_unit(1.6 * x, 1.6 * y, z), ambient=0.22, shadow=min(0.85, station.light.shadow + 0.2))
    return night, Exposure(gain * float(rng.uniform(*NIGHT_GAIN)), blur + 0.15, 0.016, (0.90, 1.0, 1.10))


def _ground_shift(station: Station, rng: np.random.Generator) -> tuple[float, float]:
    if station.motion == "belt":
        return float(rng.uniform(-150, 150)), float(rng.uniform(-2, 2))
    if station.motion == "vibration":
        return float(rng.uniform(-120, 120)), float(rng.uniform(-80, 80))
    return float(rng.normal(0, 0.4)), float(rng.normal(0, 0.4))


def _moved(rng: np.random.Generator, station: Station, items: list[Placed]) -> list[Placed]:
    return shaken(rng, items, 5.0, 0.3, 1.0) if station.motion == "vibration" else shaken(rng, items, 12.0, 0.5, 0.5)
