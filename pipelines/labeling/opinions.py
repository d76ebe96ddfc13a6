"""What a source says of one image (an opinion), and what is left of it under the policies of params.yaml (a verdict).

This is the one place where a labeled box is dropped, cut or renamed, and each such act gives an issue. An opinion whose boxes were all dropped is a
conflict, never a verified-empty image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.core.errors import ClassContractError, listed
from pipelines.core.records import BOX_DIGITS
from pipelines.core.types import Box, LabelState
from pipelines.formats.reading import OUTSIDE, PAST_EDGE, ZERO_AREA, Problem, ReadBox, geometry_problem

# Problems that a reader lists beside a box which it returns all the same.
_KEPT_PROBLEMS = {"duplicate_region_id", "duplicate_id"}
_ROTATED = "rotated"


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


@dataclass(frozen=True)
class Policies:
    """The part of params.yaml that judges boxes; `class_of` maps every name and alias to the class's name."""

    class_of: Mapping[str, str]
    past_edge: str = "clip"
    rotated: str = "drop"
    min_box_side_px: float = 1


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


def require_known_classes(opinions: Iterable[Opinion], class_of: Mapping[str, str]) -> None:
    """Refuse labels of classes that the contract lacks.

    Raises:
        ClassContractError: lists the first records and the count.
    """
    records = [
        f"{item.source} {box.where} of annotation {item.name or '-'} on image {item.image_id[:12]}: {box.box.class_name!r}"
        for item in opinions
        if item.state != "skipped"
        for box in item.boxes
        if box.box.class_name not in class_of
    ]
    refuse_unknown(records, class_of)


def refuse_unknown(records: Sequence[str], class_of: Mapping[str, str]) -> None:
    """Raise ClassContractError for `records` of an unknown class, if there are any."""
    if records:
        raise ClassContractError(
            f"{len(records)} labels have a class that params.yaml lacks (it has {sorted(class_of)}): add the class or an alias under `classes`, "
            f"or correct the labels: {listed(records)}"
        )


def judge(opinion: Opinion, size_wh: tuple[int, int], policies: Policies) -> Verdict:
    """Apply the policies to an opinion on an image whose true size is `size_wh`. All classes must be known (`require_known_classes`)."""
    if opinion.state == "skipped":
        return Verdict(opinion, "skipped")
    wrong_sizes = [size for size in opinion.sizes_wh if size != size_wh]
    if wrong_sizes:
        detail = f"labeled at {wrong_sizes[0][0]}x{wrong_sizes[0][1]}, the image is {size_wh[0]}x{size_wh[1]}"
        return Verdict(opinion, "conflict", (), "size_mismatch", (_issue(opinion, "size_mismatch", detail, "conflict"),))
    issues = [
        _issue(opinion, item.kind, f"{item.where}: {item.detail}", "kept" if item.kind in _KEPT_PROBLEMS else "dropped")
        for item in opinion.problems
        if item.kind != _ROTATED  # the box's own angle says so again, with what was done about it
    ]
    boxes: dict[Box, None] = {}  # a set that keeps its order
    aliases: Counter[str] = Counter()
    for read in opinion.boxes:
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
    if not boxes and (opinion.boxes or opinion.problems):
        issues.append(_issue(opinion, "all_boxes_dropped", "none of its regions can be used, which does not make the image empty", "conflict"))
        return Verdict(opinion, "conflict", (), "all_boxes_dropped", tuple(issues))
    return Verdict(opinion, "labeled" if boxes else "verified_empty", tuple(boxes), "", tuple(issues), dict(aliases))


def _judge_box(opinion: Opinion, read: ReadBox, size_wh: tuple[int, int], policies: Policies) -> tuple[Box | None, list[Issue]]:
    name = policies.class_of[read.box.class_name]
    xyxy = _rounded(read.box.xyxy)
    issues: list[Issue] = []

    def say(kind: str, action: str, more: str = "") -> None:
        issues.append(_issue(opinion, kind, f"{read.where}: {list(xyxy)}{more}", action, name))

    if read.rotation_deg:
        say(_ROTATED, "dropped" if policies.rotated == "drop" else "bounding_box", f", turned by {read.rotation_deg:g} degrees")
        if policies.rotated == "drop":
            return None, issues
    problem = geometry_problem(xyxy, size_wh)
    if problem in (ZERO_AREA, OUTSIDE) or (problem == PAST_EDGE and policies.past_edge == "drop"):
        say(str(problem), "dropped", f" on {size_wh[0]}x{size_wh[1]}")
        return None, issues
    if problem == PAST_EDGE:
        say(PAST_EDGE, "clipped", f" on {size_wh[0]}x{size_wh[1]}")
    x1, y1, x2, y2 = xyxy
    cut = _rounded((max(x1, 0.0), max(y1, 0.0), min(x2, float(size_wh[0])), min(y2, float(size_wh[1]))))
    if min(cut[2] - cut[0], cut[3] - cut[1]) < policies.min_box_side_px:
        say("small_box", "dropped", f", a side below {policies.min_box_side_px:g} px")
        return None, issues
    return Box(name, cut), issues


def _rounded(xyxy: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (round(float(value), BOX_DIGITS) for value in xyxy)
    return x1, y1, x2, y2


def _issue(opinion: Opinion, kind: str, detail: str, action: str, class_name: str | None = None) -> Issue:
    return Issue(opinion.source, opinion.image_id, opinion.name, kind, detail, action, class_name)
