"""How well a ranking of boxes finds planted label faults, and the rankings of tools that we compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from planted_faults import Fault

from pipelines.core.boxes import iou_matrix
from pipelines.core.columns import DetectionColumns, Floats, Ints, TruthColumns
from pipelines.mining.mistakenness import class_mistakenness, location_mistakenness
from pipelines.mining.tide import overlaps, typed_errors

SAME_IOU = 0.5  # a proposed box is the missing one from here on
SURE = 0.95  # FiftyOne: an unmatched prediction above is possibly missing


@dataclass(frozen=True)
class Ranking:
    """Suspects: `score` (N,), the higher the more suspect, and for each either a label or a detection (rows of the columns), the other -1."""

    score: Floats
    label: Ints
    detection: Ints

    @staticmethod
    def of(labels: Floats, detections: Floats) -> Ranking:
        """From a score for each label and each detection; 0 and NaN mean: no suspect."""
        label, detection = np.flatnonzero(np.nan_to_num(labels) > 0), np.flatnonzero(np.nan_to_num(detections) > 0)
        return Ranking(
            np.concatenate([labels[label], detections[detection]]),
            np.concatenate([label, np.full(len(detection), -1)]),
            np.concatenate([np.full(len(label), -1), detection]),
        )


def judged(ranking: Ranking, truth: TruthColumns, found: DetectionColumns, images: Sequence[str], faults: Sequence[Fault]) -> dict[str, Any]:
    """Average precision over all planted faults, precision among as many suspects as faults, and the recall of each kind there.

    A label is a hit if a fault was planted in it; a detection if it overlaps a removed box by SAME_IOU that no better suspect had.
    """
    number = {name: index for index, name in enumerate(images)}
    wrong: dict[int, str] = {}
    missing: dict[int, list[list[float]]] = {}
    for fault in faults:
        image = number[fault.image_id]
        if fault.kind == "missing":
            missing.setdefault(image, []).append(list(fault.box.xyxy))
        else:
            rows = np.flatnonzero(truth.image == image)
            away = np.abs(truth.xyxy[rows] - np.array(fault.box.xyxy)).max(axis=1)
            wrong[int(rows[away.argmin()])] = fault.kind
    hits: list[str | None] = []
    for place in np.argsort(-ranking.score, kind="stable"):
        label, detection = int(ranking.label[place]), int(ranking.detection[place])
        if label >= 0:
            hits.append(wrong.pop(label, None))
            continue
        image = int(found.image[detection])
        gone = missing.get(image, [])
        overlap = iou_matrix(found.xyxy[[detection]], np.array(gone).reshape(-1, 4))[0]
        if overlap.max(initial=0.0) >= SAME_IOU:
            del gone[int(overlap.argmax())]
            hits.append("missing")
        else:
            hits.append(None)
    right = np.array([hit is not None for hit in hits], dtype=bool)
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    first = hits[: len(faults)]
    kinds = sorted({fault.kind for fault in faults})
    return {
        "ap": float(precision[right].sum() / len(faults)),
        "precision_at_planted": sum(hit is not None for hit in first) / len(faults),
        "recall_at_planted": {kind: first.count(kind) / sum(fault.kind == kind for fault in faults) for kind in kinds},
    }


def objectlab(truth: TruthColumns, found: DetectionColumns, image_count: int, class_count: int) -> Ranking:
    """cleanlab's ObjectLab with its own settings: badly located and swapped labels, overlooked boxes."""
    from cleanlab.object_detection import rank

    labels, predictions, rows = [], [], []
    for image in range(image_count):
        mine = truth.image == image
        labels.append({"bboxes": truth.xyxy[mine], "labels": truth.class_index[mine]})
        own = np.flatnonzero(found.image == image)
        by_class = [own[found.class_index[own] == index] for index in range(class_count)]
        predictions.append(np.array([np.column_stack([found.xyxy[part], found.score[part]]) for part in by_class] + [None], dtype=object)[:-1])
        rows.append(np.concatenate(by_class))
    common: dict[str, Any] = {"labels": labels, "predictions": predictions}
    quality = [np.concatenate(call(**common)) for call in (rank.compute_badloc_box_scores, rank.compute_swap_box_scores)]
    overlooked = np.concatenate(rank.compute_overlooked_box_scores(**common))
    detections = np.full(len(found), np.nan)
    detections[np.concatenate(rows)] = 1 - overlooked
    return Ranking.of(1 - np.fmin(*quality), detections)


def mistakenness(truth: TruthColumns, found: DetectionColumns) -> Ranking:
    """FiftyOne's: labels by the better of both figures, unmatched labels as possibly spurious, sure unmatched detections as possibly missing."""
    label_scores, detection_scores = np.zeros(len(truth)), np.zeros(len(found))
    row, label, iou = overlaps(truth, found)
    taken, used = np.full(len(truth), -1), np.zeros(len(found), dtype=bool)
    overlap = np.zeros(len(truth))
    enough = iou >= SAME_IOU
    for place in np.flatnonzero(enough)[np.lexsort((-iou[enough], -found.score[row[enough]]))]:  # best score first, of any class
        if not used[row[place]] and taken[label[place]] < 0:
            used[row[place]], taken[label[place]], overlap[label[place]] = True, row[place], iou[place]
    matched = taken >= 0
    confidence = found.score[taken]
    agrees = found.class_index[taken] == truth.class_index
    both = np.maximum(class_mistakenness(confidence, agrees), location_mistakenness(confidence, overlap))
    label_scores[:] = np.where(matched, both, 1.0)
    detection_scores[~used] = np.where(found.score[~used] > SURE, found.score[~used], 0.0)
    return Ranking.of(label_scores, detection_scores)


def fp_fn_count(truth: TruthColumns, found: DetectionColumns, image_count: int, threshold: float) -> Ranking:
    """Wrong detections from `threshold` up and labels that none finds, ranked by how many of both their image has."""
    shown = np.flatnonzero(found.score >= threshold)
    matched = typed_errors(truth, found.where(found.score >= threshold), 0.5, 0.1).matched
    false_positive, false_negative = shown[matched < 0], np.setdiff1d(np.arange(len(truth)), matched)
    count = np.bincount(found.image[false_positive], minlength=image_count) + np.bincount(truth.image[false_negative], minlength=image_count)
    label_scores, detection_scores = np.zeros(len(truth)), np.zeros(len(found))
    label_scores[false_negative] = count[truth.image[false_negative]]
    detection_scores[false_positive] = count[found.image[false_positive]]
    return Ranking.of(label_scores, detection_scores)
