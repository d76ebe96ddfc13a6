"""The folder of label sources: `NAME.json` (a Label Studio JSON export whose tasks carry `data.image_id`) and `NAME.jsonl` (annotation lines).

A line of NAME.jsonl is a line of annotations.jsonl whose boxes may still be without area or past the edge, and which may carry `problems`
(kind, where, detail) of records that could not become boxes at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.errors import DataError
from pipelines.core.io import iter_jsonl, read_json, require_folder
from pipelines.core.records import annotation_from_row, row_from_annotation
from pipelines.core.types import Annotation
from pipelines.formats.labelstudio import LabelStudioAnnotation, LabelStudioTask, read_tasks
from pipelines.formats.reading import Problem, ReadBox
from pipelines.labeling.opinions import Issue, Opinion
from pipelines.labeling.resolve import moment


@dataclass(frozen=True)
class Sources:
    """All opinions of all sources, the records that belong to no image, and what was seen but is no label."""

    names: tuple[str, ...]
    opinions: tuple[Opinion, ...]
    issues: tuple[Issue, ...]
    unlabeled_tasks: int
    drafts: int
    predictions: int
    other_files: tuple[str, ...]


def read_sources(folder: Path) -> Sources:
    """Read every source in `folder`, by name.

    Raises:
        MissingInputError: no such folder.
        DataError: a file that cannot be read, or two sources of one name.
    """
    require_folder(folder, "run `detloop import` or `detloop sample`, or restore it")
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in entries if path.is_file() and path.suffix in (".json", ".jsonl")]
    names = tuple(path.stem for path in files)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{folder} has {twice[0]}.json and {twice[0]}.jsonl: a source has one file, rename or remove one")
    other = tuple(path.name for path in entries if path not in files)
    return merged([*(_read_source(path) for path in files), Sources((), (), (), 0, 0, 0, other)])


def merged(parts: Sequence[Sources]) -> Sources:
    """Several sources as one.

    Raises:
        DataError: two of one name.
    """
    names = tuple(name for part in parts for name in part.names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"two label sources have the name {twice[0]!r}: rename the file, or labeling.project")
    return Sources(
        names,
        tuple(item for part in parts for item in part.opinions),
        tuple(item for part in parts for item in part.issues),
        sum(part.unlabeled_tasks for part in parts),
        sum(part.drafts for part in parts),
        sum(part.predictions for part in parts),
        tuple(name for part in parts for name in part.other_files),
    )


def source_from_tasks(tasks: Iterable[LabelStudioTask], name: str, where: str) -> Sources:
    """The opinions of Label Studio tasks, from a file or a server; `where` says from which, for messages."""
    opinions: list[Opinion] = []
    issues: list[Issue] = []
    unlabeled = drafts = predictions = 0
    for task in tasks:
        unlabeled += not task.annotations
        drafts += task.drafts
        predictions += task.predictions
        if task.image_id is None:
            detail = f"task {task.task_id} ({task.image}) has no data.image_id"
            issues.extend(Issue(name, None, item.annotation_id, "no_image_id", detail, "not_used") for item in task.annotations)
        else:
            opinions.extend(_opinion_from_annotation(name, where, task, task.image_id, item) for item in task.annotations)
    return Sources((name,), tuple(opinions), tuple(issues), unlabeled, drafts, predictions, ())


def _read_source(path: Path) -> Sources:
    if path.suffix == ".jsonl":
        return Sources((path.stem,), tuple(_opinions_from_lines(path)), (), 0, 0, 0, ())
    tasks = read_tasks(read_json(path), str(path))
    if tasks and not any(task.image_id for task in tasks):
        raise DataError(
            f"{path} has no task with data.image_id, so no label finds its image: bring it in with "
            f"`detloop import {path} --format labelstudio --images FOLDER`"
        )
    return source_from_tasks(tasks, path.stem, str(path))


def row_with_problems(annotation: Annotation, problems: tuple[Problem, ...]) -> dict[str, Any]:
    """A line for NAME.jsonl."""
    row = row_from_annotation(annotation)
    if problems:
        row["problems"] = [{"kind": item.kind, "where": item.where, "detail": item.detail} for item in problems]
    return row


def _opinions_from_lines(path: Path) -> Iterator[Opinion]:
    for number, row in enumerate(iter_jsonl(path), start=1):
        where = f"{path} line {number}"
        try:
            item = annotation_from_row(row)
            problems = tuple(_problem(entry) for entry in row.get("problems", []))
            opinion = Opinion(
                source=path.stem,
                image_id=item.image_id,
                state=item.state,
                boxes=tuple(ReadBox(box, f"box {position}") for position, box in enumerate(item.boxes, start=1)),
                problems=problems,
                sizes_wh=((item.width_px, item.height_px),),
                annotators=item.annotators,
                annotation_ids=item.annotation_ids,
                annotated_at=item.annotated_at,
            )
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"{where} is not an annotation line ({error!r}): write the source anew with `detloop import`") from error
        if item.state not in ("labeled", "verified_empty", "skipped", "conflict") or (item.state == "labeled") != bool(item.boxes or problems):
            raise DataError(f"{where} has state {item.state!r} with {len(item.boxes)} boxes: write the source anew with `detloop import`")
        yield _dated(opinion, where)


def _opinion_from_annotation(name: str, where: str, task: LabelStudioTask, image_id: str, item: LabelStudioAnnotation) -> Opinion:
    opinion = Opinion(
        source=name,
        image_id=image_id,
        state="skipped" if item.cancelled else "verified_empty" if item.empty else "labeled",
        boxes=item.boxes,
        problems=item.problems,
        sizes_wh=item.sizes_wh,
        annotators=() if item.annotator is None else (item.annotator,),
        annotation_ids=(item.annotation_id,),
        annotated_at=item.updated_at,
        ground_truth=item.ground_truth,
        lead_time_s=item.lead_time_s,
        prelabels=item.prediction,
    )
    return _dated(opinion, f"{where} task {task.task_id} annotation {item.annotation_id}")


def _dated(opinion: Opinion, where: str) -> Opinion:
    try:
        moment(opinion.annotated_at)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} has the date {opinion.annotated_at!r}, wanted ISO 8601: correct it") from error
    return opinion


def _problem(entry: Mapping[str, Any]) -> Problem:
    return Problem(str(entry["kind"]), str(entry["where"]), str(entry["detail"]))
