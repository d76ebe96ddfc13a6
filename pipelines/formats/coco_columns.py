"""COCO truth and result files straight into columns: hundreds of thousands of boxes in a fraction of a second.

For files that a model is judged by, so nothing is mended: a box that cannot be used is an error. Crowd regions are left out and counted, and
segmentations are not read.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from pipelines.core.boxes import xyxy_from_xywh
from pipelines.core.columns import DetectionColumns, Floats, Ints, TruthColumns, detection_columns, truth_columns
from pipelines.core.errors import DataError, listed

_ID = pl.String  # numbers too, as text: as Int64 polars would cut 1.5 to 1
_BOX: dict[str, Any] = {"image_id": _ID, "category_id": _ID, "bbox": pl.List(pl.Float64)}
_TRUTH_SCHEMA = {
    "images": pl.List(pl.Struct({"id": _ID, "file_name": pl.String})),
    "categories": pl.List(pl.Struct({"id": _ID, "name": pl.String})),
    "annotations": pl.List(pl.Struct({**_BOX, "iscrowd": pl.Int64})),
}
_RESULT_SCHEMA = {**_BOX, "score": pl.Float64}
_MAX_GAPS = 10  # numbers for each id, in a table of all between the first and the last


@dataclass(frozen=True)
class CocoTruth:
    """A truth file: image i of `boxes` is row i of `images`, class i is `classes[i]`.

    `images` has `image_id` and `image` (file name, null where the file has none), sorted by id.
    """

    images: pl.DataFrame
    category_ids: tuple[int, ...]
    classes: tuple[str, ...]
    boxes: TruthColumns
    crowd_regions: int


def read_truth(content: bytes, name: str) -> CocoTruth:
    """Read a COCO file with `images`, `categories` and `annotations`.

    Raises:
        DataError: not such a file, ids that are no whole numbers, stand twice or point nowhere, or a box without four finite numbers; `name` says
            which file.
    """
    frame = _parsed(content, _TRUTH_SCHEMA, name)
    if frame.height != 1 or any(frame[column][0] is None for column in _TRUTH_SCHEMA):
        raise DataError(f"{name} is not a COCO truth file (an object with images, categories and annotations): name such a file")
    parts = (frame.select(pl.col(column).explode(empty_as_null=False)).unnest(column) for column in _TRUTH_SCHEMA)
    images, categories, boxes = (_with_whole_ids(part, name) for part in parts)
    for kind, rows, needed in (("images", images, ["id"]), ("categories", categories, ["id", "name"])):
        if rows.select(needed).null_count().sum_horizontal().sum() or rows["id"].is_duplicated().any():
            raise DataError(f"{name}: {kind} need {' and '.join(needed)} each, and no id twice: mend the file")
    crowd = boxes["iscrowd"].fill_null(0) != 0
    boxes = boxes.filter(~crowd)
    images, categories = images.sort("id"), categories.sort("id")
    xyxy = _boxes(boxes, name, "annotations")
    image = _places(boxes["image_id"], images["id"], name, "annotations", "image_id")
    class_index = _places(boxes["category_id"], categories["id"], name, "annotations", "category_id")
    renamed = images.rename({"id": "image_id", "file_name": "image"})
    return CocoTruth(renamed, tuple(categories["id"]), tuple(categories["name"]), truth_columns(image, class_index, xyxy), int(crowd.sum()))


def read_results(content: bytes, truth: CocoTruth, name: str) -> DetectionColumns:
    """Read a COCO result file: a list of objects with image_id, category_id, bbox and score.

    Raises:
        DataError: not such a file, an id that is no whole number, an image or category that the truth lacks, a box without four finite numbers, or a
            score that is none.
    """
    frame = _parsed(content, _RESULT_SCHEMA, name)
    if not content.lstrip().startswith(b"["):
        raise DataError(f"{name} is not a COCO result file (a list of objects with image_id, category_id, bbox and score): name such a file")
    frame = _with_whole_ids(frame, name)
    xyxy = _boxes(frame, name, "detections")
    bad = np.flatnonzero(frame["score"].is_null().to_numpy() | ~np.isfinite(frame["score"].fill_null(0.0).to_numpy()))
    if len(bad):
        raise DataError(f"{name}: detections without a score ({listed([f'position {place}' for place in bad])}): mend the file")
    image = _places(frame["image_id"], truth.images["image_id"], name, "detections", "image_id")
    class_index = _places(frame["category_id"], pl.Series(truth.category_ids, dtype=pl.Int64), name, "detections", "category_id")
    return detection_columns(image, class_index, xyxy, frame["score"].to_numpy())


def _parsed(content: bytes, schema: dict[str, Any], name: str) -> pl.DataFrame:
    try:
        return pl.read_json(io.BytesIO(content), schema=schema)
    except pl.exceptions.PolarsError as error:
        cause = str(error).partition("\n")[0]  # what follows is advice to who calls polars
        raise DataError(f"{name} is not COCO JSON ({cause[:200]}): restore it or name another file") from error


def _with_whole_ids(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """`rows` with their ids as Int64."""
    texts = rows.select(pl.selectors.by_name("id", "image_id", "category_id", require_all=False))
    numbers = texts.cast(pl.Int64, strict=False)
    for key in texts.columns:
        odd = texts[key].filter(numbers[key].cast(pl.String).ne_missing(texts[key]))
        if len(odd):
            raise DataError(f"{name}: {key} is no whole number of 64 bits ({listed(odd.unique(maintain_order=True).to_list())}): mend the file")
    return rows.with_columns(numbers)


def _boxes(frame: pl.DataFrame, name: str, what: str) -> Floats:
    lengths = frame["bbox"].list.len().fill_null(0)
    bad = np.flatnonzero((lengths != 4).to_numpy())
    if not len(bad):
        xywh = frame["bbox"].list.to_array(4).to_numpy().reshape(-1, 4).astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(xywh).all(axis=1) | (xywh[:, 2:] < 0).any(axis=1))
    if len(bad):
        places = listed([f"position {place}: {frame['bbox'][int(place)]}" for place in bad[:100]])
        raise DataError(f"{name}: {what} whose bbox is not [x, y, width, height] ({len(bad)} in all; {places}): mend the file")
    result: Floats = np.asarray(xyxy_from_xywh(xywh), dtype=np.float64)
    return result


def _places(ids: pl.Series, known: pl.Series, name: str, what: str, key: str) -> Ints:
    """Where each id stands in the sorted `known`."""
    wanted, sorted_ids = ids.fill_null(-1).to_numpy(), known.to_numpy()
    place: Ints = np.zeros(len(wanted), dtype=np.int64)
    right = np.zeros(len(wanted), dtype=bool)
    if len(sorted_ids):
        first, last = int(sorted_ids[0]), int(sorted_ids[-1])
        inside = np.clip(wanted, first, last)
        if last - first < _MAX_GAPS * len(sorted_ids):  # a table answers faster than a search
            table = np.zeros(last - first + 1, dtype=np.int64)
            table[sorted_ids - first] = np.arange(len(sorted_ids))
            place = table[inside - first]
        else:
            place = np.searchsorted(sorted_ids, inside)
        right = (sorted_ids[place] == wanted) & ids.is_not_null().to_numpy()
    if not right.all():
        unknown = sorted({str(value) for value in ids.filter(pl.Series(~right))})
        raise DataError(f"{name}: {what} whose {key} the truth file does not know ({listed(unknown)}): name files that belong together")
    return place
