"""From all verdicts on one image to one label.

Within a source `labeling.resolve` decides:
    latest        the newest annotation counts, also when it is a skip
    consensus     each person's newest annotation; if all agree (`consensus_boxes`) their mean, else conflict; a skip is no vote
    ground_truth  the newest annotation that is marked as ground truth; an image without one is resolved by consensus
Between sources the newest label counts. A label without a date is older than any other. Same date and different content is a conflict, never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pipelines.core.types import Annotation, Box, LabelState
from pipelines.labeling.agreement import consensus_boxes
from pipelines.labeling.opinions import Verdict

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Resolved:
    """One label of one image: the verdicts it rests on (for a conflict, those that disagree), and why when it is a conflict."""

    state: LabelState
    boxes: tuple[Box, ...]
    used: tuple[Verdict, ...]
    reason: str = ""

    @property
    def source(self) -> str:
        """The source, or the sources that disagree."""
        return "+".join(sorted({item.opinion.source for item in self.used}))

    @property
    def annotated_at(self) -> str | None:
        """The newest date among the verdicts used."""
        return max((item.opinion.annotated_at for item in self.used), key=moment)

    def annotation(self, image_id: str, size_wh: tuple[int, int]) -> Annotation:
        """The line for annotations.jsonl."""
        return Annotation(
            image_id=image_id,
            state=self.state,
            width_px=size_wh[0],
            height_px=size_wh[1],
            boxes=self.boxes,
            source=self.source,
            annotators=tuple(sorted({name for item in self.used for name in item.opinion.annotators})),
            annotation_ids=tuple(sorted({name for item in self.used for name in item.opinion.annotation_ids})),
            annotated_at=self.annotated_at,
        )


def moment(text: str | None) -> datetime:
    """An ISO 8601 date as a point in time, UTC where it names no zone; no date is before all others.

    Raises:
        ValueError: not a date.
    """
    if text is None:
        return _NEVER
    when = datetime.fromisoformat(text)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def resolve(verdicts: Sequence[Verdict], how: str, consensus_iou: float) -> Resolved:
    """The one label that all verdicts on an image give; `verdicts` is not empty."""
    sources = sorted({item.opinion.source for item in verdicts})
    per_source = [_within(_ordered([item for item in verdicts if item.opinion.source == source]), how, consensus_iou) for source in sources]
    newest_at = max(moment(item.annotated_at) for item in per_source)
    newest = [item for item in per_source if moment(item.annotated_at) == newest_at]
    if len({_content(item) for item in newest}) > 1:
        return Resolved("conflict", (), tuple(verdict for item in newest for verdict in item.used), "sources_disagree")
    return newest[0]


def _within(verdicts: Sequence[Verdict], how: str, consensus_iou: float) -> Resolved:
    if how == "latest":
        return _newest(verdicts)
    if how == "ground_truth":
        marked = [item for item in verdicts if item.opinion.ground_truth and item.state != "skipped"]
        if marked:
            return _newest(marked)
    return _consensus(verdicts, consensus_iou)


def _newest(verdicts: Sequence[Verdict]) -> Resolved:
    newest_at = max(moment(item.opinion.annotated_at) for item in verdicts)
    newest = [item for item in verdicts if moment(item.opinion.annotated_at) == newest_at]
    if len({item.content for item in newest}) > 1:
        return Resolved("conflict", (), tuple(newest), "same_time")
    return Resolved(newest[0].state, newest[0].boxes, (newest[0],), newest[0].reason)


def _consensus(verdicts: Sequence[Verdict], consensus_iou: float) -> Resolved:
    votes = [item for item in verdicts if item.state != "skipped"]
    if not votes:
        return _newest(verdicts)
    by_person: dict[tuple[str, ...], list[Verdict]] = {}
    for position, item in enumerate(votes):  # without a name nobody is the same person as another
        by_person.setdefault(item.opinion.annotators or ("", str(position)), []).append(item)
    people = [_newest(items) for items in by_person.values()]
    used = tuple(verdict for item in people for verdict in item.used)
    if len(people) == 1:
        return people[0]
    broken = [item.reason for item in people if item.state == "conflict"]
    if broken:
        return Resolved("conflict", (), used, broken[0])
    boxes = consensus_boxes([item.boxes for item in people], consensus_iou)
    if boxes is None:
        return Resolved("conflict", (), used, "disagreement")
    return Resolved("labeled" if boxes else "verified_empty", boxes, used)


def _ordered(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """An order that does not depend on the file's: equal labels must give equal bytes."""
    return sorted(verdicts, key=lambda item: (item.opinion.annotators, item.opinion.annotation_ids, item.content))


def _content(item: Resolved) -> tuple[object, ...]:
    return (item.state, item.reason, tuple(sorted((box.class_name, box.xyxy) for box in item.boxes)))
