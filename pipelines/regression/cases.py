"""A bad case on its way into the suite: written down when its image is asked about, then confirmed or refuted by the label that people give.

data/queue/cases-NNN.jsonl holds the wrong boxes on the images of round NNN, as the model of that round made them, with the state of the image's label
at that time. When a newer label stands there, the case is judged: if the box is still wrong, the model was at fault, and the case is confirmed; if
the new label agrees with the model, the label was at fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.core.boxes import iou_matrix
from pipelines.core.errors import DataError
from pipelines.core.io import canonical_json, iter_jsonl, sha256_bytes
from pipelines.core.types import Annotation

SAME_OBJECT_IOU = 0.7  # a person who draws a box anew stays well above, one who moves it goes below
FOUND_IOU = 0.5  # a detection is right about a label from here on, as everywhere
ID_DIGITS = 16
Answer = Literal["confirmed", "label_fault", "unanswered"]
XYXY = tuple[float, float, float, float]


@dataclass(frozen=True)
class Case:
    """One wrong box: `class_name` and `truth_box` are the label's (None: nothing is labeled there), `predicted_class` and `wrong_box` the detection's
    (None: the label was missed).
    """

    image_id: str
    kind: str
    class_name: str | None
    predicted_class: str | None
    truth_box: XYXY | None
    wrong_box: XYXY | None

    @property
    def id(self) -> str:
        """Hex digits that name the case: its image and what was wrong on it."""
        return sha256_bytes(canonical_json(asdict(self)).encode())[:ID_DIGITS]

    def to_row(self) -> dict[str, Any]:
        """As it stands in a file."""
        return {"id": self.id, **asdict(self)}

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> Case:
        """The inverse of `to_row`; other keys are ignored.

        Raises:
            KeyError: a key is missing.
        """
        return Case(row["image_id"], row["kind"], row["class_name"], row["predicted_class"], _box(row["truth_box"]), _box(row["wrong_box"]))

    @staticmethod
    def from_badcase(row: Mapping[str, Any]) -> Case:
        """The case in a row of badcases.jsonl."""
        return Case(row["image_id"], row["kind"], row["class"], row["predicted_class"], _box(row["truth_box"]), _box(row["box"]))


@dataclass(frozen=True)
class AskedCase:
    """A case of a round, with the mark of the label that its image had when it was asked about."""

    case: Case
    round: int
    label_mark: str


def asked_cases(badcases: Sequence[Mapping[str, Any]], image_ids: set[str], labels: Mapping[str, Annotation], round_number: int) -> list[AskedCase]:
    """The cases on the images that a round asks about, sorted by id."""
    cases = {case.id: case for row in badcases if row["image_id"] in image_ids for case in [Case.from_badcase(row)]}
    return [AskedCase(cases[key], round_number, label_mark(labels.get(cases[key].image_id))) for key in sorted(cases)]


def asked_row(item: AskedCase) -> dict[str, Any]:
    """As it stands in cases-NNN.jsonl."""
    return {**item.case.to_row(), "round": item.round, "label_mark": item.label_mark}


def read_asked(path: Path) -> list[AskedCase]:
    """The cases of one round.

    Raises:
        DataError: lines of another form.
    """
    try:
        return [AskedCase(Case.from_row(row), row["round"], row["label_mark"]) for row in iter_jsonl(path, "restore it from git")]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} has a line of another form ({error!r}): restore it from git") from error


def label_mark(label: Annotation | None) -> str:
    """Changes when people label the image again: its annotations, their date and its state."""
    content = None if label is None else [label.state, label.annotated_at, label.source, *label.annotation_ids]
    return sha256_bytes(canonical_json(content).encode())[:ID_DIGITS]


def answer(item: AskedCase, label: Annotation | None, class_of: Mapping[str, str]) -> Answer:
    """What the image's label now says of the case; `class_of` maps names, also those that a class had then, to those of today."""
    if label is None or label.state not in ("labeled", "verified_empty") or label_mark(label) == item.label_mark:
        return "unanswered"
    case = item.case
    wanted, found = (None if name is None else class_of.get(name, name) for name in (case.class_name, case.predicted_class))
    if case.truth_box is not None and _best(case.truth_box, wanted, label) < SAME_OBJECT_IOU:
        return "label_fault"
    if case.wrong_box is not None and case.kind != "duplicate" and _best(case.wrong_box, found, label) >= FOUND_IOU:
        return "label_fault"
    return "confirmed"


def _best(box: XYXY, class_name: str | None, label: Annotation) -> float:
    """The largest IoU of `box` with a label of the class."""
    boxes = np.array([item.xyxy for item in label.boxes if item.class_name == class_name], np.float64).reshape(-1, 4)
    overlaps: NDArray[np.float64] = iou_matrix(np.array([box], np.float64), boxes)
    return float(overlaps.max(initial=0.0))


def _box(value: Sequence[float] | None) -> XYXY | None:
    return None if value is None else (float(value[0]), float(value[1]), float(value[2]), float(value[3]))
