"""The evaluate stage on a small project: what it writes, that val alone sets thresholds, that order and repetition change no byte."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import pytest

from pipelines.core.errors import ClassContractError, MissingInputError
from pipelines.core.io import write_folder
from pipelines.stages.evaluate import work
from tests.detection_sets import write_project


def evaluate(project: Path, out: Path) -> dict[str, bytes]:
    """Run the stage; every written file by its path."""
    work(
        argparse.Namespace(
            params=project / "params.yaml",
            dataset=project / "dataset",
            predictions=project / "predictions",
            evaluation=out / "evaluation",
            metrics=out / "evaluate.json",
        )
    )
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_files_and_figures(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", seed=1)
    files = evaluate(project, tmp_path / "out")
    assert {path.removeprefix("evaluation/") for path in files} == {
        "evaluate.json", "thresholds.json", "confusion.json", "confusion.csv", "pr.json", "confidence.json", "per_image.jsonl",
    }  # fmt: skip
    metrics = json.loads(files["evaluate.json"])
    confusion = json.loads(files["evaluation/confusion.json"])
    per_image = [json.loads(line) for line in files["evaluation/per_image.jsonl"].splitlines()]
    assert json.loads(files["evaluation/thresholds.json"])["classes"] == pytest.approx(metrics["thresholds"], abs=1e-6)
    for split in ("train", "val", "test"):
        figures, matrix = metrics[split], confusion[split]
        assert 0 < figures["AP"] < figures["AP50"] < 1
        assert figures["boxes"] == sum(part["boxes"] for part in figures["per_class"].values()) == sum(sum(row) for row in matrix[:-1])
        rows = [row for row in per_image if row["split"] == split]
        assert len(rows) == figures["images"]
        assert sum(row["tp"] + row["fn"] for row in rows) == figures["boxes"]
        assert sum(row["tp"] + row["fp"] for row in rows) == sum(row[column] for row in matrix for column in range(len(matrix) - 1))
    assert files["evaluation/confusion.csv"].count(b"\n") == 1 + sum(map(sum, confusion["test"]))


def test_thresholds_come_from_val_alone(tmp_path: Path) -> None:
    project, other = write_project(tmp_path / "a", seed=1), write_project(tmp_path / "b", seed=2)
    for name in ("dataset/val.jsonl", "predictions/val.parquet"):
        (other / name).write_bytes((project / name).read_bytes())
    mine, theirs = evaluate(project, tmp_path / "out_a"), evaluate(other, tmp_path / "out_b")
    assert mine["evaluation/thresholds.json"] == theirs["evaluation/thresholds.json"]
    assert mine["evaluation/confidence.json"] == theirs["evaluation/confidence.json"]
    assert mine["evaluate.json"] != theirs["evaluate.json"]


def test_order_and_repetition_change_no_byte(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", seed=3)
    first = evaluate(project, tmp_path / "first")
    for path in (project / "dataset").glob("*.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        random.Random(0).shuffle(lines)
        path.write_text("".join(lines))
    assert evaluate(project, tmp_path / "second") == first
    assert evaluate(project, tmp_path / "second") == first  # over an older result


@pytest.mark.parametrize(("labeled", "predicted"), [(False, False), (False, True), (True, False)], ids=["neither", "detections only", "labels only"])
def test_nothing_to_compare(tmp_path: Path, labeled: bool, predicted: bool) -> None:
    project = write_project(tmp_path / "project", seed=1, labeled=labeled, predicted=predicted)
    metrics = json.loads(evaluate(project, tmp_path / "out")["evaluate.json"])
    assert metrics["test"]["AP"] == (0.0 if labeled else None)
    assert metrics["thresholds"] == {"a": 0.25, "b": 0.25, "rare": 0.25}
    assert set(metrics["threshold_notes"]) == {"a", "b", "rare"}


def test_class_without_labels_is_null(tmp_path: Path) -> None:
    metrics = json.loads(evaluate(write_project(tmp_path / "project", seed=1), tmp_path / "out")["evaluate.json"])
    rare = metrics["test"]["per_class"]["rare"]  # the project has neither labels nor detections of it
    assert rare == {"AP": None, "AP50": None, "boxes": 0, "precision": None, "recall": None, "f1": None}
    assert metrics["threshold_notes"] == {"rare": "no val labels: the default 0.25"}


def test_a_folder_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", {"a": b"old"})
    with pytest.raises(OSError, match="exists"):
        write_folder(tmp_path / "out", {"a": b"new", "a/b": b"a file is no folder"})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "a").read_bytes() == b"old"


def test_missing_predictions_and_unknown_classes(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", seed=1)
    (project / "predictions/test.parquet").rename(project / "predictions/moved.parquet")
    with pytest.raises(MissingInputError, match=r"test\.parquet is missing"):
        evaluate(project, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (project / "predictions/moved.parquet").rename(project / "predictions/test.parquet")
    (project / "params.yaml").write_text("classes: [{name: a}]\n")
    with pytest.raises(ClassContractError, match="'b'"):
        evaluate(project, tmp_path / "out")
