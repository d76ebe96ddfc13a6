"""`detloop analyze` against hotcoco's evaluation with TIDE, and against tidecv, on the same files, in turn, and its peak of memory.

Usage: python benchmarks/analyze.py [--images 5000 --labels 36000 --detections 200000 --rounds 3]

`vs_hotcoco` and `vs_tidecv` are of the work between loaded boxes and results in memory; ours are the COCO and TIDE figures and a row for every wrong
box with its worth, which the others do not make. `…_files` is the way from files to files: ours writes all rows (`rows` seconds of it), the others
have nothing to write (and tidecv is given the boxes by its own calls, since its reader wants segmentations). The process of `detloop analyze` as a
whole is measured for its memory.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peers import add_peers

from pipelines.commands.analyze import FOREGROUND_IOU, analyse_boxes, write_analysis
from pipelines.formats.coco_columns import read_results, read_truth

RESULT = Path(__file__).parent / "results" / "analyze.json"
CLASSES = 10
SIDE_PX = 800


def write_files(folder: Path, images: int, labels: int, detections: int) -> None:
    """Truth and results as a middling detector leaves them: most labels found, some moved, confused or found twice, and many weak boxes."""
    rng = np.random.default_rng(0)
    image = rng.integers(1, images + 1, labels)
    corner, side = rng.uniform(0, 560, (labels, 2)), np.exp(rng.uniform(np.log(12), np.log(220), (labels, 2)))
    class_id = rng.integers(1, CLASSES + 1, labels)
    parts = []
    for share, jitter, confused, (a, b) in ((0.9, 0.08, 0.07, (5, 2)), (0.7, 0.25, 0.5, (1, 5))):
        rows = rng.permutation(labels)[: int(share * labels)]
        found_class = np.where(rng.random(len(rows)) < confused, rng.integers(1, CLASSES + 1, len(rows)), class_id[rows])
        moved = corner[rows] + rng.normal(0, jitter, (len(rows), 2)) * side[rows]
        grown = side[rows] * np.exp(rng.normal(0, jitter, (len(rows), 2)))
        parts.append((image[rows], found_class, moved, grown, rng.beta(a, b, len(rows))))
    rest = detections - sum(len(part[0]) for part in parts)
    sides = np.exp(rng.uniform(np.log(12), np.log(220), (rest, 2)))
    weak = rng.integers(1, images + 1, rest), rng.integers(1, CLASSES + 1, rest), rng.uniform(0, 560, (rest, 2)), sides, rng.beta(0.5, 8, rest)
    found = [np.concatenate(column) for column in zip(*parts, weak, strict=True)]
    order = rng.permutation(detections)
    truth = {
        "images": [{"id": number, "file_name": f"{number}.jpg", "width": SIDE_PX, "height": SIDE_PX} for number in range(1, images + 1)],
        "categories": [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)],
        "annotations": [
            {"id": row + 1, "image_id": int(image[row]), "category_id": int(class_id[row]), "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for row, box in enumerate(np.round(np.hstack([corner, side]), 2).tolist())
        ],
    }
    boxes = np.round(np.hstack([found[2], found[3]]), 2).tolist()
    results = [
        {"image_id": int(found[0][row]), "category_id": int(found[1][row]), "bbox": boxes[row], "score": round(float(found[4][row]), 6)}
        for row in order.tolist()
    ]
    (folder / "gt.json").write_text(json.dumps(truth))
    (folder / "dt.json").write_text(json.dumps(results))


def ours(folder: Path) -> tuple[float, float, dict[str, Any]]:
    """Seconds for the files, seconds for the work, the figures; `rows_s` among them are the seconds for writing the rows, into a new folder."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    start = time.perf_counter()
    truth = read_truth((folder / "gt.json").read_bytes(), "gt.json")
    found = read_results((folder / "dt.json").read_bytes(), truth, "dt.json")
    loaded = time.perf_counter()
    summary, analysis = analyse_boxes(truth, found)
    done = time.perf_counter()
    write_analysis(folder / "out", summary, analysis)
    written = time.perf_counter()
    return written - done + loaded - start, done - loaded, {**summary["tide"], "rows_s": written - done}


def hotcoco(folder: Path) -> tuple[float, float, dict[str, Any]]:
    """As `ours`, with no rows."""
    import hotcoco

    start = time.perf_counter()
    truth = hotcoco.COCO(str(folder / "gt.json"))
    found = truth.load_res(str(folder / "dt.json"))
    loaded = time.perf_counter()
    evaluation = hotcoco.COCOeval(truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    errors = evaluation.tide_errors()
    taken = time.perf_counter() - loaded
    return loaded - start, taken, {"AP50": errors["ap_base"], "counts": errors["counts"]}


def tidecv(folder: Path) -> tuple[float, float, dict[str, Any]]:
    """As `hotcoco`, loading with json and tidecv's own calls."""
    import tidecv

    start = time.perf_counter()
    truth, results = json.loads((folder / "gt.json").read_bytes()), json.loads((folder / "dt.json").read_bytes())
    labels, found = tidecv.Data("labels", max_dets=100), tidecv.Data("found", max_dets=100)
    for item in truth["images"]:
        labels.add_image(item["id"], item["file_name"])
    for item in truth["categories"]:
        labels.add_class(item["id"], item["name"])
    for item in truth["annotations"]:
        labels.add_ground_truth(item["image_id"], item["category_id"], item["bbox"])
    for item in results:
        found.add_detection(item["image_id"], item["category_id"], item["score"], item["bbox"])
    loaded = time.perf_counter()
    tool = tidecv.TIDE()
    with contextlib.redirect_stdout(io.StringIO()):
        tool.evaluate_range(labels, found, thresholds=[FOREGROUND_IOU], mode=tidecv.TIDE.BOX)
        errors = tool.get_main_errors()
    return loaded - start, time.perf_counter() - loaded, errors


def peak_mb(folder: Path) -> float:
    """The peak of memory of `detloop analyze`, in megabytes (it is the only child so far)."""
    files = ["--gt", str(folder / "gt.json"), "--dt", str(folder / "dt.json"), "--out", str(folder / "out")]
    subprocess.run([sys.executable, "-m", "pipelines.cli", "analyze", *files], check=True, capture_output=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def main() -> None:
    """Measure, print one JSON object, write it to results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("images", 5000), ("labels", 36000), ("detections", 200000), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    tools: dict[str, Callable[[Path], tuple[float, float, dict[str, Any]]]] = {"detloop": ours, "hotcoco": hotcoco, "tidecv": tidecv}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_files(folder, args.images, args.labels, args.detections)
        memory_mb = peak_mb(folder)
        add_peers()
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in tools}
        figures: dict[str, dict[str, Any]] = {}
        rows_s = []
        for number in range(args.rounds):
            for name, tool in tools.items():
                if name == "tidecv" and number:  # once is enough: it takes the most time by far
                    continue
                load_s, work_s, figures[name] = tool(folder)
                seconds[name].append((load_s, work_s))
                if name == "detloop":
                    rows_s.append(figures[name].pop("rows_s"))
                print(f"{name}: files {load_s:.2f} s, work {work_s:.2f} s", file=sys.stderr, flush=True)
    assert figures["detloop"]["counts"] == figures["hotcoco"]["counts"], figures
    work = {name: statistics.median(item[1] for item in times) for name, times in seconds.items()}
    whole = {name: statistics.median(sum(item) for item in times) for name, times in seconds.items()}
    seconds_of = {name: {"work": round(work[name], 3), "with_files": round(whole[name], 3)} for name in tools}
    seconds_of["detloop"]["rows"] = round(statistics.median(rows_s), 3)
    result = {
        **{name: getattr(args, name) for name in ("images", "labels", "detections")},
        "seconds": seconds_of,
        "peak_mb": round(memory_mb),
        "figures": figures,
        "ratios": {
            "vs_hotcoco": round(work["detloop"] / work["hotcoco"], 3),
            "vs_hotcoco_files": round(whole["detloop"] / whole["hotcoco"], 3),
            "vs_tidecv": round(work["tidecv"] / work["detloop"], 3),
            "vs_tidecv_files": round(whole["tidecv"] / whole["detloop"], 3),
        },
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
