"""Images as the page shows them: a few with their labels, and the bad cases with what one can filter them by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipelines.core.types import LABELED_SPLITS
from pipelines.report import text
from pipelines.report.figures import PALETTE_SIZE
from pipelines.report.inputs import Inputs, Picture, Thumbnail

KINDS = (  # TIDE's kinds, in its order, and the two sums
    ("class", "right place, wrong class"),
    ("location", "right class, place is off"),
    ("both", "wrong class and wrong place"),
    ("duplicate", "a second box on something found already"),
    ("background", "a box where nothing is labeled"),
    ("missed", "a label that nothing found"),
    ("false_positives", "all wrong boxes together"),
    ("false_negatives", "all unfound labels together"),
)


@dataclass(frozen=True)
class BoxView:
    """A label drawn over a thumbnail; `geometry` is the attributes of an SVG rect."""

    name: str
    colour: int
    geometry: Markup


@dataclass(frozen=True)
class ThumbnailView:
    """A thumbnail as the template needs it."""

    uri: str
    alt: str
    caption: str
    width: int
    height: int
    boxes: tuple[BoxView, ...]


@dataclass(frozen=True)
class PictureView:
    """A gallery picture as the template needs it; `kinds`, `classes` and `splits` are what the filters look at."""

    uri: str
    id: str
    alt: str
    kinds: list[str]
    classes: list[str]
    splits: list[str]
    tags: list[tuple[str, int]]
    reasons: list[str]


def thumbnail_view(item: Thumbnail, classes: Sequence[str]) -> ThumbnailView:
    """An image of the dataset with its labels."""
    sample = item.sample
    boxes = []
    for box in sample.boxes:
        x1, y1, x2, y2 = box.xyxy
        colour = classes.index(box.class_name) % PALETTE_SIZE if box.class_name in classes else PALETTE_SIZE - 1
        boxes.append(BoxView(box.class_name, colour, Markup(f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"')))
    counts = {name: sum(box.class_name == name for box in sample.boxes) for name in classes}
    listed = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or text.words(sample.state or "no label")
    return ThumbnailView(
        item.uri,
        f"{item.split} image from {sample.source}: {listed}",
        f"{item.split}, {sample.source}: {listed}",
        sample.width_px,
        sample.height_px,
        tuple(boxes),
    )


def picture_view(item: Picture, inputs: Inputs) -> PictureView:
    """A picture of a bad case; its classes are those of its wrong boxes."""
    row = item.row
    image_id = str(row["image_id"])
    wrong = [case for case in inputs.badcases or [] if case.get("image_id") == image_id]
    names = {str(name) for case in wrong for name in (case.get("class"), case.get("predicted_class")) if name is not None}
    kinds: Mapping[str, Any] = row.get("kinds") or {}
    order = [kind for kind, _ in KINDS]
    tags = sorted(
        ((str(kind), int(number)) for kind, number in kinds.items()), key=lambda tag: (order.index(tag[0]) if tag[0] in order else len(order), tag[0])
    )
    reasons = [str(reason) for reason in row.get("reasons") or []]
    return PictureView(
        uri=item.uri,
        id=image_id[:10],
        alt=f"Bad case {image_id[:10]}: {'; '.join(reasons) or ', '.join(kind for kind, _ in tags)}",
        kinds=[kind for kind, _ in tags],
        classes=[name for name in inputs.classes if name in names] + sorted(names - set(inputs.classes)),
        splits=[str(row.get("split"))],
        tags=tags,
        reasons=reasons,
    )


def gallery_filters(gallery: Sequence[PictureView]) -> list[tuple[str, str, list[str]]]:
    """(attribute, title, values) of each filter, values in the order of first appearance within kinds, classes and splits."""
    kinds = {kind for item in gallery for kind in item.kinds}
    classes = {name for item in gallery for name in item.classes}
    splits = {split for item in gallery for split in item.splits}
    order = [kind for kind, _ in KINDS]
    return [
        ("kind", "Kind of error", [kind for kind in order if kind in kinds] + sorted(kinds - set(order))),
        ("class", "Class", sorted(classes)),
        ("split", "Split", [split for split in LABELED_SPLITS if split in splits] + sorted(splits - set(LABELED_SPLITS))),
    ]
