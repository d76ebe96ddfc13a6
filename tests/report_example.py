"""A whole round's files, made up but of the shapes that the stages write, for the tests of the report."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pipelines.core.io import canonical_json, sha256_bytes
from pipelines.core.records import write_samples
from pipelines.core.types import Box, Sample, Split

KINDS = ("class", "location", "both", "duplicate", "background", "missed")
ARTIFACTS = {  # name: (AP, missed, extra, flips, p50 ms, MB)
    "onnxruntime_fp32": (0.5214, 0, 0, 0, 11.42, 10.6),
    "openvino_fp32": (0.5214, 0, 0, 0, 8.91, 10.6),
    "onnxruntime_fp16": (0.5211, 1, 0, 0, 12.87, 5.4),
    "openvino_fp16": (0.5211, 1, 0, 0, 9.02, 5.4),
    "onnxruntime_int8": (0.5098, 4, 6, 1, 7.35, 3.1),
    "openvino_int8": (0.5102, 4, 5, 1, 4.63, 3.1),
}
FLOAT_LAYERS = ["/model.23/cv3.0/conv/Conv", "/model.0/conv/Conv", "/model.2/cv1/conv/Conv"]
NOT_RUN = ("tensorrt_fp32", "tensorrt_fp16", "tensorrt_int8")


def write_example(root: Path, classes: tuple[str, ...] = ("bolt", "nut", "washer"), *, images: int = 24, size: tuple[int, int] = (160, 120)) -> Path:
    """Write params.yaml and data/ below `root`; returns `root`."""
    rng = np.random.default_rng(7)
    (root / "params.yaml").parent.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text("classes:\n" + "".join(f"  - name: {json.dumps(name)}\n" for name in classes))
    data = root / "data"
    splits = _dataset(data, classes, images, size, rng)
    _metrics(data, classes, splits)
    _training(data / "training", epochs=40)
    _evaluation(data, classes, rng)
    _badcases(data, classes, splits, rng)
    _champion(data, classes)
    _release(data)
    return root


def arguments(root: Path) -> list[str]:
    """The stage's options, as dvc.yaml gives them."""
    data = root / "data"
    names = ("metrics", "training", "evaluation", "badcases", "dataset", "raw", "release", "challenge", "report")
    paths = {"params": root / "params.yaml", "champion": data / "models" / "champion.json", **{name: data / name for name in names}}
    return [text for name, path in paths.items() for text in (f"--{name}", str(path))]


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, sort_keys=True))


def _picture(rng: np.random.Generator, size: tuple[int, int], boxes: list[tuple[float, float, float, float]], level: float) -> bytes:
    noise = rng.normal(level, 12, (size[1] // 8, size[0] // 8, 3)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for x1, y1, x2, y2 in boxes:
        shade = tuple(int(value) for value in rng.integers(90, 220, 3))
        draw.ellipse((x1, y1, x2, y2), fill=shade, outline=(30, 30, 30))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _dataset(data: Path, classes: tuple[str, ...], images: int, size: tuple[int, int], rng: np.random.Generator) -> dict[Split, list[Sample]]:
    splits: dict[Split, list[Sample]] = {"train": [], "val": [], "test": [], "pool": []}
    for index in range(images):
        split: Split = ("train", "train", "train", "val", "test", "pool")[index % 6]
        boxes = []
        for _ in range(0 if index % 12 == 1 else int(rng.integers(1, 6))):
            side = float(rng.uniform(0.12, 0.3)) * size[1]
            x, y = float(rng.uniform(0, size[0] - side)), float(rng.uniform(0, size[1] - side))
            boxes.append((round(x, 1), round(y, 1), round(x + side, 1), round(y + side, 1)))
        level = 45 if index % 5 == 0 else 150
        jpeg = _picture(rng, size, boxes, level)
        image_id = sha256_bytes(jpeg)
        path = f"images/{image_id[:2]}/{image_id}.jpg"
        (data / "raw" / path).parent.mkdir(parents=True, exist_ok=True)
        (data / "raw" / path).write_bytes(jpeg)
        names = [classes[min(int(rng.exponential(0.8)), len(classes) - 1)] for _ in boxes]
        labels = tuple(Box(name, box) for name, box in zip(names, boxes, strict=True)) if split != "pool" else ()
        state = None if split == "pool" else "labeled" if labels else "verified_empty"
        splits[split].append(
            Sample(image_id, path, *size, state, labels, f"cam{index % 3 + 1}", f"cam{index % 3 + 1}/burst{index}", None, float(level))
        )
    for split, samples in splits.items():
        write_samples(data / "dataset" / f"{split}.jsonl", samples)
    return splits


def _metrics(data: Path, classes: tuple[str, ...], splits: dict[Split, list[Sample]]) -> None:
    metrics = data / "metrics"
    dropped = {
        "exact_duplicate": ["cam1/2026-03-01T08-12-55_copy.jpg"],
        "truncated": ["cam2/2026-03-02T10-00-01.jpg"],
        "not_an_image": ["extra/notes.jpg"],
        "too_dark": ["cam3/0001.jpg", "cam3/0002.jpg"],
    }
    _write(
        metrics / "collect.json",
        {
            "seen": 245,
            "kept": 240,
            "dropped": 5,
            "dropped_by_reason": {name: {"count": len(files), "first": files} for name, files in dropped.items()},
            "exact_duplicates": [{"origin": "cam1/2026-03-01T08-12-55_copy.jpg", "duplicate_of": "cam1/2026-03-01T08-12-55.jpg"}],
            "near_duplicates": [{"a": "cam1/a.jpg", "b": "cam2/b.jpg", "distance_bits": 3, "difference": 2.25}],
            "near_duplicate_pairs": 31,
            "near_duplicate_pairs_within_groups": 30,
            "near_duplicate_groups": 12,
            "by_source": {"cam1": {"seen": 90, "kept": 88}, "cam2": {"seen": 80, "kept": 79}, "cam3": {"seen": 75, "kept": 73}},
            "bytes_kept": 8_214_332,
            "log_lines_missing": {"count": 1, "first": ["cam1/gone.jpg"]},
            "list_lines_unmatched": {"pick": ["cam1/ghost.jpg"], "reject": []},
            "picked_and_rejected": ["cam1/both.jpg"],
            "log_columns_ignored": {},
        },
    )
    boxes = {name: sum(box.class_name == name for items in splits.values() for item in items for box in item.boxes) for name in classes}
    _write(
        metrics / "labels.json",
        {
            "images": 240,
            "states": {"labeled": 196, "verified_empty": 14, "skipped": 1, "conflict": 0},
            "unlabeled_images": 29,
            "boxes": sum(boxes.values()),
            "boxes_per_class": boxes,
            "dropped": {"unknown_class": 2, "zero_area": 1},
            "altered": {"past_edge": 1},
            "odd": {},
            "conflicts": {},
            "superseded": 12,
            "alias_uses": {"screw": 17},
            "annotators": {"ana@example.com": 160, "ben@example.com": 74},
            "sources": {"sample": {"annotations": 234, "matched": 233, "images": 210}},
            "several_annotations": {"images": 12, "mean_iou": 0.8312, "class_agreement": 0.9634},
            "agreement": {
                "alpha": 0.8123,
                "pairs": [
                    {"people": ["ana@example.com", "ben@example.com"], "images": 12, "mean_iou": 0.8312, "class_agreement": 0.9634, "kappa": 0.7811}
                ],
            },
            "time": {
                "images": {"count": 210, "median_s": 14.0, "total_s": 3105.0},
                "people": {"ana@example.com": {"count": 160, "median_s": 12.5, "total_s": 2115.0}},
                "with_prelabels": {"count": 150, "median_s": 9.0, "total_s": 1420.0},
                "without_prelabels": {"count": 84, "median_s": 21.0, "total_s": 1685.0},
            },
            "prelabels": {
                "3f2a9c01d4e5b678": {"annotations": 150, "accepted": 402, "moved": 61, "reclassified": 7, "deleted": 19, "added": 33},
            },
            "several_sources": 0,
            "unmatched": {"count": 1, "first": [{"source": "sample", "image_id": None, "annotation_id": "17", "detail": "cam1/lost.jpg"}]},
            "not_labels": {"unlabeled_tasks": 3, "drafts": 1, "predictions": 0},
            "other_files": ["export.zip"],
            "zero_area_boxes": [{"origin": "cam2/0044.jpg", "image_id": "ab" * 32, "class": classes[0], "source": "sample"}],
        },
    )
    _write(
        metrics / "train.json",
        {
            "model": "yolo11n.yaml",
            "parameters": 2590425,
            "device": "cpu",
            "precision": "bf16",
            "epochs": 40,
            "best_epoch": 37,
            "stopped_early": False,
            "val": {"AP": 0.5121, "AP50": 0.7514, "precision": 0.79, "recall": 0.74},
            "images": {"train": 130, "val": 32},
            "boxes": {"train": 410, "val": 96},
            "empty_images": {"train": 9, "val": 2},
        },
    )
    _dataset_metrics(data, classes, splits)
    per_class = {name: _class_row(index, len(classes)) for index, name in enumerate(classes)}
    part = {
        "AP": 0.5214,
        "AP50": 0.7642,
        "AP75": 0.5537,
        "AP_small": 0.3312,
        "AP_medium": 0.5891,
        "AP_large": None,
        "AR100": 0.6018,
        "images": 48,
        "boxes": 171,
    }
    slices = {
        "brightness=dark": {"AP": 0.4127, "AP50": 0.6618, "images": 10, "boxes": 33},
        "brightness=normal": {"AP": 0.5433, "AP50": 0.7891, "images": 38, "boxes": 138},
        "group=cam3/burst-07": {"AP": 0.2917, "AP50": 0.4525, "images": 3, "boxes": 12},
        "size=large": {"AP": None, "AP50": None, "images": 0, "boxes": 0},
        "size=small": {"AP": 0.3312, "AP50": 0.6008, "images": 31, "boxes": 62},
        "source=cam1": {"AP": 0.5630, "AP50": 0.8020, "images": 18, "boxes": 70},
    }
    groups = {"groups": 31, "measured": 9, "min_images": 2, "min_boxes": 10, "worst_AP50": 0.4525, "median_AP50": 0.7712}
    _write(
        metrics / "evaluate.json",
        {
            "train": {**part, "AP": 0.6312, "AP50": 0.8612, "per_class": per_class, "slices": {}},
            "val": {**part, "AP": 0.5121, "AP50": 0.7514, "per_class": per_class, "slices": {}},
            "test": {**part, "per_class": per_class, "slices": slices, "groups": groups},
            "thresholds": {name: 0.31 + 0.07 * index for index, name in enumerate(classes)},
            "threshold_notes": {},
        },
    )
    _release_metrics(metrics, classes)


def _dataset_metrics(data: Path, classes: tuple[str, ...], splits: dict[Split, list[Sample]]) -> None:
    sides = {split: _side(samples, classes) for split, samples in splits.items()}
    sizes = {split: {name: [0, 1, 5, 9, 2, 0, 0, 0] for name in classes} for split in ("train", "val", "test")}
    card = {"classes": list(classes), "class_hash": "0" * 16, "splits": sides, "dropped": {}}
    shares = {"moved": 0.125, "before": {"cam1": 30, "cam2": 50}, "now": {"cam1": 40, "cam2": 40}, "appeared": [], "disappeared": []}
    images = {split: {"before": 10, "now": 12} for split in ("train", "val", "test")}
    drift = {"since_round": 1, "images": images, "images_by_source": shares, "boxes_by_class": {**shares, "moved": 0.0, "appeared": [classes[0]]}}
    edges = [0, 8, 16, 32, 64, 96, 128, 256]
    _write(data / "dataset" / "card.json", {**card, "box_sizes": sizes, "box_side_edges_px": edges, "drift": drift})
    fractions = {"train": {"wanted": 0.65, "reached": 0.6}, "val": {"wanted": 0.15, "reached": 0.2}, "test": {"wanted": 0.2, "reached": 0.2}}
    tie = {"kept": "cam1/0007.jpg", "kept_split": "test", "dropped": "cam2/0191.jpg", "dropped_split": "train"}
    _write(
        data / "metrics" / "dataset.json",
        {
            "class_hash": "0" * 16,
            "splits": sides,
            "fractions": fractions,
            "pool_states": {"unlabeled": 28, "skipped": 1, "conflict": 0},
            "pool_near_duplicates_of_labeled": {"count": 2, "first": ["cam1/0042.jpg", "cam2/0017.jpg"]},
            "dropped": 1,
            "dropped_by_reason": {"near_duplicate_across_split": {"count": 1, "first": ["cam2/0191.jpg"]}},
            "near_duplicates_across_split": [tie],
            "annotations_without_image": {"count": 0, "first": []},
            "given_split_overruled": {"count": 0, "first": []},
            "left_out": [{"origin": "cam1/0003.jpg", "like": [{"origin": "cam1/0004.jpg", "split": "test"}]}],
            "warnings": [f"test has only 8 boxes of class {classes[-1]}: its AP says little"],
        },
    )


def _side(samples: list[Sample], classes: tuple[str, ...]) -> dict[str, Any]:
    names = [box.class_name for sample in samples for box in sample.boxes]
    states = [sample.state or "none" for sample in samples]
    sources = [sample.source for sample in samples]
    return {
        "images": len(samples),
        "boxes": len(names),
        "groups": len({sample.group for sample in samples}),
        "states": {state: states.count(state) for state in set(states)},
        "boxes_by_class": {name: names.count(name) for name in classes},
        "images_by_source": {source: sources.count(source) for source in set(sources)},
        "images_by_brightness": {"dark": 0, "normal": len(samples), "bright": 0},
    }


def _class_row(index: int, count: int) -> dict[str, float]:
    ap50 = 0.9123 - 0.4 * index / max(count - 1, 1)
    return {
        "AP": round(ap50 * 0.68, 6),
        "AP50": round(ap50, 6),
        "boxes": 96 - 30 * index,
        "precision": 0.88 - 0.1 * index,
        "recall": 0.83 - 0.1 * index,
        "f1": 0.85 - 0.1 * index,
    }


def _release_metrics(metrics: Path, classes: tuple[str, ...]) -> None:
    verified: dict[str, Any] = {}
    timed: dict[str, Any] = {}
    checks: list[dict[str, Any]] = [
        {"name": "test_ap50", "artifact": None, "value": 0.7642, "limit": "at least 0.5", "status": "pass"},
        {"name": "fp32_onnx_ships", "artifact": None, "value": "openvino_fp32, onnxruntime_fp32", "limit": "at least one runner", "status": "pass"},
    ]
    shipped: dict[str, Any] = {}
    for name, (ap, missed, extra, flips, p50, size_mb) in ARTIFACTS.items():
        drop = (0.5214 - ap) / 0.5214
        bad = drop > 0.02
        runner, precision = name.rsplit("_", 1)
        verified[name] = {
            "status": "fail" if bad else "pass",
            "reasons": [f"AP is {drop:.2%} below PyTorch's, 2.00% is allowed"] if bad else [],
            "runner": runner,
            "precision": precision,
            "sha256": sha256_bytes(precision.encode()),
            "AP": ap,
            "AP50": ap + 0.24,
            "relative_drop": drop,
            "matched": 160 - missed,
            "missed": missed,
            "extra": extra,
            "class_flips": flips,
            "per_class": {item: {"AP": ap, "AP50": ap} for item in classes},
        }
        timed[name] = {
            "status": "measured",
            "p50_ms": p50,
            "p95_ms": p50 * 1.22,
            "p99_ms": p50 * 1.61,
            "throughput_ips": 1000 / p50 / 1.04,
            "load_s": 0.21 + p50 / 40,
            "peak_rss_mb": 180 + 4 * p50,
            "size_mb": size_mb,
            "sha256": sha256_bytes(precision.encode()),
        }
        checks.append({"name": "verify", "artifact": name, "value": verified[name]["status"], "limit": "pass", "status": verified[name]["status"]})
        checks.append({"name": "verified_file", "artifact": name, "value": "f6a4b2a5a6d1", "limit": "f6a4b2a5a6d1", "status": "pass"})
        checks.append({"name": "p99_ms", "artifact": name, "value": p50 * 1.61, "limit": "at most 500", "status": "pass"})
        shipped[name] = {"status": "fails" if bad else "ships", "reasons": verified[name]["reasons"], "runner": runner, "precision": precision}
    for name in NOT_RUN:
        reason = f"no CUDA GPU can load the engine here (data/engines/{name.partition('_')[2]}.engine): run it on a machine with one"
        verified[name] = {
            "status": "not_run",
            "reasons": [f"built, not run: {reason}"],
            "sha256": sha256_bytes(name.encode()),
        }
        timed[name] = {"status": "not_run", "reason": reason}
        checks.append({"name": "verify", "artifact": name, "value": "not_run", "limit": "pass", "status": "not_run"})
        shipped[name] = {"status": "not_run", "reasons": ["left out, since nothing here could run it"]}
    reference = {"runner": "torch", "AP": 0.5214, "AP50": 0.7642, "images": 48}
    _write(metrics / "verify.json", {"artifacts": verified, "reference": reference})
    _write(
        metrics / "benchmark.json",
        {
            "runners": {"torch_fp32": {**timed["onnxruntime_fp32"], "p50_ms": 18.4}, **timed},
            "fallback_cost": {
                "onnxruntime": {"before_p50_ms": 7.21, "after_p50_ms": 7.35, "relative": 0.019417},
                "openvino": {"before_p50_ms": 4.1, "after_p50_ms": 4.63, "relative": 0.129268},
            },
            "machine": {"cpu": "Example CPU", "cpus": 2, "threads": 2},
        },
    )
    _write(
        metrics / "quantize_int8.json",
        {
            **_judged_on_val(classes, 0.5077, 0.0086, passes=True),
            "precision": "int8",
            "fallback": {
                "needed": True,
                "float_layers": FLOAT_LAYERS,
                "quantized_layers": 78,
                "before": {**_judged_on_val(classes, 0.4811, 0.0605, passes=False), "reasons": ["AP is 6.05% below float32's, 1.00% is allowed"]},
                "tried": {str(count): _judged_on_val(classes, 0.5, 0.0237, passes=count > 2) for count in (1, 2, 3)},
            },
        },
    )
    order = sorted((name for name, row in shipped.items() if row["status"] == "ships"), key=lambda name: timed[name]["p50_ms"])
    _write(
        metrics / "release.json", {"verdict": "released", "reasons": [], "default": order[0], "order": order, "checks": checks, "artifacts": shipped}
    )


def _judged_on_val(classes: tuple[str, ...], ap: float, drop: float, *, passes: bool) -> dict[str, Any]:
    per_class = {name: {"relative_drop": drop * (index + 1) / 2} for index, name in enumerate(classes)}
    return {"passes": passes, "reasons": [], "AP": ap, "relative_drop": drop, "per_class": per_class}


def _training(folder: Path, epochs: int) -> None:
    def curve(name: str, value: Any) -> None:
        path = folder / "plots" / "metrics" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"step\t{path.stem}\n" + "".join(f"{step}\t{value(step)}\n" for step in range(epochs)))

    for offset, name in enumerate(("box_loss", "cls_loss", "dfl_loss")):
        curve(f"train/{name}", lambda step, offset=offset: (2.4 - 0.5 * offset) * math.exp(-step / 14) + 0.7)
        curve(f"val/{name}", lambda step, offset=offset: (2.2 - 0.5 * offset) * math.exp(-step / 11) + 0.9 + 0.03 * math.sin(step))
    curve("val/AP50", lambda step: 0.78 * (1 - math.exp(-step / 9)) + 0.01 * math.sin(step))
    curve("val/AP", lambda step: 0.53 * (1 - math.exp(-step / 11)) + 0.008 * math.sin(step))
    curve("val/precision", lambda step: 0.8 * (1 - math.exp(-step / 6)))
    curve("val/recall", lambda step: 0.75 * (1 - math.exp(-step / 8)))
    curve("lr", lambda step: 0.01 * (1 - step / epochs))


def _evaluation(data: Path, classes: tuple[str, ...], rng: np.random.Generator) -> None:
    folder = data / "evaluation"
    _write(folder / "thresholds.json", {"classes": {name: round(0.31 + 0.07 * index, 4) for index, name in enumerate(classes)}})
    matrix = rng.integers(0, 4, (len(classes) + 1, len(classes) + 1))
    np.fill_diagonal(matrix, [80 - 20 * index for index in range(len(classes))] + [0])
    labels = [*classes, "background"]
    _write(folder / "confusion.json", {"labels": labels, "rule": "each detection takes the label it overlaps most", "test": matrix.tolist()})
    recall = [step / 100 for step in range(101)]
    curves = [
        {"class": name, "recall": value, "precision": max(0.0, 1 - value ** (6 - index)) if value < 0.95 - 0.1 * index else 0.0}
        for index, name in enumerate(classes)
        for value in recall
    ]
    _write(folder / "pr.json", {"split": "test", "iou": 0.5, "points": curves})
    confidence = []
    for index, name in enumerate(classes):
        for score in recall:
            precision, found = min(1.0, 0.3 + score), (0.95 - 0.1 * index) * (1 - score**3)
            f1 = 2 * precision * found / (precision + found)
            confidence.append({"class": name, "score": score, "precision": precision if found else None, "recall": found, "f1": f1})
    _write(folder / "confidence.json", {"split": "val", "iou": 0.5, "points": confidence})


def _badcases(data: Path, classes: tuple[str, ...], splits: dict[Split, list[Sample]], rng: np.random.Generator) -> None:
    folder = data / "badcases"
    rows: list[dict[str, Any]] = []
    ranked: list[dict[str, Any]] = []
    index: list[dict[str, Any]] = []
    pairs: list[tuple[Split, Sample]] = [*(("test", sample) for sample in splits["test"]), *(("val", sample) for sample in splits["val"])]
    for position, (split, sample) in enumerate(pairs):
        kinds = sorted({KINDS[position % 6], KINDS[(position * 2 + 1) % 6]})
        for kind in kinds:
            name = classes[position % len(classes)]
            other = classes[(position + 1) % len(classes)]
            rows.append(
                {
                    "image_id": sample.image_id,
                    "split": split,
                    "kind": kind,
                    "class": None if kind == "background" else name,
                    "predicted_class": None if kind == "missed" else other if kind == "class" else name,
                    "score": None if kind == "missed" else 0.7,
                    "iou": 0.61 if kind == "location" else None,
                    "truth_box": None if kind == "background" else [10.0, 12.0, 60.0, 70.0],
                    "box": None if kind == "missed" else [30.0, 20.0, 90.0, 80.0],
                    "slice": {"source": sample.source, "brightness": "normal", "size": "medium"},
                    "rank_score": round(0.9 - 0.05 * position, 3),
                    "ap50_gain": 0.002,
                }
            )
        row = {
            "image_id": sample.image_id,
            "path": sample.path,
            "split": split,
            "score": round(3.0 - position * 0.1, 3),
            "kinds": dict.fromkeys(kinds, 1),
            "reasons": [f"1 {classes[position % len(classes)]} {kind} (score 0.70)" for kind in kinds],
        }
        ranked.append(row)
        name = f"{sample.image_id[:16]}.jpg"
        (folder / "gallery").mkdir(parents=True, exist_ok=True)
        (folder / "gallery" / name).write_bytes((data / "raw" / sample.path).read_bytes())
        index.append({"file": name, **row})
    _write(folder / "gallery" / "index.json", index)
    for name, items in (("badcases", rows), ("ranked", ranked)):
        (folder / f"{name}.jsonl").write_text("".join(canonical_json(item) + "\n" for item in items))
    counts = {kind: sum(row["kind"] == kind for row in rows) for kind in KINDS}
    cost = {**{kind: round(0.004 * (position + 1), 4) for position, kind in enumerate(KINDS)}, "false_positives": 0.03, "false_negatives": 0.11}
    _write(
        data / "metrics" / "mine.json",
        {
            "counts": counts,
            "by_class": dict.fromkeys(classes, counts),
            "ranked": {"images": len(ranked), "labeled": len(ranked), "unlabeled": 0},
            "splits": {
                split: {"images": 9, "images_with_errors": 7, "counts": counts, "tide": {"AP50": 0.76, "dAP": cost}} for split in ("test", "val")
            },
            "gallery_images": len(index),
        },
    )


def _champion(data: Path, classes: tuple[str, ...]) -> None:
    """Two champions, a candidate that gained, and a suite of four items."""

    def part(change: float, boxes: int, judged: bool = True) -> dict[str, Any]:
        low, high = (change - 0.03, change + 0.03) if judged else (None, None)
        return {
            "champion": {"AP": 0.45, "AP50": 0.7},
            "candidate": {"AP": 0.45 + change, "AP50": 0.7 + change},
            "change": {"AP": change, "AP50": change},
            "low": {"AP": low, "AP50": low},
            "high": {"AP": high, "AP50": high},
            "boxes": boxes,
            "groups": 20 if judged else 4,
            "judged": judged,
        }

    suite = {"items": 4, "fixed": 2, "still_bad": 1, "regressed": 1, "not_judged": 0, "newly_fixed": 1, "newly_broken": 1}
    _write(
        data / "metrics" / "challenge.json",
        {
            "champion": 2,
            "model_sha256": "3" * 64,
            "same_model": False,
            "metric": "AP",
            "confidence": 0.95,
            "tolerance": 0.01,
            "seeds": 3,
            "suite": suite,
            "verdict": "promote",
            "reasons": ["the whole test set gained +7.1 points of AP (+4.1 to +10.1), and no class or slice lost beyond the noise"],
            "notes": ["too few groups of images (fewer than 10) to judge brightness=dark"],
            "all": part(0.071, 171),
            "classes": {name: part(0.02 * index, 57) for index, name in enumerate(classes)},
            "slices": {"brightness=dark": part(-0.01, 33, judged=False), "source=cam1": part(0.05, 70)},
            "forgetting": {"old_classes": list(classes[:2]), "mean_lost_AP50": 0.013},
        },
    )
    champions = [
        {
            "number": number,
            "model_sha256": str(number) * 64,
            "classes": list(classes),
            "thresholds": dict.fromkeys(classes, 0.3),
            "test": {"AP": 0.31 + 0.14 * number, "AP50": 0.5 + 0.1 * number, "images": 48, "boxes": 171, "per_class": {}},
            "train": {"images": 60 * number, "boxes": 190 * number},
            "suite": {"fixed": number - 1, "still_bad": 3 - number, "regressed": 0, "not_judged": 0},
            "verdict": "first" if number == 1 else "promote",
            "reasons": [
                "there is no champion yet: `detloop promote` makes this model the first"
                if number == 1
                else "the whole test set gained +4.0 points of AP"
            ],
        }
        for number in (1, 2)
    ]
    _write(data / "models" / "champion.json", {"champion": 2, "champions": champions, "seed_noise": []})
    states = ("fixed", "fixed", "still_bad", "regressed")
    box = [20.0, 20.0, 60.0, 60.0]
    items = [
        {
            "id": f"{number:08x}" * 2,
            "image_id": "a" * 64,
            "kind": KINDS[number],
            "class_name": classes[0],
            "predicted_class": classes[1],
            "truth_box": box,
            "wrong_box": box,
            "round": 1,
            "history": [{"champion": 2, "right": state == "regressed"}],
        }
        for number, state in enumerate(states)
    ]
    results = [{"id": item["id"], "state": state, "candidate": state == "fixed"} for item, state in zip(items, states, strict=True)]
    (data / "challenge").mkdir(parents=True)
    (data / "challenge" / "suite.jsonl").write_text("".join(canonical_json(item) + "\n" for item in results))
    (data / "badcases" / "suite.jsonl").write_text("".join(canonical_json(item) + "\n" for item in items))


def _release(data: Path) -> None:
    _write(data / "release" / "bundle.json", {"format": 1, "verdict": "released", "files": {"model.onnx": "0" * 64, "model_int8.onnx": "1" * 64}})
