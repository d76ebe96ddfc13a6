"""Stage suspects: labels that are probably wrong, and oddities of tracks in video and bursts. For people to judge; no label is changed.

Labels of val and test are judged by the stored detections, whose model never saw them; those of train by the out-of-fold detections, where there are
any. Tracks are looked at in every group of images with a time each, labeled or not, among the detections that a user sees.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core.cli import stage_main
from pipelines.core.columns import detections_from_images, truth_from_images
from pipelines.core.errors import counted
from pipelines.core.io import read_json, write_jsonl, write_metrics
from pipelines.core.params import load_params
from pipelines.core.records import ground_truth, read_detections, read_samples
from pipelines.core.types import SPLITS, Detections, Sample, Split
from pipelines.mining.labelfaults import FAULTS, label_suspects, suspect_rows
from pipelines.mining.tracks import TrackFault, track_faults

Row = dict[str, Any]
WHY = {
    "gap": "{name} is there in the frames before and after, not in this one",
    "flip": "{found} here, {name} in the other frames of its track",
    "single": "{name} stands in this one frame only",
}


def work(args: argparse.Namespace) -> None:
    """Judge the labels of each split, look at the tracks, write both lists and their counts."""
    params = load_params(args.params)
    classes = params.class_names
    stored: dict[Split, Mapping[str, Detections]] = {split: read_detections(args.predictions / f"{split}.parquet", classes) for split in SPLITS}
    samples = {split: read_samples(args.dataset / f"{split}.jsonl") for split in SPLITS}
    judges = {"train": read_detections(args.folds / "train.parquet", classes), "val": stored["val"], "test": stored["test"]}
    judged: list[Split] = ["val", "test"]
    if read_json(args.folds / "folds.json")["folds"]:
        judged.insert(0, "train")
    rows: list[Row] = []
    metrics: Row = {"splits": {}, "judged": sorted(judged)}
    for split in judged:
        found = _suspects(samples[split], split, judges[split], classes, params.mine.suspect_score)
        counts = Counter(row["kind"] for row in found)
        labels = sum(len(sample.boxes) for sample in samples[split])
        metrics["splits"][split] = {"labels": labels, "suspects": {kind: counts[kind] for kind in FAULTS}}
        rows += found
    thresholds = read_json(args.evaluation / "thresholds.json")["classes"]
    limits = np.array([float(thresholds[name]) for name in classes])
    tracks, metrics["tracks"] = _tracks(samples, stored, classes, limits)
    write_jsonl(args.labels, sorted(rows, key=lambda row: (-row["score"], row["image_id"])))
    write_jsonl(args.tracks, tracks)
    write_metrics(args.metrics, metrics)
    sequences = counted(metrics["tracks"]["sequences"], "sequence")
    print(f"suspects: {counted(len(rows), 'label')} of {', '.join(judged)}; oddities in {sequences} of images: {len(tracks)}")


def _suspects(samples: Sequence[Sample], split: Split, detections: Mapping[str, Detections], classes: Sequence[str], min_score: float) -> list[Row]:
    truth = truth_from_images([ground_truth(sample, classes) for sample in samples])
    found = detections_from_images([detections.get(sample.image_id, Detections.empty()) for sample in samples])
    images = [{"image_id": sample.image_id, "image": sample.path, "split": split} for sample in samples]
    return suspect_rows(truth, found, label_suspects(truth, found), classes, images, min_score)


def _tracks(
    samples: Mapping[Split, Sequence[Sample]],
    detections: Mapping[Split, Mapping[str, Detections]],
    classes: Sequence[str],
    limits: NDArray[np.float64],
) -> tuple[list[Row], Row]:
    groups: dict[str, list[tuple[Split, Sample]]] = {}
    for split, part in samples.items():
        for sample in part:
            groups.setdefault(sample.group, []).append((split, sample))
    rows: list[Row] = []
    counts = {"sequences": 0, "no_sequence": 0, "without_time": 0}
    for name in sorted(groups):
        if any(sample.captured_at is None for _, sample in groups[name]):
            counts["without_time"] += 1
            continue
        members = sorted(groups[name], key=lambda item: (str(item[1].captured_at), item[1].image_id))
        found = [detections[split].get(sample.image_id, Detections.empty()) for split, sample in members]
        shown = [np.flatnonzero(item.score.astype(np.float64) >= limits[item.class_index]) for item in found]
        frames = [Detections(item.xyxy[keep], item.score[keep], item.class_index[keep]) for item, keep in zip(found, shown, strict=True)]
        faults = track_faults(frames)
        if faults is None:
            counts["no_sequence"] += 1
            continue
        counts["sequences"] += 1
        rows += [_track_row(fault, *members[fault.frame], classes) for fault in faults]
    kinds = Counter(row["kind"] for row in rows)
    return rows, {**counts, **{kind: kinds[kind] for kind in WHY}}


def _track_row(fault: TrackFault, split: Split, sample: Sample, classes: Sequence[str]) -> Row:
    name = classes[fault.class_index]
    found = None if fault.found_class is None else classes[fault.found_class]
    return {
        "image_id": sample.image_id,
        "image": sample.path,
        "split": split,
        "group": sample.group,
        "kind": fault.kind,
        "class": name,
        "found_class": found,
        "box": [round(value, 2) for value in fault.xyxy],
        "why": WHY[fault.kind].format(name=name, found=found),
    }


if __name__ == "__main__":
    stage_main(
        "pipelines.stages.suspects",
        work,
        {
            "params": "params.yaml",
            "dataset": "folder of the dataset",
            "predictions": "folder of the stored detections",
            "folds": "folder of the out-of-fold detections",
            "evaluation": "folder of the evaluation, for its thresholds",
            "labels": "file to write: one line a suspect label",
            "tracks": "file to write: one line an oddity of a track",
            "metrics": "metrics file to write",
        },
    )
