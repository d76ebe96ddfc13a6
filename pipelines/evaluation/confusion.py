"""Which class is taken for which: a matrix over labels and shown detections, with a row and a column for background.

The rule: on each image the shown detections, best score first, each take the free label that they overlap most, whatever its class, from IoU 0.5 up.
A detection that finds none stands in the row background, a label that none takes in the column background.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.core.boxes import iou_matrix
from pipelines.core.matching import greedy_match
from pipelines.core.types import Detections, GroundTruth

BACKGROUND = "background"
RULE = "shown detections, best score first, each take the free label of any class that they overlap most, from IoU 0.5 up"


def confusion_matrix(truth: Sequence[GroundTruth], shown: Sequence[Detections], class_count: int, iou: float) -> NDArray[np.int64]:
    """Counts, shape (classes + 1, classes + 1): rows are labels, columns detections, the last of each is background."""
    matrix = np.zeros((class_count + 1, class_count + 1), dtype=np.int64)
    for labels, found in zip(truth, shown, strict=True):
        order = np.argsort(-found.score, kind="stable")
        matched = greedy_match(iou_matrix(found.xyxy[order], labels.xyxy), iou)
        rows = np.full(len(found), class_count)
        rows[matched >= 0] = labels.class_index[matched[matched >= 0]]
        np.add.at(matrix, (rows, found.class_index[order]), 1)
        lost = np.setdiff1d(np.arange(len(labels.class_index)), matched)
        np.add.at(matrix, (labels.class_index[lost], class_count), 1)
    return matrix


def pairs_csv(matrix: NDArray[np.int64], classes: Sequence[str]) -> str:
    """The matrix as one line a box, `actual,predicted`: the form in which `dvc plots` wants a confusion matrix."""
    names = [*(_quoted(name) for name in classes), BACKGROUND]
    lines = [f"{names[row]},{names[column]}\n" * int(matrix[row, column]) for row, column in np.argwhere(matrix)]
    return "actual,predicted\n" + "".join(lines)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if any(mark in name for mark in ',"\n\r') else name
