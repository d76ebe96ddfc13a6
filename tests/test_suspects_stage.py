"""The suspects stage on a small project: every row points at a stored label or box, train only with folds, sequences only with times."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.records import read_detections, read_samples, write_detections, write_samples
from pipelines.core.types import Detections
from pipelines.stages.suspects import work
from tests.detection_sets import PROJECT_CLASSES, found, write_project

MIN_SCORE = 0.05
THRESHOLDS = {"a": 0.1, "b": 0.6, "rare": 0.25}


def suspects(project: Path, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    (project / "evaluation").mkdir(exist_ok=True)
    (project / "params.yaml").write_text(f"classes: {[{'name': name} for name in PROJECT_CLASSES]}\nmine: {{suspect_score: {MIN_SCORE}}}\n")
    (project / "evaluation/thresholds.json").write_text(json.dumps({"classes": THRESHOLDS}))
    inputs = {name: project / name for name in ("dataset", "predictions", "folds", "evaluation")} | {"params": project / "params.yaml"}
    work(argparse.Namespace(**inputs, labels=out / "labels.jsonl", tracks=out / "tracks.jsonl", metrics=out / "suspects.json"))
    rows = [[json.loads(line) for line in (out / name).open()] for name in ("labels.jsonl", "tracks.jsonl")]
    return rows[0], rows[1], json.loads((out / "suspects.json").read_text())


def write_folds(project: Path, folds: int) -> None:
    detections = read_detections(project / "predictions/train.parquet", PROJECT_CLASSES) if folds else {}
    write_detections(project / "folds/train.parquet", detections, PROJECT_CLASSES)
    (project / "folds/folds.json").write_text(json.dumps({"folds": folds}))


@pytest.mark.parametrize("folds", [0, 3])
def test_rows_point_at_stored_labels(tmp_path: Path, folds: int) -> None:
    project = write_project(tmp_path / "project", seed=1)
    write_folds(project, folds)
    rows, _, metrics = suspects(project, tmp_path / "out")
    assert metrics["judged"] == (["test", "train", "val"] if folds else ["test", "val"])
    assert {row["split"] for row in rows} == set(metrics["judged"])
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    for split, part in metrics["splits"].items():
        assert part["suspects"] == {kind: sum(row["split"] == split and row["kind"] == kind for row in rows) for kind in part["suspects"]}
    for row in rows:
        sample = next(item for item in read_samples(project / f"dataset/{row['split']}.jsonl") if item.image_id == row["image_id"])
        assert row["image"] == sample.path
        assert row["score"] >= MIN_SCORE
        if row["kind"] == "missing":
            assert (row["box"], row["truth_index"]) == (None, None)
        else:
            box = sample.boxes[row["truth_index"]]
            assert (box.class_name, list(box.xyxy)) == (row["class"], pytest.approx(row["box"], abs=0.006))


def test_same_input_same_bytes(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", seed=2)
    write_folds(project, 2)
    assert suspects(project, tmp_path / "one") == suspects(project, tmp_path / "two")
    for name in ("labels.jsonl", "tracks.jsonl", "suspects.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_tracks_of_a_burst(tmp_path: Path) -> None:
    """Five pool images of one burst, the object gone in the third; a weak box of the second is not shown and no oddity."""
    project = write_project(tmp_path / "project", seed=1)
    write_folds(project, 0)
    pool = read_samples(project / "dataset/pool.jsonl")
    burst = [replace(item, group="burst", captured_at=f"2026-11-24T00:00:0{5 - number}") for number, item in enumerate(pool[:5])]
    write_samples(project / "dataset/pool.jsonl", [*burst, *[replace(item, group=item.image_id) for item in pool[5:]]])
    shown, weak = ((10.0, 10.0, 60.0, 60.0), 0.9, 1), ((200.0, 200.0, 250.0, 250.0), 0.5, 1)
    in_time = [item.image_id for item in reversed(burst)]
    detections = {name: found(shown, weak) if number == 1 else found(shown) for number, name in enumerate(in_time)}
    detections[in_time[2]] = Detections.empty()
    write_detections(project / "predictions/pool.parquet", detections, PROJECT_CLASSES)
    _, tracks, metrics = suspects(project, tmp_path / "out")
    assert [(row["image_id"], row["kind"], row["class"], row["box"], row["split"]) for row in tracks] == [
        (in_time[2], "gap", "b", [10.0, 10.0, 60.0, 60.0], "pool")
    ]
    assert (metrics["tracks"]["sequences"], metrics["tracks"]["gap"], metrics["tracks"]["single"]) == (1, 1, 0)
    assert metrics["tracks"]["without_time"] > 0
