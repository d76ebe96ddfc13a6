"""All tasks of a project with their annotations, fetched whole once and then only what changed, kept in a file that may be deleted at any time.

The server's own counters are the check: after the changed tasks were taken in, tasks and annotations must add up, otherwise all is fetched anew.
Label Studio stamps a mass deletion of annotations with the machine's local time as if it were UTC, so the times alone would miss it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.core.errors import ServerError, counted
from pipelines.core.io import canonical_json, iter_jsonl, new_file
from pipelines.labeling.resolve import moment
from pipelines.labeling.server.project import Bar, Counters, Project

# What the resolution reads of a task and of an annotation.
_TASK_KEYS = ("id", "data", "updated_at", "drafts", "predictions")
_ANNOTATION_KEYS = ("id", "completed_by", "was_cancelled", "ground_truth", "created_at", "updated_at", "lead_time", "prediction", "result")
_OVERLAP = timedelta(minutes=2)  # a slow write becomes visible some time after the moment that it is stamped with
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


def pull(project: Project, cache: Path, note: Callable[[str], None], bar: Bar) -> Path:
    """Bring `cache` up to date and return it: a first line that says whose tasks these are, then one task a line, by id.

    Raises:
        ServerError: the server fails or answers nonsense; the file is then as it was.
    """
    kept = _read(cache, project)
    if kept:
        counters, _ = project.state()
        stamps = {task_id: str(json.loads(line)["updated_at"]) for task_id, line in kept.items()}
        newest = max(moment(stamp) for stamp in stamps.values())
        listed = project.changed_since((newest - _OVERLAP).astimezone(UTC).strftime(_TIME_FORMAT))
        changed = sorted(task_id for task_id, stamp in listed.items() if stamps.get(task_id) != stamp)
        fresh = {int(row["id"]): _line(row) for row in bar(project.tasks(changed), "changed tasks")} if changed else {}
        current = {task_id: line for task_id, line in kept.items() if task_id not in set(changed)} | fresh
        if _count(current.values()) == counters:
            note(f"{len(changed)} of {counted(len(current), 'task')} changed")
            if changed:
                _write(cache, project, current)
            return cache
        note("tasks or annotations were deleted: everything is fetched")
    everything = {int(row["id"]): _line(row) for row in bar(project.tasks(), "tasks")}
    note(f"{counted(len(everything), 'task')} fetched")
    _write(cache, project, everything)
    return cache


def pulled_tasks(cache: Path) -> Iterator[dict[str, Any]]:
    """The tasks of a file that `pull` wrote."""
    rows = iter_jsonl(cache, "run `detloop labels pull`")
    next(rows)
    yield from rows


def _head(project: Project) -> dict[str, Any]:
    return {"url": project.client.url, "project": project.project_id}


def _read(cache: Path, project: Project) -> dict[int, str]:
    """The lines of this project's cache by task id; empty when there is none, it is another's, or it cannot be read."""
    if not cache.is_file():
        return {}
    try:
        with cache.open(encoding="utf-8") as file:
            if file.readline() != canonical_json(_head(project)) + "\n":
                return {}
            return {int(json.loads(line)["id"]): line for line in file}
    except (KeyError, TypeError, ValueError):  # damaged: all is fetched
        return {}


def _write(cache: Path, project: Project, lines: Mapping[int, str]) -> None:
    with new_file(cache) as file:
        file.write((canonical_json(_head(project)) + "\n").encode())
        for task_id in sorted(lines):
            file.write(lines[task_id].encode())


def _line(row: Mapping[str, Any]) -> str:
    """The part of a task that counts, as a line.

    Raises:
        ServerError: the row is no task of an export.
    """
    try:
        annotations = [{key: item.get(key) for key in _ANNOTATION_KEYS} for item in row["annotations"]]
        task = {key: row[key] for key in _TASK_KEYS} | {"drafts": [item["id"] for item in row["drafts"]]}
        datetime.fromisoformat(row["updated_at"])
        return canonical_json({**task, "annotations": sorted(annotations, key=lambda item: int(item["id"]))}) + "\n"
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(f"the server's export has a task of another form ({error!r}): this needs Label Studio 1.23") from error


def _count(lines: Iterable[str]) -> Counters:
    tasks = annotations = 0
    for line in lines:
        tasks += 1
        annotations += len(json.loads(line)["annotations"])
    return Counters(tasks, annotations)
