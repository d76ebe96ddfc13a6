"""The leak gate: does the same scene stand on two sides of the finished split? Shares no code with what made the split.

Two looks. At what the log and collect say: images, near-duplicate groups, groups, imported lists. And at the pictures themselves, whatever was said:
every image of train, val and test against those of the other sides (`pipelines.dataset.alike`). A pair that has passed once, by the same rules and on
the same sides, is not looked at again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import combinations, islice

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.core.errors import LeakError, counted, listed
from pipelines.dataset.alike import MIN_ALIGNED_IN_BURST, AlikePair, aligned, alike_pairs
from pipelines.dataset.looks import Floats, Thumbnail

_EPOCH, _TICK = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
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


def require_no_leak(samples: pl.DataFrame) -> None:
    """Hold train, val and test against each other by what is known of their images.

    `samples` has `split`, `image_id`, `origin`, `source`, `own_group`, `near_group` and `copies` of each.

    Raises:
        LeakError: an image, a near-duplicate group or a group on two sides; the message names a pair for each.
    """
    copied = samples.select("split", "origin", "copies").filter(pl.col("copies").list.len() > 0)
    of_copy = copied.with_columns(pl.col("copies").list.drop_nulls()).explode("copies", empty_as_null=False).unnest("copies")
    same = [
        samples.select("split", "origin", kind=pl.lit("the same image"), scope=pl.lit(""), name="image_id"),
        samples.select("split", "origin", kind=pl.lit("near-duplicates"), scope=pl.lit(""), name="near_group"),
        samples.select("split", "origin", kind=pl.lit("one group"), scope="source", name="own_group"),
        of_copy.select("split", "origin", kind=pl.lit("one group"), scope="source", name="group"),
    ]
    seen = pl.concat(same).drop_nulls("name")
    cut = seen.filter(pl.col("split").n_unique().over("kind", "scope", "name") > 1).unique(
        ["kind", "scope", "name", "split"], keep="first", maintain_order=True
    )
    pairs = [
        f"{' and '.join(f'{origin} ({split})' for split, origin in part.select('split', 'origin').iter_rows())}: {kind}"
        for (kind, _, _), part in cut.sort("kind", "scope", "name", "split").group_by("kind", "scope", "name", maintain_order=True)
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


def find_lookalikes(members: pl.DataFrame, thumbnails: Thumbnail, cells: Floats) -> list[Lookalikes]:
    """Members on different sides that show one scene, at most MAX_FOUND, in order of side and position.

    `members` has the fields of `Member` and `place`, where its picture stands in `thumbnails`, (N, 48, 48), and `cells`, their `coarse_cells`.
    """
    found: dict[tuple[int, int], AlikePair] = {}
    for pair in islice(_pairs(members, thumbnails, cells), MAX_FOUND):
        found.setdefault((pair.a, pair.b), pair)
    fields = list(Member.__annotations__)
    named = members.select(fields)
    return [Lookalikes(Member(*named.row(pair.a)), Member(*named.row(pair.b)), pair.score) for pair in found.values()]


def require_no_lookalikes(pairs: Sequence[Lookalikes]) -> None:
    """Stop when there are any.

    Raises:
        LeakError: naming them.
    """
    if pairs:
        named = [f"{pair.a.origin} ({pair.a.side}) and {pair.b.origin} ({pair.b.side}): alike ({pair.score:.2f})" for pair in pairs]
        count = counted(len(pairs), "leak") if len(pairs) < MAX_FOUND else f"at least {len(pairs)} leaks"
        raise LeakError(f"{count} between the sides of the split: {listed(named)}; {WAY_OUT}")


def _pairs(members: pl.DataFrame, thumbnails: Thumbnail, cells: Floats) -> Iterator[AlikePair]:
    """Pairs by row of `members`."""
    place = members["place"].to_numpy()
    row_at = np.zeros(len(thumbnails), dtype=np.int64)
    row_at[place] = np.arange(len(members))
    fresh = members["passed"].ne_missing(members["side"]).to_numpy()
    sides = sorted(members["side"].unique())
    rows = {side: np.flatnonzero((members["side"] == side).to_numpy()) for side in sides}
    for one, other in combinations(sides, 2):
        for first, second in ((rows[one][fresh[rows[one]]], rows[other]), (rows[one][~fresh[rows[one]]], rows[other][fresh[rows[other]]])):
            for pair in alike_pairs(thumbnails, cells, place[first], place[second]):
                yield AlikePair(int(row_at[pair.a]), int(row_at[pair.b]), pair.score)
    for a, b in _moments_apart(members, fresh):
        score = aligned(thumbnails[place[a]], thumbnails[place[b]], shifted=True)
        if score >= MIN_ALIGNED_IN_BURST:
            yield AlikePair(a, b, score)


def _moments_apart(members: pl.DataFrame, fresh: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Rows of members of one source on different sides, taken within BURST_S, one of them fresh."""
    timed = members.select(pl.int_range(pl.len()).alias("row"), "source", "side", "captured_at").drop_nulls("captured_at")
    moments = [_time(text) for text in timed["captured_at"]]
    ticks = [None if moment is None else (moment - _EPOCH) // _TICK for moment in moments]
    timed = timed.with_columns(pl.Series("ticks", ticks, dtype=pl.Int64)).drop_nulls("ticks").sort("source", "ticks", "row")
    found: list[tuple[int, int]] = []
    for (_,), part in timed.group_by("source", maintain_order=True):
        row, taken, side = part["row"].to_numpy(), part["ticks"].to_numpy(), part["side"].to_numpy()
        within = np.searchsorted(taken, taken + int(BURST_S / _TICK.total_seconds()), side="right") - np.arange(len(row)) - 1
        within[within > MAX_BURST] = 0
        for step in range(1, int(within.max(initial=0)) + 1):
            first = np.flatnonzero(within >= step)
            a, b = row[first], row[first + step]
            apart = (side[first] != side[first + step]) & (fresh[a] | fresh[b])
            found += [(min(pair), max(pair)) for pair in zip(a[apart].tolist(), b[apart].tolist(), strict=True)]
    return found


def _time(text: str | None) -> datetime | None:
    """None also for a bare day and for what is no date: collect takes the log's word."""
    try:
        when = datetime.fromisoformat(text) if text and len(text) > len("2026-01-01") else None
    except ValueError:
        return None
    return when if when is None or when.tzinfo else when.replace(tzinfo=UTC)
