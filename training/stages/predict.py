"""Stage predict: the trained model's detections on every split, one parquet file each, and what it sees in every image as a vector."""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from pipelines.core.cli import stage_main
from pipelines.core.io import new_folder, require_file, require_folder, sha256_file, write_json
from pipelines.core.params import load_params
from pipelines.core.records import PREDICTED_BY, read_samples, write_detections, write_features
from pipelines.core.types import SPLITS
from training.environment import quiet_ultralytics

FEATURES = "features.parquet"


def work(args: argparse.Namespace) -> None:
    """Run the model on the splits that the dataset has; the folder appears when it is complete."""
    params = load_params(args.params)
    require_file(args.model, "run `dvc repro train`")
    require_folder(args.dataset)
    require_folder(args.raw)
    splits = {split: read_samples(args.dataset / f"{split}.jsonl") for split in SPLITS if (args.dataset / f"{split}.jsonl").is_file()}
    quiet_ultralytics()
    # imported here: torch and ultralytics are slow, and read the environment set above
    from training.predictor import TorchRunner, predict_on_ray, predict_with_features

    with TorchRunner(args.model, params.class_names) as runner, new_folder(args.predictions) as folder:
        write_json(folder / PREDICTED_BY, {"weights_sha256": sha256_file(args.model)})
        features: dict[str, NDArray[np.float32]] = {}
        for split, samples in splits.items():
            if params.predict.executor == "ray":
                detections, seen = predict_on_ray(args.model, params.class_names, samples, args.raw, params.predict)
            else:
                detections, seen = predict_with_features(runner, samples, args.raw, params.predict, split)
            features |= seen
            write_detections(folder / f"{split}.parquet", detections, params.class_names)
        write_features(folder / FEATURES, features)
    print("predicted on " + ", ".join(f"{len(samples)} {split}" for split, samples in splits.items()) + " images")


if __name__ == "__main__":
    stage_main(
        "training.stages.predict",
        work,
        {
            "params": "params.yaml",
            "model": "model file",
            "dataset": "folder of the splits' .jsonl files",
            "raw": "folder that the samples' paths start from",
            "predictions": "folder to write",
        },
    )
