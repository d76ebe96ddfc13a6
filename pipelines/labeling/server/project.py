"""One project of a server: found by its title, made from the class contract when missing, refused when its labels do not fit; its bulk calls.

Two machines that make the project at the same moment both look again afterwards; the one with the higher number takes its own away.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import Any

from pipelines.core.errors import DataError, ServerError
from pipelines.formats.labelstudio_config import LabelingConfig, config_from_classes, differences, read_config
from pipelines.labeling.server.client import Client, RejectedError

_PAGE = 1000
_MIN_TITLE = 3  # Label Studio refuses shorter ones
_TWIN_LOOKS, _TWIN_WAIT_S = 10, 0.5
IDS_IN_QUERY = 400  # they stand in the address, whose length servers limit


Bar = Callable[[Iterable[Any], str], Iterable[Any]]  # shows how far an iteration is, under a name


def no_bar(items: Iterable[Any], _: str) -> Iterable[Any]:
    """A `Bar` that shows nothing."""
    return items


@dataclass(frozen=True)
class Counters:
    """What the server counts in the project."""

    tasks: int
    annotations: int  # skips among them


@dataclass(frozen=True)
class Project:
    """An open project. `label_of` maps class names to its labels."""

    client: Client
    project_id: int
    title: str
    config: LabelingConfig
    label_of: Mapping[str, str]

    @property
    def page(self) -> str:
        """Its page for people."""
        return f"{self.client.url}/projects/{self.project_id}/data"

    def state(self) -> tuple[Counters, str]:
        """Counters, and the model version whose predictions people are shown."""
        row = self.client.request("GET", f"api/projects/{self.project_id}/")
        try:
            annotations = int(row["total_annotations_number"]) + int(row["skipped_annotations_number"])
            return Counters(int(row["task_number"]), annotations), str(row["model_version"] or "")
        except (KeyError, TypeError, ValueError) as error:
            raise self._other_form(error) from error

    def _other_form(self, error: Exception) -> ServerError:
        return ServerError(f"{self.client.url} describes project {self.project_id} in another form ({error!r}): this needs Label Studio 1.23")

    def tasks(self, ids: Sequence[int] | None = None) -> Iterator[dict[str, Any]]:
        """Tasks as its JSON export has them: all of them, labeled or not, or those of `ids` that exist; in no set order."""
        query: dict[str, Any] = {"exportType": "JSON", "download_all_tasks": "true"}
        path = f"api/projects/{self.project_id}/export"
        if ids is None:
            yield from self.client.stream(path, query)
            return
        for part in chunks(ids, IDS_IN_QUERY):
            yield from self.client.stream(path, query | {"ids[]": list(part)})

    def changed_since(self, moment: str) -> dict[int, str]:
        """The tasks that were changed at or after `moment` (as Label Studio writes it): id to the time of the last change."""
        item = {"filter": "filter:tasks:updated_at", "operator": "greater_or_equal", "type": "Datetime", "value": moment}
        found: dict[int, str] = {}
        for page in count(1):
            wanted = json.dumps({"filters": {"conjunction": "and", "items": [item]}, "ordering": ["tasks:id"]})
            query = {"project": self.project_id, "query": wanted, "page": page, "page_size": _PAGE, "resolve_uri": "false"}
            answer = self.client.request("GET", "api/tasks/", query=query)
            try:
                found.update({int(row["id"]): str(row["updated_at"]) for row in answer["tasks"]})
                if page * _PAGE >= int(answer["total"]):
                    break
            except (KeyError, TypeError, ValueError) as error:
                raise self._other_form(error) from error
        return found

    def predictions(self) -> Iterator[dict[str, Any]]:
        """All predictions of the project, with their results."""
        yield from self.client.stream("api/predictions/", {"project": self.project_id})

    def create_tasks(self, tasks: Sequence[Mapping[str, Any]]) -> None:
        """Import tasks with their predictions in one call; the server does all or nothing."""
        self.client.request("POST", f"api/projects/{self.project_id}/import", body=list(tasks))

    def create_predictions(self, predictions: Sequence[Mapping[str, Any]]) -> None:
        """Import predictions of tasks that are there, in one call."""
        self.client.request("POST", f"api/projects/{self.project_id}/import/predictions", body=list(predictions))

    def delete_tasks(self, ids: Sequence[int]) -> None:
        """Delete tasks; one that is gone already is no error."""
        self._act("delete_tasks", ids)

    def delete_predictions_of(self, task_ids: Sequence[int]) -> None:
        """Delete all predictions of these tasks."""
        self._act("delete_tasks_predictions", task_ids)

    def delete_prediction(self, prediction_id: int) -> None:
        """Delete one; one that is gone already is no error."""
        try:
            self.client.request("DELETE", f"api/predictions/{prediction_id}/")
        except RejectedError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    def change_task(self, task_id: int, data: Mapping[str, Any]) -> None:
        """Replace a task's data."""
        self.client.request("PATCH", f"api/tasks/{task_id}/", body={"data": dict(data)})

    def show_model(self, version: str) -> None:
        """Make `version` the one whose predictions people are shown."""
        self.client.request("PATCH", f"api/projects/{self.project_id}/", body={"model_version": version})

    def uploads(self) -> dict[str, str]:
        """Files that were uploaded to the project: our name (what follows the server's prefix) to its address; of several the first."""
        rows = self.client.request("GET", f"api/projects/{self.project_id}/file-uploads", query={"all": "true"})
        found: dict[str, str] = {}
        for row in sorted(rows, key=lambda row: int(row["id"])):
            found.setdefault(str(row["file"]).rpartition("/")[2].partition("-")[2], f"/data/{row['file']}")
        return found

    def upload(self, files: Mapping[str, Path]) -> None:
        """Upload images (name to path) without making tasks of them."""
        # each under a field of its own: of several under one name Label Studio keeps the last
        entries = [(f"file{number}", (name, path.read_bytes())) for number, (name, path) in enumerate(files.items())]
        self.client.request("POST", f"api/projects/{self.project_id}/import", query={"commit_to_project": "false"}, files=entries)

    def _act(self, action: str, ids: Sequence[int]) -> None:
        selected = {"selectedItems": {"all": False, "included": list(ids)}}
        self.client.request("POST", "api/dm/actions", query={"id": action, "project": self.project_id}, body=selected)


def find_project(client: Client, title: str, classes: Sequence[str], class_of: Mapping[str, str]) -> Project | None:
    """The project of this title, or None.

    Raises:
        DataError: several have it, or its labeling configuration does not fit the class contract; the message has the differences.
    """
    rows = _titled(client, title)
    for _ in range(_TWIN_LOOKS):  # of two that were made at the same moment one goes away
        if len(rows) < 2:
            break
        time.sleep(_TWIN_WAIT_S)
        rows = _titled(client, title)
    if not rows:
        return None
    if len(rows) > 1:
        numbers = ", ".join(str(row["id"]) for row in rows)
        raise DataError(f"{client.url} has {len(rows)} projects with the title {title!r} ({numbers}): rename or delete all but one")
    row = rows[0]
    where = f"project {title!r} ({client.url}/projects/{row['id']}/settings/labeling)"
    config = read_config(str(row["label_config"]), where)
    wrong = differences(config, classes, class_of)
    if wrong:
        raise DataError(
            f"{where} does not fit the classes of params.yaml: {'; '.join(wrong)}. Change its labeling interface or `classes`; "
            "`detloop labels status` prints one that fits"
        )
    return Project(client, int(row["id"]), title, config, config.label_of(class_of))


def open_project(client: Client, title: str, classes: Sequence[str], class_of: Mapping[str, str]) -> Project:
    """The project of this title, made when it is missing; see `find_project` for what is refused."""
    if len(title) < _MIN_TITLE:
        raise DataError(f"labeling.project = {title!r}: a title needs {_MIN_TITLE} characters or more")
    if (found := find_project(client, title, classes, class_of)) is not None:
        return found
    made = client.request("POST", "api/projects/", body={"title": title, "label_config": config_from_classes(classes)})
    if min((int(row["id"]) for row in _titled(client, title)), default=int(made["id"])) < int(made["id"]):
        client.request("DELETE", f"api/projects/{made['id']}/")
    found = find_project(client, title, classes, class_of)
    if found is None:
        raise ServerError(f"{client.url} lost project {title!r} right after making it: run the same command again")
    return found


def chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    """`items` in parts of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _titled(client: Client, title: str) -> list[dict[str, Any]]:
    return [row for row in _projects(client) if row.get("title") == title]


def _projects(client: Client) -> Iterator[dict[str, Any]]:
    for page in count(1):
        answer = client.request("GET", "api/projects/", query={"page": page, "page_size": _PAGE, "include": "id,title,label_config"})
        if not isinstance(answer, dict) or not isinstance(answer.get("results"), list):
            raise ServerError(f"{client.url}/api/projects/ answered in another form: is it a Label Studio 1.23?")
        yield from answer["results"]
        if not answer.get("next"):
            return
