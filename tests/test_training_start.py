"""Training from a champion: which old images are replayed, what the stage hands on, and what it refuses."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.champion import Champion, ChampionRecord, write_champions
from pipelines.core.errors import DataError
from pipelines.core.io import sha256_bytes, write_bytes, write_text
from pipelines.core.records import read_samples, write_samples
from pipelines.core.types import Box, Sample
from training.replay import select_replay
from training.stages import start

MODEL = b"a champion"
CHAMPION = Champion(1, sha256_bytes(MODEL), ("bolt", "nut"), {}, {}, {}, {}, "first", ())


def sample(number: int, *classes: str) -> Sample:
    boxes = tuple(Box(name, (1.0, 2.0, 9.0, 9.0)) for name in classes)
    return Sample(f"{number:064x}", f"{number}.jpg", 99, 99, "labeled" if boxes else "verified_empty", boxes, "cam", f"g{number}", None, 90.0)


OLD = [*(sample(number, "nut") for number in range(40)), sample(40, "bolt"), sample(41, "bolt", "nut"), *(sample(number) for number in range(42, 50))]
NEW = [sample(number, "washer") for number in range(50, 60)]


@given(share=st.floats(0, 1), seed=st.integers(0, 5))
def test_new_images_all_and_of_each_old_class_its_share(share: float, seed: int) -> None:
    selection = select_replay([*NEW, *OLD], OLD, share, seed)
    ids = [item.image_id for item in selection.samples]
    assert ids == sorted(set(ids))
    assert set(NEW) <= set(selection.samples)
    assert (selection.new, selection.old) == (10, 50)
    assert selection.replayed == len(selection.samples) - 10
    assert share * 50 <= selection.replayed <= share * 50 + 2, "the share, rounded up for each class"
    for name in ("bolt", "nut"):
        members = [item for item in OLD if any(box.class_name == name for box in item.boxes)]
        assert sum(item in members for item in selection.samples) >= share * len(members)


def test_an_image_that_was_labeled_anew_is_new() -> None:
    moved = replace(OLD[0], boxes=(Box("nut", (3.0, 2.0, 9.0, 9.0)),))
    selection = select_replay([moved, *OLD[1:]], OLD, 0.0, 0)
    assert selection.samples == (moved,)
    assert select_replay([], [], 0.5, 0).samples == ()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_text(tmp_path / "params.yaml", "classes: [{name: bolt}, {name: nut}, {name: washer}]\ntrain: {from_champion: 1, replay: 0.2}\n")
    write_samples(tmp_path / "dataset/train.jsonl", [*OLD, *NEW])
    write_samples(tmp_path / "dataset/val.jsonl", [sample(99, "nut")])
    write_samples(tmp_path / "champions/001/train.jsonl", OLD)
    write_bytes(tmp_path / "champions/001/model.pt", MODEL)
    write_champions(tmp_path / "champion.json", ChampionRecord((CHAMPION,)))
    return tmp_path


def run(project: Path) -> dict[str, bytes]:
    paths = {"params": "params.yaml", "record": "champion.json", "store": "champions", "dataset": "dataset", "start": "start"}
    start.work(Namespace(**{name: project / path for name, path in paths.items()}))
    return {path.name: path.read_bytes() for path in (project / "start").iterdir()}


def test_the_stage_hands_on_the_champion_and_the_selection(project: Path) -> None:
    files = run(project)
    assert files["model.pt"] == MODEL
    assert files["val.jsonl"] == (project / "dataset/val.jsonl").read_bytes()
    counts = json.loads(files["start.json"])
    assert (counts["champion"], counts["new_images"], counts["old_images"]) == (1, 10, 50)
    assert len(read_samples(project / "start/train.jsonl")) == 10 + counts["replayed_images"] < 25
    write_champions(project / "champion.json", ChampionRecord((CHAMPION, replace(CHAMPION, number=2, model_sha256="0" * 64))))
    assert run(project) == files, "a later champion changes nothing: training is not run anew"


def test_from_scratch_the_dataset_goes_on_as_it_is(project: Path) -> None:
    write_text(project / "params.yaml", "classes: [{name: bolt}, {name: nut}, {name: washer}]\n")
    files = run(project)
    assert set(files) == {"train.jsonl", "val.jsonl", "start.json"}
    assert files["train.jsonl"] == (project / "dataset/train.jsonl").read_bytes()


def test_a_champion_that_is_not_there_is_named(project: Path) -> None:
    write_champions(project / "champion.json", ChampionRecord())
    with pytest.raises(DataError, match=r"has no champion 1 \(it has none\)"):
        run(project)
    assert not (project / "start").exists()
