"""The two-way sync against a real Label Studio."""

from __future__ import annotations

import contextlib
import copy
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipelines.core.io import write_jsonl
from pipelines.core.records import read_annotations, read_manifest
from pipelines.core.types import Box
from pipelines.formats.labelstudio import region_from_box
from tests.label_studio import SIZE, VERSION_1, VERSION_2, WEIGHTS_2, Studio, World
from tests.test_labels_client import serving
from tests.workspace import new_workspace

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


# A team


def _regions(studio: Studio, here: World) -> dict[str, list[dict[str, Any]]]:
    """The pre-labels of each image, as a person's annotation begins with them."""
    image_of = {rows[0]["id"]: image_id for image_id, rows in here.tasks().items()}
    return {image_of[row["task"]]: row["result"] for row in studio.boss.ask("GET", f"/api/predictions/?project={here.project_id}")}


def _sloppy(number: int, regions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The bolt 16 px to the right (of 64: IoU 48/80); of ten images one lacks its nut, one has it as a washer, one has a washer too many."""
    bolt, nut = copy.deepcopy(regions)
    bolt["value"]["x"] += 2.5
    if number % 10 == 0:
        return [bolt]
    if number % 10 == 1:
        nut["value"]["rectanglelabels"] = ["washer"]
    extra = [region_from_box(Box("washer", (512.0, 96.0, 544.0, 144.0)), SIZE, "extra")] if number % 10 == 2 else []
    return [bolt, nut, *extra]


def test_a_team_of_three_over_200_images(world: Make, studio: Studio):
    """ana accepts every pre-label of all images; ben is sloppy on the first 100; cem comes late to the first 40, skips 10 and agrees with ana."""
    here = world(200)
    here.queue()
    here.predict({image_id: [BOLT, NUT] for image_id in here.ids})
    here.labels("push")
    ana, ben, cem = (studio.person(f"{name}{os.getpid()}") for name in ("ana", "ben", "cem"))
    regions = _regions(studio, here)
    task_of = {image_id: rows[0]["id"] for image_id, rows in here.tasks().items()}
    for image_id in here.ids:
        ana.annotate(task_of[image_id], regions[image_id], 10)
    for number, image_id in enumerate(here.ids[:100]):
        ben.annotate(task_of[image_id], _sloppy(number, regions[image_id]), 5)
    for number, image_id in enumerate(here.ids[:40]):
        cem.annotate(task_of[image_id], regions[image_id] if number >= 10 else [], 20, was_cancelled=number < 10)

    here.sync()
    found = here.metrics()
    # latest: images 0-9 cem's skip, 10-39 cem, 40-99 ben (6 without nut, 6 with a washer in its place, 6 with one more), 100-199 ana
    assert found["states"] == {"labeled": 190, "verified_empty": 0, "skipped": 10, "conflict": 0}
    assert found["boxes_per_class"] == {"bolt": 190, "nut": 30 + 48 + 100, "washer": 12}
    assert found["superseded"] == 100 + 40
    assert found["prelabels"] == {
        VERSION_1: {"annotations": 330, "accepted": 400 + 80 + 60, "moved": 100, "reclassified": 10, "deleted": 10, "added": 10}
    }
    names = [str(person.number) for person in (ana, ben, cem)]
    by_pair = {tuple(row["people"]): row for row in found["agreement"]["pairs"]}
    assert {pair: row["images"] for pair, row in by_pair.items()} == {(names[0], names[1]): 100, (names[0], names[2]): 30, (names[1], names[2]): 30}
    ana_ben, ana_cem = by_pair[names[0], names[1]], by_pair[names[0], names[2]]
    # per ten images: one of 0.6 / 2, one and seven of (0.6 + 1) / 2, one of (0.6 + 1) / 3
    assert ana_ben["mean_iou"] == pytest.approx((0.3 + 8 * 0.8 + 1.6 / 3) / 10, abs=1e-6)
    assert ana_ben["class_agreement"] == pytest.approx(180 / 190, abs=1e-6)
    # 210 objects: bolt-bolt 100, nut-nut 80, nut-washer 10, nut-nothing 10, nothing-washer 10; by chance (100*100 + 100*80 + 10*10) / 210^2
    assert ana_ben["kappa"] == pytest.approx((180 / 210 - 18100 / 44100) / (1 - 18100 / 44100), abs=1e-6)
    assert (ana_cem["mean_iou"], ana_cem["class_agreement"], ana_cem["kappa"]) == (1, 1, 1)
    # over the three pairs 333 objects, 39 of them called differently: bolt 320, nut 294, washer 26, nothing 26 of 666 names
    assert found["agreement"]["alpha"] == pytest.approx(1 - 665 * 78 / (666**2 - 320**2 - 294**2 - 2 * 26**2), abs=1e-6)
    assert found["several_annotations"]["images"] == 100
    time = found["time"]
    assert {name: (row["count"], row["median_s"]) for name, row in time["people"].items()} == {
        names[0]: (200, 10),
        names[1]: (100, 5),
        names[2]: (30, 20),
    }
    assert time["images"] == {"count": 200, "median_s": (10 + 15) / 2, "total_s": 2000 + 500 + 600}
    assert time["with_prelabels"]["count"] == 330

    progress = here.labels("progress")
    assert "round 001: 200 of 200 done; 200 answered" in progress
    assert f"user {names[2]}: 30 submitted, 10 skipped" in progress

    # consensus: of the first 100 images three in ten are in dispute; the others are the mean, a skip is no vote
    here.labeling = "resolve: consensus, max_loss_fraction: 1.0"
    here.params()
    here.sync()
    snapshot = here.snapshot()
    disputed = {image_id for number, image_id in enumerate(here.ids[:100]) if number % 10 < 3}
    assert {image_id for image_id, item in snapshot.items() if item.state == "conflict"} == disputed
    assert snapshot[here.ids[5]].boxes[0] == Box("bolt", (72.0, 48.0, 136.0, 96.0))  # ana and ben
    assert snapshot[here.ids[15]].boxes[0].xyxy[0] == pytest.approx(64 + 16 / 3, abs=1e-3)  # all three
    assert len(snapshot[here.ids[15]].annotation_ids) == 3
    conflicts = [item for item in here.issues() if item["kind"] == "conflict"]
    assert {item["image_id"] for item in conflicts} == disputed
    assert all(item["detail"].count(" says ") >= 2 for item in conflicts)
    asked = {image_id: rows[0]["data"]["ask"] for image_id, rows in here.tasks().items()}
    assert {image_id for image_id, text in asked.items() if text.startswith("Conflict: decide between annotations")} == disputed

    # ground truth: what is marked decides, the rest is consensus
    marked = here.tasks()[here.ids[0]][0]["annotations"][0]
    studio.boss.ask("PATCH", f"/api/annotations/{marked['id']}/", json={"ground_truth": True})
    here.labeling = "resolve: ground_truth, max_loss_fraction: 1.0"
    here.params()
    here.sync()
    assert here.snapshot()[here.ids[0]].state == "labeled"
    assert here.snapshot()[here.ids[0]].annotation_ids == (str(marked["id"]),)
    assert here.metrics()["states"]["conflict"] == 29


# The parts by hand, and what a round sees


def test_a_pull_fetches_what_changed_and_finds_what_went_away(world: Make, studio: Studio):
    here = world(6, "max_loss_fraction: 1.0")
    here.queue()
    here.labels("push")
    assert "6 tasks fetched" in here.labels("pull")
    studio.boss.annotate(here.task(0), [BOLT])
    studio.boss.skip(here.task(1))
    assert "dry run, no snapshot written: 2 images new or changed, 0 gone" in here.labels("pull", "--dry-run")
    assert here.snapshot() == {}
    assert "0 of 6 tasks changed\n1 labeled, 0 verified empty, 1 skipped" in here.labels("pull")
    studio.boss.annotate(here.task(2), [])
    assert "1 of 6 tasks changed" in here.labels("pull")
    studio.boss.ask("DELETE", f"/api/tasks/{here.task(2)}/")
    assert "everything is fetched\n5 tasks fetched" in here.labels("pull")
    (here.folder / "data/work/labels/tasks.jsonl").unlink()
    before = here.files()
    assert "5 tasks fetched" in here.labels("pull")
    assert here.files() == before


def test_status_and_dry_runs_change_nothing(world: Make, studio: Studio):
    here = world(3)
    here.queue()
    for action in (("status",), ("push", "--dry-run"), ("pull",), ("progress",)):
        assert "has no project" in here.labels(*action)
    here.labels("push", "--dry-run")
    assert here.title not in [row["title"] for row in studio.boss.ask("GET", "/api/projects/?page_size=1000")["results"]]
    here.labels("push")
    status = here.labels("status")
    assert "Label Studio 1.23" in status
    assert "3 tasks, 0 annotations" in status
    assert '<Label value="bolt"' in status


def test_a_server_that_is_down_or_another_leaves_the_last_snapshot(world: Make, studio: Studio, monkeypatch: pytest.MonkeyPatch):
    here = world(1)
    here.queue()
    here.labels("push")
    studio.boss.annotate(here.task(0), [BOLT])
    here.sync()
    before = here.files()
    with serving((200, "<html>the router says hello</html>", {})) as fake:
        monkeypatch.setattr(Studio, "url", f"http://127.0.0.1:{fake.port}")
        for said in ("did not answer in JSON", "cannot be reached"):
            status, errors = here.try_sync()
            assert (status, len(errors.splitlines())) == (2, 1)
            assert said in errors
            assert "The last snapshot stays as it is" in errors
            assert studio.boss.token not in errors
            assert here.files() == before
            monkeypatch.setattr(Studio, "url", "http://127.0.0.1:9")


def test_one_command_prints_what_to_export_and_the_projects_page(world: Make, studio: Studio):
    here = world(1)
    out = here.labels("serve", "--program", str(studio.program), "--server", str(studio.data))
    url, token, page = out.splitlines()
    assert url == f"export LABEL_STUDIO_URL={studio.url}"
    assert token.startswith("export LABEL_STUDIO_API_KEY=")
    studio.boss.token = token.partition("=")[2]  # it takes the place of the older one
    assert f"project: {studio.url}/projects/{here.project_id}/data" in page
    assert (studio.data / "server.json").stat().st_mode & 0o077 == 0
    kept = studio.data / ".env"
    assert not kept.exists() or "SECRET_KEY" not in kept.read_text(), "Label Studio cannot read back every key that it makes"


def test_a_round_in_dvc_runs_the_sync_alone_when_nothing_is_new_and_keeps_the_token_to_itself(studio: Studio, tmp_path: Path):
    here = new_workspace(tmp_path / "round", images=24)
    params = YAML()
    text = params.load((here.folder / "params.yaml").read_text())
    text["labeling"] |= {"source": "label_studio", "project": f"round {os.getpid()}"}
    with (here.folder / "params.yaml").open("w") as file:
        params.dump(text, file)
    environment = here.environment | studio.environment

    def repro() -> list[str]:
        done = subprocess.run(["dvc", "repro", "dataset"], cwd=here.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
        return [line for line in done.stdout.splitlines() if line.startswith("Running stage")]

    repro()
    manifest = read_manifest(here.folder / "data/raw/manifest.parquet")
    (image_id, path), *_ = manifest.filter(manifest["status"] == "kept").select("image_id", "path").iter_rows()
    row = {"round": 1, "rank": 1, "image_id": image_id, "actions": ["look"], "reasons": ["1 missed"], "kinds": {"missed": 1}, "score": 1.0}
    write_jsonl(here.folder / "data/queue/round-001.jsonl", [row])
    repro()
    (project,) = [item for item in studio.boss.ask("GET", "/api/projects/?page_size=1000")["results"] if item["title"] == f"round {os.getpid()}"]
    (task,) = studio.boss.export(project["id"])
    assert studio.boss._http.get(task["data"]["image"]).content == (here.folder / "data/raw" / path).read_bytes()
    studio.boss.annotate(task["id"], [])
    assert "Running stage 'dataset':" in repro()
    labels = {item.image_id: item for item in read_annotations(here.folder / "data/labels/annotations.jsonl")}
    assert (labels[image_id].state, labels[image_id].source) == ("verified_empty", f"round {os.getpid()}")
    before = here.hashes("data/labels")
    assert repro() == ["Running stage 'fetch':", "Running stage 'label_sync':"]
    assert here.hashes("data/labels") == before
    assert len(studio.boss.export(project["id"])) == 1
    secrets = (studio.boss.token.encode(), studio.boss.token.rpartition(".")[2].encode())
    leaks = [path for path in here.folder.rglob("*") if path.is_file() and any(secret in path.read_bytes() for secret in secrets)]
    assert leaks == []
