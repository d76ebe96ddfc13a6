"""What is settled is not dealt again: the result is that of the whole split, whatever came, went or was labeled in between."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.errors import DataError, LeakError
from pipelines.core.slices import SliceLimits
from pipelines.core.tables import ANNOTATIONS_SCHEMA, MANIFEST_SCHEMA
from pipelines.core.types import Annotation, Box, Split
from pipelines.dataset.assignments import ASSIGNMENTS_SCHEMA, Assignment
from pipelines.dataset.build import build_dataset
from pipelines.dataset.items import item_from_row, items_from_manifest
from pipelines.dataset.leaks import given_twice_error
from pipelines.dataset.links import link
from pipelines.dataset.settled import components
from pipelines.dataset.split import plan_split

CLASSES = ("bolt", "nut")
FRACTIONS: dict[Split, float] = {"train": 0.65, "val": 0.15, "test": 0.2}
LIMITS = SliceLimits(1024, 9216, 60, 190)


def manifest_of(rng: random.Random, names: list[str]) -> pl.DataFrame:
    """Images in groups and clusters, some with copies elsewhere, some with a given split, brightness dark to bright."""
    start = dict.fromkeys(MANIFEST_SCHEMA)
    rows: list[dict[str, Any]] = []
    clusters = {name: rng.choice([None, None, "n0", "n1", "n2"]) for name in names}
    for name in names:
        own = {
            "source": rng.choice("ab"),
            "group": rng.choice([None, None, "g0", "g1", "g2"]),
            "given_split": rng.choice([None] * 9 + ["train", "test"]),
            "captured_at": None,
        }
        place = {"image_id": name, "width_px": 100, "height_px": 80, "brightness": rng.choice([30.0, 99.5, 220.0]), "near_group": clusters[name]}
        rows.append({**start, **place, **own, "origin": f"x/{name}.jpg", "path": f"images/{name}.jpg", "status": "kept"})
        if rng.random() < 0.15:
            copy = {**own, "group": rng.choice([None, "g0", "g3"]), "given_split": rng.choice([None, own["given_split"]])}
            rows.append({**start, **place, **copy, "origin": f"y/{name}.jpg", "status": "dropped", "duplicate_of": name})
    return pl.DataFrame(rows, schema=MANIFEST_SCHEMA).sort("origin")


def labels_of(rng: random.Random, names: list[str]) -> list[Annotation]:
    found = []
    for name in names:
        state = rng.choice(["labeled", "labeled", "labeled", "verified_empty", "skipped", "conflict"])
        boxes = tuple(Box(rng.choice(CLASSES), (0.0, 0.0, 9.0, 9.0)) for _ in range(rng.randrange(1, 3))) if state == "labeled" else ()
        found.append(Annotation(name, state, rng.choice([100] * 9 + [50]), 80, boxes, "team"))  # type: ignore[arg-type]
    return found


def table_of(labels: list[Annotation]) -> pl.DataFrame:
    rows = [{**vars(item), "boxes": [{"class": box.class_name, "xyxy": list(box.xyxy)} for box in item.boxes]} for item in labels]
    return pl.DataFrame(rows, schema=ANNOTATIONS_SCHEMA)


def whole_split(manifest: pl.DataFrame, labels: list[Annotation], history: dict[str, Assignment], leave_out: list[str], use_given: bool) -> Any:
    """Sides, assignments and what left, every image dealt with at once, or the error."""
    found = items_from_manifest(manifest, frozenset(leave_out), LIMITS)
    if use_given and found.given_twice:
        return str(given_twice_error(found.given_twice))
    items = [item_from_row(row) for row in found.items.iter_rows(named=True)]
    present = {item.image_id for item in items}
    usable = {
        label.image_id: label
        for label in labels
        if label.image_id in present and label.width_px == 100 and label.state in ("labeled", "verified_empty")
    }
    try:
        plan = plan_split(items, usable, history, CLASSES, FRACTIONS, use_given=use_given, seed=0)
    except LeakError as error:
        return str(error)
    return dict(plan.side_of), dict(plan.assignments), plan.cross, plan.overruled, plan.added


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 24), use_given=st.booleans())
def test_a_step_at_a_time_is_all_at_once(seed: int, count: int, use_given: bool) -> None:
    rng = random.Random(seed)
    names = [f"{rng.getrandbits(32):08x}" for _ in range(count)]
    whole, labels = manifest_of(rng, names), labels_of(rng, names)
    history: dict[str, Assignment] = {}
    for _ in range(4):
        present = rng.sample(names, rng.randrange(1, count + 1))
        manifest = whole.filter(pl.col("image_id").is_in(present))
        known = rng.sample(labels, rng.randrange(count + 1))
        leave_out = rng.sample(manifest["origin"].to_list(), rng.randrange(2)) if rng.random() < 0.3 else []
        expected = whole_split(manifest, known, history, leave_out, use_given)
        table = pl.DataFrame([vars(entry) for entry in history.values()], schema=ASSIGNMENTS_SCHEMA)
        options = {"use_given": use_given, "leave_out": leave_out, "limits": LIMITS, "seed": 0}
        build = partial(build_dataset, manifest, table_of(known), table, CLASSES, FRACTIONS, **options)  # type: ignore[arg-type]
        if isinstance(expected, str):
            with pytest.raises(LeakError) as caught:
                build()
            assert str(caught.value) == expected
            continue
        if "train" not in expected[0].values():
            with pytest.raises(DataError, match="nothing to train on"):
                build()
            continue
        built = build()
        sides = built.samples.filter(pl.col("split") != "pool").select("image_id", "split")
        assignments = {row["image_id"]: Assignment(**row) for row in built.assignments.iter_rows(named=True)}
        found = dict(sides.iter_rows()), assignments, built.plan.cross, built.plan.overruled, built.plan.added
        assert found == expected
        history = assignments


@pytest.mark.parametrize("seed", range(20))
def test_components_are_those_of_the_split(seed: int) -> None:
    rng = random.Random(seed)
    manifest = manifest_of(rng, [f"{rng.getrandbits(32):08x}" for _ in range(30)])
    items = items_from_manifest(manifest, frozenset(), LIMITS).items
    links = link([item_from_row(row) for row in items.iter_rows(named=True)])
    expected = {frozenset(image_id for unit in component for image_id in links.units[unit]) for component in links.components}
    rows: dict[int, set[str]] = {}
    for root, image_id in zip(components(items).tolist(), items["image_id"], strict=True):
        rows.setdefault(root, set()).add(image_id)
    assert {frozenset(members) for members in rows.values()} == expected
