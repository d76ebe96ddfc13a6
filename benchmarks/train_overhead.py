"""The train stage against the same training called directly through ultralytics, in turn: time of whole processes, and AP on the test split.

Usage: python benchmarks/train_overhead.py [--epochs 5] [--pairs 3] [--imgsz 320] [--batch 8] [--accuracy]     (needs ../shared/data/bccd)

Each pair runs three processes with one seed: `stage` is the train stage; `direct` is ultralytics with its own defaults on the same images, labels and
settings; `tuned` is ultralytics with the stage's precision, memory layout and threads set by callbacks, and without plots. With few epochs the AP
says nothing: `--accuracy --epochs 40` runs `stage` and `direct` and writes train_accuracy.json, whose ratio compares their mean AP; the spread over
the seeds stands beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipelines.core.params import TrainParams  # noqa: E402
from pipelines.core.records import write_samples  # noqa: E402
from pipelines.core.types import Box, Sample  # noqa: E402

BCCD = ROOT.parent / "shared" / "data" / "bccd"
RESULTS = ROOT / "benchmarks" / "results"
CLASSES = ("RBC", "WBC", "Platelets")
CLEAN = dict(os.environ)  # what each process starts with: importing ultralytics here, to measure AP, would change it (OMP_NUM_THREADS)


def read_split(split: str) -> list[tuple[str, int, int, list[Box]]]:
    """Name, width, height and boxes of every image of a BCCD split; boxes cut at the edge, those without area left out."""
    rows = []
    for name in (BCCD / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
        tree = ET.parse(BCCD / "Annotations" / f"{name}.xml")
        width, height = (int(tree.findtext(f"size/{side}", "0")) for side in ("width", "height"))
        boxes = []
        for item in tree.iter("object"):
            corners = [float(item.findtext(f"bndbox/{key}", "0")) for key in ("xmin", "ymin", "xmax", "ymax")]
            x1, y1, x2, y2 = (min(max(value, 0.0), limit) for value, limit in zip(corners, (width, height) * 2, strict=True))
            if x2 - x1 >= 1 and y2 - y1 >= 1:
                boxes.append(Box(item.findtext("name", ""), (x1, y1, x2, y2)))
        rows.append((name, width, height, boxes))
    return rows


def write_data(folder: Path) -> None:
    """The three splits twice: as the stage reads them (dataset/, raw/), and as a YOLO dataset (yolo/)."""
    (folder / "raw" / "images").mkdir(parents=True)
    for split in ("train", "val", "test"):
        images, labels = folder / "yolo" / "images" / split, folder / "yolo" / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        samples = []
        for name, width, height, boxes in read_split(split):
            content = (BCCD / "JPEGImages" / f"{name}.jpg").read_bytes()
            image_id = hashlib.sha256(content).hexdigest()
            for place in (folder / "raw" / "images", images):
                (place / f"{image_id}.jpg").write_bytes(content)
            samples.append(Sample(image_id, f"images/{image_id}.jpg", width, height, "labeled", tuple(boxes), "bccd", image_id, None, 128.0))
            lines = []
            for box in boxes:
                x1, y1, x2, y2 = box.xyxy
                fractions = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
                lines.append(f"{CLASSES.index(box.class_name)} " + " ".join(f"{value:.9f}" for value in fractions) + "\n")
            (labels / f"{image_id}.txt").write_text("".join(lines))
        write_samples(folder / "dataset" / f"{split}.jsonl", samples)
    names = json.dumps(dict(enumerate(CLASSES)))
    (folder / "yolo.yaml").write_text(f"path: {folder / 'yolo'}\ntrain: images/train\nval: images/val\ntest: images/test\nnames: {names}\n")


def train_settings(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The settings that all three trainings share, under params.yaml's names."""
    shape = {"imgsz": args.imgsz, "epochs": args.epochs, "patience": args.epochs, "batch": args.batch, "close_mosaic": args.epochs // 6}
    return {"model": "yolo11n.yaml", "seed": seed, "flipud": 0.5, "nominal_batch": 16, "device": "cpu", **shape}


def stage(folder: Path, out: Path, settings: dict[str, Any]) -> tuple[float, Path]:
    """Run the train stage; its wall-clock seconds and its model."""
    params = {"classes": [{"name": name} for name in CLASSES], "train": settings}
    (out / "params.yaml").write_text(json.dumps(params))  # JSON is YAML
    options = {"params": out / "params.yaml", "dataset": folder / "dataset", "raw": folder / "raw", "work": out / "work"}
    options |= {"model": out / "model.pt", "curves": out / "curves", "metrics": out / "train.json"}
    command = [sys.executable, "-m", "training.stages.train", *(str(part) for name, path in options.items() for part in (f"--{name}", path))]
    return seconds(command, CLEAN), out / "model.pt"


def direct(folder: Path, out: Path, settings: dict[str, Any], tuned: bool) -> tuple[float, Path]:
    """Run ultralytics in a process of its own (see `direct_process`); its wall-clock seconds and its best model."""
    config = out / "config" / "Ultralytics"
    config.mkdir(parents=True)
    environment = {**CLEAN, "YOLO_CONFIG_DIR": str(config.parent), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    job = {"data": str(folder / "yolo.yaml"), "out": str(out), "settings": settings, "tuned": tuned}
    return seconds([sys.executable, __file__, "--job", json.dumps(job)], environment), out / "run" / "weights" / "best.pt"


def direct_process(job: dict[str, Any]) -> None:
    """What `direct` runs: the same training with ultralytics' defaults; with `tuned`, in the stage's precision, layout and threads."""
    import torch
    from ultralytics import YOLO, settings

    settings.update({"sync": False, "dvc": False, "clearml": False, "comet": False, "mlflow": False, "raytune": False})
    cores = torch.get_num_threads()
    has = torch.cpu.get_capabilities()

    def tune(trainer: Any) -> None:
        torch.set_num_threads(cores)
        trainer.model.to(memory_format=torch.channels_last)
        trainer.ema.ema.to(memory_format=torch.channels_last)
        trainer.amp = bool(has.get("avx512_bf16") or has.get("amx_bf16"))

    values = dict(job["settings"])
    model = YOLO(values.pop("model"))
    if job["tuned"]:
        model.add_callback("on_pretrain_routine_end", tune)
        values["plots"] = False
    values["nbs"] = values.pop("nominal_batch")
    values["augmentations"] = []
    model.train(data=job["data"], project=job["out"], name="run", workers=0, **values)


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """Wall-clock seconds of a process that must succeed."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - start


def test_ap(model: Path, folder: Path, imgsz: int) -> dict[str, float]:
    """AP and AP50 on the test split, by ultralytics' own validation, the same for all three."""
    from training.environment import quiet_ultralytics

    quiet_ultralytics()
    from ultralytics import YOLO

    with tempfile.TemporaryDirectory() as out:
        options = {"imgsz": imgsz, "plots": False, "verbose": False, "device": "cpu", "project": out}
        box = YOLO(str(model)).val(data=str(folder / "yolo.yaml"), split="test", **options).box
    return {"AP": round(float(box.map), 4), "AP50": round(float(box.map50), 4)}


def main() -> None:
    """Measure, print one JSON object, write it to results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("epochs", 5), ("pairs", 3), ("imgsz", 320), ("batch", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--accuracy", action="store_true", help="compare AP only; the machine may be busy")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        direct_process(json.loads(args.job))
        return
    if not BCCD.is_dir():
        sys.exit(f"needs {BCCD}, which is not here")
    TrainParams(**train_settings(args, 0))
    kinds = ("stage", "direct") if args.accuracy else ("stage", "direct", "tuned")
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    accuracy: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_data(folder)
        for seed in range(args.pairs):
            for kind in times:
                out = folder / f"{kind}-{seed}"
                out.mkdir()
                settings = train_settings(args, seed)
                taken, model = stage(folder, out, settings) if kind == "stage" else direct(folder, out, settings, kind == "tuned")
                times[kind].append(round(taken, 2))
                accuracy[kind].append(test_ap(model, folder, args.imgsz))
                print(f"seed {seed} {kind}: {taken:.1f} s, test {accuracy[kind][-1]}", file=sys.stderr, flush=True)
                shutil.rmtree(out)
    measured: dict[str, Any] = {"test": accuracy, "settings": train_settings(args, 0)}
    if args.accuracy:
        ap = {kind: [each["AP"] for each in results] for kind, results in accuracy.items()}
        measured["AP"] = {kind: {"mean": round(statistics.mean(of), 4), "stdev": round(statistics.stdev(of), 4)} for kind, of in ap.items()}
        ratios = {"ap_vs_ultralytics": statistics.mean(ap["stage"]) / statistics.mean(ap["direct"])}
    else:
        measured = {"seconds": times, **measured}
        ratios = {
            "train_vs_ultralytics": statistics.median(a / b for a, b in zip(times["stage"], times["direct"], strict=True)),
            "train_overhead": statistics.median(a / b for a, b in zip(times["stage"], times["tuned"], strict=True)),
        }
    result = {**measured, "ratios": {name: round(value, 4) for name, value in ratios.items()}}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / ("train_accuracy.json" if args.accuracy else "train_overhead.json")).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
