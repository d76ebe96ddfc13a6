"""`detloop noise`: train a few times with nothing but the seed changed, so that the champion gate knows how much that alone moves the figures."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from pipelines.core.champion import read_champions, write_champions
from pipelines.core.errors import DetloopError, ParamsError
from pipelines.core.io import require_file, sha256_bytes
from pipelines.core.params import Params, load_params
from pipelines.core.records import ground_truth, read_detections, read_samples
from pipelines.core.slices import SliceLimits
from pipelines.core.types import Detections
from pipelines.evaluation.differences import Resampling, training_figures
from pipelines.evaluation.seeds import MIN_SEEDS, Figures

DATA = Path("data")  # as dvc.yaml has it
PARAMS = Path("params.yaml")
RECORD = DATA / "models" / "champion.json"
WORK = DATA / "work" / "noise"
_KEY_DIGITS = 12
_MEASUREMENT = "[0-9a-f]" * _KEY_DIGITS  # a folder of one in WORK, by its inputs
FIRST_SEED = 1001  # far from the seeds that people choose, so that no measured training is one that is judged


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--trainings", type=int, default=MIN_SEEDS, help="how many; each takes as long as a round's (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Train, predict the test set, write the figures into the champion's record. Run again after an interruption, it goes on.

    Raises:
        ParamsError: too few trainings to say anything.
        DetloopError: a training failed; its own message stands above.
    """
    if args.trainings < MIN_SEEDS:
        raise ParamsError(f"--trainings {args.trainings}: the noise between seeds needs at least {MIN_SEEDS}")
    params = load_params(PARAMS)
    read_champions(RECORD)  # a record that cannot be read is told now, not after the trainings
    content = [
        require_file(path, "run `dvc repro`").read_bytes() for path in (PARAMS, DATA / "start" / "train.jsonl", DATA / "dataset" / "test.jsonl")
    ]
    base = WORK / sha256_bytes(b"\n".join(content))[:_KEY_DIGITS]
    predictions = [_predictions(base / str(FIRST_SEED + number), FIRST_SEED + number) for number in range(args.trainings)]
    trainings = _figures(params, predictions)
    for number, training in enumerate(trainings):
        print(f"seed {FIRST_SEED + number}: test AP {training['all']['AP'] or 0:.3f}, AP50 {training['all']['AP50'] or 0:.3f}")
    write_champions(RECORD, replace(read_champions(RECORD), seed_noise=tuple(trainings)))  # as it is now: trainings take hours
    for folder in WORK.glob(_MEASUREMENT):  # those of other inputs, too, that were never finished: this one takes their place
        shutil.rmtree(folder, ignore_errors=True)
    spread = np.std([training["all"]["AP"] or 0.0 for training in trainings], ddof=1)
    print(f"the seed alone moves the test AP by {spread * 100:.1f} points (standard deviation of {args.trainings})")
    print(f"next: commit {RECORD}, then `dvc repro`")
    return 0


def _predictions(folder: Path, seed: int) -> Path:
    """The test set's detections of a training with this seed, made where they are not there yet."""
    predictions = folder / "predictions"
    found = predictions / "test.parquet"
    if not found.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        yaml = YAML()
        values = yaml.load(PARAMS.read_text(encoding="utf-8"))
        values.setdefault("train", {})["seed"] = seed
        with (folder / "params.yaml").open("w", encoding="utf-8") as file:
            yaml.dump(values, file)
        common: list[str | Path] = ["--params", folder / "params.yaml", "--raw", DATA / "raw"]
        outs: list[str | Path] = [
            "--work",
            folder / "work",
            "--model",
            folder / "model.pt",
            "--curves",
            folder / "curves",
            "--metrics",
            folder / "train.json",
        ]
        _stage("training.stages.train", [*common, "--dataset", DATA / "start", *outs])
        _stage("training.stages.predict", [*common, "--dataset", DATA / "dataset", "--model", folder / "model.pt", "--predictions", predictions])
    return found


def _stage(module: str, options: Sequence[str | Path]) -> None:
    done = subprocess.run([sys.executable, "-m", module, *map(str, options)], check=False)
    if done.returncode != 0:
        raise DetloopError(f"python -m {module} ended with {done.returncode}: mend what it says above, then run the same command again")


def _figures(params: Params, predictions: Sequence[Path]) -> list[Figures]:
    classes, values, settings = params.class_names, params.evaluate, params.champion
    limits = SliceLimits(values.small_area_px, values.medium_area_px, values.dark_below, values.bright_above)
    samples = sorted(read_samples(DATA / "dataset" / "test.jsonl"), key=lambda item: item.image_id)
    truth = [ground_truth(sample, classes) for sample in samples]
    found = [read_detections(path, classes) for path in predictions]
    detections = [[each.get(sample.image_id, Detections.empty()) for sample in samples] for each in found]
    return training_figures(samples, truth, detections, classes, limits, Resampling(settings.confidence, settings.resamples, settings.seed))
