"""COCO detection JSON: `images`, `categories`, `annotations` with `bbox` = [x, y, width, height] in pixels from the top-left corner.

An image of the file that no annotation names is an image without objects: COCO's own evaluation counts every box found there as wrong. A file without
the key `annotations` (an image list) says nothing about its images. Segmentations are not read, only their `bbox`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.core.errors import DataError, listed
from pipelines.core.types import Box
from pipelines.formats.reading import Problem, ReadBox, finite_numbers, positive_size


@dataclass(frozen=True)
class CocoImage:
    """One entry of `images` with its boxes. `labeled` is False when the file has no `annotations` at all."""

    file_name: str
    size_wh: tuple[int, int] | None
    boxes: tuple[ReadBox, ...]
    problems: tuple[Problem, ...]
    labeled: bool


@dataclass(frozen=True)
class CocoFile:
    """All images in file order, and the problems that belong to no image."""

    images: tuple[CocoImage, ...]
    problems: tuple[Problem, ...]


def read_coco(value: Any, name: str) -> CocoFile:
    """Read a parsed COCO file. Problems: missing_size, malformed_annotation, unknown_class, unknown_image, crowd, duplicate_id.

    Raises:
        DataError: not a COCO detection file, or two images or categories share an id; `name` says which file.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("images"), list):
        raise DataError(f"{name} is not a COCO file (an object with `images`): name a detection file")
    try:
        images = {row["id"]: str(row["file_name"]) for row in value["images"]}
        categories = {row["id"]: str(row["name"]) for row in value.get("categories") or []}
    except (KeyError, TypeError) as error:
        raise DataError(f"{name}: an image lacks id or file_name, or a category id or name ({error!r}): mend the file") from error
    if len(images) != len(value["images"]) or len(categories) != len(value.get("categories") or []):
        ids = [row["id"] for row in [*value["images"], *(value.get("categories") or [])]]
        raise DataError(f"{name}: ids stand twice among images or categories: {listed(sorted({str(i) for i in ids if ids.count(i) > 1}))}")
    boxes: dict[Any, list[ReadBox]] = {image_id: [] for image_id in images}
    problems: dict[Any, list[Problem]] = {image_id: [] for image_id in images}
    homeless: list[Problem] = []
    seen: set[Any] = set()
    for position, row in enumerate(value.get("annotations") or []):
        if not isinstance(row, Mapping):
            homeless.append(Problem("malformed_annotation", f"annotations[{position}]", f"not an object: {row!r}"))
            continue
        where = f"annotation {row.get('id', f'at position {position}')}"
        image_id = row.get("image_id")
        if not isinstance(image_id, int | str) or image_id not in images:
            homeless.append(Problem("unknown_image", where, f"image_id {image_id!r} is not among the images"))
            continue
        if row.get("id") is not None and row["id"] in seen:
            problems[image_id].append(Problem("duplicate_id", where, "another annotation has this id"))
        seen.add(row.get("id"))
        read = _box(row, categories, where)
        if isinstance(read, Problem):
            problems[image_id].append(read)
        else:
            boxes[image_id].append(read)
    result = []
    for row in value["images"]:
        size_wh = positive_size(row.get("width"), row.get("height"))
        if size_wh is None:
            problems[row["id"]].append(Problem("missing_size", f"image {row['id']}", "no width and height"))
        found = CocoImage(images[row["id"]], size_wh, tuple(boxes[row["id"]]), tuple(problems[row["id"]]), "annotations" in value)
        result.append(found)
    return CocoFile(tuple(result), tuple(homeless))


def _box(row: Mapping[str, Any], categories: Mapping[Any, str], where: str) -> ReadBox | Problem:
    bbox = row.get("bbox")
    numbers = finite_numbers(bbox) if isinstance(bbox, list) and len(bbox) == 4 else None
    category_id = row.get("category_id")
    if row.get("iscrowd"):
        return Problem("crowd", where, "a crowd region is no single object")
    if numbers is None:
        return Problem("malformed_annotation", where, f"bbox is {bbox!r}, wanted [x, y, width, height]")
    if not isinstance(category_id, int | str) or category_id not in categories:
        return Problem("unknown_class", where, f"category_id {category_id!r} is not among the categories")
    x, y, width, height = numbers
    return ReadBox(Box(categories[category_id], (x, y, x + width, y + height)), where)


def coco_from_boxes(images: Iterable[tuple[str, tuple[int, int], Sequence[Box]]], classes: Sequence[str]) -> dict[str, Any]:
    """A COCO object for `(file_name, (width, height), boxes)` of each image; image, category and annotation ids count from 1 in the given order.

    Raises:
        ValueError: a class that `classes` lacks.
    """
    rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for file_name, (width, height), boxes in images:
        rows.append({"id": len(rows) + 1, "file_name": file_name, "width": width, "height": height})
        for box in boxes:
            x1, y1, x2, y2 = box.xyxy
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(rows),
                    "category_id": classes.index(box.class_name) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": max(x2 - x1, 0) * max(y2 - y1, 0),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    return {"images": rows, "annotations": annotations, "categories": categories}
