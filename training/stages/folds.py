"""Stage folds: out-of-fold detections on the train images, for finding faults in their labels; none when mine.folds is 0."""

from __future__ import annotations

import argparse
import shutil

from pipelines.core.cli import stage_main
from pipelines.core.errors import counted
from pipelines.core.io import json_text, new_folder, require_file, require_folder, write_text
from pipelines.core.params import load_params
from pipelines.core.records import write_detections
from pipelines.core.section import replaced
from pipelines.core.types import Detections
from training.environment import quiet_ultralytics


def work(args: argparse.Namespace) -> None:
    """Train a model for each fold, or go on with it, and write what each finds on the images that it never saw."""
    params = load_params(args.params)
    for split in ("train", "val"):
        require_file(args.dataset / f"{split}.jsonl", "run `dvc repro dataset`")
    require_folder(args.raw)
    folds = params.mine.folds
    found: dict[str, Detections] = {}
    if folds:
        args.work.mkdir(parents=True, exist_ok=True)
        quiet_ultralytics(args.work / "ultralytics")
        from training.folds import out_of_fold  # imported here: it reads the environment set above

        settings = replaced(params.train, epochs=params.mine.fold_epochs or params.train.epochs)
        found = out_of_fold(settings, params.predict, params.class_names, args.dataset, args.raw, args.work, folds)
    with new_folder(args.folds) as folder:
        write_detections(folder / "train.parquet", found, params.class_names)
        write_text(folder / "folds.json", json_text({"folds": folds, "detections": sum(len(item) for item in found.values())}))
    shutil.rmtree(args.work, ignore_errors=True)
    print(f"folds: {folds}, {counted(len(found), 'train image')} with detections" if folds else "folds: none (mine.folds is 0)")


if __name__ == "__main__":
    stage_main(
        "training.stages.folds",
        work,
        {
            "params": "params.yaml",
            "dataset": "folder of train.jsonl and val.jsonl",
            "raw": "folder that the samples' paths start from",
            "work": "folder for the state of interrupted trainings; removed when all is done",
            "folds": "folder to write",
        },
    )
