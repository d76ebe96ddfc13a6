"""Bringing a dataset in: what will be written, worked out first, then written so that a second run completes what a killed one began.

Images go to `INBOX/NAME/`, what is known of them to `INBOX/NAME/log.jsonl`, and last the labels to `LABELS/NAME.jsonl` (NAME.json for Label Studio).
Boxes are written as the dataset has them, without area or past the edge: label_sync alone applies the policies, and counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.core.errors import DataError, listed
from pipelines.core.io import canonical_json, iter_jsonl, jsonl_text, link_or_copy, sha256_file, write_text
from pipelines.core.types import Annotation
from pipelines.formats.reading import Problem, geometry_problem
from pipelines.labeling.datasets import FoundDataset, FoundImage, FoundLabel
from pipelines.labeling.imagefiles import upright_size
from pipelines.labeling.opinions import refuse_unknown
from pipelines.labeling.sources import row_with_problems

_LOG = "log.jsonl"


@dataclass(frozen=True)
class Plan:
    """All that an import writes, images as (name in the inbox, file, image_id), and the figures for its summary."""

    name: str
    images: tuple[tuple[str, Path, str], ...]
    log: tuple[Mapping[str, str], ...]
    label_file: str
    label_text: str
    problems: tuple[Problem, ...]
    states: Mapping[str, int]
    boxes_per_class: Mapping[str, int]
    splits: Mapping[str, int]
    unnamed_images: int


def plan(dataset: FoundDataset, name: str, class_of: Mapping[str, str], progress: Callable[[Sequence[FoundImage]], Any] = tuple) -> Plan:
    """Work out an import as source `name`. `progress` wraps the images while their bytes are read.

    Raises:
        ClassContractError: labels of classes that `class_of` lacks.
        DataError: no image was found, or a task's data.image_id is that of another image.
    """
    labels = [(image, label) for image in dataset.images for label in image.labels]
    refuse_unknown(_unknown_classes([*(label for _, label in labels), *dataset.homeless], class_of), class_of)
    if not dataset.images:
        raise DataError(
            f"no image found: name their folder with --images ({listed([_sentence(item) for item in dataset.problems], 3) or 'nothing there'})"
        )
    ids, sizes = {}, {}
    for image in progress(dataset.images):
        ids[image.name], sizes[image.name] = sha256_file(image.path), upright_size(image.path)
    problems = [*dataset.problems, *_twins(ids)]
    unreadable = "collect will drop it; its labels are left out unless they state a size"
    problems.extend(Problem("unreadable_image", image.name, unreadable) for image in dataset.images if sizes[image.name] is None)
    problems.extend(item for image, label in labels for item in _problems_of(label, sizes[image.name]))
    problems.extend(replace(item, where=f"{label.where} {item.where}") for label in dataset.homeless for item in label.problems)
    if dataset.tasks is None:
        lines = [line for image, label in labels if (line := _line(label, ids[image.name], sizes[image.name], name))]
        states = Counter(str(line["state"]) for line in lines)
        label_file, label_text = f"{name}.jsonl", "".join(sorted(canonical_json(line) + "\n" for line in lines))
    else:
        label_file, label_text = f"{name}.json", _tasks_text(dataset, ids)
        states = Counter("verified_empty" if not label.boxes and not label.problems else "labeled" for _, label in labels)
    states["unlabeled"] = sum(not image.labels for image in dataset.images)
    return Plan(
        name=name,
        images=tuple((image.name, image.path, ids[image.name]) for image in dataset.images),
        log=tuple(_log_row(image, name) for image in dataset.images),
        label_file=label_file,
        label_text=label_text,
        problems=tuple(problems),
        states=dict(sorted(states.items())),
        boxes_per_class=dict(sorted(Counter(class_of[read.box.class_name] for _, label in labels for read in label.boxes).items())),
        splits=dict(sorted(Counter(image.split for image in dataset.images if image.split).items())),
        unnamed_images=dataset.unnamed_images,
    )


def _clashes(job: Plan, inbox: Path) -> list[str]:
    """Files in the inbox that have an image's name and other bytes."""
    folder = inbox / job.name
    present = [(name, image_id, folder / name) for name, _, image_id in job.images if (folder / name).exists()]
    return [name for name, image_id, target in present if sha256_file(target) != image_id]


def refusals(job: Plan, inbox: Path, labels: Path) -> list[str]:
    """Why an import cannot be written beside what is there: other images of the same names, or labels that it would replace without having them."""
    found: list[str] = []
    bad = _clashes(job, inbox)
    if bad:
        found.append(
            f"{inbox / job.name} has {len(bad)} files of the same name and other content: {listed(bad)}: choose another --name, or remove the folder"
        )
    target = labels / job.label_file
    if target.is_file():
        before = _labeled_ids(target.read_bytes().decode(errors="replace"))
        lost = sorted((before or set()) - (_labeled_ids(job.label_text) or set()))
        if before is None:
            found.append(f"{target} cannot be read, so its labels would be lost unseen: mend it, choose another --name, or remove that file")
        if lost:
            found.append(
                f"{target} has labels of {len(lost)} images that this dataset has none for ({listed([name[:12] for name in lost], 3)}):"
                f" choose another --name, or remove that file if this dataset takes its place"
            )
    return found


def _labeled_ids(text: str) -> set[str] | None:
    """The images that a label file speaks of; None where it cannot be read."""
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.split("\n") if line.strip()]
        return {str(image_id) for row in rows if (image_id := row.get("data", row).get("image_id"))}
    except (ValueError, AttributeError, RecursionError):
        return None


def write(job: Plan, inbox: Path, labels: Path, progress: Callable[[Sequence[tuple[str, Path, str]]], Any] = tuple) -> int:
    """Write what is not there yet, labels last; returns how many images were new. What is there with the same bytes is not touched, and what people
    added to the log stays.

    Raises:
        DataError: see `refusals`; nothing is written then.
    """
    folder = inbox / job.name
    bad = refusals(job, inbox, labels)
    if bad:
        raise DataError("; ".join(bad))
    for leftover in folder.rglob(".*.tmp") if folder.is_dir() else ():  # of an import that was killed
        leftover.unlink(missing_ok=True)
    new = 0
    for name, path, _ in progress(job.images):
        target = folder / name
        if not target.exists():
            link_or_copy(path.resolve(), target)
            new += 1
    for target, text in ((folder / _LOG, _log_text(job, folder / _LOG)), (labels / job.label_file, job.label_text)):
        if not target.is_file() or target.read_bytes() != text.encode():
            write_text(target, text)
    return new


def _unknown_classes(labels: Sequence[FoundLabel], class_of: Mapping[str, str]) -> list[str]:
    named = [
        f"{label.where} {read.where}: {read.box.class_name!r}" for label in labels for read in label.boxes if read.box.class_name not in class_of
    ]
    return named + [f"{label.where} {item.where}: {item.detail}" for label in labels for item in label.problems if item.kind == "unknown_class"]


def _line(label: FoundLabel, image_id: str, size_wh: tuple[int, int] | None, name: str) -> dict[str, Any] | None:
    """The annotation line; its size is the one that the labels state, so that label_sync can hold it against the image."""
    stated = label.size_wh or size_wh
    if stated is None:
        return None
    state = "labeled" if label.boxes or label.problems else "verified_empty"
    annotation = Annotation(image_id, "labeled" if state == "labeled" else "verified_empty", *stated, tuple(read.box for read in label.boxes), name)
    problems = tuple(replace(item, where=f"{label.where} {item.where}") for item in label.problems)
    return row_with_problems(annotation, problems)


def _problems_of(label: FoundLabel, size_wh: tuple[int, int] | None) -> list[Problem]:
    problems = [replace(item, where=f"{label.where} {item.where}") for item in label.problems]
    if size_wh is None:
        return problems
    if label.size_wh not in (None, size_wh):
        problems.append(Problem("size_differs", label.where, f"labeled at {label.size_wh}, the image is {size_wh}: label_sync will not use it"))
        return problems
    for read in label.boxes:
        kind = geometry_problem(read.box.xyxy, size_wh)
        if kind:
            xyxy = [round(value, 3) for value in read.box.xyxy]
            problems.append(Problem(kind, f"{label.where} {read.where}", f"{read.box.class_name} {xyxy} on {size_wh[0]}x{size_wh[1]}"))
    return problems


def _twins(ids: Mapping[str, str]) -> list[Problem]:
    first: dict[str, str] = {}
    return [
        Problem("same_image_twice", name, f"the same bytes as {first[item]}") for name, item in ids.items() if first.setdefault(item, name) != name
    ]


def _tasks_text(dataset: FoundDataset, ids: Mapping[str, str]) -> str:
    tasks, wrong = [], []
    for position, (task, name) in enumerate(zip(dataset.tasks or (), dataset.image_of_task, strict=True)):
        stated, found = task["data"].get("image_id"), ids[name] if name else None
        if stated and found and stated != found:
            wrong.append(f"task {task.get('id', position)}: {name} is {found[:12]}, data.image_id says {str(stated)[:12]}")
        tasks.append({**task, "data": {**task["data"], "image_id": stated or found}} if stated or found else task)
    if wrong:
        raise DataError(f"{len(wrong)} tasks name another image than the one found: {listed(wrong)}: give the right folder with --images")
    return "[\n" + ",\n".join(canonical_json(task) for task in tasks) + "\n]\n"


def _log_row(image: FoundImage, name: str) -> dict[str, str]:
    return {"file": image.name, "source": name, **({"split": image.split} if image.split else {})}


def _log_text(job: Plan, path: Path) -> str:
    """The log with what stands in an earlier one beside what the dataset says: people add groups to it, and rows of other files."""
    before = {str(row.get("file")): row for row in iter_jsonl(path)} if path.is_file() else {}
    rows = [{**before.pop(row["file"], {}), **row} for row in job.log]
    return jsonl_text([*rows, *before.values()])


def _sentence(problem: Problem) -> str:
    return f"{problem.where}: {problem.detail}"
