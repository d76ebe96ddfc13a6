"""Training on several GPUs, as far as it can be tested without: ultralytics' launcher file rebuilds our trainer in a process that knows only it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pipelines.core.params import AugmentationParams, TrainParams
from tests.training_data import CLASSES, write_dataset
from training.fit import make_plan
from training.state import read_state
from training.trainer import Trainer


def test_launched_process_trains_to_the_same_state(tmp_path: Path) -> None:
    from ultralytics.utils.dist import generate_ddp_file

    folder = write_dataset(tmp_path / "data", {"train": 5, "val": 4})
    params = TrainParams(imgsz=64, epochs=1, batch=4, augmentations=[AugmentationParams(name="Blur")])
    work = tmp_path / "work"
    plan = make_plan(params, CLASSES, folder / "dataset", folder / "raw", work, device="cpu", precision="f32", progress=False)
    plan.write(work / "plan.json")
    launcher = Path(generate_ddp_file(Trainer(overrides=plan.overrides)))
    try:
        done = subprocess.run([sys.executable, launcher], cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, check=False, timeout=300)
    finally:
        launcher.unlink()
        launcher.with_suffix(".pt").unlink()
    assert done.returncode == 0, done.stderr
    state = read_state(Path(plan.state), plan.fingerprint)
    assert state is not None
    assert (state.epoch, state.finished, len(state.history)) == (1, True, 1)
