"""Sets of labels and detections for tests: hand-made, random, and the shared oracle's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from pipelines.core.io import sha256_bytes, write_bytes, write_text
from pipelines.core.records import write_detections, write_samples
from pipelines.core.types import SPLITS, Box, Detections, GroundTruth, Sample

Labeled = tuple[Sequence[float], int]  # xyxy, class index
Found = tuple[Sequence[float], float, int]  # xyxy, score, class index


def labels(*items: Labeled) -> GroundTruth:
    return GroundTruth(
        np.array([xyxy for xyxy, _ in items], np.float32).reshape(-1, 4), np.array([class_index for _, class_index in items], dtype=np.int64)
    )


def found(*items: Found) -> Detections:
    """Detections, which must be given best first."""
    return Detections(
        np.array([xyxy for xyxy, _, _ in items], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in items], np.float32),
        np.array([class_index for _, _, class_index in items], dtype=np.int64),
    )


def random_sets(seed: int, images: int, class_count: int, ties: bool = False) -> tuple[list[GroundTruth], list[Detections]]:
    """Labels and jittered, dropped, relabeled and invented detections; with `ties`, scores of one digit and boxes on a coarse grid."""
    rng = np.random.default_rng(seed)
    truth, detections = [], []
    for _ in range(images):
        count = int(rng.integers(0, 9))
        corner, side = rng.uniform(0, 200, (count, 2)), rng.uniform(4, 160, (count, 2))
        boxes, names = np.hstack([corner, corner + side]), rng.integers(0, class_count, count)
        kept = rng.random(count) < 0.85
        moved = boxes[kept] + rng.normal(0, 0.12, (kept.sum(), 4)) * np.tile(side[kept], 2)
        extra = rng.uniform(0, 200, (int(rng.integers(0, 6)), 2))
        boxes_found = np.vstack([moved, moved[: len(moved) // 2] + 2, np.hstack([extra, extra + rng.uniform(4, 120, extra.shape)])])
        names_found = np.concatenate([names[kept], names[kept][: len(moved) // 2], rng.integers(0, class_count, len(extra))])
        flipped = rng.random(len(names_found)) < 0.15
        names_found[flipped] = rng.integers(0, class_count, flipped.sum())
        boxes_found[:, 2:] = np.maximum(boxes_found[:, 2:], boxes_found[:, :2] + 1)
        score = rng.random(len(boxes_found))
        if ties:
            boxes, boxes_found, score = np.round(boxes / 16) * 16, np.round(boxes_found / 16) * 16, np.round(score, 1)
            boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 16)
            boxes_found[:, 2:] = np.maximum(boxes_found[:, 2:], boxes_found[:, :2] + 16)
        order = np.argsort(-score, kind="stable")
        truth.append(GroundTruth(boxes.astype(np.float32), names.astype(np.int64)))
        detections.append(Detections(boxes_found[order].astype(np.float32), score[order].astype(np.float32), names_found[order].astype(np.int64)))
    return truth, detections


def tide_oracle(shared: Path, detections_file: str) -> tuple[list[GroundTruth], list[Detections], int]:
    """Labels and detections of `oracles/tide`, one entry an image, and the number of classes (category ids are class indices there)."""
    folder = shared / "oracles" / "tide"
    data, rows = json.loads((folder / "gt.json").read_text()), json.loads((folder / detections_file).read_text())
    truth, detections = [], []
    for image in sorted(item["id"] for item in data["images"]):
        mine = [row for row in data["annotations"] if row["image_id"] == image]
        theirs = sorted((row for row in rows if row["image_id"] == image), key=lambda row: -row["score"])
        truth.append(labels(*((_xyxy(row), row["category_id"]) for row in mine)))
        detections.append(found(*((_xyxy(row), row["score"], row["category_id"]) for row in theirs)))
    return truth, detections, len(data["categories"])


def _xyxy(row: dict[str, list[float]]) -> list[float]:
    left, top, width, height = row["bbox"]
    return [left, top, left + width, top + height]


PROJECT_CLASSES = ("a", "b", "rare")


def write_project(folder: Path, seed: int, labeled: bool = True, predicted: bool = True) -> Path:
    """A project folder for the stages after predict: params.yaml, dataset/, predictions/, raw/. Class `rare` has no label and no detection."""
    for position, split in enumerate(SPLITS):
        truth, detections = random_sets(100 * seed + position, 10, 2)
        samples, predictions = [], {}
        for number, (labels_of_image, found_in_image) in enumerate(zip(truth, detections, strict=True)):
            grey = 20 + 22 * number
            content = jpeg(grey, 100 * position + number)
            image_id = sha256_bytes(content)
            path = f"images/{image_id[:2]}/{image_id}.jpg"
            write_bytes(folder / "raw" / path, content)
            boxes = [
                Box(PROJECT_CLASSES[index], (float(box[0]), float(box[1]), float(box[2]), float(box[3])))
                for box, index in zip(labels_of_image.xyxy, labels_of_image.class_index, strict=True)
                if labeled and split != "pool"
            ]
            state = None if split == "pool" else "labeled" if boxes else "verified_empty"
            source, group = f"cam{number % 2 + 1}", f"burst{number // 5}"
            samples.append(Sample(image_id, path, 420, 420, state, tuple(boxes), source, group, None, float(grey)))
            if predicted and len(found_in_image):
                predictions[image_id] = found_in_image
        write_samples(folder / "dataset" / f"{split}.jsonl", samples)
        write_detections(folder / "predictions" / f"{split}.parquet", predictions, PROJECT_CLASSES)
    names = "".join(f"  - name: {name}\n" for name in PROJECT_CLASSES)
    write_text(folder / "params.yaml", f"classes:\n{names}mine:\n  gallery_images: 4\n")
    return folder


@cache
def jpeg(grey: int, number: int) -> bytes:
    """A plain picture of 420 x 420 pixels with a dot at a place that depends on `number`."""
    image = np.full((420, 420, 3), grey, dtype=np.uint8)
    row, column = divmod(number, 20)
    image[row * 20 : row * 20 + 16, column * 20 : column * 20 + 16] = 255 - grey
    return bytes(cv2.imencode(".jpg", image)[1])
