"""Which side of the split every image stands on: history first, then an imported dataset's own lists, then balance. An image never changes its side.

1. A unit with images in the assignments file takes their side.
2. Else a unit whose images carry a given split takes that.
3. Else a unit tied to one with a side takes the highest of such sides (test before val before train), and so on from tie to tie.
4. What is left is new: whole components are dealt out by `pipelines.dataset.balance`.
Afterwards, where a tie reaches over two sides, the images on the lower side leave the dataset. They keep their line in the assignments file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.core.errors import LeakError, counted, listed
from pipelines.core.types import Split
from pipelines.dataset.links import Item, Links, highest


@dataclass(frozen=True)
class Resolved:
    """Sides of units that follow from what is known; `overruled` are origins whose given split lost against an earlier assignment."""

    unit_side: Mapping[str, Split]
    overruled: tuple[str, ...]


@dataclass(frozen=True)
class CrossTie:
    """An image that leaves the dataset because its near-duplicate, or a copy's group, stands on a higher side."""

    kept: str  # image_id
    dropped: str
    kept_split: Split
    dropped_split: Split


def resolve_sides(items: Sequence[Item], links: Links, history: Mapping[str, Split], use_given: bool) -> Resolved:
    """Sides by rules 1 to 3.

    Raises:
        LeakError: a unit has images on two sides; the message names pairs by origin.
    """
    by_id = {item.image_id: item for item in items}
    sides: dict[str, Split] = {}
    overruled: list[str] = []
    problems: list[str] = []
    low: list[str] = []  # image_ids that were assigned to another side than the highest of their unit
    for unit, members in links.units.items():
        past = {image_id: history[image_id] for image_id in members if image_id in history}
        given = {image_id: side for image_id in members if use_given and (side := by_id[image_id].given_split) is not None}
        known = past or given
        if len(set(known.values())) > 1:
            problems.append(_pair(unit, known, by_id, "assigned" if past else "given"))
            if past:
                top = highest(past.values())
                low += [image_id[:12] for image_id, side in sorted(past.items()) if side != top]
        elif known:
            sides[unit] = next(iter(known.values()))
            overruled += [by_id[image_id].origin for image_id, side in given.items() if side != sides[unit]]
    if problems:
        follow = f", or remove the lines of {listed(low)} from the assignments file: they then follow their group to its highest side" if low else ""
        way_out = f"correct the group or split column of the inbox's log{follow}"
        raise LeakError(f"{counted(len(problems), 'group')} on two sides of the split: {listed(problems)}; {way_out}")
    return Resolved({**sides, **_followed(links, sides)}, tuple(sorted(overruled)))


def cross_ties(links: Links, side_of: Mapping[str, Split]) -> list[CrossTie]:
    """Images that must leave, one entry each, sorted by dropped image_id. `side_of` holds the images that are in train, val or test."""
    found: dict[str, CrossTie] = {}
    for members in links.ties:
        sides = {image_id: side_of[image_id] for image_id in members if image_id in side_of}
        if len(set(sides.values())) < 2:
            continue
        top = highest(sides.values())
        kept = min(image_id for image_id, side in sides.items() if side == top)
        for image_id, side in sides.items():
            if side != top:
                found.setdefault(image_id, CrossTie(kept, image_id, top, side))
    return [found[image_id] for image_id in sorted(found)]


def _followed(links: Links, known: Mapping[str, Split]) -> dict[str, Split]:
    """Sides of units that ties join to `known` ones, wave by wave, so that the nearest known unit decides."""
    unit_of = {image_id: unit for unit, members in links.units.items() for image_id in members}
    tied_units = [sorted({unit_of[image_id] for image_id in members}) for members in links.ties]
    tied_units = [units for units in tied_units if len(units) > 1]
    sides = dict(known)
    while True:
        reached: dict[str, list[Split]] = defaultdict(list)
        for units in tied_units:
            present = [sides[unit] for unit in units if unit in sides]
            if present:
                for unit in units:
                    if unit not in sides:
                        reached[unit].append(highest(present))
        if not reached:
            return {unit: side for unit, side in sides.items() if unit not in known}
        sides.update({unit: highest(found) for unit, found in reached.items()})


def _pair(unit: str, sides: Mapping[str, Split], by_id: Mapping[str, Item], verb: str) -> str:
    first = min(sides)
    other = min(image_id for image_id, side in sides.items() if side != sides[first])
    return f"group {unit}: {by_id[first].origin} is {verb} to {sides[first]}, {by_id[other].origin} to {sides[other]}"
