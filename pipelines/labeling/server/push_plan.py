"""What a push must still do, from the questions and the server's tasks: a pure comparison, empty when all is as it should be.

A push plans, acts and plans again until the plan is empty, so it does not matter where the last one was killed or who pushes beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.labeling.server.questions import CONFLICT, IMAGE_ID_KEY, KINDS_KEY, NOTHING_ASKED, Question


@dataclass(frozen=True)
class ServerTask:
    """A task as the server has it. `worked_on`: people have submitted, skipped or begun something. `predictions`: (id, model version), ascending."""

    task_id: int
    image_id: str | None
    data: Mapping[str, Any]
    worked_on: bool
    predictions: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class PushPlan:
    """Acts, and what is left alone.

    `relabel`: tasks whose pre-labels are missing or of another model. `extra_predictions`: the same pre-labels a second time. `retell`: tasks that
    say something else than the question, or speak of a conflict that is settled, and what they should say. `worked_twice`: tasks of one image that
    people have worked on, all of them kept.
    """

    create: tuple[Question, ...]
    delete: tuple[int, ...]
    relabel: tuple[tuple[int, Question], ...]
    extra_predictions: tuple[int, ...]
    retell: tuple[tuple[ServerTask, Mapping[str, Any]], ...]
    left_alone: int
    worked_twice: tuple[tuple[int, ...], ...]

    @property
    def done(self) -> bool:
        """True when nothing is left to do."""
        return not (self.create or self.delete or self.relabel or self.extra_predictions or self.retell)


def server_tasks(rows: Iterable[Mapping[str, Any]], predictions: Iterable[Mapping[str, Any]]) -> list[ServerTask]:
    """Tasks from the rows of an export and of the list of predictions."""
    versions: dict[int, list[tuple[int, str]]] = {}
    for row in predictions:
        versions.setdefault(int(row["task"]), []).append((int(row["id"]), str(row.get("model_version") or "")))
    return [
        ServerTask(
            task_id=int(row["id"]),
            image_id=row["data"].get(IMAGE_ID_KEY),
            data=row["data"],
            worked_on=bool(row["annotations"] or row["drafts"]),
            predictions=tuple(sorted(versions.get(int(row["id"]), []))),
        )
        for row in rows
    ]


def plan_push(questions: Sequence[Question], tasks: Sequence[ServerTask], model_version: str | None) -> PushPlan:
    """Compare. Duplicates are found among all tasks with an image_id, asked or not; `model_version` None leaves pre-labels as they are."""
    of_image: dict[str, list[ServerTask]] = {}
    for task in sorted(tasks, key=lambda task: task.task_id):
        if isinstance(task.image_id, str) and task.image_id:
            of_image.setdefault(task.image_id, []).append(task)
    delete: list[int] = []
    twice: list[tuple[int, ...]] = []
    kept: dict[str, ServerTask] = {}
    for image_id, twins in of_image.items():
        worked = [task for task in twins if task.worked_on]
        kept[image_id] = (worked or twins)[0]
        delete.extend(task.task_id for task in twins if task not in (worked or twins[:1]))
        if len(worked) > 1:
            twice.append(tuple(task.task_id for task in worked))
    create, relabel, extra, retell = [], [], [], []
    left_alone = 0
    for question in questions:
        if question.image_id not in kept:
            create.append(question)
            continue
        task = kept[question.image_id]
        other = any(task.data.get(key) != value for key, value in question.data.items())
        disputed = CONFLICT in question.data[KINDS_KEY] or _speaks_of_conflict(task)  # now, or until now
        if other and (disputed or not task.worked_on):
            retell.append((task, question.data))
        if task.worked_on:
            left_alone += 1
        elif model_version is not None:
            own = [number for number, version in task.predictions if version == model_version]
            if not own or len(own) < len(task.predictions):
                relabel.append((task.task_id, question))
            else:
                extra.extend(own[1:])
    asked = {question.image_id for question in questions}
    retell += [(task, NOTHING_ASKED) for image_id, task in kept.items() if image_id not in asked and _speaks_of_conflict(task)]
    return PushPlan(tuple(create), tuple(delete), tuple(relabel), tuple(extra), tuple(retell), left_alone, tuple(twice))


def _speaks_of_conflict(task: ServerTask) -> bool:
    return CONFLICT in str(task.data.get(KINDS_KEY))
