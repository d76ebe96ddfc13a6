"""What to label next: doubt, novelty, quotas and budget, by hand and as properties."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.mining.selection import PoolImage, class_rarity, pool_image, select_images
from tests.detection_sets import found

CLASSES = ("a", "b", "rare")
NO_QUOTA = {"class_quota": 0.0, "slice_limit": 1.0}


def image(name: str, doubt: float, classes: str = "a", slice_name: str = "cam1") -> PoolImage:
    return PoolImage(name, doubt, frozenset(classes.split()), slice_name)


def directions(*degrees: float) -> np.ndarray:
    return np.array([(math.cos(math.radians(value)), math.sin(math.radians(value))) for value in degrees]).reshape(-1, 2)


NOTHING = np.zeros((0, 2))


def test_without_features_the_most_doubtful_come_first() -> None:
    images = [image("x", 0.2), image("y", 0.9), image("z", 0.5), image("w", 0.5)]
    assert select_images(images, np.zeros((4, 0)), np.zeros((0, 0)), 3, CLASSES, **NO_QUOTA) == [1, 3, 2]  # equal doubt: by id


def test_twins_are_not_both_taken() -> None:
    """y and z are the same picture; x is another, less doubtful one."""
    images = [image("x", 0.5), image("y", 0.9), image("z", 0.9)]
    assert select_images(images, directions(90, 0, 0), NOTHING, 2, CLASSES, **NO_QUOTA) == [1, 0]


def test_what_is_labeled_is_not_new() -> None:
    images = [image("x", 0.9), image("y", 0.5)]
    assert select_images(images, directions(1, 60), directions(0), 1, CLASSES, **NO_QUOTA) == [1]


def test_class_quota_brings_in_the_rare_class() -> None:
    images = [*(image(f"{number}", 0.9) for number in range(8)), image("r1", 0.1, "rare"), image("r2", 0.2, "a rare"), image("r3", 0.05, "rare")]
    features = directions(*range(0, 110, 10))
    taken = select_images(images, features, NOTHING, 5, CLASSES, class_quota=0.4, slice_limit=1.0)
    assert sum("rare" in images[place].classes for place in taken) == 2
    assert len(taken) == 5


def test_slice_limit_holds_while_others_are_there() -> None:
    images = [
        *(image(f"{number}", 0.9, slice_name="cam1") for number in range(6)),
        image("p", 0.1, slice_name="cam2"),
        image("q", 0.1, slice_name="cam3"),
    ]
    limited = select_images(images, np.zeros((8, 0)), np.zeros((0, 0)), 4, CLASSES, class_quota=0.0, slice_limit=0.5)
    assert Counter(images[place].slice for place in limited) == {"cam1": 2, "cam2": 1, "cam3": 1}
    assert len(select_images(images, np.zeros((8, 0)), np.zeros((0, 0)), 7, CLASSES, class_quota=0.0, slice_limit=0.5)) == 7


@given(seed=st.integers(0, 10_000), count=st.integers(0, 25), budget=st.integers(1, 30))
def test_budget_uniqueness_and_order_of_the_pool(seed: int, count: int, budget: int) -> None:
    rng = np.random.default_rng(seed)
    names = [" ".join(name for name in CLASSES if rng.random() < 0.5) or "a" for _ in range(count)]
    images = [image(f"{number:02d}", float(rng.random()), names[number], f"cam{rng.integers(3)}") for number in range(count)]
    features = rng.normal(size=(count, 4))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    taken = select_images(images, features, features[:3], budget, CLASSES, 0.2, 0.5)
    assert len(taken) == len(set(taken)) == min(budget, count)
    order = rng.permutation(count)
    shuffled = select_images([images[place] for place in order], features[order], features[:3], budget, CLASSES, 0.2, 0.5)
    assert [int(order[place]) for place in shuffled] == taken


def test_doubt_of_an_image_by_hand() -> None:
    """Threshold 0.5: scores 0.5 and 0.625 are 1 and 1/2 close; 0.3 is nearly seen, 1/5 close; 0.1 is not seen. b is half as rare."""
    box = (0, 0, 10, 10)
    item = pool_image(
        "x", "cam1", found((box, 0.625, 0), (box, 0.5, 1), (box, 0.3, 0), (box, 0.1, 2)), np.full(3, 0.5), np.array([1, 0.5, 1.0]), CLASSES
    )
    assert item.doubt == pytest.approx((0.5 + 0.5 + 0.2) / 3)
    assert item.classes == {"a", "b"}
    assert pool_image("x", "cam1", found(), np.full(3, 0.5), np.ones(3), CLASSES).doubt == 0


def test_class_rarity_by_hand() -> None:
    assert class_rarity({"a": 400, "b": 4}, CLASSES).tolist() == [0.05, 0.5, 1.0]
