"""Who labels and how well: agreement between people, corrected for chance, and time. Pure; all of it from annotations that were not skipped.

On an image each person's newest annotation counts. Boxes of two people are one object from `min_iou` on, whatever their classes; one that only one of
them drew is an object that the other called nothing. Each object of each pair of people is one unit for the chance-corrected figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from math import fsum
from statistics import mean, median
from typing import Any

from pipelines.core.types import Box
from pipelines.labeling.agreement import agreement, match_boxes
from pipelines.labeling.opinions import Opinion, Verdict
from pipelines.labeling.resolve import moment

NOTHING = ""  # the class of a box that a person did not draw
Unit = tuple[str, str]


def units(a: Sequence[Box], b: Sequence[Box], min_iou: float) -> list[Unit]:
    """What two people called each object of one image."""
    pairs = match_boxes(a, b, min_iou, same_class=False)
    rows, columns = {row for row, _, _ in pairs}, {column for _, column, _ in pairs}
    return [
        *((a[row].class_name, b[column].class_name) for row, column, _ in pairs),
        *((box.class_name, NOTHING) for row, box in enumerate(a) if row not in rows),
        *((NOTHING, box.class_name) for column, box in enumerate(b) if column not in columns),
    ]


def cohens_kappa(found: Sequence[Unit]) -> float | None:
    """Cohen's kappa (1960): agreement beyond what the two people's own class frequencies give by chance; None where nothing could differ."""
    if not found:
        return None
    total = len(found)
    observed = sum(a == b for a, b in found) / total
    left, right = Counter(a for a, _ in found), Counter(b for _, b in found)
    expected = sum(left[name] * right[name] for name in left) / total**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def krippendorffs_alpha(found: Sequence[Unit]) -> float | None:
    """Krippendorff's alpha for names (2011), two values a unit, people interchangeable; None where nothing could differ."""
    values = Counter(name for unit in found for name in unit)
    total = sum(values.values())
    expected = total**2 - sum(count**2 for count in values.values())  # ordered pairs of values that differ
    if not expected:
        return None
    observed = 2 * sum(a != b for a, b in found)
    return 1 - (total - 1) * observed / expected


def pairs_of_image(verdicts: Sequence[Verdict], min_iou: float) -> list[list[Any]]:
    """For each pair of people who answered on one image: the two, the mean IoU, and their `units`."""
    newest = _newest_by_person(verdicts)
    versions = [(a, b, newest[a].boxes, newest[b].boxes) for a, b in combinations(sorted(newest, key=_person_order), 2)]
    return [[a, b, agreement([left, right]).mean_iou, units(left, right, min_iou)] for a, b, left, right in versions]


def seconds_of_image(opinions: Iterable[Opinion]) -> list[list[Any]]:
    """For each annotation with a time: who, seconds, whether it began with pre-labels."""
    timed = [item for item in opinions if item.lead_time_s is not None and item.state != "skipped"]
    return [[list(item.annotators), item.lead_time_s, bool(item.prelabels and item.prelabels.boxes)] for item in timed]


def agreement_figures(pairs_of_images: Iterable[Sequence[Sequence[Any]]]) -> dict[str, Any]:
    """Alpha over all, and for each pair of people: images, mean IoU, class agreement on the objects that both drew, kappa; of `pairs_of_image`."""
    ious: dict[Unit, list[float]] = {}
    found: dict[Unit, list[Unit]] = {}
    for a, b, mean_iou, objects in (pair for pairs in pairs_of_images for pair in pairs):
        ious.setdefault((a, b), []).append(mean_iou)
        found.setdefault((a, b), []).extend((left, right) for left, right in objects)
    pairs = []
    for pair in sorted(ious, key=lambda pair: tuple(map(_person_order, pair))):
        both = [unit for unit in found[pair] if NOTHING not in unit]
        pairs.append(
            {
                "people": list(pair),
                "images": len(ious[pair]),
                "mean_iou": mean(ious[pair]),
                "class_agreement": sum(a == b for a, b in both) / len(both) if both else None,
                "kappa": cohens_kappa(found[pair]),
            }
        )
    return {"alpha": krippendorffs_alpha([unit for items in found.values() for unit in items]), "pairs": pairs}


def time_figures(seconds_of_images: Iterable[Sequence[Sequence[Any]]]) -> dict[str, Any]:
    """Seconds for each image (all its annotations together), each person's annotations, and with and without pre-labels; of `seconds_of_image`."""
    per_image: list[float] = []
    per_person: dict[str, list[float]] = {}
    by_start: dict[bool, list[float]] = {True: [], False: []}
    for timed in seconds_of_images:
        per_image.append(sum(seconds for _, seconds, _ in timed))
        for people, seconds, shown in timed:
            by_start[shown].append(seconds)
            for person in people:
                per_person.setdefault(person, []).append(seconds)
    return {
        "images": _spread(per_image),
        "people": {person: _spread(per_person[person]) for person in sorted(per_person, key=_person_order)},
        "with_prelabels": _spread(by_start[True]),
        "without_prelabels": _spread(by_start[False]),
    }


def _spread(seconds: Sequence[float]) -> dict[str, Any]:
    return {"count": len(seconds), "median_s": median(seconds) if seconds else None, "total_s": fsum(seconds) if seconds else 0}


def _newest_by_person(items: Sequence[Verdict]) -> dict[str, Verdict]:
    """Each named person's newest usable answer."""
    found: dict[str, Verdict] = {}
    for item in sorted(items, key=lambda item: (moment(item.opinion.annotated_at), item.opinion.annotation_ids)):
        if item.state in ("labeled", "verified_empty") and len(item.opinion.annotators) == 1:
            found[item.opinion.annotators[0]] = item
    return found


def _person_order(name: str) -> tuple[int, str]:
    return (len(name), name)  # numbers in their order
