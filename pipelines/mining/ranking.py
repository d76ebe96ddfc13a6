"""The images in the order in which they are worth a person's time, each with its reasons.

An image's score is the sum of its errors' `rank_score`, so that it reads as "about so many boxes are wrong". On an image without labels each
detection adds up to a half, the more the closer its score is to the class's threshold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core.types import Detections, Sample, Split
from pipelines.mining.badcases import SCORE_DIGITS
from pipelines.mining.tide import KINDS

UNSURE_WEIGHT = 0.5  # at the threshold a detection is right about every second time
UNSURE_FLOOR = 0.1  # closeness below which a detection does not count as unsure


def kind_counts(kinds: Iterable[str]) -> dict[str, int]:
    """How often each kind stands in `kinds`; all kinds stand, 0 too."""
    counts = Counter(kinds)
    return {kind: counts[kind] for kind in KINDS}


def ranked_labeled(sample: Sample, split: Split, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The line of `ranked.jsonl` for a labeled image; `rows` are its errors."""
    return {
        "image_id": sample.image_id,
        "path": sample.path,
        "split": split,
        "score": round(sum(row["rank_score"] for row in rows), SCORE_DIGITS),
        "kinds": {kind: count for kind, count in kind_counts(row["kind"] for row in rows).items() if count},
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
