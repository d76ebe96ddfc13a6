"""The figures of data/metrics/labels.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.core.types import Annotation
from pipelines.formats.reading import ZERO_AREA
from pipelines.labeling.agreement import agreement
from pipelines.labeling.opinions import Issue, Verdict
from pipelines.labeling.people import agreement_figures, time_figures
from pipelines.labeling.prelabel_accounts import prelabel_accounts
from pipelines.labeling.resolve import Resolved
from pipelines.labeling.sources import Sources

STATES = ("labeled", "verified_empty", "skipped", "conflict")
MAX_NAMED = 200  # names in the metrics; issues.jsonl has all


def summarize(
    sources: Sources,
    verdicts: Mapping[str, Sequence[Verdict]],
    resolved: Mapping[str, Resolved],
    annotations: Sequence[Annotation],
    issues: Sequence[Issue],
    origin_of: Mapping[str, str],
    classes: Sequence[str],
    class_of: Mapping[str, str],
    consensus_iou: float,
) -> dict[str, Any]:
    """Counts over one sync.

    `verdicts` and `resolved` are by image_id; `origin_of` names every kept image of the manifest (image_id to its file in the inbox).
    """
    states: Counter[str] = Counter(item.state for item in annotations)
    boxes = Counter(box.class_name for item in annotations for box in item.boxes)
    everyone = [item for items in verdicts.values() for item in items]
    by_action = {action: Counter(item.kind for item in issues if item.action == action) for action in ("dropped", "clipped", "bounding_box", "kept")}
    unmatched = [item for item in issues if item.kind in ("unmatched_image", "no_image_id")]
    return {
        "images": len(origin_of),
        "states": {state: states[state] for state in STATES},
        "unlabeled_images": len(origin_of) - len(annotations),
        "boxes": sum(boxes.values()),
        "boxes_per_class": {name: boxes[name] for name in classes},
        "dropped": _sorted(by_action["dropped"]),
        "altered": _sorted(by_action["clipped"] + by_action["bounding_box"]),
        "odd": _sorted(by_action["kept"]),
        "conflicts": _sorted(Counter(item.reason for item in resolved.values() if item.state == "conflict")),
        "superseded": sum(item.kind == "superseded" for item in issues),
        "alias_uses": _sorted(_total(item.alias_uses for item in everyone)),
        "annotators": _sorted(Counter(name for item in everyone for name in item.opinion.annotators)),
        "sources": _per_source(sources, everyone, annotations),
        "several_annotations": _several(verdicts),
        "agreement": agreement_figures(verdicts, consensus_iou),
        "time": time_figures(item.opinion for item in everyone),
        "prelabels": prelabel_accounts((item.opinion for item in everyone), class_of, consensus_iou),
        "several_sources": sum(len({item.opinion.source for item in items}) > 1 for items in verdicts.values()),
        "unmatched": {"count": len(unmatched), "first": [_unmatched(item) for item in unmatched[:MAX_NAMED]]},
        "not_labels": {"unlabeled_tasks": sources.unlabeled_tasks, "drafts": sources.drafts, "predictions": sources.predictions},
        "other_files": list(sources.other_files),
        "zero_area_boxes": [
            {"origin": origin_of.get(str(item.image_id)), "image_id": item.image_id, "class": item.class_name, "source": item.source}
            for item in issues
            if item.kind == ZERO_AREA
        ][:MAX_NAMED],
    }


def _per_source(sources: Sources, everyone: Sequence[Verdict], annotations: Sequence[Annotation]) -> dict[str, dict[str, int]]:
    read = Counter(item.source for item in sources.opinions)
    matched = Counter(item.opinion.source for item in everyone)
    used = Counter(name for item in annotations for name in item.source.split("+"))
    return {name: {"annotations": read[name], "matched": matched[name], "images": used[name]} for name in sources.names}


def _several(verdicts: Mapping[str, Sequence[Verdict]]) -> dict[str, Any]:
    """Agreement where several people labeled the same image: the mean over images, each image the mean over its pairs of annotations."""
    versions = [[item.boxes for item in items if item.state in ("labeled", "verified_empty")] for items in verdicts.values()]
    found = [agreement(version) for version in versions if len(version) > 1]
    matched = sum(item.matched for item in found)
    return {
        "images": len(found),
        "mean_iou": sum(item.mean_iou for item in found) / len(found) if found else None,
        "class_agreement": sum(item.same_class for item in found) / matched if matched else None,
    }


def _unmatched(item: Issue) -> dict[str, Any]:
    return {"source": item.source, "image_id": item.image_id, "annotation_id": item.annotation_id, "detail": item.detail}


def _total(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for item in counts:
        total.update(item)
    return total


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))
