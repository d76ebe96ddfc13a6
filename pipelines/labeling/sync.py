"""One sync: the opinions of all sources and the manifest's images in, one label an image out, with every issue and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.core.types import Annotation
from pipelines.labeling.opinions import Issue, Opinion, Policies, Verdict, judge, require_known_classes
from pipelines.labeling.resolve import Resolved, resolve
from pipelines.labeling.sources import Sources
from pipelines.labeling.summary import summarize


@dataclass(frozen=True)
class KnownImage:
    """A kept image of the manifest: its file in the inbox and its true size."""

    origin: str
    size_wh: tuple[int, int]


@dataclass(frozen=True)
class Synced:
    """The snapshot and what is told about it; issues are sorted."""

    annotations: tuple[Annotation, ...]
    issues: tuple[Issue, ...]
    metrics: dict[str, Any]


def sync(
    sources: Sources,
    kept: Mapping[str, KnownImage],
    dropped: Mapping[str, str],
    classes: Sequence[str],
    policies: Policies,
    how: str,
    consensus_iou: float,
) -> Synced:
    """Resolve all labels. `kept` has the images that may be labeled, `dropped` why others of the manifest were dropped, both by image_id.

    Raises:
        ClassContractError: labels of a class that `policies.class_of` lacks, where the policy is to refuse.
    """
    require_known_classes(sources.opinions, policies)
    issues = list(sources.issues)
    verdicts: dict[str, list[Verdict]] = {}
    for opinion in sources.opinions:
        image = kept.get(opinion.image_id)
        if image is None:
            issues.append(_unmatched(opinion, dropped))
            continue
        verdict = judge(opinion, image.size_wh, policies)
        issues.extend(verdict.issues)
        verdicts.setdefault(opinion.image_id, []).append(verdict)
    resolved = {image_id: resolve(verdicts[image_id], how, consensus_iou) for image_id in sorted(verdicts)}
    for image_id, label in resolved.items():
        issues.extend(_issues_of_resolution(image_id, label, verdicts[image_id]))
    issues.sort(key=lambda item: (item.source, item.image_id or "", item.annotation_id, item.kind, item.detail, item.action))
    annotations = tuple(label.annotation(image_id, kept[image_id].size_wh) for image_id, label in resolved.items())
    origin_of = {image_id: image.origin for image_id, image in kept.items()}
    metrics = summarize(sources, verdicts, resolved, annotations, issues, origin_of, classes, policies.class_of, consensus_iou)
    return Synced(annotations, tuple(issues), metrics)


def _unmatched(opinion: Opinion, dropped: Mapping[str, str]) -> Issue:
    reason = dropped.get(opinion.image_id)
    detail = f"collect dropped the image: {reason}" if reason else "no such image in the manifest"
    return Issue(opinion.source, opinion.image_id, opinion.name, "unmatched_image", detail, "not_used")


def _issues_of_resolution(image_id: str, label: Resolved, verdicts: Sequence[Verdict]) -> list[Issue]:
    names = ", ".join(f"{item.opinion.source}:{item.opinion.name or '-'}" for item in label.used)
    issues = [
        Issue(item.opinion.source, image_id, item.opinion.name, "superseded", f"the label is that of {names}", "not_used")
        for item in verdicts
        if not any(item is other for other in label.used)
    ]
    if label.state == "conflict":
        ids = ",".join(sorted({name for item in label.used for name in item.opinion.annotation_ids}))
        detail = f"{label.reason}: " + "; ".join(_version(item) for item in label.used)
        issues.append(Issue(label.source, image_id, ids, "conflict", detail, "conflict"))
    return issues


def _version(item: Verdict) -> str:
    boxes = ", ".join(f"{box.class_name} {list(box.xyxy)}" for box in sorted(item.boxes, key=lambda box: (box.class_name, box.xyxy)))
    return f"{item.opinion.source}:{item.opinion.name or '-'} says {item.reason or item.state}" + (f" [{boxes}]" if boxes else "")
