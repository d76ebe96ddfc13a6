"""COCO metrics of one set of images, computed by hotcoco. Owner of hotcoco.

Every mean follows pycocotools: 10 IoU thresholds from 0.50 to 0.95, 101 recall points, at most 100 detections of a class on an image, and a class
without labels stays out of the mean. A figure that has nothing to stand on is None, never 0 or NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from pipelines.core.boxes import area, xywh_from_xyxy
from pipelines.core.columns import DetectionColumns, TruthColumns, detections_from_images, truth_from_images
from pipelines.core.slices import SIZES
from pipelines.core.types import Detections, GroundTruth

SMALL_AREA_PX = 1024.0  # COCO: 32 x 32
MEDIUM_AREA_PX = 9216.0  # COCO: 96 x 96
MAX_DETECTIONS = (1, 10, 100)
RECALL_POINTS = 101
IOU_STEPS = 10
_ANY_AREA = 1e10  # COCO's "no limit", (1e5 px) squared
_IOU_50, _IOU_75 = 0, 5  # positions among the 10 IoU thresholds


@dataclass(frozen=True)
class ClassMetrics:
    """One class: `ap` over all IoU thresholds, `ap50` at 0.5, its labels, and the precision at 101 recall points (IoU 0.5); None without labels."""

    ap: float | None
    ap50: float | None
    boxes: int
    precision_at_recall: tuple[float, ...] | None


@dataclass(frozen=True)
class SizeMetrics:
    """Boxes of one size: means over classes, the number of labels of that size and of images that have one."""

    ap: float | None
    ap50: float | None
    boxes: int
    images: int


@dataclass(frozen=True)
class CocoMetrics:
    """Means over the classes that have labels, and each class by name in the order of `classes`; all in [0, 1]."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    ar100: float | None
    images: int
    boxes: int
    sizes: dict[str, SizeMetrics]
    per_class: dict[str, ClassMetrics]


@dataclass(frozen=True)
class MatchTable:
    """The detections of one class over all images, best score first: which image (N,), and for each of the 10 IoU thresholds whether it is right
    and whether it counts at all (10, N), both bool; `boxes` (images,) are the labels that count.
    """

    image: NDArray[np.int64]
    hit: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    boxes: NDArray[np.int64]


def coco_metrics(
    truth: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: Sequence[str],
    *,
    small_area_px: float = SMALL_AREA_PX,
    medium_area_px: float = MEDIUM_AREA_PX,
) -> CocoMetrics:
    """Compare `detections[i]` with `truth[i]`, one entry an image (`Detections.empty()` where there is none).

    A box of less than `small_area_px` counts as small, of more than `medium_area_px` as large.

    Raises:
        ValueError: the two sequences differ in length.
    """
    if len(truth) != len(detections):
        raise ValueError(f"{len(truth)} images have labels and {len(detections)} have detections: one entry an image is wanted in both")
    columns = truth_from_images(truth), detections_from_images(detections)
    return coco_metrics_from_columns(*columns, len(truth), classes, small_area_px=small_area_px, medium_area_px=medium_area_px)


def coco_metrics_from_columns(
    truth: TruthColumns,
    detections: DetectionColumns,
    image_count: int,
    classes: Sequence[str],
    *,
    small_area_px: float = SMALL_AREA_PX,
    medium_area_px: float = MEDIUM_AREA_PX,
) -> CocoMetrics:
    """`coco_metrics` of labels and detections on images 0 to `image_count` - 1."""
    if not len(truth):
        nothing = {name: SizeMetrics(None, None, 0, 0) for name in SIZES}
        return CocoMetrics(None, None, None, None, image_count, 0, nothing, {name: ClassMetrics(None, None, 0, None) for name in classes})
    precision, recall = _accumulated(truth, detections, image_count, len(classes), small_area_px, medium_area_px)
    areas = area(truth.xyxy)
    limits = ((0.0, small_area_px), (small_area_px, medium_area_px), (medium_area_px, _ANY_AREA))
    sizes = {}
    for position, (name, (low, high)) in enumerate(zip(SIZES, limits, strict=True), start=1):
        inside = (areas >= low) & (areas <= high)
        part = precision[..., position]
        sizes[name] = SizeMetrics(_mean(part), _mean(part[_IOU_50]), int(inside.sum()), len(np.unique(truth.image[inside])))
    whole = precision[..., 0]
    boxes = np.bincount(truth.class_index, minlength=len(classes))
    per_class = {
        name: ClassMetrics(
            _mean(whole[:, :, index]),
            _mean(whole[_IOU_50, :, index]),
            int(boxes[index]),
            tuple(whole[_IOU_50, :, index].tolist()) if boxes[index] else None,
        )
        for index, name in enumerate(classes)
    }
    return CocoMetrics(_mean(whole), _mean(whole[_IOU_50]), _mean(whole[_IOU_75]), _mean(recall), image_count, int(boxes.sum()), sizes, per_class)


def match_tables(
    truth: Sequence[GroundTruth],
    detections: Sequence[Detections],
    class_count: int,
    *,
    small_area_px: float = SMALL_AREA_PX,
    medium_area_px: float = MEDIUM_AREA_PX,
) -> dict[str, list[MatchTable]]:
    """What each detection hit, for any resampling of the images: under `all`, `small`, `medium` and `large` one table a class."""
    areas = ("all", *SIZES)
    parts: dict[tuple[int, int], list[tuple[int, dict[str, Any]]]] = {}
    labels, found = truth_from_images(truth), detections_from_images(detections)
    if len(labels) and len(found):
        evaluation = _evaluation(labels, found, len(truth), class_count, small_area_px, medium_area_px)
        limits = {tuple(limit): position for position, limit in reversed(list(enumerate(evaluation.params.area_rng)))}
        for entry in evaluation.eval_imgs:
            if entry is not None and entry["maxDet"] == MAX_DETECTIONS[-1]:
                parts.setdefault((entry["category_id"] - 1, limits[tuple(entry["aRng"])]), []).append((entry["image_id"] - 1, entry))
    boxes = np.zeros((class_count, len(truth)), np.int64)
    np.add.at(boxes, (labels.class_index, labels.image), 1)
    return {
        name: [_table(parts.get((index, position), []), len(truth), boxes[index] if name == "all" else None) for index in range(class_count)]
        for position, name in enumerate(areas)
    }


def _table(parts: Sequence[tuple[int, dict[str, Any]]], images: int, boxes: NDArray[np.int64] | None) -> MatchTable:
    image = np.concatenate([np.zeros(0, np.int64), *[np.full(len(entry["dtScores"]), number) for number, entry in parts]])
    score = np.concatenate([np.zeros(0), *[np.asarray(entry["dtScores"], float) for _, entry in parts]])
    empty = np.zeros((IOU_STEPS, 0), bool)
    matched = np.concatenate([empty, *[np.asarray(entry["dtMatched"], bool).reshape(IOU_STEPS, -1) for _, entry in parts]], axis=1)
    ignored = np.concatenate([empty, *[np.asarray(entry["dtIgnore"], bool).reshape(IOU_STEPS, -1) for _, entry in parts]], axis=1)
    counted = np.zeros(images, np.int64)
    for number, entry in parts:
        counted[number] = sum(not ignore for ignore in entry["gtIgnore"])
    order = np.argsort(-score, kind="stable")
    return MatchTable(image[order], (matched & ~ignored)[:, order], ~ignored[:, order], counted if boxes is None else boxes)


def _accumulated(
    truth: TruthColumns, detections: DetectionColumns, image_count: int, class_count: int, small_area_px: float, medium_area_px: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (IoU thresholds, recall points, classes, areas) and recall (IoU thresholds, classes), both at 100 detections; -1 without labels."""
    evaluation = _evaluation(truth, detections, image_count, class_count, small_area_px, medium_area_px)
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., -1], np.asarray(evaluation.eval["recall"])[:, :, 0, -1]


def _evaluation(
    truth: TruthColumns, detections: DetectionColumns, image_count: int, class_count: int, small_area_px: float, medium_area_px: float
) -> Any:
    """hotcoco's evaluation with every image matched: image and category ids count from 1."""
    images = [{"id": number, "width": 1, "height": 1} for number in range(1, image_count + 1)]
    categories = [{"id": number, "name": str(number)} for number in range(1, class_count + 1)]
    labels = hotcoco.COCO.from_arrays(images, categories, *_columns(truth))
    image_ids, category_ids, xywh = _columns(detections)
    found = labels.load_res(np.column_stack([image_ids, xywh, detections.score, category_ids]))
    evaluation: Any = hotcoco.COCOeval(labels, found, "bbox")
    evaluation.params.max_dets = list(MAX_DETECTIONS)
    evaluation.params.area_rng = [[0.0, _ANY_AREA], [0.0, small_area_px], [small_area_px, medium_area_px], [medium_area_px, _ANY_AREA]]
    evaluation.evaluate()
    return evaluation


def _columns(items: TruthColumns | DetectionColumns) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Image ids from 1, category ids from 1 (pycocotools reads id 0 as "no match"), boxes as xywh."""
    return items.image + 1, items.class_index + 1, xywh_from_xyxy(items.xyxy).astype(np.float64)


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None
