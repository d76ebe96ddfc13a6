"""Time and memory of the Label Studio sync against a real server on this machine, started here in a folder of its own.

push_vs_single_creates: how many times as fast `detloop labels push` brings tasks with 8 pre-labels each as one create call for each task and one for
each prediction through the SDK; those are timed on a sample in a project of their own and taken per task. pull_vs_raw_export: the whole of
`detloop labels pull` with nothing kept from earlier (process start, resolution and snapshot too) over one raw JSON export of the same project; in
turn, three pairs, the medians. peak_rss_mb: the larger of push's and pull's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from label_studio_sdk.client import LabelStudio

from pipelines.core.io import write_json
from pipelines.core.types import Box
from pipelines.formats.labelstudio import prediction_from_boxes, region_from_box
from pipelines.formats.labelstudio_config import config_from_classes
from tests.label_studio import CLASSES, ROOT, SIZE, VERSION_1, Studio, World

RESULT = ROOT / "benchmarks/results/label_sync.json"
BOXES = [Box(CLASSES[number % 3], (10.0 + 60 * number, 20.0, 50.0 + 60 * number, 90.0)) for number in range(8)]
PAIRS = 3


def run(world: World, *arguments: str) -> tuple[float, float]:
    """Wall seconds and peak memory in MB (1,000 kB, as the system counts) of one `detloop labels …`."""
    environment = {**os.environ, **world.studio.environment, "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "pipelines.cli", "labels", *arguments], cwd=world.folder, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - start
    if status:
        raise SystemExit(f"detloop labels {' '.join(arguments)} failed")
    return wall_s, usage.ru_maxrss / (1e3 if sys.platform == "linux" else 1e6)


def single_creates_s(studio: Studio, tasks: int) -> float:
    """Seconds a task: one SDK call for the task and one for its prediction."""
    sdk = LabelStudio(base_url=f"{studio.url}/", api_key=studio.boss.token)
    project = sdk.projects.create(title="single creates", label_config=config_from_classes(CLASSES))
    prediction = prediction_from_boxes([(box, 0.9, box.class_name) for box in BOXES], SIZE, VERSION_1)
    start = time.perf_counter()
    for number in range(tasks):
        made = sdk.tasks.create(project=project.id, data={"image": f"http://127.0.0.1:9/{number}.jpg", "ask": "", "image_id": f"{number:064x}"})
        sdk.predictions.create(task=made.id, result=prediction["result"], score=prediction["score"], model_version=VERSION_1)
    return (time.perf_counter() - start) / tasks


def annotated_world(studio: Studio, folder: Path, tasks: int) -> World:
    """A project whose tasks were imported with one annotation of 8 boxes and one prediction each."""
    world = World(studio, folder, "annotated", tasks)
    project = studio.boss.ask("POST", "/api/projects/", json={"title": "annotated", "label_config": config_from_classes(CLASSES)})["id"]
    annotation = {"result": [region_from_box(box, SIZE, f"r{number}") for number, box in enumerate(BOXES)], "lead_time": 12.0}
    prediction = prediction_from_boxes([(box, 0.9, box.class_name) for box in BOXES], SIZE, VERSION_1)
    rows: list[dict[str, Any]] = [
        {
            "data": {"image": f"http://127.0.0.1:9/{image_id}.jpg", "ask": "", "image_id": image_id},
            "annotations": [annotation],
            "predictions": [prediction],
        }
        for image_id in world.ids
    ]
    for start in range(0, tasks, 500):
        studio.boss.ask("POST", f"/api/projects/{project}/import", json=rows[start : start + 500])
    return world


def raw_export_s(world: World) -> tuple[float, int]:
    """Seconds and bytes of one raw JSON export, written to a file as it comes."""
    studio = world.studio
    studio.boss.renew()
    url = f"{studio.url}/api/projects/{world.project_id}/export"
    headers = {"Authorization": studio.boss._http.headers["Authorization"]}
    start = time.perf_counter()
    with httpx.stream("GET", url, params={"exportType": "JSON", "download_all_tasks": "true"}, headers=headers, timeout=600) as answer:
        answer.raise_for_status()
        with (world.folder / "raw.json").open("wb") as file:
            for chunk in answer.iter_bytes():
                file.write(chunk)
    return time.perf_counter() - start, (world.folder / "raw.json").stat().st_size


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--single", type=int, default=100, help="tasks that are created one by one")
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    program = Path(os.environ.get("LABEL_STUDIO_VENV", ROOT / ".venv-labelstudio")) / "bin/label-studio"
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(program, Path(folder) / "server")
        try:
            world = World(studio, Path(folder) / "push", "pushed", args.tasks)
            world.queue()
            world.predict(dict.fromkeys(world.ids, BOXES))
            push_s, push_mb = run(world, "push")
            tasks = len(world.tasks())
            if tasks != args.tasks:
                raise SystemExit(f"{tasks} tasks on the server, wanted {args.tasks}")
            again_s, _ = run(world, "push")
            single_s = single_creates_s(studio, args.single)
            world = annotated_world(studio, Path(folder) / "pull", args.tasks)
            raws, pulls, pull_mb, size = [], [], 0.0, 0
            for _ in range(PAIRS):
                raw_s, size = raw_export_s(world)
                raws.append(raw_s)
                (world.folder / "data/work/labels/tasks.jsonl").unlink(missing_ok=True)
                pull_s, peak_mb = run(world, "pull")
                pulls.append(pull_s)
                pull_mb = max(pull_mb, peak_mb)
            unchanged_s, _ = run(world, "pull")
            labeled = world.metrics()["states"]["labeled"]
            if labeled != args.tasks:
                raise SystemExit(f"{labeled} images labeled, wanted {args.tasks}")
        finally:
            studio.stop()
    raw, pull = statistics.median(raws), statistics.median(pulls)
    result = {
        "ratios": {
            "push_vs_single_creates": round(single_s * args.tasks / push_s, 2),
            "pull_vs_raw_export": round(pull / raw, 3),
            "peak_rss_mb": round(max(push_mb, pull_mb), 1),
        },
        "tasks": args.tasks,
        "boxes_per_task": len(BOXES),
        "push_s": round(push_s, 2),
        "push_again_s": round(again_s, 2),
        "push_peak_rss_mb": round(push_mb, 1),
        "single_create_s_per_task": round(single_s, 4),
        "single_creates_measured": args.single,
        "single_creates_s_scaled_to_all_tasks": round(single_s * args.tasks, 1),
        "raw_export_s": [round(value, 2) for value in raws],
        "raw_export_mb": round(size / 1e6, 1),
        "pull_s": [round(value, 2) for value in pulls],
        "pull_unchanged_s": round(unchanged_s, 2),
        "pull_peak_rss_mb": round(pull_mb, 1),
    }
    write_json(args.result, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
