"""Out-of-fold detections: every train image judged by a model that never saw its labels, for finding faults in those very labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.core.errors import DataError
from pipelines.core.io import canonical_json, sha256_bytes, write_text
from pipelines.core.params import PredictParams, TrainParams
from pipelines.core.records import read_detections, read_samples, write_detections, write_samples
from pipelines.core.section import plain
from pipelines.core.types import Detections, Sample


def fold_of(samples: Sequence[Sample], folds: int) -> dict[str, int]:
    """The fold of each image: whole groups, large ones first, each into the fold that has the fewest images; order of `samples` is of no account."""
    groups: dict[str, list[str]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample.image_id)
    sizes = [0] * folds
    result: dict[str, int] = {}
    for name in sorted(groups, key=lambda name: (-len(groups[name]), sha256_bytes(name.encode()))):
        fold = sizes.index(min(sizes))
        sizes[fold] += len(groups[name])
        result |= dict.fromkeys(groups[name], fold)
    return result


def out_of_fold(
    train_params: TrainParams, predict_params: PredictParams, classes: tuple[str, ...], dataset: Path, raw: Path, work: Path, folds: int
) -> dict[str, Detections]:
    """Detections on every image of `dataset`/train.jsonl, each by a model trained on the other folds; goes on where an earlier call was interrupted.

    Raises:
        DataError: all images are one group; or as ParamsError and MissingPartError, see `training.fit.train`.
    """
    from training.fit import train  # imported here: torch and ultralytics are slow
    from training.predictor import TorchRunner, predict_samples

    samples = read_samples(dataset / "train.jsonl")
    fold = fold_of(samples, folds)
    if len(set(fold.values())) < 2:
        raise DataError(f"mine.folds = {folds}, and all train images are one group, which no fold may cut: label images of others, or set it to 0")
    key = sha256_bytes(canonical_json({"inputs": _inputs(dataset), "train": plain(train_params), "predict": plain(predict_params)}).encode())
    found: dict[str, Detections] = {}
    for number in range(folds):
        folder = work / f"{key[:16]}-{number}-of-{folds}"
        done = folder / "held_out.parquet"
        held_out = [sample for sample in samples if fold[sample.image_id] == number]
        if not held_out:  # there are fewer groups than folds
            continue
        if not done.is_file():
            write_samples(folder / "dataset" / "train.jsonl", [sample for sample in samples if fold[sample.image_id] != number])
            write_text(folder / "dataset" / "val.jsonl", (dataset / "val.jsonl").read_text())
            training = train(train_params, classes, folder / "dataset", raw, folder / "train")
            (folder / "model.pt").write_bytes(training.model)
            with TorchRunner(folder / "model.pt", classes) as runner:
                write_detections(done, predict_samples(runner, held_out, raw, predict_params, f"fold {number}"), classes)
        found |= read_detections(done, classes)
    return found


def _inputs(dataset: Path) -> list[str]:
    return [sha256_bytes((dataset / f"{split}.jsonl").read_bytes()) for split in ("train", "val")]
