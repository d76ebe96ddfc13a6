"""The two-way sync against a real Label Studio."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from pipelines.core.types import Box
from tests.label_studio import VERSION_1, VERSION_2, WEIGHTS_2, Studio, World

pytestmark = pytest.mark.pipeline  # it takes minutes

BOLT = Box("bolt", (64.0, 48.0, 128.0, 96.0))
NUT = Box("nut", (320.0, 240.0, 384.0, 288.0))

Make = Callable[..., World]


@pytest.fixture(scope="module")
def titles() -> count[int]:
    return count(1)


@pytest.fixture
def world(studio: Studio, tmp_path: Path, titles: count[int]) -> Make:
    def make(images: int = 4, labeling: str = "", **more: bool) -> World:
        return World(studio, tmp_path / f"world{next(titles)}", f"test {next(titles)}", images, labeling, **more)

    return make


def test_a_round_there_and_back(world: Make, studio: Studio):
    here = world()
    here.queue()
    here.predict({here.ids[0]: [BOLT, NUT], here.ids[1]: [NUT]})
    here.sync()
    tasks = here.tasks()
    assert {image_id: len(rows) for image_id, rows in tasks.items()} == dict.fromkeys(here.ids, 1)
    assert here.versions() == {image_id: [VERSION_1] for image_id in here.ids}
    assert sorted(tasks, key=lambda image_id: tasks[image_id][0]["id"]) == here.ids  # worst first
    assert tasks[here.ids[0]][0]["data"]["ask"] == "Round 1: confirm the label that the model missed (missed 1; score 1.999)"
    assert here.snapshot() == {}
    studio.boss.annotate(here.task(0), [BOLT])
    studio.boss.annotate(here.task(1), [])
    studio.boss.skip(here.task(2))
    here.sync()
    states = {image_id: item.state for image_id, item in here.snapshot().items()}
    assert states == {here.ids[0]: "labeled", here.ids[1]: "verified_empty", here.ids[2]: "skipped"}
    assert here.snapshot()[here.ids[0]].boxes == (BOLT,)
    assert here.metrics()["unlabeled_images"] == 1
    before = here.files()
    here.sync()
    assert here.files() == before
    assert len(here.tasks()) == 4


def test_pre_labels_follow_the_model_but_not_where_people_work(world: Make, studio: Studio):
    here = world()
    here.queue()
    here.predict({here.ids[0]: [BOLT], here.ids[1]: [NUT]})
    here.labels("push")
    studio.boss.annotate(here.task(0), [BOLT])
    studio.boss.ask("POST", f"/api/tasks/{here.task(1)}/drafts", json={"result": [], "lead_time": 1})
    here.predict({here.ids[2]: [BOLT, NUT]}, WEIGHTS_2)
    assert "2 pre-labeled anew" in here.labels("push", "--dry-run")
    assert here.versions()[here.ids[2]] == [VERSION_1]
    assert "2 left alone" in here.labels("push")
    assert here.versions() == dict(zip(here.ids, ([VERSION_1], [VERSION_1], [VERSION_2], [VERSION_2]), strict=True))
    assert studio.boss.ask("GET", f"/api/projects/{here.project_id}/")["model_version"] == VERSION_2
    assert "0 tasks made, 0 pre-labeled anew" in here.labels("push")


def test_images_are_uploaded_once(world: Make, studio: Studio):
    here = world(template=False)
    here.queue(here.ids[:3])
    here.labels("push")
    here.queue(here.ids)
    here.labels("push")
    rows = {image_id: rows[0]["data"]["image"] for image_id, rows in here.tasks().items()}
    files = studio.boss.ask("GET", f"/api/projects/{here.project_id}/file-uploads?all=true")
    assert len(files) == 4
    for number, image_id in enumerate(here.ids):
        assert rows[image_id].startswith(f"/data/upload/{here.project_id}/")
        assert studio.boss._http.get(rows[image_id]).content == f"{here.title} {number}".encode()
