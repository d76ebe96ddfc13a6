"""Who labels and how well: agreement between people, corrected for chance, and time. Pure; all of it from annotations that were not skipped.

On an image each person's newest annotation counts. Boxes of two people are one object from `min_iou` on, whatever their classes; one that only one of
them drew is an object that the other called nothing. Each object of each pair of people is one unit for the chance-corrected figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
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


def agreement_figures(verdicts: Mapping[str, Sequence[Verdict]], min_iou: float) -> dict[str, Any]:
    """Alpha over all, and for each pair of people: images, mean IoU, class agreement on the objects that both drew, kappa."""
    images: dict[Unit, list[tuple[Sequence[Box], Sequence[Box]]]] = {}
    for items in verdicts.values():
        newest = _newest_by_person(items)
        for a, b in combinations(sorted(newest, key=_person_order), 2):
            images.setdefault((a, b), []).append((newest[a].boxes, newest[b].boxes))
    found = {pair: [unit for a, b in boxes for unit in units(a, b, min_iou)] for pair, boxes in images.items()}
    pairs = []
    for pair in sorted(images, key=lambda pair: tuple(map(_person_order, pair))):
        both = [unit for unit in found[pair] if NOTHING not in unit]
        pairs.append(
            {
                "people": list(pair),
                "images": len(images[pair]),
                "mean_iou": mean(agreement(boxes).mean_iou for boxes in images[pair]),
                "class_agreement": sum(a == b for a, b in both) / len(both) if both else None,
                "kappa": cohens_kappa(found[pair]),
            }
        )
    return {"alpha": krippendorffs_alpha([unit for items in found.values() for unit in items]), "pairs": pairs}


def time_figures(opinions: Iterable[Opinion]) -> dict[str, Any]:
    """Seconds for each image (all its annotations together), each person's annotations, and with and without pre-labels to start from."""
    timed = [item for item in opinions if item.lead_time_s is not None and item.state != "skipped"]
    per_image: dict[str, float] = {}
    per_person: dict[str, list[float]] = {}
    for item in timed:
        per_image[item.image_id] = per_image.get(item.image_id, 0.0) + (item.lead_time_s or 0)
        for person in item.annotators:
            per_person.setdefault(person, []).append(item.lead_time_s or 0)
    shown = [item.lead_time_s or 0 for item in timed if item.prelabels and item.prelabels.boxes]
    bare = [item.lead_time_s or 0 for item in timed if not (item.prelabels and item.prelabels.boxes)]
    return {
        "images": _spread(list(per_image.values())),
        "people": {person: _spread(per_person[person]) for person in sorted(per_person, key=_person_order)},
        "with_prelabels": _spread(shown),
        "without_prelabels": _spread(bare),
    }


def _spread(seconds: Sequence[float]) -> dict[str, Any]:
    return {"count": len(seconds), "median_s": median(seconds) if seconds else None, "total_s": sum(seconds)}


def _newest_by_person(items: Sequence[Verdict]) -> dict[str, Verdict]:
    """Each named person's newest usable answer."""
    found: dict[str, Verdict] = {}
    for item in sorted(items, key=lambda item: (moment(item.opinion.annotated_at), item.opinion.annotation_ids)):
        if item.state in ("labeled", "verified_empty") and len(item.opinion.annotators) == 1:
            found[item.opinion.annotators[0]] = item
    return found


def _person_order(name: str) -> tuple[int, str]:
    return (len(name), name)  # numbers in their order
