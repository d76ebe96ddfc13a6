"""What holds images together across the split: groups that must not be cut, and looser ties whose two ends must not meet on different sides.

A unit is what stays whole: the images of one group (a burst, clip, patient), or one image without a group. A tie joins images that show the same
scene without belonging to one group: near-duplicates, and an image whose exact copy was found in another group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.core.types import Split

SIDE_ORDER: tuple[Split, ...] = ("train", "val", "test")  # the higher side keeps its images: test is frozen


@dataclass(frozen=True)
class Item:
    """A kept image as the split sees it."""

    image_id: str
    origin: str
    source: str
    group: str | None  # as the log gives it; means something only together with its source
    near_group: str | None
    given_split: Split | None
    light: str = "normal"  # dark, normal or bright
    copies: tuple[tuple[str, str], ...] = ()  # (source, group) of files with the same bytes that were found elsewhere

    @property
    def scoped_group(self) -> str:
        """The group's name over all sources; the image_id where there is no group."""
        return scoped(self.source, self.group) if self.group is not None else self.image_id


@dataclass(frozen=True)
class Links:
    """`units`: name to image_ids that stay together. `ties`: image_ids that must not stand on two sides. `components`: units joined by ties."""

    units: Mapping[str, tuple[str, ...]]
    ties: tuple[tuple[str, ...], ...]
    components: tuple[tuple[str, ...], ...]


def scoped(source: str, group: str) -> str:
    """A group's name over all sources."""
    return f"{source}/{group}"


def link(items: Sequence[Item]) -> Links:
    """Units, ties and connected components of `items`; everything sorted, so that the order of `items` does not matter."""
    units = _collected((item.scoped_group, item.image_id) for item in items)
    near = _collected((item.near_group, item.image_id) for item in items if item.near_group is not None)
    copied = _collected((scoped(*copy), item.image_id) for item in items for copy in item.copies)
    with_copies = [{*members, *units.get(group, ())} for group, members in copied.items()]
    ties = [members for members in sorted({tuple(sorted(members)) for members in [*near.values(), *with_copies]}) if len(members) > 1]
    unit_of = {image_id: unit for unit, members in units.items() for image_id in members}
    return Links(units, tuple(ties), _components(sorted(units), [[unit_of[image_id] for image_id in members] for members in ties]))


def highest(sides: Iterable[Split]) -> Split:
    """The side that wins: test before val before train."""
    return max(sides, key=SIDE_ORDER.index)


def _collected(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = defaultdict(list)
    for key, value in pairs:
        found[key].append(value)
    return {key: tuple(sorted(found[key])) for key in sorted(found)}


def _components(nodes: Sequence[str], sets: Iterable[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    parent = {node: node for node in nodes}

    def root(node: str) -> str:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for first, *rest in sets:
        for other in rest:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    found: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        found[root(node)].append(node)
    return tuple(tuple(found[name]) for name in sorted(found))
