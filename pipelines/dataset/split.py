"""The whole split: who is in train, val and test, who leaves because of a tie, and the lines that the assignments file gains."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.core.types import LABELED_SPLITS, Annotation, Split
from pipelines.dataset.assignments import Assignment
from pipelines.dataset.balance import Load, deal
from pipelines.dataset.links import Item, Links, link
from pipelines.dataset.sides import CrossTie, cross_ties, resolve_sides


@dataclass(frozen=True)
class SplitPlan:
    """`side_of` holds the images that are in the dataset; `assignments` all lines, old and new."""

    side_of: Mapping[str, Split]
    cross: tuple[CrossTie, ...]
    assignments: Mapping[str, Assignment]
    added: int
    overruled: tuple[str, ...]


def plan_split(
    items: Sequence[Item],
    labels: Mapping[str, Annotation],
    history: Mapping[str, Assignment],
    classes: Sequence[str],
    fractions: Mapping[Split, float],
    *,
    use_given: bool,
    seed: int,
    settled: Mapping[Split, Load] | None = None,
) -> SplitPlan:
    """Give every image of `labels` a side. `items` are kept images: unlabeled ones tie others together, but get no side themselves.

    `settled` is what the sides hold besides, in components that share nothing with `items`.

    Raises:
        LeakError: a group has images on two sides already.
    """
    links = link(items)
    resolved = resolve_sides(items, links, {image_id: entry.split for image_id, entry in history.items()}, use_given)
    unit_side = dict(resolved.unit_side)
    new = {
        component[0]: component
        for component in links.components
        if component[0] not in unit_side and any(image_id in labels for unit in component for image_id in links.units[unit])
    }
    by_id = {item.image_id: item for item in items}
    members = {name: [image_id for unit in component for image_id in links.units[unit]] for name, component in new.items()}
    ids_of_side = {side: [i for unit, at in unit_side.items() if at == side for i in links.units[unit]] for side in LABELED_SPLITS}
    dealt = deal(
        {name: _load(ids, labels, by_id) for name, ids in members.items()},
        {
            side: _together([_load(ids, labels, by_id), *(load for at, load in (settled or {}).items() if at == side)])
            for side, ids in ids_of_side.items()
        },
        classes,
        fractions,
        seed,
    )
    unit_side |= {unit: dealt[name] for name, component in new.items() for unit in component}
    side_of = {image_id: side for unit, side in unit_side.items() for image_id in links.units[unit] if image_id in labels}
    cross = cross_ties(links, side_of)
    assignments = _with_new_lines(history, links, side_of)
    left = {tie.dropped for tie in cross}
    return SplitPlan(
        {image_id: side for image_id, side in side_of.items() if image_id not in left},
        tuple(cross),
        assignments,
        len(assignments) - len(history),
        resolved.overruled,
    )


def _with_new_lines(history: Mapping[str, Assignment], links: Links, side_of: Mapping[str, Split]) -> dict[str, Assignment]:
    """A component is named by the earliest name of its images on that side; one that holds images of two sides goes on under two names."""
    result = dict(history)
    for component in links.components:
        ids = [image_id for unit in component for image_id in links.units[unit]]
        old: dict[Split, list[str]] = defaultdict(list)
        new: dict[Split, list[str]] = defaultdict(list)
        for image_id in ids:
            if image_id in history:
                old[history[image_id].split].append(history[image_id].component)
            elif image_id in side_of:
                new[side_of[image_id]].append(image_id)
        for side, members in new.items():
            name = min(old[side] or members)
            result |= {image_id: Assignment(image_id, side, name) for image_id in members}
    return result


def _load(ids: Sequence[str], labels: Mapping[str, Annotation], by_id: Mapping[str, Item]) -> Load:
    found = [labels[image_id] for image_id in ids if image_id in labels]
    return Load(
        images=len(found),
        empty=sum(item.state == "verified_empty" for item in found),
        boxes=Counter(box.class_name for item in found for box in item.boxes),
        sources=Counter(by_id[item.image_id].source for item in found),
        lights=Counter(by_id[item.image_id].light for item in found),
    )


def _together(loads: Sequence[Load]) -> Load:
    return Load(
        images=sum(load.images for load in loads),
        empty=sum(load.empty for load in loads),
        boxes=_sum(load.boxes for load in loads),
        sources=_sum(load.sources for load in loads),
        lights=_sum(load.lights for load in loads),
    )


def _sum(parts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return total
