"""Stage `dataset`: manifest and annotations to train, val, test and pool, with sticky sides and the leak gate."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor

from pipelines.core.cli import stage_main
from pipelines.core.contract import require_appended
from pipelines.core.io import new_folder, write_bytes, write_json, write_jsonl, write_metrics
from pipelines.core.params import load_params
from pipelines.core.records import read_annotations_table, read_manifest
from pipelines.core.slices import SliceLimits
from pipelines.core.types import SPLITS, Split
from pipelines.dataset.assignments import assignments_content, read_assignments_table, remember_assignments
from pipelines.dataset.build import build_dataset, write_split
from pipelines.dataset.gate import check_pictures
from pipelines.dataset.looks import Looks
from pipelines.dataset.rounds import dataset_hash, drift, profile, read_rounds, with_round
from pipelines.dataset.summary import dataset_card, dataset_metrics


def work(args: argparse.Namespace) -> None:
    """Nothing takes its place before the gate has let the dataset pass; a rerun with the records already written gives the same files."""
    params = load_params(args.params)
    classes, wanted, slices = params.class_names, params.dataset, params.evaluate
    limits = SliceLimits(slices.small_area_px, slices.medium_area_px, slices.dark_below, slices.bright_above)
    fractions: dict[Split, float] = {
        "train": 1 - wanted.val_fraction - wanted.test_fraction,
        "val": wanted.val_fraction,
        "test": wanted.test_fraction,
    }
    earlier = read_rounds(args.rounds)
    require_appended(earlier[-1].get("classes", ()) if earlier else (), params.class_of, str(args.rounds))
    with ThreadPoolExecutor() as pool:  # polars reads and writes without Python's lock
        manifest = pool.submit(read_manifest, args.manifest)
        annotations = pool.submit(read_annotations_table, args.annotations, args.work)
        history = pool.submit(read_assignments_table, args.assignments, args.work)
        looks = pool.submit(Looks, args.work)
    dataset = build_dataset(
        manifest.result(),
        annotations.result(),
        history.result(),
        classes,
        fractions,
        use_given=wanted.given_split,
        leave_out=wanted.leave_out,
        limits=limits,
        seed=wanted.seed,
    )
    with new_folder(args.dataset) as new, ThreadPoolExecutor() as pool:
        hashes = {f"{split}.jsonl": pool.submit(write_split, new / f"{split}.jsonl", dataset, split) for split in SPLITS}
        now, card = pool.submit(profile, dataset, classes), pool.submit(dataset_card, dataset, classes)
        content = pool.submit(assignments_content, dataset.assignments)
        explained = check_pictures(dataset, args.raw, looks.result())
        assigned = pool.submit(write_bytes, args.assignments, content.result())
        remembered = pool.submit(remember_assignments, content.result(), dataset.assignments, args.work)
        rounds = with_round(earlier, dataset_hash({name: found.result() for name, found in hashes.items()}), now.result())
        write_json(new / "card.json", {**card.result(), "drift": drift(rounds)})
        metrics = dataset_metrics(dataset, card.result(), fractions, explained)
        assigned.result()
        remembered.result()
    write_jsonl(args.rounds, rounds)
    write_metrics(args.metrics, metrics)
    sizes = ", ".join(f"{split} {len(dataset.of(split))}" for split in SPLITS)
    print(f"dataset: {sizes} images; {dataset.plan.added} newly assigned")
    for warning in metrics["warnings"]:
        print(f"dataset: {warning}")


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
            "dataset": "folder to write: train, val, test, pool and card.json",
            "work": "folder for what the next run may use again",
            "metrics": "metrics file to write",
        },
    )
