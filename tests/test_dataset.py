"""The split: sticky sides, whole groups, balance and the leak gate, by properties and hand-made cases."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.errors import LeakError
from pipelines.core.types import Annotation, Box, Split
from pipelines.dataset.assignments import Assignment
from pipelines.dataset.balance import Load, deal
from pipelines.dataset.items import COPIES
from pipelines.dataset.leaks import require_no_leak
from pipelines.dataset.links import Item, link
from pipelines.dataset.split import SplitPlan, plan_split

CLASSES = ("bolt", "nut")
FRACTIONS: dict[Split, float] = {"train": 0.65, "val": 0.15, "test": 0.2}
EMPTY = Load(0, 0, {}, {}, {})


def item(
    name: str, group: str | None = None, near: str | None = None, given_split: Split | None = None, source: str = "cam", light: str = "normal"
) -> Item:
    return Item(name, f"{source}/{name}.jpg", source, group, near, given_split, light)


def label(name: str, *classes: str) -> Annotation:
    boxes = tuple(Box(class_name, (0.0, 0.0, 9.0, 9.0)) for class_name in classes)
    return Annotation(name, "labeled" if boxes else "verified_empty", 100, 80, boxes, "team")


def plan(
    items: Sequence[Item],
    labels: Mapping[str, Annotation] | None = None,
    history: Mapping[str, Split] | None = None,
    use_given: bool = True,
    seed: int = 0,
) -> SplitPlan:
    known = {name: Assignment(name, side, name) for name, side in (history or {}).items()}
    labels = {entry.image_id: label(entry.image_id, "bolt") for entry in items} if labels is None else labels
    return plan_split(items, labels, known, CLASSES, FRACTIONS, use_given=use_given, seed=seed)


# --- a world of images that arrive in any order


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Item], list[tuple[str, str]], set[str]]:
    """Images with groups, near-duplicate links between any of them, and which are labeled."""
    count = draw(st.integers(1, 24))
    names = [f"{number:02x}" for number in draw(st.permutations(range(count)))]
    groups = [draw(st.one_of(st.none(), st.integers(0, 5))) for _ in names]
    sources = [draw(st.sampled_from(["a", "b"])) for _ in names]
    links = draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(names)), max_size=8))
    labeled = {name for name in names if draw(st.booleans()) or draw(st.booleans())}
    items = [item(name, None if group is None else f"g{group}", source=source) for name, group, source in zip(names, groups, sources, strict=True)]
    return items, links, labeled


def with_near_groups(items: Sequence[Item], links: Sequence[tuple[str, str]]) -> list[Item]:
    """As collect does it: the smallest image_id of the connected component, null for single images."""
    present = {entry.image_id for entry in items}
    cluster = {name: {name} for name in present}
    for a, b in links:
        if a in present and b in present and cluster[a] is not cluster[b]:
            merged = cluster[a] | cluster[b]
            for name in merged:
                cluster[name] = merged
    return [replace(entry, near_group=min(cluster[entry.image_id]) if len(cluster[entry.image_id]) > 1 else None) for entry in items]


@settings(max_examples=120, deadline=None)
@given(world=worlds(), data=st.data())
def test_adding_data_in_any_order_never_moves_an_image(world: tuple[list[Item], list[tuple[str, str]], set[str]], data: st.DataObject) -> None:
    items, links, labeled = world
    order = data.draw(st.permutations(items))
    cuts = sorted([*data.draw(st.lists(st.integers(0, len(items)), max_size=3)), len(items)])
    history: Mapping[str, Assignment] = {}
    for cut in cuts:
        present = with_near_groups(order[:cut], links)
        labels = {entry.image_id: label(entry.image_id, "bolt") for entry in present if entry.image_id in labeled}
        found = plan_split(present, labels, history, CLASSES, FRACTIONS, use_given=True, seed=0)
        assert all(found.assignments[name] == entry for name, entry in history.items()), "a line changed"
        assert {*found.side_of, *(tie.dropped for tie in found.cross)} == set(labels), "a labeled image got lost"
        assert all(found.assignments[name].split == side for name, side in found.side_of.items())
        sides: dict[tuple[str, str], set[Split]] = defaultdict(set)
        for entry in present:
            if entry.group is not None and entry.image_id in found.assignments:
                sides[entry.source, entry.group].add(found.assignments[entry.image_id].split)
        assert all(len(found_sides) == 1 for found_sides in sides.values()), "a group was cut"
        by_id = {entry.image_id: entry for entry in present}
        require_no_leak(of_sides({side: [by_id[name] for name, at in found.side_of.items() if at == side] for side in FRACTIONS}))
        again = plan_split(present, labels, found.assignments, CLASSES, FRACTIONS, use_given=True, seed=0)
        assert (again.side_of, again.cross, again.assignments, again.added) == (found.side_of, found.cross, found.assignments, 0)
        side_of_component: dict[str, Split] = {}
        for assigned in found.assignments.values():
            assert side_of_component.setdefault(assigned.component, assigned.split) == assigned.split, "one component name on two sides"
        history = found.assignments


@pytest.mark.parametrize("seed", range(3))
def test_twenty_additions_in_random_order_move_nobody(seed: int) -> None:
    """600 images in bursts, chained by near-duplicates that appear between any of them, arrive in 20 parts; a third of them is labeled later."""
    rng = random.Random(seed)
    items = [item(f"{rng.getrandbits(64):016x}", f"burst{rng.randrange(200)}", source=rng.choice("abc")) for _ in range(600)]
    links = [(rng.choice(items).image_id, rng.choice(items).image_id) for _ in range(60)]
    rng.shuffle(items)
    later = set(rng.sample([entry.image_id for entry in items], 200))
    history: Mapping[str, Assignment] = {}
    for part in range(1, 21):
        present = with_near_groups(items[: 30 * part], links)
        labels = {entry.image_id: label(entry.image_id, rng.choice(CLASSES)) for entry in present if part == 20 or entry.image_id not in later}
        found = plan_split(present, labels, history, CLASSES, FRACTIONS, use_given=True, seed=seed)
        assert all(found.assignments[name] == entry for name, entry in history.items())
        by_id = {entry.image_id: entry for entry in present}
        require_no_leak(of_sides({side: [by_id[name] for name, at in found.side_of.items() if at == side] for side in FRACTIONS}))
        history = found.assignments
    assert len(history) == 600


@settings(max_examples=60, deadline=None)
@given(world=worlds(), seed=st.integers(0, 3), shuffle=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(world: tuple[list[Item], list[tuple[str, str]], set[str]], seed: int, shuffle: random.Random) -> None:
    items, links, labeled = world
    items = with_near_groups(items, links)
    labels = {name: label(name, "nut") for name in sorted(labeled)}
    mixed = list(items)
    shuffle.shuffle(mixed)
    mixed_labels = dict(shuffle.sample(sorted(labels.items()), len(labels)))
    one, two = plan(items, labels, seed=seed), plan(mixed, mixed_labels, seed=seed)
    assert (one.side_of, one.cross, one.assignments) == (two.side_of, two.cross, two.assignments)


# --- balance


def share(counts: Mapping[Split, float]) -> dict[Split, float]:
    total = sum(counts.values())
    return {side: counts[side] / total for side in FRACTIONS}


@pytest.mark.parametrize("seed", range(3))
def test_images_boxes_sources_and_brightness_come_near_the_fractions(seed: int) -> None:
    rng = random.Random(seed)
    items: list[Item] = []
    labels: dict[str, Annotation] = {}
    for burst in range(90):
        source = rng.choice(["a", "b", "c"])
        light = rng.choice(["dark", "normal", "normal", "normal", "bright"])
        for _ in range(rng.randint(1, 6)):
            name = f"{rng.getrandbits(64):016x}"
            items.append(item(name, f"burst{burst}", source=source, light=light))
            labels[name] = label(name, *["nut"] * rng.randint(0, 5), *["bolt"] * (rng.random() < 0.15))
    side_of = plan(items, labels).side_of
    images = share(Counter(side_of.values()))
    assert all(abs(images[side] - FRACTIONS[side]) < 0.02 for side in FRACTIONS), images
    for class_name in CLASSES:
        boxes = share(
            {side: sum(box.class_name == class_name for i, at in side_of.items() if at == side for box in labels[i].boxes) for side in FRACTIONS}
        )
        assert all(abs(boxes[side] - FRACTIONS[side]) < 0.05 for side in FRACTIONS), (class_name, boxes)
    for source in "abc":
        part = share({side: sum(entry.source == source and side_of[entry.image_id] == side for entry in items) for side in FRACTIONS})
        assert all(abs(part[side] - FRACTIONS[side]) < 0.08 for side in FRACTIONS), (source, part)
    for light in ("dark", "normal", "bright"):
        part = share({side: sum(entry.light == light and side_of[entry.image_id] == side for entry in items) for side in FRACTIONS})
        assert all(abs(part[side] - FRACTIONS[side]) < 0.06 for side in FRACTIONS), (light, part)


@pytest.mark.parametrize(
    ("components", "expected"),
    [(0, {}), (1, {"train": 1}), (2, {"train": 1, "test": 1}), (3, {"train": 1, "val": 1, "test": 1})],
    ids=["none", "one", "two", "three"],
)
def test_the_first_components_with_a_class_go_where_they_are_needed_most(components: int, expected: dict[str, int]) -> None:
    new = {f"c{number}": Load(1, 0, {"bolt": 1}, {"cam": 1}, {}) for number in range(components)}
    dealt = deal(new, dict.fromkeys(FRACTIONS, EMPTY), CLASSES, FRACTIONS, 0)
    assert Counter(dealt.values()) == expected


@settings(max_examples=60, deadline=None)
@given(rare=st.integers(3, 6), common=st.integers(0, 40), seed=st.integers(0, 5))
def test_every_side_gets_a_rare_class_when_it_can(rare: int, common: int, seed: int) -> None:
    new = {f"r{number}": Load(2, 0, {"bolt": 1, "nut": 3}, {"cam": 2}, {}) for number in range(rare)}
    new |= {f"c{number}": Load(1, 0, {"nut": 2}, {"cam": 1}, {}) for number in range(common)}
    dealt = deal(new, dict.fromkeys(FRACTIONS, EMPTY), CLASSES, FRACTIONS, seed)
    assert {dealt[name] for name in new if name.startswith("r")} == set(FRACTIONS)


def test_what_a_side_has_already_counts() -> None:
    full = {"train": Load(10, 0, {"bolt": 10}, {"cam": 10}, {}), "val": EMPTY, "test": Load(3, 0, {"bolt": 3}, {"cam": 3}, {})}
    dealt = deal({"x": Load(2, 0, {"bolt": 2}, {"cam": 2}, {})}, full, CLASSES, FRACTIONS, 0)
    assert dealt == {"x": "val"}


def test_another_seed_deals_another_way() -> None:
    items = [item(f"{number:02d}") for number in range(40)]
    splits = [plan(items, seed=seed).side_of for seed in range(3)]
    assert splits[0] != splits[1] != splits[2]


# --- given splits, history and ties


def test_given_splits_win_and_the_rest_is_dealt() -> None:
    items = [item("a", given_split="test"), item("b", given_split="train"), item("c", given_split="val"), item("d")]
    assert {name: side for name, side in plan(items).side_of.items() if name != "d"} == {"a": "test", "b": "train", "c": "val"}
    assert "d" in plan(items).side_of
    assert len(set(plan(items, use_given=False).side_of.values())) == 3


def test_the_lower_side_of_a_near_pair_across_given_splits_leaves() -> None:
    items = [
        item("a", near="a", given_split="val"),
        item("b", near="a", given_split="train"),
        item("c", given_split="train"),
        item("d", given_split="test"),
    ]
    found = plan(items)
    assert found.side_of == {"a": "val", "c": "train", "d": "test"}
    assert [(tie.kept, tie.kept_split, tie.dropped, tie.dropped_split) for tie in found.cross] == [("a", "val", "b", "train")]
    assert found.assignments["b"].split == "train"


def test_history_beats_a_given_split_and_says_so() -> None:
    found = plan([item("a", given_split="test"), item("b", given_split="train")], history={"a": "train"})
    assert found.side_of["a"] == "train"
    assert found.overruled == ("cam/a.jpg",)


def test_new_images_follow_their_group_and_their_near_duplicates() -> None:
    items = [
        item("a", "g"),
        item("b", "g"),
        item("c", near="a"),
        replace(item("d"), near_group="a"),
        item("e", "h"),
        item("f", "h", near="x"),
        item("x", near="x"),
    ]
    items[0] = replace(items[0], near_group="a")
    found = plan(items, history={"a": "test", "e": "val"})
    assert [found.side_of[name] for name in "abcdefx"] == ["test", "test", "test", "test", "val", "val", "val"]


def test_an_unlabeled_image_ties_others_together() -> None:
    items = [item("a", "g"), item("u", "g", near="u"), item("z", near="u")]
    found = plan(items, labels={"a": label("a", "bolt"), "z": label("z", "nut")}, history={"a": "val"})
    assert found.side_of == {"a": "val", "z": "val"}
    assert "u" not in found.assignments


def test_a_new_image_that_bridges_two_sides_moves_nobody() -> None:
    items = [item("a", near="a"), item("b", near="a"), item("new", near="a"), item("c")]
    found = plan(items, history={"a": "train", "b": "test", "c": "train"})
    assert found.side_of == {"b": "test", "new": "test", "c": "train"}
    assert [tie.dropped for tie in found.cross] == ["a"]
    assert found.assignments["a"].split == "train"


def test_a_copy_in_another_group_ties_that_group() -> None:
    copied = replace(item("a", "g"), copies=(("cam", "h"),))
    found = plan([copied, item("b", "g"), item("c", "h")], history={"c": "test"})
    assert found.side_of == {"a": "test", "b": "test", "c": "test"}
    apart = plan([copied, item("b", "g"), item("c", "h")], history={"b": "train", "c": "test"})
    assert apart.side_of == {"b": "train", "c": "test"}


@pytest.mark.parametrize("how", ["given", "history"])
def test_a_group_on_two_sides_is_refused_by_name(how: str) -> None:
    sides: dict[str, Split] = {"a": "train", "b": "test"}
    items = [item(name, "g", given_split=side if how == "given" else None) for name, side in sides.items()]
    with pytest.raises(LeakError, match=r"group cam/g: cam/a.jpg is \w+ to train, cam/b.jpg to test") as caught:
        plan(items, history=sides if how == "history" else None)
    assert ("remove the lines of a from the assignments file" in str(caught.value)) == (how == "history")
    if how == "history":  # what the message says works
        assert plan(items, history={"b": "test"}).side_of == {"a": "test", "b": "test"}


def test_the_same_group_name_in_two_sources_is_two_groups() -> None:
    items = [item("a", "g", source="cam1", given_split="train"), item("b", "g", source="cam2", given_split="test")]
    assert plan(items).side_of == {"a": "train", "b": "test"}
    assert len(link(items).components) == 2


# --- the gate


LEAKS: dict[str, tuple[list[Item], list[Item], str]] = {
    "same_image": ([item("a")], [item("a")], "the same image"),
    "near_pair": ([item("a", near="a")], [item("b", near="a")], "near-duplicates"),
    "group": ([item("a", "g")], [item("b", "g")], "one group"),
    "copied_into_a_group": ([replace(item("a"), copies=(("cam", "g"),))], [item("b", "g")], "one group"),
}


def of_sides(sides: dict[Split, list[Item]]) -> pl.DataFrame:
    """What the gate sees of the items on each side."""
    rows = [
        {
            "split": side,
            "own_group": entry.group,
            "copies": [{"source": source, "group": group} for source, group in entry.copies],
            **{name: getattr(entry, name) for name in ("image_id", "origin", "source", "near_group")},
        }
        for side, items in sides.items()
        for entry in items
    ]
    texts = ("split", "own_group", "image_id", "origin", "source", "near_group")
    return pl.DataFrame(rows, schema={**dict.fromkeys(texts, pl.String), "copies": COPIES})


@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("sides", [("train", "test"), ("val", "train"), ("test", "val")], ids=str)
def test_a_planted_leak_is_found(name: str, sides: tuple[Split, Split]) -> None:
    one, other, kind = LEAKS[name]
    clean: dict[Split, list[Item]] = {side: [item(f"{side}{number}", f"{side}g") for number in range(4)] for side in FRACTIONS}
    require_no_leak(of_sides(clean))
    clean[sides[0]] = clean[sides[0]] + one
    clean[sides[1]] = clean[sides[1]] + other
    with pytest.raises(LeakError, match=kind) as caught:
        require_no_leak(of_sides(clean))
    assert all(f"{entry.origin} ({side})" in str(caught.value) for entry, side in zip([*one, *other], sides, strict=True))


def test_the_gate_passes_pairs_on_one_side_and_an_empty_split() -> None:
    require_no_leak(of_sides({"train": [item("a", "g", near="a"), item("b", "g", near="a")], "val": [], "test": []}))
