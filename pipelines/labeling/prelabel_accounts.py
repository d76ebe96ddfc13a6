"""What people made of the pre-labels, for each model version: whether pre-labeling pays. Pure.

A box of an annotation belongs to the pre-label with the same region id, else to the one that it overlaps most, from `min_iou` on. Then it is
    accepted      same class, no corner moved by more than half a pixel
    moved         same class, another place
    reclassified  another class, wherever it is now
A pre-label without a box was deleted, a box without a pre-label added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pipelines.core.types import Box
from pipelines.formats.reading import ReadBox
from pipelines.labeling.agreement import match_boxes
from pipelines.labeling.opinions import Opinion

OUTCOMES = ("accepted", "moved", "reclassified", "deleted", "added")
_STILL_PX = 0.5


def prelabel_accounts(opinions: Iterable[Opinion], class_of: Mapping[str, str], min_iou: float) -> dict[str, dict[str, int]]:
    """Counts by model version: annotations that began with its pre-labels, and OUTCOMES. Skipped annotations say nothing."""
    accounts: dict[str, Counter[str]] = {}
    for item in opinions:
        if item.prelabels is None or item.state == "skipped":
            continue
        counts = accounts.setdefault(item.prelabels.model_version, Counter())
        counts["annotations"] += 1
        counts.update(outcomes(_named(item.prelabels.boxes, class_of), _named(item.boxes, class_of), min_iou))
    return {version: {name: accounts[version][name] for name in ("annotations", *OUTCOMES)} for version in sorted(accounts)}


def outcomes(before: Sequence[ReadBox], after: Sequence[ReadBox], min_iou: float) -> Counter[str]:
    """OUTCOMES of one annotation that began with the pre-labels `before`."""
    place = {read.where: number for number, read in enumerate(after)}
    pairs = [(number, place.pop(read.where)) for number, read in enumerate(before) if read.where in place]
    left = [number for number in range(len(before)) if number not in {row for row, _ in pairs}]
    right = [number for number in range(len(after)) if number not in {column for _, column in pairs}]
    pairs += [
        (left[row], right[column]) for row, column, _ in match_boxes([before[i].box for i in left], [after[i].box for i in right], min_iou, False)
    ]
    counts = Counter(_outcome(before[row].box, after[column].box) for row, column in pairs)
    counts["deleted"] = len(before) - len(pairs)
    counts["added"] = len(after) - len(pairs)
    return counts


def _outcome(before: Box, after: Box) -> str:
    if before.class_name != after.class_name:
        return "reclassified"
    still = all(abs(a - b) <= _STILL_PX for a, b in zip(before.xyxy, after.xyxy, strict=True))
    return "accepted" if still else "moved"


def _named(reads: Sequence[ReadBox], class_of: Mapping[str, str]) -> list[ReadBox]:
    return [ReadBox(Box(class_of.get(read.box.class_name, read.box.class_name), read.box.xyxy), read.where) for read in reads]
