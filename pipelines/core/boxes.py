"""Box geometry on float arrays. Boxes are `(N, 4)` `xyxy` in pixels of the original image unless a name says otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]


def area(xyxy: Float) -> Float:
    """Areas, shape (N,), in square pixels; a box with negative extent has area 0."""
    sides = np.maximum(xyxy[:, 2:] - xyxy[:, :2], 0)
    result: Float = sides[:, 0] * sides[:, 1]
    return result


def iou_matrix(a_xyxy: Float, b_xyxy: Float) -> NDArray[np.float64]:
    """Intersection over union of every pair, shape (N, M), in [0, 1]; 0 where both boxes have no area."""
    a, b = a_xyxy.astype(np.float64), b_xyxy.astype(np.float64)
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(bottom_right - top_left, 0.0)
    intersection = sides[..., 0] * sides[..., 1]
    union = area(a)[:, None] + area(b)[None, :] - intersection
    result: NDArray[np.float64] = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return result


def clip(xyxy: Float, width: float, height: float) -> Float:
    """Boxes cut at the image's edges, a new array."""
    limits = np.array([width, height, width, height], dtype=xyxy.dtype)
    result: Float = np.clip(xyxy, 0, limits)
    return result


def xywh_from_xyxy(xyxy: Float) -> Float:
    """Top-left corner, width, height (the COCO layout)."""
    result: Float = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)
    return result


def xyxy_from_xywh(xywh: Float) -> Float:
    """The inverse of `xywh_from_xyxy`."""
    result: Float = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return result


def cxcywh_from_xyxy(xyxy: Float) -> Float:
    """Centre, width, height."""
    sides = xyxy[:, 2:] - xyxy[:, :2]
    result: Float = np.concatenate([xyxy[:, :2] + sides / 2, sides], axis=1)
    return result
