"""The whole loop, small: two rounds with questions, answers, the regression suite and a champion, through the commands that people give.

The second round trains from the first one's champion.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import pytest

from pipelines.core.champion import read_champions
from pipelines.core.images import read_image
from pipelines.core.io import read_json, read_jsonl
from pipelines.core.records import read_annotations, read_samples
from tests.workspace import Workspace, new_workspace

pytestmark = pytest.mark.pipeline

JUDGED = ("mine", "challenge")  # with everything before them; the loop does not need what comes after


def ok(workspace: Workspace, *command: str) -> str:
    """Run a command that must succeed; what it said."""
    done = workspace.run(*command) if command[0] == "dvc" else workspace.detloop(*command)
    assert done.status == 0, done.stderr[-2000:]
    return done.stdout


def stages_run(said: str) -> set[str]:
    """The stages that `dvc repro` ran."""
    return {line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")}


def test_two_rounds(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path / "project", 48, "--unlabeled", "0.4")
    data = workspace.folder / "data"
    params = workspace.folder / "params.yaml"
    params.write_text(params.read_text().replace("splits: [val, test]", "splits: [train, val, test]"))  # so that training images are asked about too

    ok(workspace, "dvc", "repro", *JUDGED)
    first = read_json(data / "metrics/challenge.json")
    assert (first["verdict"], first["champion"]) == ("first", None)
    pool = {item.image_id for item in read_samples(data / "dataset/pool.jsonl")}
    ok(workspace, "promote")
    assert read_champions(data / "models/champion.json").current is not None

    ok(workspace, "queue", "accept", "--budget", "30")
    asked = {row["image_id"] for row in read_jsonl(data / "queue/round-001.jsonl")}
    cases = read_jsonl(data / "queue/cases-001.jsonl")
    assert {row["image_id"] for row in cases} <= asked
    ok(workspace, "sample", "--answer", "1")
    answers = json.loads((data / "label_sources/answers-001.json").read_text())
    assert {task["data"]["image_id"] for task in answers} == asked

    ok(workspace, "dvc", "repro", "label_sync")
    labels = {item.image_id: item for item in read_annotations(data / "labels/annotations.jsonl")}
    truth = {row["image_id"]: row for row in read_jsonl(data / "truth/truth.jsonl")}
    for image_id in asked:
        assert labels[image_id].source == "answers-001", "the newest label counts"
        assert sorted(box.class_name for box in labels[image_id].boxes) == sorted(box["class"] for box in truth[image_id]["boxes"])
    said = ok(workspace, "suite", "confirm")
    suite = read_jsonl(data / "badcases/suite.jsonl")
    assert 0 < len(suite) <= len(cases)
    assert f"of {len(cases)} cases asked about, {len(suite)} are confirmed" in said

    params.write_text(re.sub(r"from_champion:.*", "from_champion: 1", params.read_text()))
    ran = ok(workspace, "dvc", "repro", *JUDGED)
    assert "Running stage 'train'" in ran
    start = read_json(data / "metrics/train.json")["start"]
    assert start["champion"] == 1
    assert start["new_images"] > 0, "images that were labeled anew"
    assert 0 < start["replayed_images"] < start["old_images"], "a share of those that the champion knows"
    second = read_json(data / "metrics/challenge.json")
    assert (second["champion"], second["verdict"] in ("promote", "reject", "inconclusive")) == (1, True)
    assert second["suite"]["items"] == len(suite) == len(read_jsonl(data / "challenge/suite.jsonl"))
    assert second["suite"]["not_judged"] < len(suite)
    assert {item.image_id for item in read_samples(data / "dataset/pool.jsonl")} == pool - asked

    ok(workspace, "promote", "--because", "the loop goes on")
    ran_again = stages_run(ok(workspace, "dvc", "repro", *JUDGED))
    assert {"predict_champion", "challenge"} <= ran_again
    assert not ran_again & {"collect", "dataset", "train", "predict", "evaluate", "mine"}, "promoting collects and trains nothing anew"
    itself = read_json(data / "metrics/challenge.json")
    assert (itself["champion"], itself["same_model"], itself["verdict"]) == (2, True, "inconclusive")
    histories = [item["history"] for item in read_jsonl(data / "badcases/suite.jsonl")]
    assert all([entry["champion"] for entry in history] == [2] for history in histories if history)

    turned = workspace.folder / "data/inbox/from_the_line"
    turned.mkdir()
    for image_id in sorted(asked)[:3]:
        picture = read_image(next((data / "raw/images").rglob(f"{image_id}.*")))
        cv2.imwrite(str(turned / f"{image_id}.png"), cv2.rotate(picture, cv2.ROTATE_180))
    new = stages_run(ok(workspace, "dvc", "repro", *JUDGED))
    assert {"collect", "dataset", "predict", "mine"} <= new
    assert not new & {"start", "train", "evaluate", "predict_champion", "challenge"}, "images without a label train and judge nothing anew"
    assert len(read_samples(data / "dataset/pool.jsonl")) == len(pool - asked) + 3
