"""Finding pairs of 64-bit hashes within a radius, exactly, without comparing all with all. Pure.

Hashes are cut into `m` disjoint bands. Two that differ in at most `radius` bits differ in some band by at most `radius // m` bits, and in one of the
first `radius % m + 1` bands by that, else by one less (Norouzi, Punjani, Fleet, "Fast Search in Hamming Space with Multi-Index Hashing", 2012). With
m = (radius + 2) // 2 that is one bit or none, so each band is looked up as it is and with each of its bits turned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HASH_BITS = 64
MAX_BAND_BITS = 20  # a table with a place for every key of a band: 8 MB
BLOCK_CANDIDATES = 1 << 21  # candidates compared at once, about 100 MB

Hashes = NDArray[np.uint64]
Pairs = NDArray[np.int64]


@dataclass(frozen=True)
class _Band:
    """`bits` bits from `shift` up; hashes are alike in it when at most `slack` (0 or 1) of them differ."""

    shift: int
    bits: int
    slack: int

    def keys(self, hashes: Hashes) -> NDArray[np.int64]:
        return ((hashes >> np.uint64(self.shift)) & np.uint64((1 << self.bits) - 1)).astype(np.int64)

    @property
    def flips(self) -> list[int]:
        return [0, *(1 << bit for bit in range(self.bits))] if self.slack else [0]


def candidate_pairs(hashes: Hashes, radius_bits: int, fresh: NDArray[np.bool_] | None = None) -> Iterator[Pairs]:
    """Yield blocks (M, 2) of positions whose hashes (N,) differ in at most `radius_bits` bits, every pair once, a < b.

    With `fresh` (N,) only pairs with at least one fresh end are sought. Memory is about 60 bytes a hash and 100 MB.
    """
    queries = np.arange(len(hashes)) if fresh is None else np.flatnonzero(fresh)
    bands = _bands(radius_bits)
    for number, band in enumerate(bands):
        keys = band.keys(hashes)
        is_asked_for = np.zeros(1 << band.bits, dtype=bool)
        for flip in band.flips:
            is_asked_for[keys[queries] ^ flip] = True
        there = np.flatnonzero(is_asked_for[keys])
        order = there[np.argsort(keys[there], kind="stable")]
        starts = np.concatenate([[0], np.cumsum(np.bincount(keys[there], minlength=1 << band.bits))])
        asking = queries[np.argsort(keys[queries], kind="stable")]  # neighbours in memory are asked for together
        for flip in band.flips:
            wanted = keys[asking] ^ flip
            for a, b in _expanded(asking, order, starts[wanted], starts[wanted + 1]):
                ahead = a < b if fresh is None else (a < b) | ~fresh[b]
                a, b = a[ahead], b[ahead]
                different = hashes[a] ^ hashes[b]
                close = np.bitwise_count(different) <= radius_bits
                a, b, different = a[close], b[close], different[close]
                for earlier in bands[:number]:  # a pair counts in the first band in which it is alike
                    new = np.bitwise_count(earlier.keys(different)) > earlier.slack
                    a, b, different = a[new], b[new], different[new]
                if len(a):
                    yield np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1)


def _bands(radius_bits: int) -> list[_Band]:
    number = (radius_bits + 2) // 2
    bits = min(HASH_BITS // number, MAX_BAND_BITS)  # bands need not cover the hash: bits outside only make it harder to be alike
    slack, more = divmod(radius_bits, number)
    return [_Band(index * (HASH_BITS // number), bits, slack if index <= more else slack - 1) for index in range(number)]


def _expanded(
    asking: NDArray[np.int64], order: NDArray[np.int64], first: NDArray[np.int64], last: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each of `asking` all of `order[first:last]`, as blocks of two columns of about BLOCK_CANDIDATES rows."""
    lengths = last - first
    found = np.flatnonzero(lengths)
    ends = np.cumsum(lengths[found])
    low = 0
    while low < len(found):
        done = ends[low - 1] if low else 0
        high = max(low + 1, int(np.searchsorted(ends, done + BLOCK_CANDIDATES, side="right")))
        part = found[low:high]
        count = lengths[part]
        # places first, first + 1, … for each row: a running number, set back where the next row begins
        place = np.arange(int(count.sum())) + np.repeat(first[part] - np.concatenate([[0], np.cumsum(count)[:-1]]), count)
        yield np.repeat(asking[part], count), order[place]
        low = high
