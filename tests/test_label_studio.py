"""The two-way sync against a real Label Studio."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.types import Box
from pipelines.formats.labelstudio import region_from_box
from tests.label_studio import SIZE, VERSION_1, VERSION_2, WEIGHTS_2, Studio, World

pytestmark = pytest.mark.pipeline  # it takes minutes

BOLT = Box("bolt", (64.0, 48.0, 128.0, 96.0))
NUT = Box("nut", (320.0, 240.0, 384.0, 288.0))

_SPARSE = '<Label value="bolt" category="7"/><Label value="nut" category="3"/><Label value="washer" category="40"/>'

Make = Callable[..., World]


@pytest.fixture(scope="module")
def titles() -> count[int]:
    return count(1)


@pytest.fixture
def world(studio: Studio, tmp_path: Path, titles: count[int]) -> Make:
    def make(images: int = 4, labeling: str = "", **more: bool) -> World:
        return World(studio, tmp_path / f"world{next(titles)}", f"test {os.getpid()} {next(titles)}", images, labeling, **more)

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


# Many at once, and killed anywhere


def _one_task_each(here: World, version: str) -> None:
    assert {image_id: len(rows) for image_id, rows in here.tasks().items()} == dict.fromkeys(here.ids, 1)
    assert here.versions() == {image_id: [version] for image_id in here.ids}


def test_two_pushes_at_once_make_one_project_and_one_task_an_image(world: Make):
    here = world(300)
    here.queue()
    here.predict({image_id: [BOLT] for image_id in here.ids})
    pushes = [here.start("pipelines.cli", "labels", "push") for _ in range(2)]
    for push in pushes:
        _, errors = push.communicate(timeout=120)
        assert push.returncode == 0, errors
    _one_task_each(here, VERSION_1)


def test_a_push_killed_ten_times_ends_with_one_task_an_image(world: Make):
    here = world(900)
    here.queue(here.ids[:300])
    here.predict({image_id: [BOLT, NUT] for image_id in here.ids})
    here.labels("push")
    here.queue()
    here.predict({image_id: [BOLT, NUT] for image_id in here.ids}, WEIGHTS_2)
    moments = np.random.default_rng(0).uniform(1.0, 6.0, 10)  # from the first request to the last pre-label
    killed = 0
    for seconds in moments:
        push = here.start("pipelines.cli", "labels", "push")
        with contextlib.suppress(subprocess.TimeoutExpired):
            push.wait(timeout=seconds)
        killed += push.poll() is None
        push.kill()
        push.communicate()
    assert killed, "every push had ended before its moment"
    here.labels("push")
    _one_task_each(here, VERSION_2)


def test_a_server_killed_three_times_leaves_nothing_double(world: Make, studio: Studio):
    here = world(900)
    here.queue()
    here.predict({image_id: [BOLT, NUT] for image_id in here.ids})
    for seconds in np.random.default_rng(1).uniform(1.5, 3.0, 3):
        push = here.start("pipelines.cli", "labels", "push")
        time.sleep(seconds)
        studio.stop(kill=True)
        _, errors = push.communicate(timeout=120)
        assert push.returncode == 0 or (push.returncode == 2 and len(errors.splitlines()) == 1 and "cannot be reached" in errors), errors
        studio.restart()
    here.labels("push")
    _one_task_each(here, VERSION_1)


# What Label Studio's YOLO exporter gets wrong, from the JSON


def test_of_two_annotations_the_newest_counts(world: Make, studio: Studio):
    here = world(1)
    here.queue()
    here.labels("push")
    studio.boss.annotate(here.task(0), [BOLT])
    newest = studio.boss.annotate(here.task(0), [NUT])
    here.sync()
    label = here.snapshot()[here.ids[0]]
    assert (label.boxes, label.annotation_ids) == ((NUT,), (str(newest),))


@pytest.mark.parametrize(
    "labels",
    ['<Label value="washer" category="0"/><Label value="nut" category="2"/><Label value="bolt" category="1"/>', _SPARSE],
    ids=["category ids in another order", "sparse category ids"],
)
def test_a_box_has_the_class_that_was_clicked(world: Make, studio: Studio, labels: str):
    here = world(1)
    control = f'<RectangleLabels name="what" toName="picture">{labels}</RectangleLabels>'
    config = f'<View><Image name="picture" value="$image"/>{control}</View>'
    studio.boss.ask("POST", "/api/projects/", json={"title": here.title, "label_config": config})
    here.queue()
    here.predict({here.ids[0]: [BOLT]})
    here.labels("push")
    shown = studio.boss.ask("GET", f"/api/predictions/?project={here.project_id}")[0]["result"]
    assert [(row["from_name"], row["to_name"]) for row in shown] == [("what", "picture")]
    regions = [region_from_box(box, SIZE, box.class_name, "what", "picture") for box in (BOLT, NUT)]
    studio.boss.annotate(here.task(0), regions)
    here.sync()
    assert here.snapshot()[here.ids[0]].boxes == (BOLT, NUT)


@pytest.mark.parametrize(("policy", "state", "boxes"), [("drop", "labeled", (BOLT,)), ("conflict", "conflict", ())])
def test_an_unknown_label_is_never_another_class(world: Make, studio: Studio, policy: str, state: str, boxes: tuple[Box, ...]):
    here = world(1)
    here.queue()
    here.sync()
    before = here.files()
    studio.boss.annotate(here.task(0), [BOLT, replace(NUT, class_name="gear")])
    status, said = here.try_sync()
    assert status == 2
    assert "1 labels have a class that params.yaml lacks" in said
    assert "'gear'" in said
    assert here.files() == before
    here.labeling = f"unknown_class: {policy}"
    here.params()
    here.sync()
    label = here.snapshot()[here.ids[0]]
    assert (label.state, label.boxes) == (state, boxes)
    assert here.issues()[0]["kind"] == ("conflict" if policy == "conflict" else "unknown_class")


@pytest.mark.parametrize(("policy", "boxes"), [("drop", (BOLT,)), ("bounding_box", (BOLT, Box("nut", (272.0, 240.0, 320.0, 304.0))))])
def test_a_rotated_box_is_not_written_as_if_it_were_upright(world: Make, studio: Studio, policy: str, boxes: tuple[Box, ...]):
    here = world(1, f"rotated: {policy}")
    here.queue()
    here.labels("push")
    turned = region_from_box(NUT, SIZE, "turned")
    turned["value"]["rotation"] = 90  # about its top left corner (320, 240): 64 x 48 becomes 48 x 64, to the left and below
    studio.boss.annotate(here.task(0), [region_from_box(BOLT, SIZE, "upright"), turned])
    here.sync()
    assert here.snapshot()[here.ids[0]].boxes == boxes
    assert here.metrics()["dropped" if policy == "drop" else "altered"] == {"rotated": 1}


def test_a_box_past_the_edge_ends_at_the_edge(world: Make, studio: Studio):
    here = world(1)
    here.queue()
    here.labels("push")
    studio.boss.annotate(here.task(0), [Box("bolt", (600.0, -20.0, 700.0, 30.0))])
    here.sync()
    assert here.snapshot()[here.ids[0]].boxes == (Box("bolt", (600.0, 0.0, 640.0, 30.0)),)
    assert here.metrics()["altered"] == {"past_edge": 1}


def test_an_untouched_task_is_not_an_empty_image(world: Make, studio: Studio):
    here = world(3)
    here.queue()
    here.predict({here.ids[2]: [BOLT]})
    here.labels("push")
    studio.boss.annotate(here.task(0), [])
    studio.boss.ask("POST", f"/api/tasks/{here.task(2)}/drafts", json={"result": [region_from_box(NUT, SIZE, "draft")], "lead_time": 1})
    here.sync()
    assert {image_id: item.state for image_id, item in here.snapshot().items()} == {here.ids[0]: "verified_empty"}
    assert here.metrics()["not_labels"] == {"unlabeled_tasks": 2, "drafts": 1, "predictions": 3}


# What becomes of labels that change


def test_annotations_edited_and_deleted_one_by_one_and_in_bulk(world: Make, studio: Studio):
    here = world(6, "max_loss_fraction: 0.5")
    here.queue()
    here.labels("push")
    ids = [studio.boss.annotate(here.task(number), [BOLT]) for number in range(6)]
    here.sync()
    studio.boss.ask("PATCH", f"/api/annotations/{ids[0]}/", json={"result": [region_from_box(NUT, SIZE, "new")]})
    studio.boss.ask("DELETE", f"/api/annotations/{ids[1]}/")
    here.sync()
    assert {number: here.snapshot()[image_id].boxes for number, image_id in enumerate(here.ids) if image_id in here.snapshot()} == {
        0: (NUT,),
        **dict.fromkeys(range(2, 6), (BOLT,)),
    }
    before = here.files()
    gone = [here.task(number) for number in (2, 3, 4)]
    action = f"/api/dm/actions?id=delete_tasks_annotations&project={here.project_id}"
    studio.boss.ask("POST", action, json={"selectedItems": {"all": False, "included": gone}})
    status, said = here.try_sync()
    assert (status, len(said.splitlines())) == (2, 1)
    assert "3 of 5 labels would vanish on 3 images" in said
    assert here.files() == before
    assert "2 labeled" in here.labels("pull", "--accept-loss")
    here.sync()
    assert set(here.snapshot()) == {here.ids[0], here.ids[5]}


def test_annotations_moved_to_another_project_keep_their_image(world: Make, studio: Studio):
    here = world(2)
    here.queue()
    here.labels("push")
    studio.boss.annotate(here.task(0), [BOLT])
    here.sync()
    old, rows = here.project_id, studio.boss.export(here.project_id)
    here.title += " moved"
    here.params()
    here.labels("push")
    moved = [{"data": row["data"], "annotations": [{"result": item["result"]} for item in row["annotations"]]} for row in rows if row["annotations"]]
    studio.boss.ask("POST", f"/api/projects/{here.project_id}/import", json=moved)
    studio.boss.ask("POST", f"/api/dm/actions?id=delete_tasks&project={old}", json={"selectedItems": {"all": True, "excluded": []}})
    here.sync()  # of the two tasks of the image the one with the annotation stays
    label = here.snapshot()[here.ids[0]]
    assert (label.boxes, label.source) == ((BOLT,), here.title)
    assert {image_id: len(tasks) for image_id, tasks in here.tasks().items()} == dict.fromkeys(here.ids, 1)


def test_a_renamed_class_keeps_its_labels_and_its_button(world: Make, studio: Studio):
    here = world(2)
    here.queue()
    here.labels("push")
    studio.boss.annotate(here.task(0), [BOLT])
    here.params("[{name: fastener, aliases: [bolt, screw]}, {name: nut}, {name: washer}]")
    here.predict({here.ids[1]: [BOLT]})
    here.sync()
    assert here.snapshot()[here.ids[0]].boxes == (replace(BOLT, class_name="fastener"),)
    assert here.metrics()["alias_uses"] == {"bolt": 1}
    (shown,) = studio.boss.ask("GET", f"/api/predictions/?task={here.task(1)}")[0]["result"]
    assert shown["value"]["rectanglelabels"] == ["bolt"]  # the project's own label for it


def test_a_project_that_does_not_fit_is_refused_with_the_difference(world: Make, studio: Studio):
    here = world(1)
    here.queue()
    here.labels("push")
    here.params("[{name: bolt}, {name: washer}, {name: pin}]")
    status, said = here.try_sync()
    assert (status, len(said.splitlines())) == (2, 1)
    assert "does not fit the classes of params.yaml: it lacks the label pin; its label nut is no class" in said


def test_ids_from_the_server_are_never_paths(world: Make, studio: Studio):
    here = world(1)
    here.queue()
    here.labels("push")
    odd = {"image": "../../../etc/passwd", "image_id": "../../../../tmp/x", "ask": ""}
    annotations = [{"result": [region_from_box(BOLT, SIZE, "r")]}]
    studio.boss.ask("POST", f"/api/projects/{here.project_id}/import", json=[{"data": odd, "annotations": annotations}])
    here.sync()
    assert list(here.folder.parent.iterdir()) == [here.folder]
    assert not [path for path in here.folder.rglob("*") if path.name in ("passwd", "x")]
    assert [(item["kind"], item["image_id"]) for item in here.issues()] == [("unmatched_image", odd["image_id"])]
