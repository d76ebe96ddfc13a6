"""Stage predict_champion: the champion's detections on the test set of today and on the images of the regression suite.

Where there is no champion, the files are there and empty.
"""

from __future__ import annotations

import argparse

from pipelines.core.champion import names_today, read_champions, stored_model
from pipelines.core.cli import stage_main
from pipelines.core.io import new_folder, read_jsonl, require_file, require_folder
from pipelines.core.params import load_params
from pipelines.core.records import read_samples, write_detections
from pipelines.core.types import LABELED_SPLITS
from training.environment import quiet_ultralytics


def work(args: argparse.Namespace) -> None:
    """Run the champion; the folder appears when it is complete."""
    params = load_params(args.params)
    champion = read_champions(args.record).current
    wanted = {row["image_id"] for row in read_jsonl(args.suite, "restore it from git (a project without items has an empty file)")}
    samples = {split: read_samples(require_file(args.dataset / f"{split}.jsonl")) for split in LABELED_SPLITS}
    require_folder(args.raw)
    parts = {
        "test": samples["test"],
        "suite": [item for split in LABELED_SPLITS if split != "test" for item in samples[split] if item.image_id in wanted],
    }
    if champion is None:
        with new_folder(args.predictions) as folder:
            for name in parts:
                write_detections(folder / f"{name}.parquet", {}, params.class_names)
        print("predict_champion: there is no champion yet")
        return
    names = names_today(champion, params.class_of)
    model = stored_model(args.store, champion)
    quiet_ultralytics()
    from training.predictor import TorchRunner, predict_samples  # imported here: torch and ultralytics are slow, and read the environment set above

    with TorchRunner(model, champion.classes) as runner, new_folder(args.predictions) as folder:
        for name, items in parts.items():
            write_detections(folder / f"{name}.parquet", predict_samples(runner, items, args.raw, params.predict, name), names)
    print(f"predict_champion: champion {champion.number} on {len(parts['test'])} test images and {len(parts['suite'])} others of the suite")


if __name__ == "__main__":
    stage_main(
        "training.stages.predict_champion",
        work,
        {
            "params": "params.yaml",
            "record": "champion.json",
            "store": "folder of the champions' models",
            "suite": "the regression suite, for its images",
            "dataset": "folder of the splits' .jsonl files",
            "raw": "folder that the samples' paths start from",
            "predictions": "folder to write",
        },
    )
