"""The leak gate: does the same scene stand on two sides of the finished split? Shares no code with what made the split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from pipelines.core.errors import LeakError, listed
from pipelines.core.types import Split
from pipelines.dataset.links import Item


def require_no_leak(splits: Mapping[Split, Iterable[Item]]) -> None:
    """Hold train, val and test against each other.

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
        raise LeakError(f"{len(pairs)} leaks between the sides of the split: {listed(pairs)}; correct the log or the assignments file and run again")
