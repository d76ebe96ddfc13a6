"""The leak gate: does the same scene stand on two sides of the finished split? Shares no code with what made the split.

Two looks. At what the log and collect say: images, near-duplicate groups, groups, imported lists. And at the pictures themselves, whatever was said:
every image of train, val and test against those of the other sides (`pipelines.dataset.alike`). A pair that has passed once, by the same rules and on
the same sides, is not looked at again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations, islice

import numpy as np

from pipelines.core.errors import LeakError, counted, listed
from pipelines.core.types import Split
from pipelines.dataset.alike import MIN_ALIGNED_IN_BURST, AlikePair, aligned, alike_pairs, coarse_cells
from pipelines.dataset.links import Item
from pipelines.dataset.looks import THUMBNAIL_PX, Thumbnail

BURST_S = 2.0  # frames of one source taken within this time are held to a lower bar
MAX_BURST = 60  # a time that more images of one source share is no time of a picture, but of a copy or an upload
MAX_FOUND = 1000  # more leaks than this are not counted: the split as a whole is wrong
WAY_OUT = "give the images of one scene one group in the inbox's log, or name the one to give up in params.yaml, dataset.leave_out"


@dataclass(frozen=True)
class Member:
    """An image as the gate sees it. `passed` is the side on which it passed last; `given` tells that an imported list put it on its side."""

    image_id: str
    origin: str
    side: str
    source: str
    captured_at: str | None
    given: bool
    passed: str | None


@dataclass(frozen=True)
class Lookalikes:
    """Two members on different sides that show one scene; `score` as in `AlikePair`."""

    a: Member
    b: Member
    score: float


def require_no_leak(splits: Mapping[Split, Iterable[Item]]) -> None:
    """Hold train, val and test against each other by what is known of their images.

    Raises:
        LeakError: an image, a near-duplicate group or a group on two sides; the message names a pair for each.
    """
    seen: dict[tuple[str, ...], dict[Split, str]] = defaultdict(dict)
    for split, items in splits.items():
        for item in items:
            keys: list[tuple[str, ...]] = [("the same image", item.image_id)]
            if item.near_group is not None:
                keys.append(("near-duplicates", item.near_group))
            if item.group is not None:
                keys.append(("one group", item.source, item.group))
            keys += [("one group", *copy) for copy in item.copies]
            for key in keys:
                seen[key].setdefault(split, item.origin)
    pairs = [
        f"{' and '.join(f'{origin} ({split})' for split, origin in sorted(places.items()))}: {key[0]}"
        for key, places in sorted(seen.items())
        if len(places) > 1
    ]
    if pairs:
        raise LeakError(
            f"{counted(len(pairs), 'leak')} between the sides of the split: {listed(pairs)}; correct the log or the assignments file and run again"
        )


def given_twice_error(files: Sequence[Sequence[tuple[str, str]]]) -> LeakError:
    """The error for images whose exact copies imported lists put on two sides, (origin, side) of each."""
    named = [" and ".join(f"{origin} ({side})" for origin, side in copies) + ": the same image" for copies in files]
    return LeakError(
        f"{counted(len(named), 'leak')} in the given split: {listed(named)}; correct its lists, or name the file to give up in dataset.leave_out"
    )


def find_lookalikes(members: Sequence[Member], looks: Mapping[str, bytes]) -> list[Lookalikes]:
    """Members on different sides that show one scene, at most MAX_FOUND, in order of side and position. `looks` has their thumbnails by image_id."""
    if not members:
        return []
    content = b"".join(looks[member.image_id] for member in members)
    thumbnails = np.frombuffer(content, dtype=np.uint8).reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX)
    found: dict[tuple[int, int], AlikePair] = {}
    for pair in islice(_pairs(members, thumbnails), MAX_FOUND):
        found.setdefault((pair.a, pair.b), pair)
    return [Lookalikes(members[pair.a], members[pair.b], pair.score) for pair in found.values()]


def require_no_lookalikes(pairs: Sequence[Lookalikes]) -> None:
    """Stop when there are any.

    Raises:
        LeakError: naming them.
    """
    if pairs:
        named = [f"{pair.a.origin} ({pair.a.side}) and {pair.b.origin} ({pair.b.side}): alike ({pair.score:.2f})" for pair in pairs]
        count = counted(len(pairs), "leak") if len(pairs) < MAX_FOUND else f"at least {len(pairs)} leaks"
        raise LeakError(f"{count} between the sides of the split: {listed(named)}; {WAY_OUT}")


def _pairs(members: Sequence[Member], thumbnails: Thumbnail) -> Iterator[AlikePair]:
    fresh: dict[str, list[int]] = defaultdict(list)
    old: dict[str, list[int]] = defaultdict(list)
    for index, member in enumerate(members):
        (old if member.passed == member.side else fresh)[member.side].append(index)
    coarse = coarse_cells(thumbnails)
    for one, other in combinations(sorted({member.side for member in members}), 2):
        yield from alike_pairs(thumbnails, coarse, fresh[one], sorted(fresh[other] + old[other]))
        yield from alike_pairs(thumbnails, coarse, old[one], fresh[other])
    for a, b in _moments_apart(members):
        if members[a].passed != members[a].side or members[b].passed != members[b].side:
            score = aligned(thumbnails[a], thumbnails[b], shifted=True)
            if score >= MIN_ALIGNED_IN_BURST:
                yield AlikePair(a, b, score)


def _moments_apart(members: Sequence[Member]) -> Iterator[tuple[int, int]]:
    """Positions of members of one source on different sides, taken within BURST_S."""
    times: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for index, member in enumerate(members):
        when = _time(member.captured_at)
        if when is not None:
            times[member.source].append((when, index))
    for source in sorted(times):
        ordered = sorted(times[source])
        for position, (when, a) in enumerate(ordered):
            near = [(later, b) for later, b in ordered[position + 1 : position + 2 + MAX_BURST] if (later - when).total_seconds() <= BURST_S]
            if len(near) <= MAX_BURST:
                yield from ((min(a, b), max(a, b)) for _, b in near if members[a].side != members[b].side)


def _time(text: str | None) -> datetime | None:
    """None also for a bare day and for what is no date: collect takes the log's word."""
    try:
        when = datetime.fromisoformat(text) if text and len(text) > len("2026-01-01") else None
    except ValueError:
        return None
    return when if when is None or when.tzinfo else when.replace(tzinfo=UTC)
