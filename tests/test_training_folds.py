"""Out-of-fold detections: whole groups, every train image judged by a model that never saw it, and going on where it was interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.errors import DataError
from pipelines.core.params import load_params
from pipelines.core.records import read_samples, write_samples
from pipelines.core.types import Sample
from tests.training_data import write_dataset
from training.folds import fold_of, out_of_fold

ROOT = Path(__file__).resolve().parents[1]


def sample(number: int, group: str) -> Sample:
    return Sample(f"{number:04d}", "images/x.jpg", 64, 64, "labeled", (), "cam", group, None, 40.0)


@given(groups=st.lists(st.integers(0, 12), max_size=60), folds=st.integers(2, 5), seed=st.randoms())
def test_whole_groups_and_even_folds(groups: list[int], folds: int, seed: object) -> None:
    samples = [sample(number, f"group {group}") for number, group in enumerate(groups)]
    fold = fold_of(samples, folds)
    shuffled = samples.copy()
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fold_of(shuffled, folds) == fold
    by_group: dict[str, set[int]] = {}
    for item in samples:
        by_group.setdefault(item.group, set()).add(fold[item.image_id])
    assert all(len(members) == 1 for members in by_group.values())
    sizes = Counter(fold.values())
    largest = max(Counter(groups).values(), default=0)
    assert max(sizes.values(), default=0) - min((sizes[number] for number in range(folds)), default=0) <= largest


PARAMS = """
classes: [{name: red}, {name: green}, {name: blue}]
mine: {folds: FOLDS}
train: {imgsz: 64, epochs: 1, batch: 4, close_mosaic: 0, precision: f32}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_dataset(tmp_path_factory.mktemp("folds"), {"train": 8, "val": 3})
    samples = read_samples(folder / "dataset" / "train.jsonl")
    write_samples(folder / "dataset" / "train.jsonl", [replace(item, group=f"half {number // 4}") for number, item in enumerate(samples)])
    return folder


def stage(folder: Path, folds: int) -> subprocess.CompletedProcess[str]:
    (folder / "params.yaml").write_text(PARAMS.replace("FOLDS", str(folds)))
    command = ["-m", "training.stages.folds", "--params", folder / "params.yaml", "--dataset", folder / "dataset", "--raw", folder / "raw"]
    command += ["--work", folder / "work", "--folds", folder / "folds"]
    environment = {**os.environ, "HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_no_folds_no_models(folder: Path) -> None:
    done = stage(folder, 0)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "folds/folds.json").read_text())["folds"] == 0
    assert pl.read_parquet(folder / "folds/train.parquet").is_empty()


def test_one_fold_is_refused(folder: Path) -> None:
    done = stage(folder, 1)
    assert done.returncode == 2
    assert "mine.folds = 1: one fold leaves nothing to train on" in done.stderr


def test_one_group_cannot_be_folded(folder: Path, tmp_path: Path) -> None:
    params = load_params(Path("params.yaml"))
    samples = read_samples(folder / "dataset" / "train.jsonl")
    write_samples(tmp_path / "train.jsonl", [replace(item, group="one clip") for item in samples])
    with pytest.raises(DataError, match=r"mine\.folds = 3, and all train images are one group"):
        out_of_fold(params.train, params.predict, params.class_names, tmp_path, folder / "raw", tmp_path / "steps", 3)


def test_every_image_is_judged_by_a_model_that_never_saw_it(folder: Path) -> None:
    """The stage's own steps, with the folders of the folds kept to look into; a second call trains nothing. The third fold gets no group."""
    (folder / "params.yaml").write_text(PARAMS.replace("FOLDS", "3"))
    params = load_params(folder / "params.yaml")
    arguments = (params.train, params.predict, params.class_names, folder / "dataset", folder / "raw", folder / "steps", 3)
    found = out_of_fold(*arguments)
    everything = {item.image_id for item in read_samples(folder / "dataset/train.jsonl")}
    parts = sorted(path for path in (folder / "steps").iterdir())
    assert len(parts) == 2
    judged: set[str] = set()
    for part in parts:
        seen = {item.image_id for item in read_samples(part / "dataset/train.jsonl")}
        held_out = set(pl.read_parquet(part / "held_out.parquet")["image_id"])
        assert seen.isdisjoint(held_out)
        assert seen
        judged |= everything - seen
    assert judged == everything
    assert set(found) <= everything
    assert found, "a model of one epoch still gives weak detections"
    models = {part: (part / "model.pt").stat().st_mtime_ns for part in parts}
    (parts[1] / "held_out.parquet").unlink()  # as if it was killed before the second fold was done
    again = out_of_fold(*arguments)
    assert (parts[0] / "model.pt").stat().st_mtime_ns == models[parts[0]]
    assert {name: item.score.tolist() for name, item in again.items()} == {name: item.score.tolist() for name, item in found.items()}
