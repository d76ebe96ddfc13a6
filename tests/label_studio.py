"""A real Label Studio for tests: one server a session, people with accounts of their own who annotate through its API, and small projects to sync."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl

from pipelines.core.io import read_jsonl, sha256_bytes, write_bytes, write_json, write_jsonl
from pipelines.core.records import PREDICTED_BY, read_annotations, write_detections, write_features, write_manifest
from pipelines.core.tables import MANIFEST_SCHEMA
from pipelines.core.types import Annotation, Box, Detections
from pipelines.formats.labelstudio import region_from_box
from pipelines.labeling.server import local
from pipelines.labeling.server.client import Client

ROOT = Path(__file__).resolve().parents[1]
SIZE = (640, 480)
CLASSES = ("bolt", "nut", "washer")
WEIGHTS_1, WEIGHTS_2 = "1" * 64, "2" * 64  # stand for the sha256 of two models
VERSION_1, VERSION_2 = WEIGHTS_1[:16], WEIGHTS_2[:16]


@dataclass
class Person:
    """An account and its requests."""

    url: str
    email: str
    token: str
    number: int = 0
    _http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self._http = httpx.Client(base_url=self.url, timeout=60)
        self.renew()
        self.number = self.ask("GET", "/api/current-user/whoami")["id"]

    def renew(self) -> None:
        access = self._http.post("/api/token/refresh/", json={"refresh": self.token}).raise_for_status().json()["access"]
        self._http.headers["Authorization"] = f"Bearer {access}"

    def ask(self, method: str, path: str, **more: Any) -> Any:
        answer = self._http.request(method, path, **more)
        if answer.status_code == httpx.codes.UNAUTHORIZED:  # access tokens last five minutes
            self.renew()
            answer = self._http.request(method, path, **more)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def annotate(self, task_id: int, boxes: Iterable[Box] | Sequence[Mapping[str, Any]], seconds: float = 10.0, **more: Any) -> int:
        """Submit boxes in pixels of a 640x480 image, or regions as they are; the annotation's id."""
        result = [region_from_box(box, SIZE, f"r{number}") if isinstance(box, Box) else box for number, box in enumerate(boxes)]
        body = {"result": result, "lead_time": seconds, "was_cancelled": False, **more}
        return int(self.ask("POST", f"/api/tasks/{task_id}/annotations/", json=body)["id"])

    def skip(self, task_id: int) -> int:
        return self.annotate(task_id, [], was_cancelled=True)

    def export(self, project_id: int, form: str = "JSON") -> Any:
        query = {"exportType": form, "download_all_tasks": "true"}
        answer = self._http.get(f"/api/projects/{project_id}/export", params=query)
        return answer.json() if form == "JSON" else answer.content


class Studio:
    """The server of this session."""

    def __init__(self, program: Path, data: Path) -> None:
        self.program, self.data = program, data
        self.server = local.start(program, data)
        self.boss = Person(self.url, self.server.user, local.new_token(self.url, self.server.user, self.server.password))

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self, kill: bool = False) -> None:
        import signal

        local.stop(self.data, signal.SIGKILL if kill else signal.SIGTERM)

    def restart(self) -> None:
        self.server = local.start(self.program, self.data, self.port)
        self.boss.renew()

    def person(self, name: str) -> Person:
        """Sign up, log in."""
        email, password = f"{name}@example.invalid", "long-enough-password"
        with httpx.Client(base_url=self.url, timeout=60) as http:
            http.get("/user/signup/")
            form = {"email": email, "password": password, "csrfmiddlewaretoken": http.cookies.get("csrftoken") or ""}
            answer = http.post("/user/signup/", data=form, headers={"Referer": self.url})
            assert answer.status_code == 302, answer.text[-500:]
        return Person(self.url, email, local.new_token(self.url, email, password))

    def client(self) -> Client:
        return Client(self.url, self.boss.token)

    @property
    def environment(self) -> dict[str, str]:
        return {"LABEL_STUDIO_URL": self.url, "LABEL_STUDIO_API_KEY": self.boss.token}


class World:
    """A project folder of `images` tiny images, its queue and predictions, and its Label Studio project (by title)."""

    def __init__(self, studio: Studio, folder: Path, title: str, images: int = 4, labeling: str = "", template: bool = True) -> None:
        self.studio, self.folder, self.title = studio, folder, title
        self.labeling = labeling
        self.template = template
        self.ids = [sha256_bytes(f"{title} {number}".encode()) for number in range(images)]
        for name in ("data/label_sources", "data/queue"):
            (folder / name).mkdir(parents=True)
        rows = []
        for number, image_id in enumerate(self.ids):
            path = f"images/{image_id[:2]}/{image_id}.jpg"
            write_bytes(folder / "data/raw" / path, f"{title} {number}".encode())
            row: dict[str, Any] = dict.fromkeys(MANIFEST_SCHEMA)
            row |= {"origin": f"in/{number:04d}.jpg", "image_id": image_id, "path": path, "status": "kept", "width_px": SIZE[0], "height_px": SIZE[1]}
            rows.append(row)
        write_manifest(folder / "data/raw/manifest.parquet", pl.DataFrame(rows, schema=MANIFEST_SCHEMA))
        self.params()

    def params(self, classes: str = "[{name: bolt, aliases: [screw]}, {name: nut}, {name: washer}]") -> None:
        images = ", images: 'http://127.0.0.1:9/{path}'" if self.template else ""
        more = f", {self.labeling}" if self.labeling else ""
        text = f"classes: {classes}\nlabeling: {{source: label_studio, project: {self.title}{images}{more}}}\n"
        (self.folder / "params.yaml").write_text(text)

    def queue(self, ids: Sequence[str] | None = None, number: int = 1) -> None:
        """Ask about these images (all), worst first."""
        rows = [
            {
                "round": number,
                "rank": rank,
                "image_id": image_id,
                "path": f"images/{image_id[:2]}/{image_id}.jpg",
                "split": "val",
                "actions": ["confirm the label that the model missed"],
                "reasons": ["1 missed"],
                "kinds": {"missed": 1},
                "score": 2.0 - rank / 1000,
                "ranked": "0" * 16,
            }
            for rank, image_id in enumerate(self.ids if ids is None else ids, start=1)
        ]
        write_jsonl(self.folder / f"data/queue/round-{number:03d}.jsonl", rows)

    def predict(self, boxes: Mapping[str, Sequence[Box]], weights: str = WEIGHTS_1, score: float = 0.9) -> None:
        """The detections of a model; images that are not named have none."""
        detections = {
            image_id: Detections(
                np.array([box.xyxy for box in found], dtype=np.float32).reshape(-1, 4),
                np.full(len(found), score, np.float32),
                np.array([CLASSES.index(box.class_name) for box in found], dtype=np.int64),
            )
            for image_id, found in boxes.items()
        }
        write_detections(self.folder / "data/predictions/val.parquet", detections, CLASSES)
        write_json(self.folder / "data/predictions" / PREDICTED_BY, {"weights_sha256": weights})
        write_features(self.folder / "data/predictions/features.parquet", {image_id: np.zeros(4, np.float32) for image_id in boxes})

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, **self.studio.environment, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", *arguments]
        return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def labels(self, *arguments: str) -> str:
        """`detloop labels …` in this process; what it printed."""
        from pipelines.cli import main

        out, errors = io.StringIO(), io.StringIO()
        with self._within(errors), contextlib.redirect_stdout(out):
            status = main(["labels", *arguments])
        assert status == 0, errors.getvalue()
        return out.getvalue()

    def sync(self) -> None:
        """The stage as DVC runs it, but in this process."""
        status, said = self.try_sync()
        assert status == 0, said

    def try_sync(self) -> tuple[int, str]:
        import argparse

        from pipelines.commands.labels import PATHS
        from pipelines.core.cli import run_guarded
        from pipelines.stages.label_sync import work

        errors = io.StringIO()
        with self._within(errors), contextlib.redirect_stdout(io.StringIO()):
            status = run_guarded(lambda: work(argparse.Namespace(params=Path("params.yaml"), **vars(PATHS))))
        return status, errors.getvalue()

    @contextlib.contextmanager
    def _within(self, errors: io.StringIO) -> Iterator[None]:
        with contextlib.chdir(self.folder), _environment(self.studio.environment), contextlib.redirect_stderr(errors):
            yield

    def snapshot(self) -> dict[str, Annotation]:
        return {item.image_id: item for item in read_annotations(self.folder / "data/labels/annotations.jsonl")}

    def issues(self) -> list[dict[str, Any]]:
        return read_jsonl(self.folder / "data/labels/issues.jsonl")

    def metrics(self) -> dict[str, Any]:
        metrics: dict[str, Any] = json.loads((self.folder / "data/metrics/labels.json").read_text())
        return metrics

    def files(self) -> dict[str, bytes]:
        paths = ("data/labels/annotations.jsonl", "data/labels/issues.jsonl", "data/metrics/labels.json")
        return {path: (self.folder / path).read_bytes() for path in paths}

    @property
    def project_id(self) -> int:
        rows = self.studio.boss.ask("GET", "/api/projects/?page_size=1000&include=id,title")["results"]
        (found,) = [row["id"] for row in rows if row["title"] == self.title]
        return int(found)

    def tasks(self) -> dict[str, list[dict[str, Any]]]:
        """The server's tasks by image_id."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self.studio.boss.export(self.project_id):
            found.setdefault(row["data"]["image_id"], []).append(row)
        return found

    def task(self, number: int) -> int:
        """The id of the one task of an image."""
        (row,) = self.tasks()[self.ids[number]]
        return int(row["id"])

    def versions(self) -> dict[str, list[str]]:
        """Model versions of the predictions of each image."""
        image_of = {row["id"]: image_id for image_id, rows in self.tasks().items() for row in rows}
        found: dict[str, list[str]] = {image_id: [] for image_id in image_of.values()}
        for row in self.studio.boss.ask("GET", f"/api/predictions/?project={self.project_id}"):
            if row["task"] in image_of:  # the server keeps a prediction that was made while another push deleted its task
                found[image_of[row["task"]]].append(row["model_version"])
        return found


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
