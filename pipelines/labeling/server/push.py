"""Bringing the open questions to the server: one task for each image, with the current model's pre-labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.core.errors import ServerError, listed
from pipelines.core.params import UPLOAD
from pipelines.formats.labelstudio import prediction_from_boxes
from pipelines.formats.labelstudio_config import IMAGE_KEY
from pipelines.labeling.server.client import RejectedError
from pipelines.labeling.server.prelabels import Prelabels
from pipelines.labeling.server.project import Bar, Project, chunks
from pipelines.labeling.server.push_plan import PushPlan, ServerTask, plan_push, server_tasks
from pipelines.labeling.server.questions import Question, Questions

_TASKS_A_CALL = 500
_FILES_A_CALL = 20
_ROUNDS = 8  # two pushes at once need three; more means that something keeps changing the tasks


@dataclass
class PushReport:
    """What a push did (with a dry run: what it would do first), and what it left alone. `not_kept`: asked images that collect does not keep."""

    model_version: str | None
    not_kept: tuple[str, ...] = ()
    done: Counter[str] = field(default_factory=Counter)
    left_alone: int = 0
    worked_twice: tuple[tuple[int, ...], ...] = ()

    def note(self, plan: PushPlan) -> None:
        """Add a plan's acts."""
        self.done.update(
            created=len(plan.create),
            duplicates_deleted=len(plan.delete),
            prelabeled=len(plan.relabel),
            predictions_deleted=len(plan.extra_predictions),
            retold=len(plan.retell),
        )
        self.left_alone, self.worked_twice = plan.left_alone, plan.worked_twice

    def __str__(self) -> str:
        done = self.done
        said = (
            f"{done['created']} tasks made, {done['prelabeled']} pre-labeled anew, {done['retold']} told anew, "
            f"{done['duplicates_deleted']} duplicates deleted, {self.left_alone} left alone because people work on them"
        )
        if self.model_version is None:
            said += "; no pre-labels, since no model has predicted yet"
        if self.worked_twice:
            said += "; worked on more than once, all kept: " + listed(["tasks " + ", ".join(map(str, ids)) for ids in self.worked_twice])
        if self.not_kept:
            said += f"; {len(self.not_kept)} asked images have no task, since collect does not keep them: " + listed(
                [name[:12] for name in self.not_kept]
            )
        return said


def push(project: Project, questions: Questions, prelabels: Prelabels | None, raw: Path, images: str, bar: Bar, dry_run: bool = False) -> PushReport:
    """Plan, act, look again, until the server has what it should. `images` is `upload` or an address with `{path}` or `{image_id}`.

    Raises:
        ServerError: the server fails, or its tasks keep changing.
    """
    version = prelabels.version if prelabels else None
    report = PushReport(version, questions.not_kept)
    for attempt in range(_ROUNDS):
        tasks = list_tasks(project)
        plan = plan_push(questions.items, tasks, version)
        if dry_run:
            report.note(plan)
            return report
        report.left_alone, report.worked_twice = plan.left_alone, plan.worked_twice
        if plan.done:
            known = {name for task in tasks for _, name in task.predictions}  # the server refuses a version that no prediction has
            if version in known and project.state()[1] != version:
                project.show_model(version)
            return report
        try:
            _act(project, plan, prelabels, raw, images, bar)
        except RejectedError:
            if attempt + 1 == _ROUNDS:
                raise
            continue  # a task of the plan went away meanwhile; if that was not it, the last round says so
        report.note(plan)
    raise ServerError(
        f"the tasks of {project.page} changed during each of {_ROUNDS} looks: does something else write there? Run the same command again"
    )


def list_tasks(project: Project) -> list[ServerTask]:
    """All tasks as the plan needs them."""
    return server_tasks(map(_slim, project.tasks()), map(_slim, project.predictions()))


def _slim(row: dict[str, Any]) -> dict[str, Any]:
    """Without the boxes, of which a plan needs nothing."""
    row.pop("result", None)
    for item in row.get("annotations", ()):
        item.clear()
    return row


def _act(project: Project, plan: PushPlan, prelabels: Prelabels | None, raw: Path, images: str, bar: Bar) -> None:
    if plan.delete:
        free = [task.task_id for task in server_tasks(project.tasks(plan.delete), ()) if not task.worked_on]  # once more, right before the act
        for part in chunks(free, _TASKS_A_CALL):
            project.delete_tasks(part)
    addresses = _addresses(project, plan.create, raw, images, bar)
    for part in bar(list(chunks(plan.create, _TASKS_A_CALL)), "tasks"):
        project.create_tasks([_task(project, question, addresses[question.image_id], prelabels) for question in part])
    if prelabels is not None:
        for part in bar(list(chunks(plan.relabel, _TASKS_A_CALL)), "pre-labels"):
            project.delete_predictions_of([task_id for task_id, _ in part])
            project.create_predictions([{"task": task_id, **_prediction(project, question, prelabels)} for task_id, question in part])
    for prediction_id in plan.extra_predictions:
        project.delete_prediction(prediction_id)
    for task, data in bar(plan.retell, "questions"):
        project.change_task(task.task_id, {**task.data, **data})


def _task(project: Project, question: Question, address: str, prelabels: Prelabels | None) -> dict[str, Any]:
    predictions = [] if prelabels is None else [_prediction(project, question, prelabels)]
    return {"data": {IMAGE_KEY: address, **question.data}, "predictions": predictions}


def _prediction(project: Project, question: Question, prelabels: Prelabels) -> dict[str, Any]:
    config = project.config
    boxes = prelabels.boxes(question.image_id)
    named = [(box, score, project.label_of[box.class_name]) for box, score in boxes]
    return prediction_from_boxes(named, question.image.size_wh, prelabels.version, config.from_name, config.to_name)


def _addresses(project: Project, questions: Sequence[Question], raw: Path, images: str, bar: Bar) -> Mapping[str, str]:
    """Image_id to the address of its picture, uploading what is not there yet."""
    if images != UPLOAD:
        return {item.image_id: images.format(path=item.image.path, image_id=item.image_id) for item in questions}
    if not questions:
        return {}
    names = {item.image_id: f"{item.image_id}{Path(item.image.path).suffix}" for item in questions}
    there = project.uploads()
    missing = [(names[item.image_id], raw / item.image.path) for item in questions if names[item.image_id] not in there]
    for part in bar(list(chunks(missing, _FILES_A_CALL)), "images"):
        project.upload(dict(part))
    if missing:
        there = project.uploads()
    return {image_id: there[name] for image_id, name in names.items()}
