"""Stage start: what training starts from. Without `train.from_champion` the dataset; else new images, a share of the old ones, a champion.

The champion is named by its number, not as "the present one": else each promotion would train anew.
"""

from __future__ import annotations

import argparse
import shutil

from pipelines.core.champion import MODEL_FILE, read_champions, stored_model, stored_train
from pipelines.core.cli import stage_main
from pipelines.core.io import new_folder, require_file, write_json
from pipelines.core.params import load_params
from pipelines.core.records import read_samples, write_samples
from training.replay import select_replay

RECORD = "start.json"


def work(args: argparse.Namespace) -> None:
    """Write the folder that training reads; it appears when it is complete."""
    settings = load_params(args.params).train
    paths = {split: require_file(args.dataset / f"{split}.jsonl", "run `dvc repro dataset`") for split in ("train", "val")}
    champion = None if settings.from_champion is None else read_champions(args.record).champion(settings.from_champion, args.record)
    with new_folder(args.start) as folder:
        shutil.copyfile(paths["val"], folder / "val.jsonl")
        if champion is None:
            shutil.copyfile(paths["train"], folder / "train.jsonl")
            write_json(folder / RECORD, {"champion": None})
            print("start: from train.model, on the whole training set")
            return
        seen = read_samples(stored_train(args.store, champion))
        selection = select_replay(read_samples(paths["train"]), seen, settings.replay, settings.seed)
        write_samples(folder / "train.jsonl", selection.samples)
        shutil.copyfile(stored_model(args.store, champion), folder / MODEL_FILE)
        counts = {"new_images": selection.new, "old_images": selection.old, "replayed_images": selection.replayed}
        write_json(folder / RECORD, {"champion": champion.number, **counts})
    print(f"start: from champion {champion.number}, on {selection.new} new images and {selection.replayed} of {selection.old} old ones")


if __name__ == "__main__":
    stage_main(
        "training.stages.start",
        work,
        {
            "params": "params.yaml",
            "record": "champion.json",
            "store": "folder of the champions' models",
            "dataset": "folder of train.jsonl and val.jsonl",
            "start": "folder to write: what training reads",
        },
    )
