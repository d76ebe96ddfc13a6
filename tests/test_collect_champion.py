"""Screening by the champion: a real network with random weights, whose scores are what its own predictor gives."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from pipelines.core.champion import Champion, ChampionRecord, write_champions
from pipelines.core.errors import DetloopError
from pipelines.core.io import sha256_file
from pipelines.core.params import PredictParams
from pipelines.core.records import read_manifest
from pipelines.core.types import Sample
from tests.collect_runs import collect, snapshot
from tests.images import jpeg
from tests.small_yolos import CLASSES, checkpoint
from training.predictor import TorchRunner, predict_samples

PARAMS = """classes: [{{name: bolt}}, {{name: nut}}, {{name: "a 'washer'"}}]
collect: {{screen: {{use: champion, classes: [{name}], score: {score}, uncertainty: 1.0}}}}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inbox of twelve images and a champion."""
    folder = tmp_path_factory.mktemp("screen")
    (folder / "inbox/cam").mkdir(parents=True)
    for number in range(12):
        (folder / f"inbox/cam/{number:02d}.jpg").write_bytes(jpeg(number, (64, 64)))
    (folder / "store/001").mkdir(parents=True)
    checkpoint(folder / "store/001", "yolo11n.yaml")
    return folder


def run(project: Path, out: Path, name: str, score: float, pick: str | None = None, params: str = PARAMS) -> pl.DataFrame:
    out.mkdir(exist_ok=True)
    (out / "params.yaml").write_text(params.format(name=name, score=score))
    model = project / "store/001/model.pt"
    champion = Champion(1, sha256_file(model), CLASSES, dict.fromkeys(CLASSES, 0.5), {}, {}, {}, "first", ())
    if not (out / "screener.json").exists():
        (out / "champions").symlink_to(project / "store")
        collect(out, project / "inbox")  # without a champion all are kept
        assert read_manifest(out / "raw/manifest.parquet")["status"].unique().to_list() == ["kept"]
    write_champions(out / "screener.json", ChampionRecord((champion,)))
    if pick is not None:
        (out / "lists/pick.txt").write_text(pick)
    collect(out, project / "inbox")
    return read_manifest(out / "raw/manifest.parquet")


def test_what_the_champion_sees_decides(project: Path, tmp_path: Path) -> None:
    everything = run(project, tmp_path / "all", "bolt", 0.5)
    samples = [Sample(row["image_id"], row["path"], 64, 64, None, (), "", "", None, 0.0) for row in everything.iter_rows(named=True)]
    with TorchRunner(project / "store/001/model.pt", CLASSES) as runner:
        found = predict_samples(runner, samples, tmp_path / "all/raw", PredictParams(), "oracle")
    best = {i: max((float(s) for s, c in zip(d.score, d.class_index, strict=True) if c == 0), default=0.0) for i, d in found.items()}
    assert min(best.values()) > 0.5, "the network calls everything a bolt"
    assert everything["status"].unique().to_list() == ["kept"]
    unsure = {i: max(1 - abs(2 * float(s) - 1) for s in d.score) for i, d in found.items()}
    assert everything["uncertainty"].to_list() == pytest.approx([unsure[i] for i in everything["image_id"]], abs=1e-6)
    seen = {i: sorted({CLASSES[c] for s, c in zip(d.score, d.class_index, strict=True) if s >= 0.5}) for i, d in found.items()}
    assert everything["predicted_classes"].to_list() == [seen[i] for i in everything["image_id"]]


def test_images_without_the_class_go_and_come_back(project: Path, tmp_path: Path) -> None:
    none = run(project, tmp_path / "out", "nut", 0.5, pick="cam/03.jpg\n")
    assert none.filter(status="kept")["origin"].to_list() == ["cam/03.jpg"]
    assert set(none.filter(status="dropped")["reason"]) == {"nothing_of_interest"}
    assert len(list((tmp_path / "out/raw/images").rglob("*.jpg"))) == 1
    all_ = run(project, tmp_path / "out", "bolt", 0.5)
    assert all_["status"].unique().to_list() == ["kept"]
    run(project, tmp_path / "fresh", "bolt", 0.5, pick="cam/03.jpg\n")
    assert snapshot(tmp_path / "out/raw") == snapshot(tmp_path / "fresh/raw")


def test_a_class_may_be_renamed_after_the_champion_has_looked(project: Path, tmp_path: Path) -> None:
    """What it saw was kept under the old name, and everything was dropped as of no interest."""
    renamed = PARAMS.replace("{{name: bolt}}", "{{name: screw, aliases: [bolt]}}")
    assert run(project, tmp_path / "out", "bolt", 0.5)["status"].unique().to_list() == ["kept"]
    later = run(project, tmp_path / "out", "screw", 0.5, params=renamed)
    assert later["status"].unique().to_list() == ["kept"]
    assert all("screw" in names and "bolt" not in names for names in later["predicted_classes"])
    run(project, tmp_path / "fresh", "screw", 0.5, params=renamed)
    assert snapshot(tmp_path / "out/raw") == snapshot(tmp_path / "fresh/raw")


def test_other_thresholds_are_asked_anew(project: Path, tmp_path: Path) -> None:
    """What was seen under other values of `predict` is not what a first run would see."""
    high = PARAMS + "predict: {{score_floor: 0.99999}}\n"
    run(project, tmp_path / "out", "bolt", 0.5)
    (before,) = (tmp_path / "out/work").glob("view-*")
    run(project, tmp_path / "out", "bolt", 0.5, params=high)
    (now,) = (tmp_path / "out/work").glob("view-*")
    assert now != before, "and what was seen then is nobody's any more"
    run(project, tmp_path / "fresh", "bolt", 0.5, params=high)
    assert snapshot(tmp_path / "out/raw") == snapshot(tmp_path / "fresh/raw")


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("gear", "classes: [{{name: bolt}}, {{name: nut}}, {{name: \"a 'washer'\"}}, {{name: gear}}]", r"champion 1 does not know \['gear'\], only"),
        ("nut", "classes: [{{name: nut}}, {{name: \"a 'washer'\"}}]", r"champion 1 knows \['bolt'\], which params.yaml has neither"),
    ],
    ids=["new", "gone"],
)
def test_classes_that_champion_and_params_do_not_share_are_told(name: str, classes: str, message: str, project: Path, tmp_path: Path) -> None:
    with pytest.raises(DetloopError, match=message):
        run(project, tmp_path / "out", name, 0.5, params="\n".join([classes, *PARAMS.splitlines()[1:]]) + "\n")
