"""The folder of label sources: `NAME.json` (a Label Studio JSON export whose tasks carry `data.image_id`) and `NAME.jsonl` (annotation lines).

A line of NAME.jsonl is a line of annotations.jsonl whose boxes may still be without area or past the edge, and which may carry `problems`
(kind, where, detail) of records that could not become boxes at all.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.core.errors import DataError
from pipelines.core.io import json_of, require_folder, row_from_line, sha256_bytes
from pipelines.core.records import annotation_from_row, row_from_annotation
from pipelines.core.types import Annotation
from pipelines.formats.labelstudio import LabelStudioAnnotation, LabelStudioTask, read_tasks
from pipelines.formats.reading import Problem, ReadBox
from pipelines.labeling.memory import OPINIONS_SCHEMA, Memory
from pipelines.labeling.opinions import Issue, Opinion, issue_from_json
from pipelines.labeling.resolve import moment

_COUNTS = ("unlabeled_tasks", "drafts", "predictions")


@dataclass(frozen=True)
class Source:
    """One source: its opinions as a table (`image_id`, `says`), themselves by row when asked for, its records that belong to no image, and what it
    has that is no label."""

    name: str
    table: pl.DataFrame
    opinions: Callable[[Sequence[int]], list[Opinion]]
    issues: tuple[Issue, ...] = ()
    unlabeled_tasks: int = 0
    drafts: int = 0
    predictions: int = 0


@dataclass(frozen=True)
class Sources:
    """All sources, and the files beside them that are none."""

    sources: tuple[Source, ...]
    other_files: tuple[str, ...] = ()


def read_sources(folder: Path, memory: Memory) -> Sources:
    """Every source in `folder`, by name; files that `memory` knows are not parsed again.

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
    return Sources(tuple(_read_source(path, memory) for path in files), other)


def with_source(sources: Sources, source: Source) -> Sources:
    """One source more.

    Raises:
        DataError: there is one of its name.
    """
    if source.name in {item.name for item in sources.sources}:
        raise DataError(f"two label sources have the name {source.name!r}: rename the file, or labeling.project")
    return Sources((*sources.sources, source), sources.other_files)


def source_from_tasks(tasks: Iterable[LabelStudioTask], name: str, where: str) -> Source:
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
    says = [_hash(repr(item).encode()) for item in opinions]
    return Source(name, _table(opinions, says), _of(opinions), tuple(issues), unlabeled, drafts, predictions)


def _read_source(path: Path, memory: Memory) -> Source:
    content = cache(path.read_bytes)  # once: what is parsed is what was hashed

    @cache
    def key_of_content() -> str:
        return _hash(path.name.encode() + b"\0" + content())

    key = memory.key_of(path, key_of_content)

    def still_the_same() -> bytes:
        if key_of_content() != key:
            raise _changed(path)
        return content()

    known = memory.source(key)
    if known is not None:
        table, facts = known
        issues = tuple(issue_from_json(row) for row in facts["issues"])
        return Source(path.stem, table, _reread(path, still_the_same, table), issues, *(facts[name] for name in _COUNTS))
    source = _source_from_lines(path, content()) if path.suffix == ".jsonl" else _source_from_export(path, content())
    memory.save_source(
        key_of_content(), source.table, {"issues": [item.to_json() for item in source.issues], **{name: getattr(source, name) for name in _COUNTS}}
    )
    return source


def _source_from_export(path: Path, content: bytes) -> Source:
    tasks = read_tasks(json_of(content, path), str(path))
    if tasks and not any(task.image_id for task in tasks):
        raise DataError(
            f"{path} has no task with data.image_id, so no label finds its image: bring it in with "
            f"`detloop import {path} --format labelstudio --images FOLDER`"
        )
    return source_from_tasks(tasks, path.stem, str(path))


def _source_from_lines(path: Path, content: bytes) -> Source:
    opinions: list[Opinion] = []
    says: list[str] = []
    places: list[tuple[int, int, int]] = []
    name, start = path.stem.encode() + b"\0", 0
    for number, line in enumerate(io.BytesIO(content), start=1):
        if line.strip():
            opinions.append(_opinion_from_line(path, line, number))
            says.append(_hash(name + line))
            places.append((number, start, start + len(line)))
        start += len(line)
    return Source(path.stem, _table(opinions, says, places), _of(opinions))


def _table(opinions: Sequence[Opinion], says: Sequence[str], places: Sequence[tuple[int, int, int]] = ()) -> pl.DataFrame:
    """OPINIONS_SCHEMA; `places` are (line, first byte, last byte)."""
    line, start, end = zip(*(places or [(0, 0, 0)] * len(opinions)), strict=True) if opinions else ((), (), ())
    columns = {"image_id": [item.image_id for item in opinions], "says": says, "line": line, "start": start, "end": end}
    return pl.DataFrame(columns, schema=OPINIONS_SCHEMA)


def _of(opinions: Sequence[Opinion]) -> Callable[[Sequence[int]], list[Opinion]]:
    return lambda rows: [opinions[row] for row in rows]


def _reread(path: Path, content: Callable[[], bytes], table: pl.DataFrame) -> Callable[[Sequence[int]], list[Opinion]]:
    """Opinions of a file that was read before: of lines only those asked for, of an export all."""
    if path.suffix != ".jsonl":
        return lambda rows: _source_from_export(path, content()).opinions(rows) if rows else []
    places = table.select("line", "start", "end")

    def opinions(rows: Sequence[int]) -> list[Opinion]:
        lines = content() if rows else b""
        return [_opinion_from_line(path, lines[start:end], number) for number, start, end in map(places.row, rows)]

    return opinions


def _changed(path: Path) -> DataError:
    return DataError(f"{path} changed while it was read: run `dvc repro` again when nothing writes to it")


def _hash(content: bytes) -> str:
    return sha256_bytes(content)[:32]


def row_with_problems(annotation: Annotation, problems: tuple[Problem, ...]) -> dict[str, Any]:
    """A line for NAME.jsonl."""
    row = row_from_annotation(annotation)
    if problems:
        row["problems"] = [{"kind": item.kind, "where": item.where, "detail": item.detail} for item in problems]
    return row


def _opinion_from_line(path: Path, line: bytes, number: int) -> Opinion:
    return _opinion_from_row(path.stem, row_from_line(line, path, number), f"{path} line {number}")


def _opinion_from_row(name: str, row: Mapping[str, Any], where: str) -> Opinion:
    try:
        item = annotation_from_row(row)
        if not isinstance(item.image_id, str):
            raise TypeError(f"image_id {item.image_id!r}")
        if not all(isinstance(value, int | float) and math.isfinite(value) for box in item.boxes for value in box.xyxy):
            raise TypeError("a corner that is no number")
        problems = tuple(_problem(entry) for entry in row.get("problems", []))
        opinion = Opinion(
            source=name,
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
    return _dated(opinion, where)


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
