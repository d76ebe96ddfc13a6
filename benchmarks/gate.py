"""The champion gate on real trainings of the sample: what it says of a model against itself, of another seed, of a broken class, of twice the labels.

Usage: python benchmarks/gate.py [--work FOLDER] [--images 400] [--epochs 50] [--imgsz 256]

Trains on the sample: five seeds on all training images, one on half of them (a work folder that is kept goes on where it was interrupted). The seed
noise is measured on seeds that are compared with nothing. Each question is asked with 20 seeds of the bootstrap.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipelines.core.records import read_samples, write_samples  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "gate.json"
SEEDS = range(5)
HALF = "half"


def run(module: str, params: Path, **paths: Path) -> None:
    """One stage that must succeed; its options are `paths`."""
    options = [text for name, path in paths.items() for text in (f"--{name}", str(path))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", module, "--params", str(params), *options], cwd=ROOT, env=environment, check=True, stderr=subprocess.DEVNULL
    )


def write_params(path: Path, train: dict[str, Any]) -> Path:
    """params.yaml with a large test set, and other values of section train."""
    yaml = YAML()
    values = yaml.load((ROOT / "params.yaml").read_text())
    values["dataset"].update({"val_fraction": 0.15, "test_fraction": 0.45})
    values["train"].update(train)
    with path.open("w") as file:
        yaml.dump(values, file)
    return path


def make_dataset(work: Path, images: int) -> None:
    """The sample as a dataset, and one with half of its training images."""
    sample = [sys.executable, "-m", "pipelines.cli", "sample", "--images", str(images)]
    folders = [text for name in ("inbox", "labels", "truth") for text in (f"--{name}", str(work / name))]
    subprocess.run([*sample, *folders], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    params, metrics, raw, labels = write_params(work / "params.yaml", {}), work / "metrics", work / "raw", work / "labels"
    manifest, annotations = raw / "manifest.parquet", work / "annotations.jsonl"
    run("pipelines.stages.collect", params, inbox=work / "inbox", raw=raw, metrics=metrics / "collect.json")
    label_outs = {"annotations": annotations, "issues": work / "issues.jsonl", "metrics": metrics / "labels.json"}
    run("pipelines.stages.label_sync", params, sources=labels, manifest=manifest, **label_outs)
    dataset_outs = {"assignments": work / "assignments.jsonl", "dataset": work / "dataset", "metrics": metrics / "dataset.json"}
    run("pipelines.stages.dataset", params, manifest=manifest, annotations=annotations, **dataset_outs)
    for split in ("train", "val", "test"):
        samples = read_samples(work / "dataset" / f"{split}.jsonl")
        if split == "train":
            order = np.random.default_rng(0).permutation(len(samples))
            samples = [samples[index] for index in order[: len(samples) // 2]]
        write_samples(work / HALF / f"{split}.jsonl", samples)


def train(work: Path, name: str, dataset: Path, settings: dict[str, Any]) -> float:
    """Train and predict one model below `work`/`name`, unless it is there; seconds that it took."""
    folder = work / name
    start = time.perf_counter()
    if not (folder / "predictions").is_dir():
        folder.mkdir(exist_ok=True)
        params = write_params(folder / "params.yaml", settings)
        outs = {"work": folder / "work", "model": folder / "model.pt", "curves": folder / "curves", "metrics": folder / "train.json"}
        run("training.stages.train", params, dataset=dataset, raw=work / "raw", **outs)
        run("training.stages.predict", params, model=folder / "model.pt", dataset=dataset, raw=work / "raw", predictions=folder / "predictions")
    return time.perf_counter() - start


def main() -> None:
    """Train, ask, print one JSON object, write it to results/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "detloop-gate")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--imgsz", type=int, default=256)
    args = parser.parse_args()
    work = args.work.resolve()
    if not (work / HALF / "test.jsonl").is_file():
        make_dataset(work, args.images)
    settings = {"imgsz": args.imgsz, "epochs": args.epochs, "patience": args.epochs}
    for name, dataset, seed in [(f"seed{seed}", work / "dataset", seed) for seed in SEEDS] + [(HALF + "0", work / HALF, 0)]:
        seconds = train(work, name, dataset, {**settings, "seed": seed})
        print(f"{name}: {seconds:.0f} s", json.loads((work / name / "train.json").read_text())["val"], flush=True)


if __name__ == "__main__":
    main()
