"""Near-duplicates: perceptual hashes within a radius, then a second look at the thumbnails; what holds together is a cluster. Pure.

The hash alone calls pictures of a fixed camera the same, since most of the scene is. The second look compares exposure-corrected 32x32
thumbnails: on average they may differ by `max_difference` grey levels, and nowhere by more than LOCAL_FACTOR times that, a shift of one cell
allowed. An object that came, went or moved breaks the second rule; another compression, size, exposure or a small shift does not. Mirrored, turned
and strongly cropped copies are not found.

Two images that a chain of others joins already are not compared, so a thousand frames of a still scene cost a thousand looks, not half a million.
A chain may lead far: the first and the last frame of a slow pan share nothing. A cluster is what must not be parted by the split; which image may
stand for another is a question of the two alone, see `stand_ins`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from pipelines.collect.hash_index import Hashes, Pairs, candidate_pairs

LOCAL_FACTOR = 2.0  # at 12 grey levels: a refocused smear has 13 at worst, its recompressed and shifted copies up to 22, a person who moved 100
MAX_GAIN = 2.0  # exposures further apart than this count as different pictures
MIN_DEVIATION = 2.0  # a flat thumbnail has no contrast to correct
_FIRST_LOOK_PAIRS, _MOST_LOOK_PAIRS = 512, 1 << 16  # pairs looked at before those that are joined by then are left out
_BLOCK_PAIRS = 512  # pairs compared at once: their cells stay in the processor's cache

NO_CLUSTER = -1  # in place of a position
Nodes = NDArray[np.int64]
Thumbnails = Callable[[Nodes], NDArray[np.uint8]]  # positions (M,) to grey pictures (M, 32, 32)


def near_clusters(
    hashes: Hashes,
    thumbnails: Thumbnails,
    radius_bits: int,
    max_difference: float,
    known: Nodes | None = None,
    fresh: NDArray[np.bool_] | None = None,
) -> Nodes:
    """For each image the smallest position of its cluster, (N,). `hashes` is (N,).

    `known` (N,) gives clusters in the same form that were found before among images that are not `fresh`; only pairs with a fresh end are compared.
    """
    parent = np.arange(len(hashes)) if known is None else known.copy()
    for pairs in candidate_pairs(hashes, radius_bits, fresh):
        size = _FIRST_LOOK_PAIRS
        while len(pairs):
            look, pairs = pairs[:size], pairs[size:]
            join(parent, look[thumbnail_differences(thumbnails, look, max_difference) <= max_difference])
            pairs = pairs[roots(parent, pairs[:, 0]) != roots(parent, pairs[:, 1])]
            size = min(2 * size, _MOST_LOOK_PAIRS)
    return roots(parent, np.arange(len(hashes)))


def stand_ins(hashes: Hashes, thumbnails: Thumbnails, radius_bits: int, max_difference: float, clusters: Nodes) -> Nodes:
    """For each image the one that stands for it: the best of its cluster that is its near-duplicate, itself where none is, (N,).

    Images of one cluster (`clusters`, any number for each) come together, best first. The best stands for all that are its near-duplicates; of those
    that are left the best does so again. Two images are a cluster because they are near-duplicates, which is not asked again.
    """
    result: Nodes = np.arange(len(hashes), dtype=np.int64)
    starts = np.flatnonzero(np.diff(clusters, prepend=-1, append=-1))
    sizes = np.diff(starts)
    pairs = starts[:-1][sizes == 2]
    result[pairs + 1] = pairs
    left = np.flatnonzero(np.repeat(sizes > 2, sizes))
    while len(left):
        is_first = np.diff(clusters[left], prepend=-1) != 0
        best = left[is_first][np.cumsum(is_first) - 1]
        close = ~is_first & (np.bitwise_count(hashes[left] ^ hashes[best]) <= radius_bits)
        close[close] = thumbnail_differences(thumbnails, np.stack([best[close], left[close]], axis=1), max_difference) <= max_difference
        result[left[close]] = best[close]
        left = left[~is_first & ~close]
    return result


def join(parent: Nodes, pairs: Iterable[Iterable[int]]) -> None:
    """Join the clusters of each pair in `parent`, a forest whose roots are the smallest of their tree."""
    for a, b in pairs:
        low, high = sorted((_root(parent, int(a)), _root(parent, int(b))))
        parent[high] = low


def roots(parent: Nodes, nodes: Nodes) -> Nodes:
    """The root of each of `nodes`, shape as `nodes`."""
    while True:
        above = parent[nodes]
        if np.array_equal(above, nodes):
            return above
        nodes = above


def _root(parent: Nodes, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = int(parent[node])
    return node


def thumbnail_differences(thumbnails: Thumbnails, pairs: Pairs, max_difference: float) -> NDArray[np.float64]:
    """For each pair (M, 2) of positions the mean absolute grey difference after exposure correction; infinity where the pictures differ locally."""
    blocks = [_differences(thumbnails, pairs[start : start + _BLOCK_PAIRS], max_difference) for start in range(0, len(pairs), _BLOCK_PAIRS)]
    return np.concatenate([np.zeros(0), *blocks])


def _differences(thumbnails: Thumbnails, pairs: Pairs, max_difference: float) -> NDArray[np.float64]:
    used, places = np.unique(pairs, return_inverse=True)
    cells = thumbnails(used).astype(np.float32)
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
