"""Training, killed and started again, against training left alone: the same bytes, and no epoch trained twice."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training_data import write_dataset
from training.state import TrainState, read_state, write_state
from training.trainer import epoch_seed

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 4
# batch 4 of 14 images with steps over 8: gradients of the last batches of an epoch wait for the next epoch
PARAMS = f"""
classes: [{{name: red}}, {{name: green}}, {{name: blue}}]
train:
  model: yolo11n.yaml
  imgsz: 64
  input_wh: [64, 32]
  epochs: {EPOCHS}
  batch: 4
  nominal_batch: 8
  close_mosaic: 1
  augmentations: [{{name: MotionBlur, args: {{p: 0.5}}}}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_dataset(tmp_path_factory.mktemp("resume"), {"train": 14, "val": 6})
    (folder / "params.yaml").write_text(PARAMS)
    return folder


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    out = folder / name
    command = ["-m", "training.stages.train", "--params", folder / "params.yaml", "--dataset", folder / "dataset", "--raw", folder / "raw"]
    command += ["--work", out / "work", "--model", out / "model.pt", "--curves", out / "curves", "--metrics", out / "train.json"]
    environment = {**os.environ, "HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def epochs(log: str) -> list[int]:
    return [int(number) for number in re.findall(r"^epoch (\d+)/", log, flags=re.MULTILINE)]


def outputs(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_killed_training_goes_on_to_the_same_bytes(folder: Path) -> None:
    with start(folder, "alone") as alone:
        _, log = alone.communicate(timeout=300)
    assert alone.returncode == 0, log
    assert epochs(log) == list(range(1, EPOCHS + 1))

    with start(folder, "killed") as killed:
        assert killed.stderr is not None
        seen = ""
        for line in killed.stderr:
            seen += line
            if line.startswith(f"epoch 2/{EPOCHS}"):
                killed.send_signal(signal.SIGKILL)  # now it is in its third epoch
        assert killed.wait(timeout=60) == -signal.SIGKILL
    done = epochs(seen)
    assert done[:2] == [1, 2]
    assert not (folder / "killed" / "model.pt").exists()

    with start(folder, "killed") as again:
        _, log = again.communicate(timeout=300)
    assert again.returncode == 0, log
    assert epochs(log) == list(range(done[-1] + 1, EPOCHS + 1))

    assert outputs(folder / "killed") == outputs(folder / "alone")
    assert {"model.pt", "train.json", "curves/plots/metrics/val/AP50.tsv", "curves/plots/metrics/lr.tsv"} <= set(outputs(folder / "alone"))
    assert not (folder / "alone" / "work").exists()
    assert not list((folder / "home").rglob("*")), "training wrote to the user's home"


def test_curves_have_a_row_an_epoch(folder: Path) -> None:
    if not (folder / "alone").exists():
        pytest.skip("needs the training of the test above")
    metrics = json.loads((folder / "alone" / "train.json").read_text())
    table = (folder / "alone" / "curves" / "plots" / "metrics" / "val" / "AP50.tsv").read_text().splitlines()
    assert table[0].split("\t") == ["step", "AP50"]
    assert [row.split("\t")[0] for row in table[1:]] == ["0", "1", "2", "3"]
    assert float(table[metrics["best_epoch"]].split("\t")[1]) == metrics["val"]["AP50"]
    assert metrics["images"] == {"train": 14, "val": 6}
    assert metrics["empty_images"] == {"train": 1, "val": 1}
    assert metrics["epochs"] == EPOCHS


def small_state() -> TrainState:
    tensors = {"weight": torch.arange(6.0).reshape(2, 3)}
    return TrainState(
        fingerprint="a" * 64,
        epoch=3,
        finished=False,
        batches=9,
        last_step=7,
        updates=4,
        best_epoch=2,
        best_fitness=0.25,
        stopper={"best_fitness": 0.25, "best_epoch": 2},
        history=[{"val/AP": 0.1}, {"val/AP": 0.25}, {"val/AP": 0.2}],
        model=tensors,
        ema=tensors,
        best=tensors,
        optimizer={"state": {0: {"step": torch.tensor(4.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        scaler={},
        gradients=tensors,
    )


def test_state_round_trip(tmp_path: Path) -> None:
    write_state(tmp_path / "state.pt", small_state())
    state = read_state(tmp_path / "state.pt", "a" * 64)
    assert state is not None
    assert torch.equal(state.model["weight"], small_state().model["weight"])
    assert replace(state, model={}, ema={}, best={}, gradients={}) == replace(small_state(), model={}, ema={}, best={}, gradients={})
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_state_of_another_training_is_not_taken(tmp_path: Path) -> None:
    write_state(tmp_path / "state.pt", small_state())
    assert read_state(tmp_path / "state.pt", "b" * 64) is None
    assert read_state(tmp_path / "none.pt", "a" * 64) is None


@pytest.mark.parametrize("damage", ["short", "empty", "flipped"])
def test_damaged_state_is_not_taken(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.pt"
    write_state(path, small_state())
    content = bytearray(path.read_bytes())
    where = content.index(torch.arange(6.0).numpy().tobytes())
    content[where + 5] ^= 0xFF
    path.write_bytes({"short": path.read_bytes()[:-200], "empty": b"", "flipped": bytes(content)}[damage])
    assert read_state(path, "a" * 64) is None


def test_epoch_seeds_differ() -> None:
    seeds = {epoch_seed(seed, epoch, rank) for seed in range(3) for epoch in range(50) for rank in (-1, 0, 1)}
    assert len(seeds) == 3 * 50 * 3
    assert all(0 <= seed < 2**32 for seed in seeds)
