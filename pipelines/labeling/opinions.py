"""What a source says of one image (an opinion), and what is left of it under the policies of params.yaml (a verdict).

This is the one place where a labeled box is dropped, cut or renamed, and each such act gives an issue. An opinion whose boxes were all dropped is a
conflict, never a verified-empty image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.core.errors import ClassContractError, listed
from pipelines.core.records import BOX_DIGITS
from pipelines.core.types import Box, LabelState
from pipelines.formats.labelstudio import LabelStudioPrediction
from pipelines.formats.reading import OUTSIDE, PAST_EDGE, ZERO_AREA, Problem, ReadBox, geometry_problem

_ROTATED, _UNKNOWN_CLASS = "rotated", "unknown_class"
# What an issue says of each policy.
_ACTION = {"drop": "dropped", "clip": "clipped", "bounding_box": "bounding_box", "keep": "kept", "conflict": "conflict"}


@dataclass(frozen=True)
class Opinion:
    """One annotation of one image in one source, as it stands there."""

    source: str
    image_id: str
    state: LabelState
    boxes: tuple[ReadBox, ...]
    problems: tuple[Problem, ...] = ()
    sizes_wh: tuple[tuple[int, int], ...] = ()
    annotators: tuple[str, ...] = ()
    annotation_ids: tuple[str, ...] = ()
    annotated_at: str | None = None
    ground_truth: bool = False
    lead_time_s: float | None = None
    prelabels: LabelStudioPrediction | None = None

    @property
    def name(self) -> str:
        """How issues call it: its annotation ids, empty for an import."""
        return ",".join(self.annotation_ids)


@dataclass(frozen=True)
class Issue:
    """One record that was dropped, altered, not used, or is odd. `action`: dropped, clipped, bounding_box, kept, not_used, conflict."""

    source: str
    image_id: str | None
    annotation_id: str
    kind: str
    detail: str
    action: str
    class_name: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The issue's line in issues.jsonl."""
        return {
            "source": self.source,
            "image_id": self.image_id,
            "annotation_id": self.annotation_id,
            "kind": self.kind,
            "detail": self.detail,
            "action": self.action,
            "class": self.class_name,
        }


def issue_from_json(row: Mapping[str, Any]) -> Issue:
    """The inverse of `Issue.to_json`."""
    return Issue(row["source"], row["image_id"], row["annotation_id"], row["kind"], row["detail"], row["action"], row["class"])


@dataclass(frozen=True)
class Policies:
    """The part of params.yaml that judges regions; `class_of` maps every name and alias to the class's name. See `LabelingParams` for the values."""

    class_of: Mapping[str, str]
    past_edge: str = "clip"
    rotated: str = "drop"
    polygon: str = "drop"
    brush: str = "drop"
    keypoint: str = "drop"
    unknown_class: str = "refuse"
    zero_area: str = "drop"
    duplicate_region_id: str = "keep"
    min_box_side_px: float = 1

    def of_problem(self, kind: str) -> str:
        """The policy for a reader's problem: that of its kind, keep for a box id used twice in an import, drop for the rest."""
        own = {"polygon": self.polygon, "brush": self.brush, "keypoint": self.keypoint, "duplicate_region_id": self.duplicate_region_id}
        return own.get(kind, "keep" if kind == "duplicate_id" else "drop")


@dataclass(frozen=True)
class Verdict:
    """An opinion after the policies: its state, its clean boxes, and why when the state is conflict."""

    opinion: Opinion
    state: LabelState
    boxes: tuple[Box, ...] = ()
    reason: str = ""
    issues: tuple[Issue, ...] = field(default=(), compare=False)
    alias_uses: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def content(self) -> tuple[Any, ...]:
        """What it says, whoever says it: equal contents are the same label."""
        return (self.state, self.reason, tuple(sorted((box.class_name, box.xyxy) for box in self.boxes)))


def require_known_classes(opinions: Iterable[Opinion], policies: Policies) -> None:
    """Refuse labels of classes that the contract lacks, where the policy is to refuse.

    Raises:
        ClassContractError: lists the first records and the count.
    """
    if policies.unknown_class != "refuse":
        return
    records = [
        f"{item.source} {where} of annotation {item.name or '-'} on image {item.image_id[:12]}: {name!r}"
        for item in opinions
        if item.state != "skipped"
        for where, name in _labels(item, policies)
        if name not in policies.class_of
    ]
    refuse_unknown(records, policies.class_of)


def _labels(opinion: Opinion, policies: Policies) -> Iterator[tuple[str, str]]:
    """Where a label that may be used stands, and its name."""
    yield from ((read.where, read.box.class_name) for read in opinion.boxes)
    for item in opinion.problems:
        if item.around is not None and policies.of_problem(item.kind) == "bounding_box":
            yield item.where, item.around.class_name


def refuse_unknown(records: Sequence[str], class_of: Mapping[str, str]) -> None:
    """Raise ClassContractError for `records` of an unknown class, if there are any."""
    if records:
        raise ClassContractError(
            f"{len(records)} labels have a class that params.yaml lacks (it has {sorted(class_of)}): add the class or an alias under `classes`, "
            f"or correct the labels: {listed(records)}"
        )


def judge(opinion: Opinion, size_wh: tuple[int, int], policies: Policies) -> Verdict:
    """Apply the policies to an opinion on an image whose true size is `size_wh`. With `unknown_class: refuse` all classes must be known."""
    if opinion.state == "skipped":
        return Verdict(opinion, "skipped")
    wrong_sizes = [size for size in opinion.sizes_wh if size != size_wh]
    if wrong_sizes:
        detail = f"labeled at {wrong_sizes[0][0]}x{wrong_sizes[0][1]}, the image is {size_wh[0]}x{size_wh[1]}"
        return Verdict(opinion, "conflict", (), "size_mismatch", (_issue(opinion, "size_mismatch", detail, "conflict"),))
    issues: list[Issue] = []
    reads = list(opinion.boxes)
    for item in opinion.problems:
        if item.kind == _ROTATED:
            continue  # the box's own angle says so again, with what was done about it
        policy = policies.of_problem(item.kind)
        if policy == "bounding_box" and item.around is not None:
            reads.append(ReadBox(item.around, item.where))
        elif policy == "bounding_box":
            policy = "drop"  # there is no box around it: malformed, or without one label
        issues.append(_issue(opinion, item.kind, f"{item.where}: {item.detail}", _ACTION[policy]))
    boxes: dict[Box, None] = {}  # a set that keeps its order
    aliases: Counter[str] = Counter()
    for read in reads:
        box, found = _judge_box(opinion, read, size_wh, policies)
        issues.extend(found)
        if box is None:
            continue
        if box in boxes:
            issues.append(_issue(opinion, "duplicate_box", f"{read.where}: the same box stands twice", "dropped", box.class_name))
            continue
        boxes[box] = None
        if read.box.class_name != box.class_name:
            aliases[read.box.class_name] += 1
    if opinion.state == "conflict":
        return Verdict(opinion, "conflict", (), "conflict_in_source", tuple(issues))
    asked = [item.kind for item in issues if item.action == "conflict"]
    if asked:
        return Verdict(opinion, "conflict", (), asked[0], tuple(issues))
    if not boxes and (opinion.boxes or opinion.problems):
        issues.append(_issue(opinion, "all_boxes_dropped", "none of its regions can be used, which does not make the image empty", "conflict"))
        return Verdict(opinion, "conflict", (), "all_boxes_dropped", tuple(issues))
    return Verdict(opinion, "labeled" if boxes else "verified_empty", tuple(boxes), "", tuple(issues), dict(aliases))


def _judge_box(opinion: Opinion, read: ReadBox, size_wh: tuple[int, int], policies: Policies) -> tuple[Box | None, list[Issue]]:
    name = policies.class_of.get(read.box.class_name)
    xyxy = _rounded(read.box.xyxy)
    issues: list[Issue] = []

    def say(kind: str, policy: str, more: str = "") -> None:
        issues.append(_issue(opinion, kind, f"{read.where}: {list(xyxy)}{more}", _ACTION[policy], name or read.box.class_name))

    size = f" on {size_wh[0]}x{size_wh[1]}"
    if name is None:
        say(_UNKNOWN_CLASS, policies.unknown_class, f" is a {read.box.class_name}, which is no class")
        return None, issues
    if read.rotation_deg:
        say(_ROTATED, policies.rotated, f", turned by {read.rotation_deg:g} degrees")
        if policies.rotated != "bounding_box":
            return None, issues
    problem = geometry_problem(xyxy, size_wh)
    if problem in (ZERO_AREA, OUTSIDE):
        say(problem, policies.zero_area if problem == ZERO_AREA else "drop", size)
        return None, issues
    if problem == PAST_EDGE:
        say(PAST_EDGE, policies.past_edge, size)
        if policies.past_edge != "clip":
            return None, issues
    x1, y1, x2, y2 = xyxy
    cut = _rounded((max(x1, 0.0), max(y1, 0.0), min(x2, float(size_wh[0])), min(y2, float(size_wh[1]))))
    if min(cut[2] - cut[0], cut[3] - cut[1]) < policies.min_box_side_px:
        say("small_box", "drop", f", a side below {policies.min_box_side_px:g} px")
        return None, issues
    return Box(name, cut), issues


def _rounded(xyxy: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (round(float(value), BOX_DIGITS) for value in xyxy)
    return x1, y1, x2, y2


def _issue(opinion: Opinion, kind: str, detail: str, action: str, class_name: str | None = None) -> Issue:
    return Issue(opinion.source, opinion.image_id, opinion.name, kind, detail, action, class_name)
