"""The figures of data/metrics/labels.json: what each image adds, and all of it together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import fsum
from typing import Any

import polars as pl

from pipelines.formats.reading import ZERO_AREA
from pipelines.labeling.agreement import agreement
from pipelines.labeling.opinions import Verdict
from pipelines.labeling.people import agreement_figures, pairs_of_image, seconds_of_image, time_figures
from pipelines.labeling.prelabel_accounts import prelabel_accounts
from pipelines.labeling.resolve import Resolved
from pipelines.labeling.sources import Sources

STATES = ("labeled", "verified_empty", "skipped", "conflict")
MAX_NAMED = 200  # names in the metrics; issues.jsonl has all


def figures_of_image(label: Resolved, verdicts: Sequence[Verdict], class_of: Mapping[str, str], min_iou: float) -> dict[str, Any]:
    """What one image adds, beside its label and its issues; what it does not have is left out."""
    versions = [item.boxes for item in verdicts if item.state in ("labeled", "verified_empty")]
    several = agreement(versions) if len(versions) > 1 else None
    opinions = [item.opinion for item in verdicts]
    found = {
        "boxes": Counter(box.class_name for box in label.boxes),
        "aliases": _total(item.alias_uses for item in verdicts),
        "annotators": Counter(name for item in opinions for name in item.annotators),
        "matched": Counter(item.source for item in opinions),
        "several": [several.mean_iou, several.matched, several.same_class] if several else None,
        "pairs": pairs_of_image(verdicts, min_iou),
        "seconds": seconds_of_image(opinions),
        "prelabels": prelabel_accounts(opinions, class_of, min_iou),
    }
    return {name: value for name, value in found.items() if value}


def summarize(sources: Sources, outcomes: pl.DataFrame, issues: pl.DataFrame, kept: pl.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """Counts over one sync; `outcomes` and `issues` as in `memory`, `kept` has `image_id` and `origin` of the manifest's kept images.

    Most images add the same, so that each text of figures is read once.
    """
    labels = outcomes.filter(pl.col("state").is_not_null())
    figures = [(json.loads(text), count) for text, count in labels["figures"].value_counts(sort=True).iter_rows()]
    states, boxes = _counts(labels["state"]), _sum(figures, "boxes")
    by_action = {
        action: Counter(_counts(issues.filter(pl.col("action") == action)["kind"])) for action in ("dropped", "clipped", "bounding_box", "kept")
    }
    unmatched = issues.filter(pl.col("kind").is_in(["unmatched_image", "no_image_id"]))
    no_area = issues.filter(pl.col("kind") == ZERO_AREA).head(MAX_NAMED).join(kept, "image_id", "left", maintain_order="left")
    return {
        "images": kept["image_id"].n_unique(),
        "states": {state: states.get(state, 0) for state in STATES},
        "unlabeled_images": kept["image_id"].n_unique() - len(labels),
        "boxes": sum(boxes.values()),
        "boxes_per_class": {name: boxes.get(name, 0) for name in classes},
        "dropped": _sorted(by_action["dropped"]),
        "altered": _sorted(by_action["clipped"] + by_action["bounding_box"]),
        "odd": _sorted(by_action["kept"]),
        "conflicts": _counts(labels.filter(pl.col("state") == "conflict")["reason"]),
        "superseded": int((issues["kind"] == "superseded").sum()),
        "alias_uses": _sum(figures, "aliases"),
        "annotators": _sum(figures, "annotators"),
        "sources": _per_source(sources, _sum(figures, "matched"), labels["source"]),
        "several_annotations": _several(list(_each(figures, "several"))),
        "agreement": agreement_figures(_each(figures, "pairs")),
        "time": time_figures(_each(figures, "seconds")),
        "prelabels": _prelabels(figures),
        "several_sources": sum(count for entry, count in figures if len(entry["matched"]) > 1),
        "unmatched": {
            "count": len(unmatched),
            "first": unmatched.head(MAX_NAMED).select("source", "image_id", "annotation_id", "detail").to_dicts(),
        },
        "not_labels": {name: sum(getattr(source, name) for source in sources.sources) for name in ("unlabeled_tasks", "drafts", "predictions")},
        "other_files": list(sources.other_files),
        "zero_area_boxes": no_area.select("origin", "image_id", "class", "source").to_dicts(),
    }


Figures = Sequence[tuple[dict[str, Any], int]]  # what images add, and how many add just that


def _each(figures: Figures, name: str) -> Iterable[Any]:
    """The entries of each image that has one."""
    return (entry[name] for entry, count in figures if name in entry for _ in range(count))


def _sum(figures: Figures, name: str) -> dict[str, int]:
    total: Counter[str] = Counter()
    for entry, count in figures:
        for key, number in entry.get(name, {}).items():
            total[key] += number * count
    return _sorted(total)


def _prelabels(figures: Figures) -> dict[str, dict[str, int]]:
    total: dict[str, Counter[str]] = {}
    for accounts in _each(figures, "prelabels"):
        for version, counts in accounts.items():
            total.setdefault(version, Counter()).update(counts)
    return {version: dict(total[version]) for version in sorted(total)}


def _per_source(sources: Sources, matched: Mapping[str, int], used: pl.Series) -> dict[str, dict[str, int]]:
    images = _counts(used.str.split("+").explode())
    return {
        source.name: {"annotations": len(source.table), "matched": matched.get(source.name, 0), "images": images.get(source.name, 0)}
        for source in sources.sources
    }


def _several(found: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Agreement where several people labeled the same image: the mean over images, each image the mean over its pairs of annotations."""
    matched = sum(item[1] for item in found)
    return {
        "images": len(found),
        "mean_iou": fsum(item[0] for item in found) / len(found) if found else None,
        "class_agreement": sum(item[2] for item in found) / matched if matched else None,
    }


def _counts(values: pl.Series) -> dict[str, int]:
    return dict(values.drop_nulls().value_counts().sort(values.name).iter_rows())


def _total(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for item in counts:
        total.update(item)
    return total


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))
