"""From typed errors to what people look at: one row a wrong box, and the images ordered by how much is wrong on them.

An error's `rank_score`, 0 to 1, is how sure the model was of the wrong answer: the score of a wrong detection; for a missed label 1 minus the best
score that any detection of its class at that place had, shown or not. An image's score is the sum over its errors, so that it reads as "about so many
boxes are wrong"; on an image without labels each detection adds up to a half, the more the closer its score is to the class's threshold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core.boxes import iou_matrix
from pipelines.core.slices import SliceLimits
from pipelines.core.types import Detections, GroundTruth, Sample, Split
from pipelines.mining.tide import KINDS, BoxError, ImageErrors

SCORE_DIGITS = 6
BOX_DIGITS = 2
UNSURE_WEIGHT = 0.5  # at the threshold a detection is right about every second time
UNSURE_FLOOR = 0.1  # closeness below which a detection does not count as unsure


@dataclass(frozen=True)
class MinedImage:
    """One labeled image with its detections: `everything` as predicted, `shown` (detections,) bool where the class threshold is reached.

    `errors` were typed on the shown ones; their detection indices count within those.
    """

    sample: Sample
    split: Split
    truth: GroundTruth
    everything: Detections
    shown: NDArray[np.bool_]
    errors: ImageErrors

    def shown_detections(self) -> Detections:
        """Only the detections that a user sees."""
        return select(self.everything, self.shown)


def select(detections: Detections, keep: NDArray[np.bool_]) -> Detections:
    """The detections where `keep` (detections,) is true."""
    return Detections(detections.xyxy[keep], detections.score[keep], detections.class_index[keep])


def shown_mask(detections: Detections, thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where a detection reaches its class's threshold; `thresholds` is (classes,)."""
    result: NDArray[np.bool_] = detections.score.astype(np.float64) >= thresholds[detections.class_index]
    return result


def badcase_rows(image: MinedImage, classes: Sequence[str], foreground_iou: float, limits: SliceLimits) -> list[dict[str, Any]]:
    """One row an error.

    `detection_index` counts within the image's stored detections, `truth_index` within the sample's boxes.
    """
    position = np.flatnonzero(image.shown)
    rows = []
    for error in image.errors.errors:
        detection = None if error.detection is None else int(position[error.detection])
        about = None if error.kind == "background" else error.truth
        box = None if detection is None else image.everything.xyxy[detection]
        truth_box = None if about is None else image.truth.xyxy[about]
        reference = box if truth_box is None else truth_box
        rows.append(
            {
                "image_id": image.sample.image_id,
                "split": image.split,
                "kind": error.kind,
                "class": None if about is None else classes[image.truth.class_index[about]],
                "predicted_class": None if detection is None else classes[image.everything.class_index[detection]],
                "score": None if detection is None else round(float(image.everything.score[detection]), SCORE_DIGITS),
                "iou": None if error.iou is None else round(error.iou, SCORE_DIGITS),
                "box": _rounded_box(box),
                "truth_box": _rounded_box(truth_box),
                "detection_index": detection,
                "truth_index": about,
                "slice": {
                    "source": image.sample.source,
                    "brightness": limits.brightness(image.sample.brightness),
                    "size": limits.size(_area(reference)),
                },
                "rank_score": round(_rank_score(error, image, foreground_iou), SCORE_DIGITS),
            }
        )
    return rows


def count_by(rows: Iterable[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], str]) -> dict[str, dict[str, int]]:
    """Errors of each kind (all kinds stand, 0 too) for each value of `key`."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(key(row), Counter())[row["kind"]] += 1
    return {name: {kind: counts[name][kind] for kind in KINDS} for name in sorted(counts)}


def kind_counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Errors of each kind, all kinds stand, 0 too."""
    counts = Counter(row["kind"] for row in rows)
    return {kind: counts[kind] for kind in KINDS}


def class_of_row(row: Mapping[str, Any]) -> str:
    """The class that an error counts for: the label's, or the detection's where there is no label."""
    return str(row["class"] if row["class"] is not None else row["predicted_class"])


def ranked_labeled(sample: Sample, split: Split, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The line of `ranked.jsonl` for a labeled image; `rows` are its errors."""
    return {
        "image_id": sample.image_id,
        "path": sample.path,
        "split": split,
        "score": round(sum(row["rank_score"] for row in rows), SCORE_DIGITS),
        "kinds": {kind: count for kind, count in kind_counts(rows).items() if count},
        "reasons": _reasons(rows),
    }


def ranked_unlabeled(sample: Sample, split: Split, detections: Detections, thresholds: NDArray[np.float64], classes: Sequence[str]) -> dict[str, Any]:
    """The line of `ranked.jsonl` for an image without labels, by how many detections the model is unsure of (kind `unsure`)."""
    closeness = threshold_closeness(detections.score.astype(np.float64), thresholds[detections.class_index])
    unsure = closeness > UNSURE_FLOOR
    names = Counter(classes[index] for index in detections.class_index[unsure])
    listed = ", ".join(f"{count} {name}" for name, count in sorted(names.items()))
    return {
        "image_id": sample.image_id,
        "path": sample.path,
        "split": split,
        "score": round(UNSURE_WEIGHT * float(closeness[unsure].sum()), SCORE_DIGITS),
        "kinds": {"unsure": int(unsure.sum())} if unsure.any() else {},
        "reasons": [f"no label yet, and scores near the threshold: {listed}"] if unsure.any() else [],
    }


def threshold_closeness(score: NDArray[np.float64], threshold: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 at the threshold, falling straight to 0 at half of it and halfway between it and 1."""
    reach = np.where(score < threshold, threshold / 2, (1 - threshold) / 2)
    distance = np.abs(score - threshold)
    result: NDArray[np.float64] = np.where(distance < reach, 1 - distance / np.where(reach > 0, reach, 1.0), np.where(distance == 0, 1.0, 0.0))
    return result


def _rank_score(error: BoxError, image: MinedImage, foreground_iou: float) -> float:
    if error.detection is not None:
        return float(image.everything.score[np.flatnonzero(image.shown)[error.detection]])
    assert error.truth is not None  # an error has a detection or a label
    there = iou_matrix(image.everything.xyxy, image.truth.xyxy[[error.truth]])[:, 0] >= foreground_iou
    there &= image.everything.class_index == image.truth.class_index[error.truth]
    return 1.0 - float(image.everything.score[there].max(initial=0.0))


def _reasons(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each kind and pair of classes, the heaviest first."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["class"] or "", row["predicted_class"] or ""), []).append(row)
    heaviest_first = sorted(groups.items(), key=lambda item: (-sum(row["rank_score"] for row in item[1]), item[0]))
    return [_sentence(kind, wanted, found, members) for (kind, wanted, found), members in heaviest_first]


def _sentence(kind: str, wanted: str, found: str, rows: Sequence[Mapping[str, Any]]) -> str:
    count = len(rows)
    if kind == "missed":
        return f"{count} {wanted} missed"
    top = f"score {'up to ' if count > 1 else ''}{max(row['score'] for row in rows):.2f}"
    sentences = {
        "class": f"{count} {wanted} taken for {found} ({top})",
        "location": f"{count} {wanted} found in the wrong place ({top})",
        "both": f"{count} {found} near a {wanted}, wrong in class or place ({top})",
        "duplicate": f"{count} {wanted} found twice ({top})",
        "background": f"{count} {found} where nothing is labeled ({top})",
    }
    return sentences[kind]


def _rounded_box(box: NDArray[np.float32] | None) -> list[float] | None:
    return None if box is None else [round(float(value), BOX_DIGITS) for value in box]


def _area(box: NDArray[np.float32] | None) -> float:
    return 0.0 if box is None else float(max(box[2] - box[0], 0) * max(box[3] - box[1], 0))
