"""Reading and writing the contract files: manifest, annotations, dataset samples, detections."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.core import tables
from pipelines.core.errors import ClassContractError, DataError
from pipelines.core.growing import GrowingTable
from pipelines.core.io import code_folder, code_key, iter_jsonl, jsonl_text, require_file, write_jsonl, write_text
from pipelines.core.tables import (
    ANNOTATIONS_SCHEMA,
    BOXES,
    DETECTIONS_SCHEMA,
    FEATURES_SCHEMA,
    MANIFEST_SCHEMA,
    parsed_lines,
    read_parquet,
    write_parquet,
)
from pipelines.core.types import Annotation, Box, Detections, GroundTruth, Sample

Record = TypeVar("Record")

PREDICTED_BY = "model.json"  # in the folder of predictions: {"weights_sha256": …} of the model that made them
BOX_DIGITS = 3  # labels are kept to a thousandth of a pixel
_NEAR_MIDDLE, _MOST_SCALED = 1e-3, 1e9  # up to here a product is off by a millionth at most


def read_manifest(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The manifest, see MANIFEST_SCHEMA, or some columns of it."""
    return read_parquet(path, MANIFEST_SCHEMA, columns=columns)


def write_manifest(path: Path, frame: pl.DataFrame) -> None:
    """Write the manifest sorted by origin."""
    write_parquet(path, frame.select(list(MANIFEST_SCHEMA)).cast(pl.Schema(MANIFEST_SCHEMA)).sort("origin"))


def read_annotations(path: Path) -> list[Annotation]:
    """The annotations snapshot, in file order (sorted by image_id)."""
    return [_parsed(path, row, annotation_from_row) for row in iter_jsonl(path)]


def read_annotations_table(path: Path, work: Path | None = None) -> pl.DataFrame:
    """The annotations snapshot as ANNOTATIONS_SCHEMA, boxes as `write_annotations` leaves them; in file order where an image stands in it twice.

    A file that it wrote is read as a whole, one that was edited line by line. In the folder `work`, if there is one, lines are remembered as they
    were read, so that only new ones are parsed.
    """
    table = _canonical(path, work)
    if table is not None:
        return table
    rows = [row_from_annotation(item) for item in read_annotations(path)]
    try:
        return pl.DataFrame(rows, schema=ANNOTATIONS_SCHEMA)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} has a line of another form ({error!r}): run `dvc repro` to write it anew") from error


def _canonical(path: Path, work: Path | None) -> pl.DataFrame | None:
    """The table of a file that is as `write_annotations` leaves it; None for others."""
    require_file(path)
    try:
        lines = pl.read_lines(path)
    except pl.exceptions.PolarsError:
        return None
    lines = lines.rename({lines.columns[0]: "line"})
    if work is None:
        return _canonical_lines(lines["line"])
    folder = code_folder(work, "lines-", code_key([tables, sys.modules[__name__]], [pl.__version__, np.__version__]))
    memory = GrowingTable(folder, "annotations", {"line": pl.String(), **ANNOTATIONS_SCHEMA})
    known = memory.read_or_clear()
    new = lines.join(known, "line", "anti").unique(maintain_order=True)
    parsed = _canonical_lines(new["line"])
    if parsed is None:
        return None
    new = new.with_columns(parsed.select(list(ANNOTATIONS_SCHEMA)))
    found = pl.concat([known, new], rechunk=True)
    if len(found) != len(lines):
        found = found.join(lines, "line", "semi", maintain_order="left")
    if memory.is_bulky(len(known) + len(new), len(lines)):
        memory.replace(found)
    elif len(new):
        memory.add(new)
    if found["image_id"].n_unique() != len(lines):
        found = lines.join(found, "line", "left", maintain_order="left")
    return found.drop("line")


def _canonical_lines(lines: pl.Series) -> pl.DataFrame | None:
    table = parsed_lines(lines, ANNOTATIONS_SCHEMA)
    if table is None or table.null_count().select("boxes", "image_id").sum_horizontal().item() or not _boxes_are_canonical(table["boxes"]):
        return None
    return table


def _boxes_are_canonical(boxes: pl.Series) -> bool:
    """Whether they are sorted and rounded as `_row_from_boxes` does it."""
    if not boxes.explode().struct.field("xyxy").list.len().eq(4).all():
        return False
    flat = box_columns(boxes)
    numbers = flat.select("x1", "y1", "x2", "y2").to_numpy()
    if not np.array_equal(np.round(numbers * 10**BOX_DIGITS) / 10**BOX_DIGITS, numbers):
        return False
    keys = ["row", "class", "x1", "y1", "x2", "y2"]
    return bool(flat.select(keys).equals(flat.select(keys).sort(keys)))


def rounded_floats(values: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Each value as Python's `round` gives it: the decimal that is nearest to the float's exact value, which scaling misses in the middle of two."""
    with np.errstate(over="ignore", invalid="ignore"):  # of huge values and NaN, which are rounded one by one
        scaled = values * 10**digits
        result: NDArray[np.float64] = np.rint(scaled) / 10**digits
        sure = (np.abs(scaled - np.floor(scaled) - 0.5) > _NEAR_MIDDLE) & (np.abs(scaled) < _MOST_SCALED)
    unsure = np.flatnonzero(~sure)
    result[unsure] = [round(value, digits) for value in values[unsure].tolist()]
    return result


def box_columns(boxes: pl.Series) -> pl.DataFrame:
    """A column of boxes (BOXES) as one row a box: `row` (which entry of the column), `class`, `x1`, `y1`, `x2`, `y2`."""
    flat = pl.DataFrame({"row": np.arange(len(boxes)), "box": boxes}, schema={"row": pl.Int64, "box": BOXES}).explode("box", empty_as_null=False)
    corners = pl.col("box").struct.field("xyxy")
    return flat.select(
        "row", pl.col("box").struct.field("class"), *(corners.list.get(place).alias(name) for place, name in enumerate(("x1", "y1", "x2", "y2")))
    )


def write_annotations(path: Path, annotations: Iterable[Annotation]) -> None:
    """Write the canonical snapshot: sorted by image_id, boxes sorted, same content gives the same bytes."""
    write_jsonl(path, [row_from_annotation(item) for item in sorted(annotations, key=lambda item: item.image_id)])


def read_samples(path: Path) -> list[Sample]:
    """The images of one split, in file order (sorted by image_id)."""
    return [_parsed(path, row, _sample_from_row) for row in iter_jsonl(path)]


def samples_text(samples: Iterable[Sample]) -> str:
    """The lines of one split, sorted by image_id."""
    return jsonl_text(_row_from_sample(item) for item in sorted(samples, key=lambda item: item.image_id))


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write one split, sorted by image_id."""
    write_text(path, samples_text(samples))


def ground_truth(sample: Sample, classes: Sequence[str]) -> GroundTruth:
    """Labels of a sample with class indices.

    Raises:
        ClassContractError: a class that `classes` lacks.
    """
    index = {name: position for position, name in enumerate(classes)}
    unknown = sorted({box.class_name for box in sample.boxes} - set(index))
    if unknown:
        raise ClassContractError(f"image {sample.image_id} has classes {unknown} that params.yaml lacks: run `dvc repro dataset`")
    return GroundTruth(sample.xyxy(), np.array([index[box.class_name] for box in sample.boxes], dtype=np.int64))


def write_detections(path: Path, detections: Mapping[str, Detections], classes: Sequence[str]) -> None:
    """Write the detections of many images (image_id to detections) as DETECTIONS_SCHEMA, sorted by image_id, then score descending."""
    ids = sorted(detections)
    items = [detections[image_id] for image_id in ids]
    xyxy = np.concatenate([np.zeros((0, 4), np.float32), *[item.xyxy for item in items]])
    names = np.array(classes, dtype=object)
    frame = pl.DataFrame(
        {
            "image_id": [image_id for image_id, item in zip(ids, items, strict=True) for _ in range(len(item))],
            "class": [str(name) for item in items for name in names[item.class_index]],
            "score": np.concatenate([np.zeros(0, np.float32), *[item.score for item in items]]),
            **{name: xyxy[:, column] for column, name in enumerate(("x1", "y1", "x2", "y2"))},
        },
        schema=DETECTIONS_SCHEMA,
    )
    write_parquet(path, frame.sort(["image_id", "score"], descending=[False, True], maintain_order=True))


def read_detections(path: Path, classes: Sequence[str]) -> dict[str, Detections]:
    """Detections by image_id; an image without detections is absent.

    Raises:
        ClassContractError: a class that `classes` lacks.
    """
    frame = read_parquet(path, DETECTIONS_SCHEMA)
    index = {name: position for position, name in enumerate(classes)}
    unknown = sorted(set(frame["class"].unique()) - set(index))
    if unknown:
        raise ClassContractError(f"{path} has classes {unknown} that params.yaml lacks: run `dvc repro`")
    result: dict[str, Detections] = {}
    for (image_id,), part in frame.group_by(["image_id"], maintain_order=True):
        result[str(image_id)] = Detections(
            part.select("x1", "y1", "x2", "y2").to_numpy().astype(np.float32),
            part["score"].to_numpy().astype(np.float32),
            np.array([index[name] for name in part["class"]], dtype=np.int64),
        )
    return result


def write_features(path: Path, features: Mapping[str, NDArray[np.float32]]) -> None:
    """Write one vector an image (image_id to (C,) float32) as FEATURES_SCHEMA."""
    ids = sorted(features)
    write_parquet(path, pl.DataFrame({"image_id": ids, "feature": [features[name].tolist() for name in ids]}, schema=FEATURES_SCHEMA))


def read_features(path: Path) -> dict[str, NDArray[np.float32]]:
    """The inverse of `write_features`."""
    frame = read_parquet(path, FEATURES_SCHEMA)
    return {name: np.array(feature, dtype=np.float32) for name, feature in frame.iter_rows()}


def _row_from_boxes(boxes: Iterable[Box]) -> list[dict[str, Any]]:
    rows = [{"class": box.class_name, "xyxy": [round(float(value), BOX_DIGITS) for value in box.xyxy]} for box in boxes]
    return sorted(rows, key=lambda row: (row["class"], row["xyxy"]))


def _boxes_from_row(rows: Sequence[Mapping[str, Any]]) -> tuple[Box, ...]:
    return tuple(Box(str(row["class"]), (row["xyxy"][0], row["xyxy"][1], row["xyxy"][2], row["xyxy"][3])) for row in rows)


def row_from_annotation(item: Annotation) -> dict[str, Any]:
    """The JSON object of one annotations line."""
    return {
        "image_id": item.image_id,
        "state": item.state,
        "width_px": item.width_px,
        "height_px": item.height_px,
        "boxes": _row_from_boxes(item.boxes),
        "source": item.source,
        "annotators": list(item.annotators),
        "annotation_ids": list(item.annotation_ids),
        "annotated_at": item.annotated_at,
    }


def annotation_from_row(row: Mapping[str, Any]) -> Annotation:
    """The inverse of `row_from_annotation`; other keys are ignored.

    Raises:
        KeyError, IndexError, TypeError: the line has another form.
    """
    return Annotation(
        image_id=row["image_id"],
        state=row["state"],
        width_px=row["width_px"],
        height_px=row["height_px"],
        boxes=_boxes_from_row(row["boxes"]),
        source=row["source"],
        annotators=tuple(row["annotators"]),
        annotation_ids=tuple(row["annotation_ids"]),
        annotated_at=row["annotated_at"],
    )


def _row_from_sample(item: Sample) -> dict[str, Any]:
    return {
        "image_id": item.image_id,
        "path": item.path,
        "width_px": item.width_px,
        "height_px": item.height_px,
        "state": item.state,
        "boxes": _row_from_boxes(item.boxes),
        "source": item.source,
        "group": item.group,
        "captured_at": item.captured_at,
        "brightness": round(item.brightness, BOX_DIGITS),
    }


def _sample_from_row(row: Mapping[str, Any]) -> Sample:
    return Sample(
        image_id=row["image_id"],
        path=row["path"],
        width_px=row["width_px"],
        height_px=row["height_px"],
        state=row["state"],
        boxes=_boxes_from_row(row["boxes"]),
        source=row["source"],
        group=row["group"],
        captured_at=row["captured_at"],
        brightness=row["brightness"],
    )


def _parsed(path: Path, row: dict[str, Any], parse: Callable[[Mapping[str, Any]], Record]) -> Record:
    try:
        return parse(row)
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path} has a line of another form ({error!r}): run `dvc repro` to write it anew") from error
