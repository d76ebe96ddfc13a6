"""Label faults planted in BCCD's training labels, and who finds them: detloop, cleanlab's ObjectLab, mistakenness, and a count of FP and FN.

Usage: python benchmarks/label_faults.py [--seeds 5] [--folds 2] [--epochs 30] [--work build/label_faults]

Of all boxes 5 % each are removed, given another class, shifted, or invented, anew for each seed. The pipeline itself imports the data and trains the
out-of-fold models on the faulty labels (stage folds); everybody judges by the same detections. A ranking of labels and of proposed boxes is measured
by its average precision over all planted faults. Faults that BCCD has of its own (unlabelled cells) count as false alarms, for everybody.

What is there in the work folder (the project, the detections of a seed) is not made again. A seed takes minutes to half an hour on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bccd_project import ROOT, project_with_dataset, run, write_params
from fault_rankings import Ranking, fp_fn_count, judged, mistakenness, objectlab
from peers import add_peers
from planted_faults import Fault, plant

from pipelines.core.columns import DetectionColumns, Floats, TruthColumns, detections_from_images, truth_from_images
from pipelines.core.params import load_params
from pipelines.core.records import ground_truth, read_detections, read_samples, write_samples
from pipelines.core.types import Detections
from pipelines.mining.labelfaults import label_suspects

RESULT = Path(__file__).parent / "results" / "label_faults.json"
FRACTION = 0.05
VAL_EVERY = 4  # validation chooses the best epoch; every fourth val image does that as well
SHOWN_FROM = 0.25  # what ultralytics shows by default: the FP+FN count starts here
RESCALED: dict[str, Callable[[Floats], Floats]] = {"x 0.75": lambda score: 0.75 * score, "squared": np.square}


def planted(work: Path, project: Path, params: Path, seed: int) -> tuple[TruthColumns, DetectionColumns, list[str], list[Fault]]:
    """The faulty labels of one seed, the out-of-fold detections on their images, the images' ids, and the faults."""
    classes = load_params(params).class_names
    folder, source = work / f"seed-{seed}", project / "data" / "dataset"
    samples, faults = plant(read_samples(source / "train.jsonl"), classes, FRACTION, seed)
    if not (folder / "folds").is_dir():
        write_samples(folder / "dataset" / "train.jsonl", samples)
        write_samples(folder / "dataset" / "val.jsonl", read_samples(source / "val.jsonl")[::VAL_EVERY])
        paths = ["--dataset", folder / "dataset", "--raw", project / "data" / "raw", "--work", folder / "work", "--folds", folder / "folds"]
        run("training.stages.folds", "--params", params, *paths)
    detections = read_detections(folder / "folds" / "train.parquet", classes)
    truth = truth_from_images([ground_truth(sample, classes) for sample in samples])
    found = detections_from_images([detections.get(sample.image_id, Detections.empty()) for sample in samples])
    return truth, found, [sample.image_id for sample in samples], faults


def detloop(truth: TruthColumns, found: DetectionColumns) -> Ranking:
    """Ours."""
    suspects = label_suspects(truth, found)
    return Ranking.of(suspects.score, suspects.missing)


def rankings(truth: TruthColumns, found: DetectionColumns, images: int, classes: int) -> dict[str, Ranking]:
    """Everybody's."""
    return {
        "detloop": detloop(truth, found),
        "objectlab": objectlab(truth, found, images, classes),
        "mistakenness": mistakenness(truth, found),
        "fp_fn_count": fp_fn_count(truth, found, images, SHOWN_FROM),
    }


def main() -> None:
    """Measure, print one JSON object, write it to results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("seeds", 5), ("folds", 2), ("epochs", 30)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "label_faults")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    add_peers()
    project = project_with_dataset(args.work)
    changes = {"mine": {"folds": args.folds, "fold_epochs": args.epochs}, "train": {"patience": args.epochs}}
    params = write_params(args.work / "params.yaml", changes)
    class_count = len(load_params(params).class_names)
    seeds: list[dict[str, Any]] = []
    same = dict.fromkeys(RESCALED, True)
    for seed in range(args.seeds):
        truth, found, images, faults = planted(args.work, project, params, seed)
        results = {name: judged(item, truth, found, images, faults) for name, item in rankings(truth, found, len(images), class_count).items()}
        seeds.append({"seed": seed, "labels": len(truth), "faults": len(faults), **results})
        print(f"seed {seed}: " + ", ".join(f"{name} {item['ap']:.3f}" for name, item in results.items()), file=sys.stderr, flush=True)
        before = detloop(truth, found)
        for name, rescale in RESCALED.items():
            after = detloop(truth, dataclasses.replace(found, score=rescale(found.score)))
            same[name] &= all(np.array_equal(getattr(before, part), getattr(after, part)) for part in ("score", "label", "detection"))
    tools = ("detloop", "objectlab", "mistakenness", "fp_fn_count")
    mean = {part: {name: round(float(np.mean([item[name][part] for item in seeds])), 4) for name in tools} for part in ("ap", "precision_at_planted")}
    result = {
        "folds": args.folds,
        "epochs": args.epochs,
        **mean,
        "identical_when_rescaled": same,
        "seeds": seeds,
        "ratios": {f"ap_vs_{name}": round(mean["ap"]["detloop"] / mean["ap"][name], 3) for name in tools[1:]},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
