"""Which images show the same picture: a copy in another encoding, size or exposure, slightly cropped or shifted, or the next frame of a clip.

Three looks, each at what the one before let through:
1. coarse: correlation of 8x8 grey cells, over all pairs as one matrix product;
2. tangent: the share of one picture that the other explains when it may be moved, stretched, turned and brightened a little, to first order
   (the tangent distance of Simard, LeCun and Denker, 1993);
3. aligned: one picture is laid on the other by an affine map that maximises their correlation (ECC, Evangelidis and Psarakis, 2008), both are cut
   at the grey level where the brighter one is overexposed, and what overlaps is correlated.
Correlation does not see brightness and contrast. An object that came, went or moved lowers it by the object's share of the picture, so pictures of
one fixed camera are not called alike for their background. Mirrored or turned copies, and crops below about nine tenths, are not found; nor is
anything in pictures without contrast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.dataset.looks import MIN_DEVIATION, THUMBNAIL_PX, Floats, Thumbnail

# How they were found stands in DECISIONS.md ("The leak gate looks at the pictures").
MIN_COARSE, MIN_TANGENT, MIN_ALIGNED = 0.82, 0.94, 0.90
MIN_ALIGNED_IN_BURST = 0.75  # frames of one source that were taken within moments may have moved further
RULES = f"1 {MIN_COARSE} {MIN_TANGENT} {MIN_ALIGNED} {MIN_ALIGNED_IN_BURST}"

_TANGENT_PX = 16
_TANGENT_BLUR, _ALIGNED_BLUR = 0.7, 0.8  # standard deviation in cells
_BLOCK_CELLS = 1 << 23  # correlations in memory at once, 32 MB
_BLOCK_PAIRS = 2048
_MIN_OVERLAP = 0.6
_MAX_STRETCH, _MAX_SHIFT = 0.15, 0.16  # of an alignment, as fractions; beyond, it fits by chance
_OVEREXPOSED = 247
_ECC_STOP = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 60, 1e-5)

Pairs = NDArray[np.int64]


@dataclass(frozen=True)
class AlikePair:
    """Two pictures by position, and the correlation of what they share, 0 to 1."""

    a: int
    b: int
    score: float


def alike_pairs(thumbnails: Thumbnail, coarse: Floats, first: NDArray[np.int64], second: NDArray[np.int64]) -> Iterator[AlikePair]:
    """Pairs of alike pictures, one out of `first` and one out of `second`, in order of position.

    Both are positions in `thumbnails`, (N, 48, 48) grey, whose `coarse_cells` are `coarse`.
    """
    if not len(first) or not len(second):
        return
    across = coarse[second].T
    rows = max(1, _BLOCK_CELLS // len(second))
    for start in range(0, len(first), rows):
        close = coarse[first[start : start + rows]] @ across >= MIN_COARSE
        i, j = np.divmod(np.flatnonzero(close), len(second))  # np.nonzero takes longer than the product
        pairs = np.stack([first[start + i], second[j]], axis=1)
        for at in range(0, len(pairs), _BLOCK_PAIRS):
            block = pairs[at : at + _BLOCK_PAIRS]
            for one, other in block[_tangent(thumbnails, block) >= MIN_TANGENT].tolist():
                score = aligned(thumbnails[one], thumbnails[other])
                if score >= MIN_ALIGNED:
                    yield AlikePair(one, other, score)


def aligned(one: Thumbnail, other: Thumbnail, shifted: bool = False) -> float:
    """Correlation of two thumbnails laid on each other as well as possible; with `shifted` also from a start by phase correlation."""
    a, b = one.astype(np.float32), other.astype(np.float32)
    if min(a.std(), b.std()) < MIN_DEVIATION:
        return 0.0
    start = np.eye(2, 3, dtype=np.float32)
    everywhere = np.full(a.shape, 255, dtype=np.uint8)
    best = _agreement(a, b, start)
    for target, moving in ((a, b), (b, a)):
        for guess in [start, *([_shift(target, moving)] if shifted else [])]:
            if best >= MIN_ALIGNED:
                return best
            try:
                _, warp = cv2.findTransformECC(target, moving, guess.copy(), cv2.MOTION_AFFINE, _ECC_STOP, everywhere, 3)
            except cv2.error:  # it says so when it does not converge: nothing fits
                continue
            best = max(best, _agreement(target, moving, np.asarray(warp, dtype=np.float32)))
    return best


def _tangent(thumbnails: Thumbnail, pairs: Pairs) -> Floats:
    """For each pair (M, 2) the larger of the two correlations with the other picture's tangent space, (M,)."""
    used, places = np.unique(pairs, return_inverse=True)
    cells = np.stack([_blurred(thumbnails[index]) for index in used])
    flat = cells.reshape(len(used), -1) - cells.mean(axis=(1, 2))[:, None]
    unit = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    spaces = _tangent_spaces(cells)
    inverse = np.linalg.inv(spaces @ spaces.transpose(0, 2, 1) + 1e-5 * np.eye(spaces.shape[1]))
    a, b = places.reshape(-1, 2).T

    def explained(picture: NDArray[np.int64], space: NDArray[np.int64]) -> NDArray[np.float64]:
        parts = np.einsum("mkd,md->mk", spaces[space], unit[picture])
        return np.asarray(np.einsum("mk,mkl,ml->m", parts, inverse[space], parts))

    result: Floats = np.sqrt(np.maximum(np.maximum(explained(a, b), explained(b, a)), 0)).astype(np.float32)
    return result


def _blurred(thumbnail: Thumbnail) -> Floats:
    small = cv2.resize(thumbnail, (_TANGENT_PX, _TANGENT_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(small, (0, 0), _TANGENT_BLUR), dtype=np.float32)


def _tangent_spaces(cells: Floats) -> Floats:
    """(N, 8, cells), centred, of unit length: the picture, its square (exposure), its derivatives along x and y, and those times x and y."""
    dy, dx = np.gradient(cells, axis=(1, 2))
    steps = np.linspace(-1, 1, cells.shape[2], dtype=np.float32)
    x, y = steps[None, None, :], steps[None, :, None]
    centred = cells - cells.mean(axis=(1, 2), keepdims=True)
    parts = np.stack([centred, centred**2, dx, dy, x * dx, y * dx, x * dy, y * dy], axis=1).reshape(len(cells), 8, -1)
    parts -= parts.mean(axis=2, keepdims=True)
    result: Floats = (parts / np.maximum(np.linalg.norm(parts, axis=2, keepdims=True), 1e-6)).astype(np.float32)
    return result


def _shift(target: Floats, moving: Floats) -> Floats:
    """The translation between two pictures by phase correlation, as an affine map."""
    window = cv2.createHanningWindow((THUMBNAIL_PX, THUMBNAIL_PX), cv2.CV_32F)
    (dx, dy), _ = cv2.phaseCorrelate(target.copy(), moving.copy(), window)  # it multiplies its arguments by the window
    return np.array([[1, 0, dx], [0, 1, dy]], dtype=np.float32)


def _agreement(target: Floats, moving: Floats, warp: Floats) -> float:
    """Correlation where `moving`, warped, overlaps `target`; 0 where the warp is more than a small one."""
    if np.abs(warp[:, :2] - np.eye(2)).max() > _MAX_STRETCH or np.abs(warp[:, 2]).max() > _MAX_SHIFT * THUMBNAIL_PX:
        return 0.0
    options: dict[str, Any] = {"dsize": target.shape[::-1], "flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP}
    laid = cv2.warpAffine(moving, warp, borderMode=cv2.BORDER_REPLICATE, **options)
    inside = np.asarray(cv2.erode(cv2.warpAffine(np.ones_like(moving), warp, **options), np.ones((3, 3), np.uint8)), dtype=np.float32) > 0.99
    if inside.mean() < _MIN_OVERLAP:
        return 0.0
    x, y = (np.asarray(cv2.GaussianBlur(picture, (3, 3), _ALIGNED_BLUR), dtype=np.float32)[inside] for picture in (target, laid))
    overexposed = max(float((x >= _OVEREXPOSED).mean()), float((y >= _OVEREXPOSED).mean()))
    if overexposed > 0:
        x, y = (np.minimum(values, np.quantile(values, 1 - overexposed)) for values in (x, y))
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / scale if scale > 0 else 0.0
