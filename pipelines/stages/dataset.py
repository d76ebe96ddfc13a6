"""Stage `dataset`: manifest and annotations to train, val, test and pool, with sticky sides and the leak gate."""

from __future__ import annotations

import argparse

from pipelines.core.cli import stage_main
from pipelines.core.io import json_text, write_folder, write_metrics
from pipelines.core.params import load_params
from pipelines.core.records import read_annotations, read_manifest, samples_text
from pipelines.core.types import Split
from pipelines.dataset.assignments import read_assignments, write_assignments
from pipelines.dataset.build import build_dataset
from pipelines.dataset.summary import dataset_card, dataset_metrics


def work(args: argparse.Namespace) -> None:
    """All is computed before anything is written; a rerun with the assignments already written gives the same files."""
    params = load_params(args.params)
    classes, wanted = params.class_names, params.dataset
    fractions: dict[Split, float] = {
        "train": 1 - wanted.val_fraction - wanted.test_fraction,
        "val": wanted.val_fraction,
        "test": wanted.test_fraction,
    }
    dataset = build_dataset(
        read_manifest(args.manifest),
        read_annotations(args.annotations),
        read_assignments(args.assignments),
        classes,
        fractions,
        use_given=wanted.given_split,
        seed=wanted.seed,
    )
    files = {f"{split}.jsonl": samples_text(samples).encode() for split, samples in dataset.splits.items()}
    files["card.json"] = json_text(dataset_card(dataset, classes)).encode()
    write_folder(args.dataset, files)
    write_assignments(args.assignments, dataset.plan.assignments.values())
    write_metrics(args.metrics, dataset_metrics(dataset, classes, fractions))
    sizes = ", ".join(f"{split} {len(samples)}" for split, samples in dataset.splits.items())
    print(f"dataset: {sizes} images; {dataset.plan.added} newly assigned")


if __name__ == "__main__":
    stage_main(
        "pipelines.stages.dataset",
        work,
        {
            "params": "params.yaml",
            "manifest": "manifest of the collected images",
            "annotations": "snapshot of the labels",
            "assignments": "sticky record of the split, read and added to",
            "dataset": "folder to write: train, val, test, pool and card.json",
            "metrics": "metrics file to write",
        },
    )
