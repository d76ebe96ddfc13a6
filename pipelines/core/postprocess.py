"""From a network's raw output to detections, the same for every runner: score floor, best class, class-wise NMS, back to original pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.core.contract import ModelContract
from pipelines.core.images import Letterbox
from pipelines.core.types import Detections

MAX_CANDIDATES = 3000  # boxes that enter NMS, best first
_NMS_BLOCK = 64  # boxes compared with all worse ones in one go: large enough for numpy, small enough that few are compared in vain


def nms(xyxy: NDArray[np.float32], score: NDArray[np.float32], iou_threshold: float) -> NDArray[np.int64]:
    """Greedy non-maximum suppression, as torchvision.ops.nms: indices kept, best first; equal scores keep their order.

    A box is dropped when its IoU with a kept, better one is above `iou_threshold`.
    """
    order = np.argsort(-score, kind="stable")
    corners = np.ascontiguousarray(xyxy[order].T)
    alive = np.ones(len(order), dtype=bool)
    keep: list[int] = []
    for start in range(0, len(order), _NMS_BLOCK):
        block = start + np.flatnonzero(alive[start : start + _NMS_BLOCK])
        overlaps = _overlapping(corners, block, start, iou_threshold)
        kept = _greedy(block - start, overlaps[:, :_NMS_BLOCK])
        keep.extend(block[kept].tolist())
        if start + _NMS_BLOCK < len(order):
            alive[start + _NMS_BLOCK :] &= ~overlaps[kept, _NMS_BLOCK:].any(axis=0)
    return order[np.array(keep, dtype=np.int64)]


def _greedy(places: NDArray[np.int64], overlaps: NDArray[np.bool_]) -> list[int]:
    """The rows of a block that stay: those that no row kept before overlaps. `places` (rows,) are their columns in `overlaps` (rows, block)."""
    rows = np.packbits(overlaps, axis=1, bitorder="little")
    width, content = rows.shape[1], rows.tobytes()
    gone, kept = 0, []
    for row, place in enumerate(places.tolist()):  # a row's overlaps are the bits of one number
        if not gone >> place & 1:
            kept.append(row)
            gone |= int.from_bytes(content[row * width : (row + 1) * width], "little")
    return kept


def _overlapping(corners: NDArray[np.float32], rows: NDArray[np.int64], start: int, iou_threshold: float) -> NDArray[np.bool_]:
    """Which boxes from `start` on overlap each of `rows` by more than `iou_threshold`, shape (rows, boxes - start); `corners` is (4, boxes)."""
    area = (corners[2] - corners[0]) * (corners[3] - corners[1])
    x1, y1, x2, y2 = corners[:, rows, None]
    other_x1, other_y1, other_x2, other_y2 = corners[:, None, start:]
    width, height = np.minimum(x2, other_x2), np.minimum(y2, other_y2)  # all that follows is made in place: a new array costs more than its sums
    width -= np.maximum(x1, other_x1)
    height -= np.maximum(y1, other_y1)
    intersection = np.multiply(np.maximum(width, 0, out=width), np.maximum(height, 0, out=height), out=width)
    union = np.add(area[rows, None], area[start:], out=height)
    union -= intersection
    with np.errstate(invalid="ignore"):  # two boxes without area: 0 / 0 is not above any threshold
        iou = np.divide(intersection, union, out=union)
    result: NDArray[np.bool_] = iou > _below(iou_threshold)
    return result


def _below(value: float) -> np.float32:
    """The largest float32 that is not above `value`: a float32 exceeds both or none. So torchvision compares the two, in float64, which decides ties
    such as 36 / 120 against 0.3.
    """
    near = np.float32(value)
    return near if float(near) <= value else np.nextafter(near, np.float32(-np.inf))


def detections_from_output(
    output: NDArray[np.float32],
    contract: ModelContract,
    letterbox: Letterbox,
    original_wh: tuple[int, int],
    *,
    score_floor: float,
    iou_threshold: float,
    max_detections: int,
) -> Detections:
    """Read one image's raw output, shape (4 + classes, anchors) or (boxes, 6) by `contract.layout`; boxes in original pixels, best first."""
    if contract.layout == "xyxy_score_class":
        keep = np.flatnonzero(output[:, 4] > score_floor)
        xyxy, score, class_index = output[keep, :4], output[keep, 4], output[keep, 5].astype(np.int64)
        order = np.argsort(-score, kind="stable")[:max_detections]
    else:
        scores = output[4:]
        best = scores.max(axis=0)
        keep = np.flatnonzero(best > score_floor)
        keep = keep[np.argsort(-best[keep], kind="stable")][:MAX_CANDIDATES]
        score, class_index = best[keep], scores[:, keep].argmax(axis=0).astype(np.int64)
        centre, half = output[:2, keep].T, output[2:4, keep].T / 2
        xyxy = np.concatenate([centre - half, centre + half], axis=1)
        # one NMS for all classes: boxes of different classes are moved apart so that they never overlap
        offset = class_index[:, None].astype(np.float32) * np.float32(2 * max(contract.input_wh) + 1)
        order = nms(xyxy + offset, score, iou_threshold)[:max_detections]
    boxes = letterbox.to_original(xyxy[order].astype(np.float32), original_wh)
    return Detections(boxes, score[order].astype(np.float32), class_index[order])
