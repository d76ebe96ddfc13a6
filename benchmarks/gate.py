"""The champion gate on real trainings of the sample: what it says of a model against itself, of another seed, of a broken class, of twice the labels.

A class breaks in three ways: most of its detections are gone, all are gone, or it goes by the name of the next class.

Usage: python benchmarks/gate.py [--work FOLDER] [--images 700] [--epochs 60] [--imgsz 256]

Trains on the sample: five seeds on all training images, one on half of them (a work folder that is kept goes on where it was interrupted). The seed
noise is measured on seeds that are compared with nothing. Each question is asked with 20 seeds of the bootstrap.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bccd_project import ROOT, run
from ruamel.yaml import YAML

from pipelines.core.params import load_params
from pipelines.core.records import ground_truth, read_detections, read_samples, write_samples
from pipelines.core.slices import SliceLimits
from pipelines.core.types import Detections
from pipelines.evaluation.differences import Resampling, differences, training_figures
from pipelines.evaluation.seeds import Figures, Spread, spread_of
from pipelines.evaluation.verdict import SuiteChange, Verdict, decide

RESULT = ROOT / "benchmarks" / "results" / "gate.json"
SEEDS = range(5)
COMPARED = (0, 1)  # the other seeds measure the noise
HALF = "half"
BOOTSTRAP_SEEDS = range(20)
RESAMPLES = 400
BROKEN_SHARE = 0.6  # of a class's detections are gone where it is broken in part


def write_params(path: Path, train: dict[str, Any]) -> Path:
    """params.yaml with a large test set, and other values of section train."""
    yaml = YAML()
    values = yaml.load((ROOT / "params.yaml").read_text())
    values["dataset"].update({"val_fraction": 0.08, "test_fraction": 0.6})
    values["train"].update(train)
    values["champion"]["resamples"] = RESAMPLES
    with path.open("w") as file:
        yaml.dump(values, file)
    return path


def make_dataset(work: Path, images: int) -> Path:
    """A project with the sample as its dataset, and beside it a dataset with half of its training images; the project's `data`."""
    project = work / "project"
    if not (work / HALF / "test.jsonl").is_file():
        run("pipelines.cli", "new", project, "--params", write_params(work / "params.yaml", {}))
        run("pipelines.cli", "sample", "--images", str(images), cwd=project)
        run("dvc", "repro", "--quiet", "dataset", cwd=project)
        for split in ("train", "val", "test"):
            samples = read_samples(project / "data/dataset" / f"{split}.jsonl")
            if split == "train":
                order = np.random.default_rng(0).permutation(len(samples))
                samples = [samples[index] for index in order[: len(samples) // 2]]
            write_samples(work / HALF / f"{split}.jsonl", samples)
    return project / "data"


def train(work: Path, name: str, dataset: Path, raw: Path, settings: dict[str, Any]) -> float:
    """Train and predict one model below `work`/`name`, unless it is there; seconds that it took."""
    folder = work / name
    start = time.perf_counter()
    if not (folder / "predictions").is_dir():
        folder.mkdir(exist_ok=True)
        params = write_params(folder / "params.yaml", settings)
        common = ["--params", params, "--dataset", dataset, "--raw", raw, "--model", folder / "model.pt"]
        run("training.stages.train", *common, "--work", folder / "work", "--curves", folder / "curves", "--metrics", folder / "train.json")
        run("training.stages.predict", *common, "--predictions", folder / "predictions")
    return time.perf_counter() - start


class Asked:
    """The test set with the detections of all models on it."""

    def __init__(self, work: Path) -> None:
        self.params = load_params(work / "params.yaml")
        self.classes, values = self.params.class_names, self.params.evaluate
        self.limits = SliceLimits(values.small_area_px, values.medium_area_px, values.dark_below, values.bright_above)
        self.samples = sorted(read_samples(work / HALF / "test.jsonl"), key=lambda item: item.image_id)
        self.truth = [ground_truth(item, self.classes) for item in self.samples]
        self.found = {name: self._read(work / name) for name in (*(f"seed{seed}" for seed in SEEDS), HALF + "0")}
        self.noise = self.figures([f"seed{seed}" for seed in SEEDS if seed not in COMPARED])

    def figures(self, names: Sequence[str]) -> list[Figures]:
        """Of these models, as trainings that differ by their seed alone."""
        resampling = Resampling(self.params.champion.confidence, RESAMPLES, self.params.champion.seed)
        return training_figures(self.samples, self.truth, [self.found[name] for name in names], self.classes, self.limits, resampling)

    def _read(self, folder: Path) -> list[Detections]:
        found = read_detections(folder / "predictions" / "test.parquet", self.classes)
        return [found.get(item.image_id, Detections.empty()) for item in self.samples]

    def broken(self, name: str, class_index: int, share: float) -> list[Detections]:
        """A model's detections without a share of those of one class."""
        rng = np.random.default_rng(0)
        result = []
        for item in self.found[name]:
            keep = (item.class_index != class_index) | (rng.random(len(item)) >= share)
            result.append(Detections(item.xyxy[keep], item.score[keep], item.class_index[keep]))
        return result

    def renamed(self, name: str, class_index: int) -> list[Detections]:
        """A model's detections, those of one class under the name of the next."""
        other = (class_index + 1) % len(self.classes)
        return [Detections(item.xyxy, item.score, np.where(item.class_index == class_index, other, item.class_index)) for item in self.found[name]]

    def verdicts(self, champion: list[Detections], candidate: list[Detections], spread: Spread | None) -> list[Verdict]:
        """The gate's answers in all bootstrap seeds."""
        settings = self.params.champion
        answers = []
        for seed in BOOTSTRAP_SEEDS:
            resampling = Resampling(settings.confidence, settings.resamples, seed)
            found = differences(self.samples, self.truth, champion, candidate, self.classes, self.limits, resampling, spread)
            change = SuiteChange(0, 0)
            answers.append(
                decide(found, settings.metric, settings.tolerance, settings.confidence, change, seeds_measured=spread is not None, same_model=False)
            )
        return answers


def asked(work: Path) -> dict[str, Any]:
    """Every question's verdicts, counted, and the share of those that are as wanted."""
    data = Asked(work)
    spread = spread_of(data.noise)
    first, second = (data.found[f"seed{seed}"] for seed in COMPARED)
    questions = {
        "itself": (first, first, "inconclusive"),
        "another_seed": (first, second, "inconclusive"),
        "another_seed_back": (second, first, "inconclusive"),
        "twice_the_labels": (data.found[HALF + "0"], first, "promote"),
        "half_the_labels": (first, data.found[HALF + "0"], "reject"),
    }
    broken_class = {}
    for index, name in enumerate(data.classes):
        for how, found in (
            ("broken", data.broken("seed0", index, BROKEN_SHARE)),
            ("lost", data.broken("seed0", index, 1.0)),
            ("renamed", data.renamed("seed0", index)),
        ):
            broken_class[f"{how}_{name}"] = name
            questions[f"{how}_{name}"] = (first, found, "reject")
    result: dict[str, Any] = {}
    for name, (champion, candidate, wanted) in questions.items():
        answers = data.verdicts(champion, candidate, spread)
        as_wanted = [
            item.word == wanted and (name not in broken_class or any(f"class {broken_class[name]} lost" in reason for reason in item.reasons))
            for item in answers
        ]
        words = [item.word for item in answers]
        result[name] = {
            "wanted": wanted,
            "verdicts": {word: words.count(word) for word in sorted(set(words))},
            "as_wanted": sum(as_wanted) / len(as_wanted),
            "first_reasons": list(answers[0].reasons),
        }
        print(name, result[name], flush=True)
    test = {
        name: {metric: part["all"][metric] for metric in ("AP", "AP50")}
        for name, part in zip(data.found, data.figures(list(data.found)), strict=True)
    }
    return {"test": test, "test_images": len(data.samples), "questions": result}


def main() -> None:
    """Train, ask, print one JSON object, write it to results/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "detloop-gate")
    parser.add_argument("--images", type=int, default=700)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--imgsz", type=int, default=256)
    args = parser.parse_args()
    work = args.work.resolve()
    data = make_dataset(work, args.images)
    write_params(work / "params.yaml", {})
    settings = {"imgsz": args.imgsz, "epochs": args.epochs, "patience": args.epochs}
    for name, dataset, seed in [(f"seed{seed}", data / "dataset", seed) for seed in SEEDS] + [(HALF + "0", work / HALF, 0)]:
        seconds = train(work, name, dataset, data / "raw", {**settings, "seed": seed})
        print(f"{name}: {seconds:.0f} s", json.loads((work / name / "train.json").read_text())["val"], flush=True)
    found = asked(work)
    train_images = {name: len(read_samples(folder / "train.jsonl")) for name, folder in (("all", data / "dataset"), (HALF, work / HALF))}
    result = {
        "images": args.images,
        "epochs": args.epochs,
        "imgsz": args.imgsz,
        "train_images": train_images,
        "resamples": RESAMPLES,
        "noise_seeds": len(SEEDS) - len(COMPARED),
        **found,
        "ratios": {name: part["as_wanted"] for name, part in found["questions"].items()},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
