"""Label Studio's JSON export: tasks with every annotation, boxes in percent of the image, both ways.

Label Studio's YOLO export takes the oldest annotation of a task, gives an unknown label another class's id and writes an untouched task as an empty
one; the JSON keeps everything, so only that is read. Drafts and predictions are counted, never labels. Not read: JSON-MIN, several images in one
task, video.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.core.errors import DataError
from pipelines.core.types import Box
from pipelines.formats.reading import Problem, ReadBox, finite_numbers, positive_size

# The shapes that are no boxes, by the result's type with "labels" cut off.
_SHAPES = {"polygon": "polygon", "brush": "brush", "bitmask": "brush", "keypoint": "keypoint", "ellipse": "ellipse"}
# Results that mark no place in an image: answers about the whole of it or about a region that stands beside them.
_NO_REGION = {"choices", "textarea", "rating", "taxonomy", "number", "datetime", "pairwise", "ranker", "relation", "labels"}


@dataclass(frozen=True)
class LabelStudioPrediction:
    """The pre-labels that a person was shown."""

    model_version: str
    boxes: tuple[ReadBox, ...]


@dataclass(frozen=True)
class LabelStudioAnnotation:
    """What one person submitted (or skipped) on one task.

    `sizes_wh` are the image sizes that its boxes were drawn on: none without a box, ordinarily one. `prediction` is the server's copy of the
    pre-labels at the moment of submission, which stays when the task's predictions are replaced.
    """

    annotation_id: str
    annotator: str | None
    cancelled: bool
    ground_truth: bool
    updated_at: str | None
    sizes_wh: tuple[tuple[int, int], ...]
    boxes: tuple[ReadBox, ...]
    problems: tuple[Problem, ...]
    lead_time_s: float | None = None
    prediction: LabelStudioPrediction | None = None

    @property
    def empty(self) -> bool:
        """True when there is no region at all: the person saw nothing to mark."""
        return not self.boxes and not self.problems


@dataclass(frozen=True)
class LabelStudioTask:
    """One task: its image as named there, our `image_id` when it has one, and all its annotations."""

    task_id: str
    image_id: str | None
    image: str | None
    annotations: tuple[LabelStudioAnnotation, ...]
    drafts: int
    predictions: int


def read_tasks(value: Any, name: str) -> tuple[LabelStudioTask, ...]:
    """Read a parsed JSON export.

    Raises:
        DataError: not a list of tasks with `data` and `annotations`; `name` says which file.
    """
    if not isinstance(value, list):
        raise DataError(f"{name} is not a Label Studio JSON export (a list of tasks): export the project again as JSON")
    return tuple(read_task(row, f"{name} task {position}") for position, row in enumerate(value))


def read_task(row: Any, where: str) -> LabelStudioTask:
    """Read one task of a parsed export.

    Raises:
        DataError: no `data` or no `annotations`; `where` says which task.
    """
    if not isinstance(row, Mapping) or not isinstance(row.get("data"), Mapping) or not isinstance(row.get("annotations"), list):
        raise DataError(f"{where} has no `data` or no `annotations`: export the project again as JSON (JSON-MIN leaves out what is needed)")
    data = row["data"]
    image_id, image = data.get("image_id"), data.get("image")
    return LabelStudioTask(
        task_id=str(row.get("id")),
        image_id=image_id if isinstance(image_id, str) and image_id else None,
        image=image if isinstance(image, str) else None,
        annotations=tuple(_annotation(item, where) for item in row["annotations"]),
        drafts=len(row.get("drafts") or []),
        predictions=len(row.get("predictions") or []),
    )


def _annotation(row: Any, where: str) -> LabelStudioAnnotation:
    if not isinstance(row, Mapping) or not isinstance(row.get("result"), list):
        raise DataError(f"{where} has an annotation without `result`: export the project again as JSON")
    sizes, boxes, problems = _regions(row["result"])
    updated_at = row.get("updated_at") or row.get("created_at")
    return LabelStudioAnnotation(
        annotation_id=str(row.get("id")),
        annotator=_person(row.get("completed_by")),
        cancelled=bool(row.get("was_cancelled")),
        ground_truth=bool(row.get("ground_truth")),
        updated_at=str(updated_at) if updated_at else None,
        sizes_wh=sizes,
        boxes=boxes,
        problems=problems,
        lead_time_s=_seconds(row.get("lead_time")),
        prediction=_prediction(row.get("prediction")),
    )


def _seconds(value: Any) -> float | None:
    numbers = finite_numbers([value])
    return numbers[0] if numbers and numbers[0] >= 0 else None


def _prediction(value: Any) -> LabelStudioPrediction | None:
    """None where nothing was shown (an empty object), or what was shown has no version to name it by."""
    if not isinstance(value, Mapping) or not isinstance(value.get("result"), list) or not value.get("model_version"):
        return None
    return LabelStudioPrediction(str(value["model_version"]), _regions(value["result"])[1])


def _person(value: Any) -> str | None:
    """The person's number: some exports give an object with e-mail address and name, which are nobody's business further on."""
    number = value.get("id") if isinstance(value, Mapping) else value
    return None if number is None else str(number)


def _regions(result: Sequence[Any]) -> tuple[tuple[tuple[int, int], ...], tuple[ReadBox, ...], tuple[Problem, ...]]:
    """Sizes, boxes and problems: malformed_region, polygon, brush, keypoint, ellipse, other_region, rotated_image, other_image, missing_size,
    no_label, several_labels, rotated, duplicate_region_id. Boxes of the last two kinds are returned, those of the others are not."""
    labels = _labels_beside(result)
    sizes: set[tuple[int, int]] = set()
    boxes: list[ReadBox] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for position, row in enumerate(result):
        if not isinstance(row, Mapping):
            problems.append(Problem("malformed_region", f"result {position}", f"not an object: {row!r}"))
            continue
        kind = str(row.get("type"))
        if kind in _NO_REGION:
            continue
        region_id = row.get("id")
        where = f"region {region_id}" if region_id else f"result {position}"
        if region_id and region_id in seen:
            problems.append(Problem("duplicate_region_id", where, "another region of this annotation has the same id"))
        if region_id:
            seen.add(region_id)
        shape = kind.removesuffix("labels")
        if shape != "rectangle":
            around = _around_polygon(row, labels.get(str(region_id), [])) if shape == "polygon" else None
            if around is not None:
                sizes.add(around[0])
            detail = f"a region of type {kind} is no box"
            problems.append(Problem(_SHAPES.get(shape, "other_region"), where, detail, around[1] if around else None))
            continue
        read = _rectangle(row, labels.get(str(region_id), []), where)
        if isinstance(read, Problem):
            problems.append(read)
            continue
        size_wh, box = read
        sizes.add(size_wh)
        boxes.append(box)
        if box.rotation_deg:
            problems.append(Problem("rotated", where, f"{box.box.class_name} is turned by {box.rotation_deg:g} degrees"))
    return tuple(sorted(sizes)), tuple(boxes), tuple(problems)


def _labels_beside(result: Sequence[Any]) -> dict[str, list[Any]]:
    """Labels of the control pair Rectangle + Labels, which stand in a result of their own under the region's id."""
    found: dict[str, list[Any]] = {}
    for row in result:
        if isinstance(row, Mapping) and row.get("type") == "labels" and isinstance(row.get("value"), Mapping):
            found.setdefault(str(row.get("id")), []).extend(row["value"].get("labels") or [])
    return found


def _rectangle(row: Mapping[str, Any], labels_beside: Sequence[Any], where: str) -> tuple[tuple[int, int], ReadBox] | Problem:
    value = row.get("value")
    numbers = finite_numbers([value.get(key) for key in ("x", "y", "width", "height")]) if isinstance(value, Mapping) else None
    rotations = finite_numbers([value.get("rotation") or 0]) if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or numbers is None or rotations is None:
        return Problem("malformed_region", where, f"value is {value!r}, wanted x, y, width, height in percent")
    labels = list(value.get("rectanglelabels") or labels_beside)
    size_wh = positive_size(row.get("original_width"), row.get("original_height"))
    if row.get("item_index"):
        return Problem("other_image", where, f"it stands on image {row['item_index']} of its task")
    if row.get("image_rotation"):
        return Problem("rotated_image", where, f"the image was turned by {row['image_rotation']} degrees while it was labeled")
    if not labels:
        return Problem("no_label", where, "a box without a label")
    if len(labels) > 1:
        return Problem("several_labels", where, f"one box with the labels {labels}")
    if size_wh is None:
        return Problem("missing_size", where, "no original_width and original_height, so percent cannot become pixels")
    rotation = rotations[0] % 360
    return size_wh, ReadBox(Box(str(labels[0]), xyxy_from_percent(numbers, size_wh, rotation)), where, rotation)


def _around_polygon(row: Mapping[str, Any], labels_beside: Sequence[Any]) -> tuple[tuple[int, int], Box] | None:
    """The image's size and the upright box around a polygon; None when it is malformed or has not one label."""
    value = row.get("value")
    size_wh = positive_size(row.get("original_width"), row.get("original_height"))
    if not isinstance(value, Mapping) or size_wh is None or row.get("item_index") or row.get("image_rotation"):
        return None
    labels = list(value.get("polygonlabels") or labels_beside)
    points = value.get("points")
    if len(labels) != 1 or not isinstance(points, list) or not points or not all(isinstance(point, list) and len(point) == 2 for point in points):
        return None
    numbers = finite_numbers([number for point in points for number in point])
    if numbers is None:
        return None
    xs, ys = numbers[::2], numbers[1::2]
    percent = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    return size_wh, Box(str(labels[0]), xyxy_from_percent(percent, size_wh))


def xyxy_from_percent(xywh: Sequence[float], size_wh: tuple[int, int], rotation_deg: float = 0.0) -> tuple[float, float, float, float]:
    """Pixels of the upright box around `xywh` (percent of the image's sides), which is turned clockwise about its own top-left corner."""
    width, height = size_wh
    x, y = xywh[0] * width / 100, xywh[1] * height / 100
    right, bottom = (xywh[0] + xywh[2]) * width / 100, (xywh[1] + xywh[3]) * height / 100
    if not rotation_deg:
        return x, y, right, bottom
    cos, sin = math.cos(math.radians(rotation_deg)), math.sin(math.radians(rotation_deg))
    w, h = right - x, bottom - y
    corners_x, corners_y = (x, x + w * cos, x - h * sin, x + w * cos - h * sin), (y, y + w * sin, y + h * cos, y + w * sin + h * cos)
    return min(corners_x), min(corners_y), max(corners_x), max(corners_y)


def region_from_box(box: Box, size_wh: tuple[int, int], region_id: str, from_name: str = "label", to_name: str = "image") -> dict[str, Any]:
    """One `result` entry of an annotation (or of a prediction) for a box in pixels."""
    width, height = size_wh
    x1, y1, x2, y2 = (100 * value / side for value, side in zip(box.xyxy, (width, height, width, height), strict=True))
    return {
        "id": region_id,
        "type": "rectanglelabels",
        "from_name": from_name,
        "to_name": to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0, "rectanglelabels": [box.class_name]},
    }


def prediction_from_boxes(
    boxes: Iterable[tuple[Box, float, str]], size_wh: tuple[int, int], model_version: str, from_name: str = "label", to_name: str = "image"
) -> dict[str, Any]:
    """One entry of a task's `predictions`: boxes in pixels with their scores and the labels that stand for their classes; its score is their mean."""
    found = list(boxes)
    result = [
        region_from_box(Box(label, box.xyxy), size_wh, f"{model_version[:8]}-{number}", from_name, to_name) | {"score": round(score, 4)}
        for number, (box, score, label) in enumerate(found, start=1)
    ]
    mean = sum(score for _, score, _ in found) / len(found) if found else 0.0
    return {"model_version": model_version, "score": round(mean, 4), "result": result}


def annotation_from_boxes(
    boxes: Iterable[Box],
    size_wh: tuple[int, int],
    annotation_id: int,
    annotator: int,
    updated_at: str,
    cancelled: bool = False,
    ground_truth: bool = False,
) -> dict[str, Any]:
    """One entry of a task's `annotations`, as the export has it."""
    return {
        "id": annotation_id,
        "completed_by": annotator,
        "was_cancelled": cancelled,
        "ground_truth": ground_truth,
        "created_at": updated_at,
        "updated_at": updated_at,
        "result": [region_from_box(box, size_wh, f"{annotation_id}-{number}") for number, box in enumerate(boxes, start=1)],
    }


def task_from_annotations(task_id: int, image_id: str, image: str, annotations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One task of a JSON export, with `annotations` made by `annotation_from_boxes`."""
    return {
        "id": task_id,
        "data": {"image": image, "image_id": image_id},
        "annotations": list(annotations),
        "drafts": [],
        "predictions": [],
        "total_annotations": sum(not item["was_cancelled"] for item in annotations),
        "cancelled_annotations": sum(bool(item["was_cancelled"]) for item in annotations),
    }
