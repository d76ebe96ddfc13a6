"""How a model does on the suite: an item is right when its label is found, and when the wrong box is gone.

missed, class, location     the label must be found: a shown detection of its class matches it (IoU 0.5, COCO's matching)
all but missed              no shown detection of the wrong box's class that matches no label may overlap the wrong box by IoU 0.5
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.core.boxes import iou_matrix
from pipelines.core.matching import match_within_class
from pipelines.core.types import Detections, GroundTruth
from pipelines.regression.cases import FOUND_IOU, Case
from pipelines.regression.suite import SuiteItem

NEEDS_LABEL = ("missed", "class", "location")
State = Literal["fixed", "still_bad", "regressed", "not_judged"]
STATES: tuple[State, ...] = ("fixed", "still_bad", "regressed", "not_judged")


@dataclass(frozen=True)
class Scored:
    """One item: whether the candidate and the champion are right about it (None: cannot be judged, or no champion), and the state."""

    item: SuiteItem
    candidate: bool | None
    champion: bool | None
    state: State


@dataclass(frozen=True)
class Scene:
    """One image: its labels, and the detections that a user of each model sees; `champion` is None where there is none."""

    truth: GroundTruth
    candidate: Detections
    champion: Detections | None


def score_suite(items: Sequence[SuiteItem], scenes: Mapping[str, Scene], index_of: Mapping[str, int]) -> list[Scored]:
    """Every item in its order; `scenes` by image_id, `index_of` the class index of each name, also of names that a class had before."""
    scored = []
    for item in items:
        scene = scenes.get(item.case.image_id)
        if scene is None:
            scored.append(Scored(item, None, None, "not_judged"))
            continue
        candidate = is_right(item.case, scene.truth, scene.candidate, index_of)
        champion = None if scene.champion is None else is_right(item.case, scene.truth, scene.champion, index_of)
        scored.append(Scored(item, candidate, champion, _state(item, candidate, champion)))
    return scored


def is_right(case: Case, truth: GroundTruth, shown: Detections, index_of: Mapping[str, int]) -> bool | None:
    """Whether the shown detections are right about the case; None when its label is gone, or stands where nothing was."""
    matched = match_within_class(truth, shown, FOUND_IOU)
    label = _label_of(case, truth, index_of)
    if case.truth_box is not None and label is None:
        return None
    if case.kind in NEEDS_LABEL and label not in matched:
        return False
    wrong_class = index_of.get(case.predicted_class or "")
    if case.wrong_box is None or wrong_class is None:
        return True
    box = np.array([case.wrong_box], np.float32)
    if case.kind == "background" and bool((_overlap(box, truth.xyxy[truth.class_index == wrong_class]) >= FOUND_IOU).any()):
        return None
    unmatched = (matched < 0) & (shown.class_index == wrong_class)
    return not bool((_overlap(box, shown.xyxy[unmatched]) >= FOUND_IOU).any())


def _label_of(case: Case, truth: GroundTruth, index_of: Mapping[str, int]) -> int | None:
    """Index of the label that the case is about."""
    class_index = index_of.get(case.class_name or "")
    if case.truth_box is None or class_index is None:
        return None
    rows = np.flatnonzero(truth.class_index == class_index)
    overlaps = _overlap(np.array([case.truth_box], np.float32), truth.xyxy[rows])
    if overlaps.max(initial=0.0) < FOUND_IOU:
        return None
    return int(rows[overlaps.argmax()])


def _overlap(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = iou_matrix(box, others)[0]
    return result


def _state(item: SuiteItem, candidate: bool | None, champion: bool | None) -> State:
    if candidate is None:
        return "not_judged"
    if candidate:
        return "fixed"
    return "regressed" if champion or any(right for _, right in item.history) else "still_bad"
