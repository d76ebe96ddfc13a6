"""The mine stage on a small project: rows, ranking, gallery and counts fit each other; and the ranking's figures worked by hand."""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest

from pipelines.core.boxes import iou_matrix
from pipelines.core.columns import detections_from_images, truth_from_images
from pipelines.core.errors import DataError, MissingInputError
from pipelines.core.records import ground_truth, read_detections, read_samples
from pipelines.core.slices import SliceLimits
from pipelines.core.types import Box, Detections, Sample
from pipelines.mining.badcases import analyse
from pipelines.mining.gallery import MinedImage, picture
from pipelines.mining.ranking import ranked_labeled, ranked_unlabeled, threshold_closeness
from pipelines.mining.tide import KINDS
from pipelines.stages.mine import work
from tests.detection_sets import PROJECT_CLASSES, found, write_project

THRESHOLDS = {"a": 0.1, "b": 0.6, "rare": 0.25}  # far apart: hidden detections of b stand before shown ones of a
LIMITS = SliceLimits(1024, 9216, 60, 190)


@dataclass(frozen=True)
class Mined:
    files: dict[str, bytes]

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.files[name].splitlines()]

    def json(self, name: str) -> Any:
        return json.loads(self.files[name])


def mine(project: Path, out: Path, thresholds: dict[str, float] = THRESHOLDS) -> Mined:
    evaluation = project / "evaluation"
    evaluation.mkdir(exist_ok=True)
    (evaluation / "thresholds.json").write_text(json.dumps({"classes": thresholds}))
    names = {"badcases": "badcases.jsonl", "ranked": "ranked.jsonl", "gallery": "gallery", "metrics": "mine.json"}
    inputs = {"params": "params.yaml", "dataset": "dataset", "raw": "raw", "predictions": "predictions", "evaluation": "evaluation"}
    work(argparse.Namespace(**{key: project / value for key, value in inputs.items()}, **{key: out / value for key, value in names.items()}))
    return Mined({path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()})


def test_rows_add_up(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", seed=1)
    mined = mine(project, tmp_path / "out")
    rows, metrics = mined.rows("badcases.jsonl"), mined.json("mine.json")
    assert metrics["counts"] == {kind: sum(row["kind"] == kind for row in rows) for kind in KINDS}
    assert all(metrics["counts"].values()), "the project is made to hold every kind"
    for name in ("by_class", "by_source", "by_brightness", "by_size"):
        assert Counter({kind: sum(part[kind] for part in metrics[name].values()) for kind in KINDS}) == Counter(metrics["counts"])
    assert set(metrics["by_source"]) == {"cam1", "cam2"}
    for split in ("val", "test"):
        part = metrics["splits"][split]
        assert part["counts"] == {kind: sum(row["kind"] == kind and row["split"] == split for row in rows) for kind in KINDS}
        assert part["shown"] == part["right"] + sum(row["detection_index"] is not None for row in rows if row["split"] == split)
        assert part["tide"]["AP50"] is not None


def test_rows_point_at_the_stored_boxes(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", seed=1)
    for row in mine(project, tmp_path / "out").rows("badcases.jsonl"):
        samples = {item.image_id: item for item in read_samples(project / f"dataset/{row['split']}.jsonl")}
        detections = read_detections(project / f"predictions/{row['split']}.parquet", PROJECT_CLASSES)
        if row["truth_index"] is not None:
            truth = ground_truth(samples[row["image_id"]], PROJECT_CLASSES)
            assert truth.xyxy[row["truth_index"]].tolist() == pytest.approx(row["truth_box"], abs=0.006)
            assert PROJECT_CLASSES[truth.class_index[row["truth_index"]]] == row["class"]
        if row["detection_index"] is not None:
            item = detections[row["image_id"]]
            assert item.xyxy[row["detection_index"]].tolist() == pytest.approx(row["box"], abs=0.006)
            assert PROJECT_CLASSES[item.class_index[row["detection_index"]]] == row["predicted_class"]
            assert row["score"] >= THRESHOLDS[row["predicted_class"]]
        if row["truth_box"] and row["box"]:
            assert iou_matrix(np.array([row["box"]]), np.array([row["truth_box"]]))[0, 0] == pytest.approx(row["iou"], abs=0.01)
        assert (row["truth_box"] is None) == (row["kind"] == "background")
        assert (row["box"] is None) == (row["kind"] == "missed")


def test_ranking_is_whole_and_worst_first(tmp_path: Path) -> None:
    mined = mine(write_project(tmp_path / "project", seed=1), tmp_path / "out")
    rows, ranked = mined.rows("badcases.jsonl"), mined.rows("ranked.jsonl")
    assert [row["score"] for row in ranked] == sorted((row["score"] for row in ranked), reverse=True)
    assert {row["image_id"] for row in ranked if row["split"] != "pool"} == {row["image_id"] for row in rows}
    for row in ranked:
        own = [item for item in rows if item["image_id"] == row["image_id"]]
        if row["split"] == "pool":
            assert list(row["kinds"]) == ["unsure"]
        else:
            assert row["kinds"] == Counter(item["kind"] for item in own)
            assert row["score"] == pytest.approx(sum(item["rank_score"] for item in own), abs=1e-5)
        assert row["reasons"]
    metrics = mined.json("mine.json")
    assert metrics["ranked"]["unlabeled"] + metrics["pool"]["not_unsure"] == metrics["pool"]["images"] == 10


def test_gallery_shows_the_worst_labeled_images(tmp_path: Path) -> None:
    mined = mine(write_project(tmp_path / "project", seed=1), tmp_path / "out")
    index = mined.json("gallery/index.json")
    worst = [row["image_id"] for row in mined.rows("ranked.jsonl") if row["split"] != "pool"]
    assert [item["image_id"] for item in index] == worst[:4]  # mine.gallery_images
    for item in index:
        image = cv2.imdecode(np.frombuffer(mined.files[f"gallery/{item['file']}"], np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert max(image.shape[:2]) == 480


def test_order_and_repetition_change_no_byte(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", seed=2)
    first = mine(project, tmp_path / "first")
    for path in (project / "dataset").glob("*.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        random.Random(0).shuffle(lines)
        path.write_text("".join(lines))
    assert mine(project, tmp_path / "second") == first
    assert mine(project, tmp_path / "second") == first


def test_higher_thresholds_hide_wrong_detections(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", seed=1)
    strict = mine(project, tmp_path / "out", {"a": 1.0, "b": 1.0, "rare": 1.0})
    boxes = sum(part["boxes"] for part in strict.json("mine.json")["splits"].values())
    assert strict.json("mine.json")["counts"] == {**dict.fromkeys(KINDS, 0), "missed": boxes}


@pytest.mark.parametrize(("labeled", "predicted"), [(False, False), (False, True), (True, False)], ids=["neither", "no labels", "no detections"])
def test_nothing_to_compare(tmp_path: Path, labeled: bool, predicted: bool) -> None:
    project = write_project(tmp_path / "project", seed=1, labeled=labeled, predicted=predicted)
    counts = mine(project, tmp_path / "out").json("mine.json")["counts"]
    assert {kind for kind, count in counts.items() if count} == ({"missed"} if labeled else {"background"} if predicted else set())


def test_errors_name_what_to_do(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", seed=1)
    with pytest.raises(DataError, match=r"thresholds for \['a'\].*dvc repro evaluate"):
        mine(project, tmp_path / "out", {"a": 0.5})
    for path in (project / "raw").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(MissingInputError, match=r"image .* is missing"):
        mine(project, tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing may be written before everything is known"


def mined_image(boxes: list[Box], detections: Detections) -> MinedImage:
    sample = Sample("id", "images/id.jpg", 100, 100, "labeled", tuple(boxes), "cam1", "g", None, 30.0)
    truth, everything, shown = ground_truth(sample, ("a", "b")), detections_from_images([detections]), detections.score >= 0.5
    images = pl.DataFrame({"image_id": ["id"], "image": ["images/id.jpg"], "slice": [{"brightness": "dark"}]})
    analysis = analyse(
        truth_from_images([truth]),
        everything.where(everything.score >= 0.5),
        ("a", "b"),
        images,
        LIMITS,
        foreground_iou=0.5,
        background_iou=0.1,
        hidden=everything,
    )
    return MinedImage(truth, detections, shown, analysis.rows.to_dicts())


def test_rank_scores_by_hand() -> None:
    """A wrong detection counts its score; a missed label 1 minus the best score of its class there, here one hidden below the threshold."""
    rows = mined_image(
        [Box("a", (0, 0, 10, 10)), Box("b", (50, 50, 60, 60))],
        found(((80, 80, 90, 90), 0.75, 0), ((0, 0, 10, 9), 0.25, 0), ((50, 50, 60, 60), 0.125, 0)),
    ).rows
    assert [(row["kind"], row["class"], row["rank_score"], row["detection_index"]) for row in rows] == [
        ("background", None, 0.75, 0),
        ("missed", "a", 0.75, None),
        ("missed", "b", 1.0, None),
    ]
    assert rows[0]["slice"] == {"brightness": "dark", "size": "small"}
    sample = Sample("id", "images/id.jpg", 100, 100, "labeled", (), "cam1", "g", None, 30.0)
    line = ranked_labeled(sample, "test", rows)
    assert (line["score"], line["kinds"]) == (2.5, {"background": 1, "missed": 2})
    assert line["reasons"] == ["1 b missed", "1 a where nothing is labeled (score 0.75)", "1 a missed"]


def test_unsure_images_by_hand() -> None:
    sample = Sample("id", "images/id.jpg", 100, 100, None, (), "cam1", "g", None, 30.0)
    box = (0, 0, 10, 10)
    line = ranked_unlabeled(sample, "pool", found((box, 1.0, 0), (box, 0.625, 0), (box, 0.5, 1), (box, 0.1, 1)), np.array([0.5, 0.5]), ("a", "b"))
    assert (line["score"], line["kinds"]) == (0.75, {"unsure": 2})  # half of 1/2 and of 1
    assert line["reasons"] == ["no label yet, and scores near the threshold: 1 a, 1 b"]
    closeness = threshold_closeness(np.array([0.2, 0.1, 0.15, 0.6, 0.4, 1.0]), np.full(6, 0.2))
    np.testing.assert_allclose(closeness, [1, 0, 0.5, 0, 0.5, 0], atol=1e-12)


def test_picture_marks_what_is_wrong() -> None:
    mined = mined_image([Box("a", (10, 60, 50, 90))], found(((60, 20, 90, 50), 0.9, 1)))
    content = picture(np.zeros((100, 100, 3), np.uint8), mined, ("a", "ß"))
    assert content == picture(np.zeros((100, 100, 3), np.uint8), mined, ("a", "ß"))
    drawn = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None
    assert drawn.shape == (200, 200, 3)  # small images are enlarged, twice at most
    blue, green, red = (int(value) for value in drawn[150, 20])  # left edge of the missed label
    assert green > 120 > max(blue, red)
    blue, green, red = (int(value) for value in drawn[70, 120])  # left edge of the wrong detection
    assert red > 120 > max(blue, green)
