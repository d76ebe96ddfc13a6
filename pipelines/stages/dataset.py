"""Stage `dataset`: manifest and annotations to train, val, test and pool, with sticky sides and the leak gate."""

from __future__ import annotations

import argparse

from tqdm import tqdm

from pipelines.core.cli import stage_main
from pipelines.core.io import json_text, write_folder, write_jsonl, write_metrics
from pipelines.core.params import load_params
from pipelines.core.records import read_annotations, read_manifest, samples_text
from pipelines.core.slices import SliceLimits
from pipelines.core.types import LABELED_SPLITS, Split
from pipelines.dataset.alike import RULES
from pipelines.dataset.assignments import read_assignments, write_assignments
from pipelines.dataset.build import build_dataset
from pipelines.dataset.gate import check_pictures, gate_samples
from pipelines.dataset.looks import read_looks, thumbnails_of, write_looks
from pipelines.dataset.rounds import dataset_hash, drift, profile, read_rounds, with_round
from pipelines.dataset.summary import dataset_card, dataset_metrics


def work(args: argparse.Namespace) -> None:
    """All is computed before anything is written; a rerun with the records already written gives the same files."""
    params = load_params(args.params)
    classes, wanted, slices = params.class_names, params.dataset, params.evaluate
    limits = SliceLimits(slices.small_area_px, slices.medium_area_px, slices.dark_below, slices.bright_above)
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
        leave_out=wanted.leave_out,
        limits=limits,
        seed=wanted.seed,
    )
    known = read_looks(args.looks, RULES)
    looks = thumbnails_of(gate_samples(dataset), known, args.raw, lambda made: tqdm(made, desc="leak gate", unit="image", disable=None))
    explained = check_pictures(dataset, looks, known)
    files = {f"{split}.jsonl": samples_text(samples).encode() for split, samples in dataset.splits.items()}
    rounds = with_round(read_rounds(args.rounds), dataset_hash(files), profile(dataset.splits))
    card = dataset_card(dataset, classes, limits, drift(rounds))
    write_looks(args.looks, looks, {sample.image_id: split for split in LABELED_SPLITS for sample in dataset.splits[split]}, RULES)
    write_folder(args.dataset, {**files, "card.json": json_text(card).encode()})
    write_assignments(args.assignments, dataset.plan.assignments.values())
    write_jsonl(args.rounds, rounds)
    write_metrics(args.metrics, dataset_metrics(dataset, classes, fractions, limits, explained))
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
            "raw": "folder that the images' paths are relative to",
            "assignments": "sticky record of the split, read and added to",
            "rounds": "record of what each round's dataset was like, read and added to",
            "looks": "what the leak gate keeps of each image, read and written anew",
            "dataset": "folder to write: train, val, test, pool and card.json",
            "metrics": "metrics file to write",
        },
    )
