"""Finding near-duplicates: perceptual hashes within a radius, then a second look at the thumbnails.

The hash alone calls pictures of a fixed camera the same, since most of the scene is. The second look compares exposure-corrected 32x32
thumbnails: on average they may differ by `max_difference` grey levels, and nowhere by more than LOCAL_FACTOR times that, a shift of one cell
allowed. An object that came, went or moved breaks the second rule; another compression, size, exposure or a small shift does not. Mirrored, turned
and strongly cropped copies are not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

HASH_BITS = 64
LOCAL_FACTOR = 2.0  # at 12 grey levels: a refocused smear has 13 at worst, its recompressed and shifted copies up to 22, a person who moved 100
MAX_GAIN = 2.0  # exposures further apart than this count as different pictures
MIN_DEVIATION = 2.0  # a flat thumbnail has no contrast to correct
_BLOCK_PAIRS = 512  # candidate pairs compared at once: their cells stay in the processor's cache

Pairs = NDArray[np.int64]
Thumbnails = NDArray[np.uint8]


@dataclass(frozen=True)
class NearPair:
    """Two near-duplicates by position; `a` < `b`."""

    a: int
    b: int
    distance_bits: int
    difference: float


def near_pairs(hashes: NDArray[np.uint64], thumbnails: Thumbnails, radius_bits: int, max_difference: float) -> list[NearPair]:
    """All near-duplicate pairs, sorted. `hashes` is (N,), `thumbnails` (N, 32, 32) grey."""
    found: list[NearPair] = []
    for pairs in candidate_pairs(hashes, radius_bits):
        for start in range(0, len(pairs), _BLOCK_PAIRS):
            block = pairs[start : start + _BLOCK_PAIRS]
            difference = thumbnail_differences(thumbnails, block, max_difference)
            close = difference <= max_difference
            for (a, b), value in zip(block[close].tolist(), difference[close].tolist(), strict=True):
                found.append(NearPair(a, b, int(hashes[a] ^ hashes[b]).bit_count(), value))
    return sorted(found, key=lambda pair: (pair.a, pair.b))


def candidate_pairs(hashes: NDArray[np.uint64], radius_bits: int) -> Iterator[Pairs]:
    """Yield blocks (M, 2) of positions whose hashes differ in at most `radius_bits` bits, every pair once, a < b.

    Hashes are cut into `radius_bits + 1` bands: two that differ in `radius_bits` bits agree in a whole band (pigeonhole), so only hashes that share
    a band are compared. A pair counts in the first band it shares.
    """
    bands = _bands(radius_bits + 1)
    for number, mask in enumerate(bands):
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        bounds = np.flatnonzero(np.diff(keys[order])) + 1
        for bucket in np.split(order, bounds):
            if len(bucket) > 1:
                yield from _bucket_pairs(hashes, np.sort(bucket), bands[:number], radius_bits)


def thumbnail_differences(thumbnails: Thumbnails, pairs: Pairs, max_difference: float) -> NDArray[np.float64]:
    """For each pair (M, 2) of positions the mean absolute grey difference after exposure correction; infinity where the pictures differ locally."""
    used, places = np.unique(pairs, return_inverse=True)
    cells = thumbnails[used].astype(np.float32)
    spread = cells.std(axis=(1, 2))
    cells -= cells.mean(axis=(1, 2), keepdims=True)
    lowest, highest = _neighbourhood(cells, np.minimum), _neighbourhood(cells, np.maximum)
    first, second = places.reshape(-1, 2).T
    gain = np.where(np.minimum(spread[first], spread[second]) < MIN_DEVIATION, 1, spread[first] / np.maximum(spread[second], MIN_DEVIATION))
    half = np.sqrt(gain).astype(np.float32)[:, None, None]  # both meet in the middle, so that the measure is symmetric
    a, b = cells[first] / half, cells[second] * half
    difference: NDArray[np.float64] = np.abs(a - b).mean(axis=(1, 2)).astype(np.float64)
    difference[(gain > MAX_GAIN) | (gain < 1 / MAX_GAIN)] = np.inf
    limit = LOCAL_FACTOR * max_difference
    # a cell may differ by `limit` from the range of the 3x3 cells around its place in the other picture, which allows a shift of one cell
    difference[_anywhere(lowest[second] * half - a > limit) | _anywhere(a - highest[second] * half > limit)] = np.inf
    difference[_anywhere(lowest[first] / half - b > limit) | _anywhere(b - highest[first] / half > limit)] = np.inf
    return difference


def components(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """For each of `count` nodes the smallest node of its connected component."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return [root(node) for node in range(count)]


def _bands(number: int) -> list[np.uint64]:
    edges = [HASH_BITS * index // number for index in range(number + 1)]
    return [np.uint64(((1 << (high - low)) - 1) << low) for low, high in pairwise(edges)]


def _bucket_pairs(hashes: NDArray[np.uint64], bucket: NDArray[np.int64], earlier: Sequence[np.uint64], radius_bits: int) -> Iterator[Pairs]:
    values = hashes[bucket]
    rows = max(1, 4 * 1024 * 1024 // len(bucket))  # at most 4 million comparisons in memory
    for start in range(0, len(bucket), rows):
        different = values[start : start + rows, None] ^ values[None, :]
        close = np.bitwise_count(different) <= radius_bits
        for mask in earlier:
            close &= (different & mask) != 0
        i, j = np.nonzero(close)
        i = i + start
        ahead = i < j
        if ahead.any():
            yield np.stack([bucket[i[ahead]], bucket[j[ahead]]], axis=1)


def _neighbourhood(cells: NDArray[np.float32], pick: np.ufunc) -> NDArray[np.float32]:
    """The smallest or largest value of the 3x3 cells around each cell, shape as `cells` (N, H, W)."""
    rows = cells.copy()
    pick(rows[:, 1:], cells[:, :-1], out=rows[:, 1:])
    pick(rows[:, :-1], cells[:, 1:], out=rows[:, :-1])
    result = rows.copy()
    pick(result[:, :, 1:], rows[:, :, :-1], out=result[:, :, 1:])
    pick(result[:, :, :-1], rows[:, :, 1:], out=result[:, :, :-1])
    return result


def _anywhere(condition: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(condition.any(axis=(1, 2)), dtype=np.bool_)
