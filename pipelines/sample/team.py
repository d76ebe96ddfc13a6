"""Who labels what in the sample, and where each fault of labeling goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.core.errors import DetloopError
from pipelines.sample.labels import (
    ALIAS,
    ANNOTATORS,
    CONFUSED,
    MISSING_SHARE,
    POOL_SHARE,
    SHIFTED_SHARE,
    TWO_SHARE,
    WRONG_SHARE,
    Drawn,
    Fault,
    Labelable,
    Planted,
    TeamExport,
    spoiled,
)

BoxKey = tuple[str, int]  # image_id, position of the box


def label(images: Sequence[Labelable], rng: np.random.Generator, unlabeled: float = POOL_SHARE) -> tuple[list[dict[str, Any]], Planted]:
    """Label Studio tasks for `images` (in order of time; a share `unlabeled`, the newest, has no label yet), and what was planted, by kind."""
    roles = _roles(images, rng, unlabeled)
    single = [image for image in images if roles.get(image.image_id, "single") == "single" and image.boxes]
    faults = _faults(single, rng)
    export = TeamExport(rng)
    for image in images:
        role = roles.get(image.image_id, "single")
        annotator = ANNOTATORS[int(rng.choice(len(ANNOTATORS), p=[0.5, 0.3, 0.2]))]
        other = ANNOTATORS[(ANNOTATORS.index(annotator) + 1 + int(rng.integers(2))) % len(ANNOTATORS)]
        if role == "not_in_export":
            export.plant(role, image)
        elif role in ("draft_only", "prediction_only", "no_annotation"):
            drafts = [export.draft(export.result(image, export.jittered(image)[:2]), annotator)] if role == "draft_only" else []
            export.plant(role, image, task_id=export.add(image, [], drafts, predictions=int(role == "prediction_only")))
        elif role == "skipped":
            cancelled = export.annotation([], annotator, cancelled=True)
            export.plant(role, image, task_id=export.add(image, [cancelled]), annotation_id=cancelled["id"])
        elif role == "skipped_then_labeled":
            cancelled = export.annotation([], annotator, cancelled=True)
            kept = export.annotation(export.result(image, export.jittered(image)), other)
            task = export.add(image, [cancelled, kept])
            export.plant(role, image, task_id=task, cancelled_id=cancelled["id"], annotation_id=kept["id"])
        elif role in ("two_annotators", "disagreement"):
            _two(export, image, annotator, other, disagree=role == "disagreement")
        else:
            _one(export, image, annotator, faults)
    return export.tasks, export.planted


def _roles(images: Sequence[Labelable], rng: np.random.Generator, unlabeled: float) -> dict[str, str]:
    """What happens to an image, by image_id, where it is not just labeled by one annotator.

    Raises:
        DetloopError: the images do not suffice.
    """
    full = [image for image in images if len(image.boxes) >= 3]
    pool = max(4, round(unlabeled * len(images)))
    bare = max(1, round(0.1 * max(4, round(POOL_SHARE * len(images)))))
    newest = full[-(pool - bare - 2) :]
    roles = {image.image_id: "not_in_export" for image in newest}
    rest = [image for image in full if image.image_id not in roles]
    kept = next((image for image in rest if any(name in ALIAS for name, _ in image.boxes)), None)  # so that a box is left for the alias
    rest = [image for image in rest if image is not kept]
    skipped = 2 if len(images) >= 100 else 1
    two = max(2, round(TWO_SHARE * len(images)))
    disagree = max(1, min(3, two // 6))
    wanted = ["draft_only", "prediction_only", *["no_annotation"] * bare, *["skipped"] * skipped, "skipped_then_labeled"]
    wanted += ["disagreement"] * disagree + ["two_annotators"] * (two - disagree)
    if kept is None or len(rest) < len(wanted):
        raise DetloopError("too few images to hold one of every fault of labeling: give more --images or another --seed")
    chosen = rng.permutation(len(rest))[: len(wanted)]
    return roles | {rest[int(index)].image_id: role for index, role in zip(chosen, wanted, strict=True)}


def _faults(images: Sequence[Labelable], rng: np.random.Generator) -> dict[BoxKey, Fault]:
    """Which boxes get which fault: at most one a box; never the only box of an image, which would make it look verified empty."""
    boxes = [(image, index) for image in images if len(image.boxes) >= 2 for index in range(len(image.boxes))]
    count = sum(len(image.boxes) for image in images)

    def from_edge(item: tuple[Labelable, int]) -> float:
        image, index = item
        x1, _, x2, _ = image.boxes[index][1]
        return min(x1, image.wh[0] - x2)

    edge = min(boxes, key=from_edge)
    faults: dict[BoxKey, Fault] = {(edge[0].image_id, edge[1]): "past_edge"}
    spoiled_images = {edge[0].image_id}
    wanted: list[Fault] = ["alias"]
    wanted += ["wrong_class"] * max(1, round(WRONG_SHARE * count))
    wanted += ["missing_box"] * max(1, round(MISSING_SHARE * count))
    wanted += ["shifted_box"] * max(1, round(SHIFTED_SHARE * count))
    order = [boxes[int(index)] for index in rng.permutation(len(boxes))]
    for fault in wanted:
        for image, index in order:
            name = image.boxes[index][0]
            fits = name in ALIAS if fault == "alias" else name in CONFUSED
            if fits and image.image_id not in spoiled_images:
                faults[(image.image_id, index)] = fault
                spoiled_images.add(image.image_id)
                break
    return faults


def _one(export: TeamExport, image: Labelable, annotator: int, faults: dict[BoxKey, Fault]) -> None:
    boxes = [
        spoiled(box, fault, image.wh, np.random.default_rng([7, index])) if (fault := faults.get((image.image_id, index))) else box
        for index, box in enumerate(export.jittered(image))
    ]
    drawn = [box for box in boxes if box.fault != "missing_box"]
    regions = export.result(image, drawn)
    annotation = export.annotation(regions, annotator)
    task = export.add(image, [annotation])
    where = {"task_id": task, "annotation_id": annotation["id"]}
    if not boxes:
        export.plant("verified_empty", image, **where)
    marks = {id(box): region["id"] for box, region in zip(drawn, regions, strict=True)}
    for box in boxes:
        if box.fault:
            true = {"class": box.true_class, "xyxy": list(box.true_xyxy)}
            labeled = {"class": box.class_name, "xyxy": list(box.xyxy)} if id(box) in marks else None
            export.plant(box.fault, image, **where, result_id=marks.get(id(box)), true=true, labeled=labeled)


def _two(export: TeamExport, image: Labelable, first: int, second: int, disagree: bool) -> None:
    """Two opinions; when they disagree the older one lacks a box and has a wrong class, and the newer one is marked as ground truth."""
    earlier: list[Drawn] = export.jittered(image)
    if disagree:
        earlier = earlier[1:]
        earlier = [
            spoiled(box, "wrong_class", image.wh, np.random.default_rng(0)) if box.class_name in CONFUSED else box for box in earlier[:1]
        ] + earlier[1:]
    one = export.annotation(export.result(image, earlier), first)
    two = export.annotation(export.result(image, export.jittered(image)), second, ground_truth=disagree)
    task = export.add(image, [one, two])
    export.plant("disagreement" if disagree else "two_annotators", image, task_id=task, annotation_ids=[one["id"], two["id"]])
