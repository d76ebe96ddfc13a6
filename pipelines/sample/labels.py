"""The sample's labels as a team leaves them: a Label Studio JSON export with the faults of real labeling, and a record of every planted one.

The form is that of `GET /api/projects/ID/export?exportType=JSON&download_all_tasks=true`: drafts in full, predictions as ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import numpy as np

PROJECT, IMPORTER = 4, 3
ANNOTATORS = (3, 5, 8)
FIRST_TASK, FIRST_ANNOTATION = 1041, 877
ROUND_IDS = 100_000  # apart
IMPORTED_AT = datetime(2025, 3, 13, 7, 42, 10, 318204, tzinfo=UTC)
ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
MISSING_SHARE, WRONG_SHARE, SHIFTED_SHARE = 0.02, 0.015, 0.004  # of the boxes
TWO_SHARE, POOL_SHARE = 0.10, 0.0625  # of the images
CONFUSED = {"nut": "washer", "washer": "nut"}
ALIAS = {"bolt": "screw"}

Fault = Literal["missing_box", "wrong_class", "shifted_box", "past_edge", "alias"]
XYXY = tuple[float, float, float, float]
Planted = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Labelable:
    """An image that people may be asked about: `boxes` (class, xyxy in pixels as a person sees the image)."""

    image_id: str
    file: str
    wh: tuple[int, int]
    boxes: tuple[tuple[str, XYXY], ...]


@dataclass(frozen=True)
class Drawn:
    """A box as an annotator left it; `fault` is what was planted in it."""

    class_name: str
    xyxy: XYXY
    true_class: str
    true_xyxy: XYXY
    fault: Fault | None = None


class TeamExport:
    """Writes tasks one after the other; ids, times and random marks come out of one generator, so the same images give the same export.

    The export of a later round has ids of its own and later dates.
    """

    def __init__(self, rng: np.random.Generator, round_number: int = 0) -> None:
        self._rng = rng
        self._task, self._annotation = FIRST_TASK + ROUND_IDS * round_number, FIRST_ANNOTATION + ROUND_IDS * round_number
        self._draft, self._prediction = 61, 19
        self._clock = IMPORTED_AT + timedelta(weeks=round_number, minutes=35)
        self.tasks: list[dict[str, Any]] = []
        self.planted: Planted = {
            kind: []
            for kind in (
                *("missing_box", "wrong_class", "shifted_box", "past_edge", "alias"),
                *("skipped", "skipped_then_labeled", "verified_empty", "two_annotators", "disagreement"),
                *("draft_only", "prediction_only", "no_annotation", "not_in_export"),
            )
        }

    def plant(self, kind: str, image: Labelable, **details: Any) -> None:
        """Record a planted fault."""
        self.planted[kind].append({"file": image.file, "image_id": image.image_id, **details})

    def jittered(self, image: Labelable) -> list[Drawn]:
        """The true boxes with the unsteady hand of a person: each side up to 1 px off, inside the image."""
        result = []
        for name, box in image.boxes:
            off = self._rng.choice([-1, 0, 1], size=4, p=[0.2, 0.6, 0.2])
            xyxy = (
                max(0.0, box[0] + off[0]),
                max(0.0, box[1] + off[1]),
                min(float(image.wh[0]), box[2] + off[2]),
                min(float(image.wh[1]), box[3] + off[3]),
            )
            result.append(Drawn(name, xyxy, name, box))
        return result

    def result(self, image: Labelable, boxes: Iterable[Drawn]) -> list[dict[str, Any]]:
        """Label Studio's regions for `boxes`, in percent of the image."""
        return [_region(image.wh, box, self._mark()) for box in boxes]

    def annotation(self, boxes: list[dict[str, Any]], annotator: int, cancelled: bool = False, ground_truth: bool = False) -> dict[str, Any]:
        """One annotation of the current task."""
        lead_time = float(np.round(6 + 5.5 * len(boxes) + self._rng.exponential(6), 3))
        begun = self._clock
        self._clock += timedelta(seconds=lead_time + float(self._rng.integers(1, 9)), microseconds=int(self._rng.integers(0, 999_999)))
        created = begun + timedelta(seconds=lead_time)
        self._annotation += 1
        return {
            "id": self._annotation,
            "completed_by": annotator,
            "result": boxes,
            "was_cancelled": cancelled,
            "ground_truth": ground_truth,
            "created_at": _stamp(created),
            "updated_at": _stamp(created + timedelta(milliseconds=11)),
            "draft_created_at": _stamp(begun + timedelta(seconds=3)) if boxes else None,
            "lead_time": lead_time,
            "prediction": {},
            "result_count": len(boxes),
            "unique_id": str(UUID(bytes=self._rng.bytes(16), version=4)),
            "import_id": None,
            "last_action": None,
            "bulk_created": False,
            "task": self._task,
            "project": PROJECT,
            "updated_by": annotator,
            "parent_prediction": None,
            "parent_annotation": None,
            "last_created_by": None,
        }

    def draft(self, boxes: list[dict[str, Any]], annotator: int) -> dict[str, Any]:
        """Work that was begun and never submitted."""
        self._draft += 1
        return {
            "id": self._draft,
            "user": f"annotator{annotator}@example.invalid",
            "created_username": f" annotator{annotator}@example.invalid, {annotator}",
            "created_ago": "0 minutes",
            "result": boxes,
            "lead_time": 9.417,
            "was_postponed": False,
            "import_id": None,
            "created_at": _stamp(self._clock),
            "updated_at": _stamp(self._clock),
            "task": self._task,
            "annotation": None,
        }

    def add(
        self,
        image: Labelable,
        annotations: Sequence[dict[str, Any]],
        drafts: Sequence[dict[str, Any]] = (),
        predictions: int = 0,
    ) -> int:
        """Close the current task; its id."""
        name = image.file.rsplit("/", 1)[-1]
        upload = f"{self._rng.bytes(4).hex()}-{name}"
        task = self._task
        submitted = [item for item in annotations if not item["was_cancelled"]]
        ids = [self._prediction + number for number in range(1, predictions + 1)]
        self._prediction += predictions
        self.tasks.append(
            {
                "id": task,
                "annotations": list(annotations),
                "file_upload": upload,
                "drafts": list(drafts),
                "predictions": ids,
                "data": {"image": f"/data/upload/{PROJECT}/{upload}", "image_id": image.image_id},
                "meta": {},
                "created_at": _stamp(IMPORTED_AT),
                "updated_at": annotations[-1]["updated_at"] if annotations else _stamp(IMPORTED_AT),
                "inner_id": len(self.tasks) + 1,
                "total_annotations": len(submitted),
                "cancelled_annotations": len(annotations) - len(submitted),
                "total_predictions": predictions,
                "comment_count": 0,
                "unresolved_comment_count": 0,
                "last_comment_updated_at": None,
                "project": PROJECT,
                "updated_by": annotations[-1]["completed_by"] if annotations else IMPORTER,
                "comment_authors": [],
            }
        )
        self._task += 1
        return task

    def _mark(self) -> str:
        return "".join(ID_LETTERS[int(letter)] for letter in self._rng.integers(0, len(ID_LETTERS), 10))


def _stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _region(wh: tuple[int, int], box: Drawn, mark: str) -> dict[str, Any]:
    x1, y1, x2, y2 = box.xyxy
    return {
        "original_width": wh[0],
        "original_height": wh[1],
        "image_rotation": 0,
        "value": {
            "x": 100 * x1 / wh[0],
            "y": 100 * y1 / wh[1],
            "width": 100 * (x2 - x1) / wh[0],
            "height": 100 * (y2 - y1) / wh[1],
            "rotation": 0,
            "rectanglelabels": [box.class_name],
        },
        "id": mark,
        "from_name": "label",
        "to_name": "image",
        "type": "rectanglelabels",
        "origin": "manual",
    }


def spoiled(box: Drawn, fault: Fault, wh: tuple[int, int], rng: np.random.Generator) -> Drawn:
    """The box with one fault of labeling in it; a missing box keeps its place and is left out by the caller."""
    if fault == "wrong_class":
        return replace(box, class_name=CONFUSED[box.class_name], fault=fault)
    if fault == "alias":
        return replace(box, class_name=ALIAS[box.class_name], fault=fault)
    x1, y1, x2, y2 = box.xyxy
    if fault == "shifted_box":
        dx = float(np.round((x2 - x1) * rng.uniform(0.25, 0.4))) * (1 if x1 < wh[0] / 2 else -1)
        dy = float(np.round((y2 - y1) * rng.uniform(0.2, 0.35))) * (1 if y1 < wh[1] / 2 else -1)
        return replace(box, xyxy=(x1 + dx, y1 + dy, x2 + dx, y2 + dy), fault=fault)
    if fault == "past_edge":
        past = float(np.round(0.009 * wh[0]))
        return replace(box, xyxy=(x1, y1, wh[0] + past, y2) if wh[0] - x2 <= x1 else (-past, y1, x2, y2), fault=fault)
    return replace(box, fault=fault)
