"""100,000 small labeled images, then three times 1,000 more: collect, label_sync and dataset the first time and after, and a repro of nothing.

Usage: python benchmarks/scale.py [--images 100000] [--add 1000] [--side 64] [--work build/scale]

`increment`: seconds of the three stages after an addition (the median one of three) over those of the first run, each stage a process of its own, as
`dvc repro` starts it; `increment_cpu`: the same of processor seconds, which work beside it changes less.
`noop_repro_s`: a `dvc repro dataset` that has nothing to do; `addition_repro_s`: one after an addition, with what DVC itself does.
`peak_rss_mb`: the most memory that any of the stages held.
Images of another side than 64 pixels are told beside those, under `side_N`; the ratios are those of 64 pixels, where old files weigh most.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from ruamel.yaml import YAML

from pipelines.core.io import sha256_bytes, write_jsonl
from pipelines.core.records import row_from_annotation
from pipelines.core.types import Annotation, Box

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "scale.json"
BEFORE = ("fetch", "screener")
STAGES = ("collect", "label_sync", "dataset")
SIDE_PX = 64
FOLDER_IMAGES = 1000
CLASSES = ("bolt", "nut", "washer")
ADDITIONS = 3


def add_images(project: Path, first: int, last: int, side_px: int) -> None:
    """Square images `first` to `last` - 1 into the inbox, each a scene of its own, and a label file for them."""
    rows = []
    for number in range(first, last):
        rng = np.random.default_rng(number)
        scene = cv2.resize(rng.integers(20, 230, (6, 8, 3), dtype=np.uint8), (side_px, side_px), interpolation=cv2.INTER_CUBIC)
        content = cv2.imencode(".jpg", scene, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
        path = project / "data/inbox/camera" / f"{number // FOLDER_IMAGES:04d}" / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        left, top = rng.integers(0, side_px // 2, 2).tolist()
        box = Box(CLASSES[number % 3], (left, top, left + 20, top + 20))
        rows.append(row_from_annotation(Annotation(sha256_bytes(content), "labeled", side_px, side_px, (box,), "people")))
    write_jsonl(project / "data/label_sources" / f"from-{first}.jsonl", rows)


def environment(project: Path) -> dict[str, str]:
    """With this interpreter first, and the project's own code, which is compiled once as it is for everyone."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(project)}


class Cost(NamedTuple):
    """Of one stage: wall seconds, processor seconds, peak memory."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def run_stage(project: Path, name: str) -> Cost:
    """One stage, by its command in dvc.yaml."""
    graph = YAML(typ="safe", pure=True).load((project / "dvc.yaml").read_text())["stages"]
    start = time.perf_counter()
    process = subprocess.Popen(shlex.split(graph[name]["cmd"]), cwd=project, env=environment(project), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    assert status == 0, name
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2))


def total(run: dict[str, Cost], kind: str) -> float:
    """Of all stages."""
    return float(sum(getattr(cost, kind) for cost in run.values()))


def repro_s(project: Path) -> float:
    """Seconds of `dvc repro` as far as the dataset."""
    start = time.perf_counter()
    subprocess.run(["dvc", "repro", "dataset"], cwd=project, env=environment(project), check=True, capture_output=True)
    return time.perf_counter() - start


def measured(project: Path, images: int, add: int, side_px: int) -> dict[str, Any]:
    """All figures, of a project that is made anew."""
    shutil.rmtree(project, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "pipelines.cli", "new", str(project)], cwd=ROOT, env=environment(ROOT), check=True, capture_output=True)
    sizes = [images + number * add for number in range(ADDITIONS + 1)]
    runs = []
    for before, size in pairwise([0, *sizes]):
        add_images(project, before, size, side_px)
        os.sync()  # what lies on the way to the disk would be waited for by the stages
        time.sleep(3)  # files of the last two seconds are read again, which is no cost of the addition
        for name in BEFORE if not runs else ():
            run_stage(project, name)
        runs.append({name: run_stage(project, name) for name in STAGES})
    first_repro = repro_s(project)
    noop = repro_s(project)
    add_images(project, sizes[-1], sizes[-1] + add, side_px)
    time.sleep(3)
    addition_repro = repro_s(project)
    first, *additions = runs
    second = sorted(additions, key=lambda run: total(run, "wall_s"))[ADDITIONS // 2]
    return {
        "images": images,
        "added": add,
        "first_s": {name: cost.wall_s for name, cost in first.items()},
        "after_addition_s": {name: cost.wall_s for name, cost in second.items()},
        "first_cpu_s": {name: cost.cpu_s for name, cost in first.items()},
        "after_addition_cpu_s": {name: cost.cpu_s for name, cost in second.items()},
        "additions_s": [total(run, "wall_s") for run in additions],
        "first_repro_s": first_repro,
        "noop_repro_s": noop,
        "addition_repro_s": addition_repro,
        "peak_rss_mb": max(cost.peak_mb for run in runs for cost in run.values()),
        "ratios": {
            "increment": total(second, "wall_s") / total(first, "wall_s"),
            "increment_cpu": total(second, "cpu_s") / total(first, "cpu_s"),
        },
    }


def main() -> None:
    """Measure, print one JSON object, write it to results/ beside what was measured with other sides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--add", type=int, default=1000)
    parser.add_argument("--side", type=int, default=SIDE_PX)
    parser.add_argument("--work", type=Path, default=Path("build/scale"))
    args = parser.parse_args()
    found = measured(args.work.resolve(), args.images, args.add, args.side)
    shutil.rmtree(args.work)  # now: for five minutes ext4 makes new files slowly beside deleted ones
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if args.side == SIDE_PX:
        result = {**found, **{key: value for key, value in before.items() if key.startswith("side_")}}
    else:
        result = {**before, f"side_{args.side}": found}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
