"""Drawing the sample: solid shapes, the camera, and boxes that fit what is drawn."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.sample.camera import HEIGHT_PX, WIDTH_PX, Camera
from pipelines.sample.mesh import Mesh, bolt, nut, slab, tube, turned, washer
from pipelines.sample.parts import ACROSS, CLASSES, FINISHES, LOOSE, Part, product
from pipelines.sample.render import draw
from pipelines.sample.scene import MIN_SIDE_PX, Placed, draw_frame
from pipelines.sample.stations import STATIONS

SHAPES = {
    "washer": washer(8.4, 16.0, 1.6, 48),
    "nut": nut(8, 13.0, 6.8, 48, 3),
    "nut on coarse steps": nut(8, 13.0, 6.8, 24, 2),
    "bolt": bolt(8, 25, 24, 1.0, False),
    "socket bolt": bolt(8, 25, 24, 0.7, True),
    "turned": turned([(0.01, 0), (3, 0), (3, 5), (0.01, 6)], 20, [0, 0, 0]),
    "slab": slab(20, 12, 0.3),
    "ring": tube(np.stack([5 * np.cos(np.arange(24) * np.pi / 12), 5 * np.sin(np.arange(24) * np.pi / 12), np.full(24, 1.0)], axis=1), 1.0, 10, True),
}


def _volume(mesh: Mesh) -> float:
    """Volume by the divergence theorem: positive only when the faces look outwards."""
    corners = mesh.vertices[mesh.faces]
    triangles = np.concatenate([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]])
    return float(np.einsum("ij,ij->i", triangles[:, 0], np.cross(triangles[:, 1], triangles[:, 2])).sum() / 6)


@pytest.mark.parametrize("name", SHAPES)
def test_faces_look_outwards(name: str) -> None:
    mesh = SHAPES[name]
    assert _volume(mesh) > 0
    assert ((mesh.openness >= 0) & (mesh.openness <= 1)).all()


def test_a_washer_has_the_volume_of_its_drawing() -> None:
    exact = np.pi * (8.0**2 - 4.2**2) * 1.6
    assert _volume(SHAPES["washer"]) == pytest.approx(exact, rel=0.04)


@pytest.mark.parametrize("tilt", [0.0, 0.3, 0.62])
def test_the_camera_undoes_itself(tilt: float) -> None:
    camera = Camera(400, tilt, 3.0)
    pixels = np.array([[320.0, 240.0], [10.0, 20.0], [630.0, 470.0]])
    ground = camera.ground(pixels)
    again, _ = camera.project(np.column_stack([ground, np.zeros(3)]))
    assert np.allclose(again, pixels)
    assert np.allclose(ground[0], 0)
    near, _ = camera.project(np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert near[1, 0] - near[0, 0] == pytest.approx(3.0)


def _placed(part: Part, x: float, y: float, layer: int, index: int) -> Placed:
    return Placed(part, x, y, 0.4, (1, 0, 0), 0.0, layer, index, (0, 0))


@pytest.mark.parametrize("camera", STATIONS)
@pytest.mark.parametrize("kind", CLASSES)
def test_a_box_fits_the_drawn_object(camera: str, kind: str) -> None:
    station = STATIONS[camera]
    part = product(np.random.default_rng(5), kind, False, station.camera.scale)
    flat = np.full((HEIGHT_PX, WIDTH_PX, 3), 0.2, np.float32)
    drawn = draw_frame([_placed(part, 3.0, -4.0, 0, 0)], flat, station.camera, station.light, np.zeros((1024, 1024), np.float32))
    (box,), (mask,) = drawn.boxes, drawn.masks
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    assert box.xyxy == (x, y, x + width, y + height)
    assert box.occlusion == 0
    rotation = np.array([[np.cos(0.4), -np.sin(0.4), 0], [np.sin(0.4), np.cos(0.4), 0], [0, 0, 1]])
    pixels, _ = station.camera.project(part.mesh.posed(rotation, 3.0, -4.0, 0.0).vertices)
    assert np.abs(np.concatenate([pixels.min(axis=0), pixels.max(axis=0)]) - box.xyxy).max() <= 1.0
    changed = np.abs(drawn.light - flat).max(axis=2) > 1e-4
    assert changed[mask].mean() > 0.95


def test_a_washer_from_above_covers_what_its_drawing_says() -> None:
    camera = Camera(4000, 0.0, 5.0)
    station = STATIONS["cam1"]
    sprite = draw(SHAPES["washer"], (FINISHES[0][1],), camera, station.light, np.zeros((HEIGHT_PX, WIDTH_PX), np.float32))
    assert sprite is not None
    assert float(sprite.alpha.sum()) == pytest.approx(np.pi * (8.0**2 - 4.2**2) * 25, rel=0.03)


def test_what_lies_above_hides_what_lies_below() -> None:
    station = STATIONS["cam3"]
    flat, grain = np.full((HEIGHT_PX, WIDTH_PX, 3), 0.2, np.float32), np.zeros((1024, 1024), np.float32)
    rng = np.random.default_rng(3)
    below, above = (product(rng, kind, False, station.camera.scale) for kind in ("washer", "nut"))
    alone = draw_frame([_placed(below, 0, 0, 0, 0)], flat, station.camera, station.light, grain)
    both = draw_frame([_placed(above, 6, 2, 1, 1), _placed(below, 0, 0, 0, 0)], flat, station.camera, station.light, grain)
    hidden = {box.class_name: (box, mask) for box, mask in zip(both.boxes, both.masks, strict=True)}
    assert hidden["nut"][0].occlusion == 0
    share = 1 - hidden["washer"][1].sum() / alone.masks[0].sum()
    assert 0.05 < share < 0.9
    assert hidden["washer"][0].occlusion == pytest.approx(share, abs=0.05)
    assert not (hidden["washer"][1] & hidden["nut"][1]).any()


def test_what_is_hardly_seen_is_not_labeled() -> None:
    station = STATIONS["cam1"]
    part = product(np.random.default_rng(5), "washer", False, station.camera.scale)
    flat, grain = np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.float32), np.zeros((1024, 1024), np.float32)
    edge = float(station.camera.ground(np.array([[WIDTH_PX, HEIGHT_PX / 2]]))[0, 0])
    for beyond, labeled in ((-part.radius_mm, True), (0.0, True), (part.radius_mm - 1.0, False), (3 * part.radius_mm, False)):
        drawn = draw_frame([_placed(part, edge + beyond, 0, 0, 0)], flat, station.camera, station.light, grain)
        assert bool(drawn.boxes) == labeled
        assert all(box.xyxy[2] <= WIDTH_PX and box.xyxy[2] - box.xyxy[0] >= MIN_SIDE_PX for box in drawn.boxes)


@pytest.mark.parametrize("make", [*LOOSE, *ACROSS], ids=lambda make: make.__name__)
def test_other_things_have_no_class(make: Any) -> None:
    part = make(np.random.default_rng(1))
    assert not part.is_product
    assert part.mesh.material.max() < len(part.materials)
    assert _volume(part.mesh) > 0
