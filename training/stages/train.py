"""Stage train: the dataset becomes a model, its training curves and its figures."""

from __future__ import annotations

import argparse
import shutil

from pipelines.core.champion import MODEL_FILE
from pipelines.core.cli import stage_main
from pipelines.core.io import read_json, require_file, require_folder, write_bytes, write_metrics
from pipelines.core.params import load_params
from pipelines.core.section import replaced
from training.environment import quiet_ultralytics


def work(args: argparse.Namespace) -> None:
    """Train or go on training, write the outputs, then remove the work folder."""
    params = load_params(args.params)
    for split in ("train", "val"):
        require_file(args.dataset / f"{split}.jsonl", "run `dvc repro dataset`")
    require_folder(args.raw)
    args.work.mkdir(parents=True, exist_ok=True)
    quiet_ultralytics(args.work / "ultralytics")
    from training.curves import write_curves  # imported here: torch and ultralytics are slow, and read the environment set above
    from training.fit import train

    record = args.dataset / "start.json"
    start = read_json(record) if record.is_file() else {"champion": None}  # a plain dataset is trained on as it is
    settings = params.train
    if start["champion"] is not None:
        settings = replaced(settings, model=str(require_file(args.dataset / MODEL_FILE, "run `dvc repro start`")))
    result = train(settings, params.class_names, args.dataset, args.raw, args.work)
    write_bytes(args.model, result.model)
    write_curves(args.curves, result.state.history)
    write_metrics(args.metrics, {**result.metrics, "start": start})
    shutil.rmtree(args.work, ignore_errors=True)
    val = result.metrics["val"]
    print(f"trained {result.metrics['epochs']} epochs, best {result.metrics['best_epoch']}: val AP50 {val['AP50']:.3f} AP {val['AP']:.3f}")


if __name__ == "__main__":
    stage_main(
        "training.stages.train",
        work,
        {
            "params": "params.yaml",
            "dataset": "folder of train.jsonl and val.jsonl; start.json says when model.pt beside it is to start from",
            "raw": "folder that the samples' paths start from",
            "work": "folder for an interrupted training's state; removed when training is done",
            "model": "model file to write",
            "curves": "folder of training curves to write",
            "metrics": "metrics file to write",
        },
    )
