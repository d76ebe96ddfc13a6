"""What to label next, simulated on BCCD: AP50 on test against labeled boxes, for random images, uncertain images, and detloop's selection.

Usage: python benchmarks/selection.py [--seeds 3] [--rounds 2] [--start 32] [--boxes 400] [--first-epochs 180] [--epochs 45] [--imgsz 192] [--work …]

All three begin with the same model, trained from scratch on the same `--start` random train images; the labels of the rest are hidden. In each round
each way of choosing takes images until `--boxes` more boxes are labeled (people are paid by the box), their true labels are shown, and the pipeline
fine-tunes its last model on all that is labeled and predicts on the rest: so the ways differ by the images that they chose, not by another start.

With fewer first images or epochs the first model sees nothing yet (16 images, 35 epochs: AP50 0), and no choice is better than another. What is there
in the work folder is not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bccd_project import PARAMS, ROOT, project_with_dataset, run, write_params

from pipelines.core.params import Params, load_params
from pipelines.core.records import ground_truth, read_detections, read_features, read_samples, write_samples
from pipelines.core.types import Detections, Sample
from pipelines.evaluation.coco import coco_metrics
from pipelines.evaluation.thresholds import best_threshold, score_curves
from pipelines.mining.ranking import ranked_unlabeled
from pipelines.mining.selection import class_rarity, pool_image, select_images

RESULT = Path(__file__).parent / "results" / "selection.json"
METHODS = ("random", "uncertainty", "detloop")
VAL_EVERY = 4


def model_round(folder: Path, train: dict[str, Any], project: Path, labeled: Sequence[Sample], pool: Sequence[Sample]) -> Path:
    """Train on `labeled`, with these values of section train, and predict on everything, by the pipeline's stages; the folder of the predictions."""
    predictions = folder / "predictions"
    if not predictions.is_dir():
        source = project / "data" / "dataset"
        folder.mkdir(parents=True, exist_ok=True)
        params = write_params(folder / "params.yaml", {"train": train})
        write_samples(folder / "dataset" / "train.jsonl", labeled)
        write_samples(folder / "dataset" / "pool.jsonl", [replace(item, boxes=(), state=None) for item in pool])
        write_samples(folder / "dataset" / "val.jsonl", read_samples(source / "val.jsonl")[::VAL_EVERY])
        shutil.copyfile(source / "test.jsonl", folder / "dataset" / "test.jsonl")
        common = ["--params", params, "--dataset", folder / "dataset", "--raw", project / "data" / "raw"]
        outs = ["--work", folder / "work", "--model", folder / "model.pt", "--curves", folder / "curves", "--metrics", folder / "train.json"]
        run("training.stages.train", *common, *outs)
        run("training.stages.predict", *common, "--model", folder / "model.pt", "--predictions", predictions)
    return predictions


def ap50(predictions: Path, folder: Path, classes: tuple[str, ...]) -> float:
    """On the test split."""
    samples = read_samples(folder / "dataset" / "test.jsonl")
    found = read_detections(predictions / "test.parquet", classes)
    truth = [ground_truth(sample, classes) for sample in samples]
    return coco_metrics(truth, [found.get(sample.image_id, Detections.empty()) for sample in samples], classes).ap50 or 0.0


def order_of(method: str, predictions: Path, folder: Path, labeled: Sequence[Sample], pool: Sequence[Sample], params: Params, seed: int) -> list[int]:
    """Positions in `pool` in the order in which the method would label them."""
    if method == "random":
        return [int(place) for place in np.random.default_rng(1000 + seed).permutation(len(pool))]
    classes = params.class_names
    val = read_samples(folder / "dataset" / "val.jsonl")
    on_val = read_detections(predictions / "val.parquet", classes)
    truth = [ground_truth(sample, classes) for sample in val]
    curves = score_curves(truth, [on_val.get(sample.image_id, Detections.empty()) for sample in val], len(classes))
    thresholds = np.array([best_threshold(curve, params.evaluate.min_score).value for curve in curves])
    stored = read_detections(predictions / "pool.parquet", classes)
    found = [stored.get(sample.image_id, Detections.empty()) for sample in pool]
    if method == "uncertainty":
        scores = [ranked_unlabeled(item, "pool", seen, thresholds, classes)["score"] for item, seen in zip(pool, found, strict=True)]
        return [int(place) for place in np.argsort(-np.array(scores), kind="stable")]
    rarity = class_rarity(Counter(box.class_name for sample in labeled for box in sample.boxes), classes)
    images = [pool_image(item.image_id, item.source, seen, thresholds, rarity, classes) for item, seen in zip(pool, found, strict=True)]
    vectors = read_features(predictions / "features.parquet")
    features, known = (np.array([vectors[item.image_id] for item in part], dtype=np.float64) for part in (pool, labeled))
    budget = params.queue.budget
    first = select_images(images, features, known, min(budget, len(pool)), classes, params.queue.class_quota, params.queue.slice_limit)
    return first + [place for place in range(len(pool)) if place not in set(first)]


def simulate(method: str, seed: int, args: argparse.Namespace, project: Path) -> list[tuple[int, float]]:
    """Labeled boxes and AP50 after each round."""
    params = load_params(PARAMS)
    everything = read_samples(project / "data" / "dataset" / "train.jsonl")
    start = set(np.random.default_rng(seed).permutation(len(everything))[: args.start].tolist())
    labeled = [item for place, item in enumerate(everything) if place in start]
    pool = [item for place, item in enumerate(everything) if place not in start]
    curve = []
    train = {"epochs": args.first_epochs, "patience": args.first_epochs, "imgsz": args.imgsz, "seed": seed}
    for number in range(args.rounds + 1):
        folder = args.work / f"seed-{seed}" / ("start" if number == 0 else f"{method}-{number}")
        predictions = model_round(folder, train, project, labeled, pool)
        train |= {"model": str(folder / "model.pt"), "epochs": args.epochs, "patience": args.epochs}
        curve.append((sum(len(item.boxes) for item in labeled), round(ap50(predictions, folder, params.class_names), 4)))
        print(f"seed {seed} {method} round {number}: {len(labeled)} images, {curve[-1][0]} boxes, AP50 {curve[-1][1]}", file=sys.stderr, flush=True)
        taken: set[int] = set()
        for place in order_of(method, predictions, folder, labeled, pool, params, seed):
            if sum(len(pool[other].boxes) for other in taken) >= args.boxes:
                break
            taken.add(place)
        labeled = sorted([*labeled, *(pool[place] for place in taken)], key=lambda item: item.image_id)
        pool = [item for place, item in enumerate(pool) if place not in taken]
    return curve


def mean_ap50(curve: Sequence[tuple[int, float]], low: float, high: float) -> float:
    """The mean AP50 over labeled boxes from `low` to `high`, linear between rounds."""
    grid = np.linspace(low, high, 101)
    boxes, values = zip(*curve, strict=True)
    return float(np.interp(grid, boxes, values).mean())


def main() -> None:
    """Measure, print one JSON object, write it to results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("seeds", 3), ("rounds", 2), ("start", 32), ("boxes", 400), ("first-epochs", 180), ("epochs", 45), ("imgsz", 192)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "selection")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    project = project_with_dataset(args.work)
    curves: dict[str, list[list[tuple[int, float]]]] = {method: [] for method in METHODS}
    for seed in range(args.seeds):
        for method in METHODS:
            curves[method].append(simulate(method, seed, args, project))
    summary: dict[str, Any] = {}
    for method in METHODS:
        means = []
        for seed in range(args.seeds):
            low = curves[method][seed][0][0]
            high = min(curves[other][seed][-1][0] for other in METHODS)
            means.append(mean_ap50(curves[method][seed], low, high))
        summary[method] = {"mean_AP50_over_boxes": round(float(np.mean(means)), 4), "by_seed": [round(value, 4) for value in means]}
    base = summary["random"]["mean_AP50_over_boxes"]
    result = {
        **{name: getattr(args, name) for name in ("seeds", "rounds", "start", "boxes", "first_epochs", "epochs", "imgsz")},
        **summary,
        "curves": curves,
        "ratios": {f"{method}_vs_random": round(summary[method]["mean_AP50_over_boxes"] / base, 4) if base else None for method in METHODS[1:]},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
