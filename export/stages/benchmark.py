"""Stage benchmark: latency, throughput, load time, memory and size of PyTorch and every artifact, in turns on test images."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

from export.artifacts import BEFORE_FILE, ONNX_RUNNERS, Artifact, list_artifacts
from export.check.benchmark import cpu_name, measure
from export.check.timing import Job
from export.runners import open_runner
from export.runners.detect import NmsValues
from export.stages.torch_opener import open_torch
from pipelines.core.cli import stage_main
from pipelines.core.errors import DataError
from pipelines.core.io import require_file, write_metrics
from pipelines.core.params import load_params
from pipelines.core.records import read_samples

TORCH = "torch_fp32"


def work(args: argparse.Namespace) -> int:
    """Write benchmark.json."""
    params = load_params(args.params)
    samples = read_samples(args.dataset / "test.jsonl")[: params.benchmark.images]
    if not samples:
        raise DataError(f"{args.dataset / 'test.jsonl'} has no images to time: label more images, then run `dvc repro`")
    torch = Artifact(TORCH, "torch", "fp32", require_file(args.model))
    artifacts = [torch, *list_artifacts(args.export, args.engines)]
    before = _before_fallback(args.search / BEFORE_FILE)
    threads = params.benchmark.threads
    nms = NmsValues(params.benchmark.score_floor, params.predict.iou_threshold, params.predict.max_detections)
    jobs = []
    for artifact in (*artifacts, *before.values()):
        if artifact.path is not None:
            opener: Any = partial(open_torch, artifact.path) if artifact is torch else partial(open_runner, artifact.runner, artifact.path)
            jobs.append(Job(artifact.name, partial(opener, threads=threads), nms))
    images = [args.raw / sample.path for sample in samples]
    measured = measure(jobs, images, warmup=params.benchmark.warmup, rounds=params.benchmark.rounds)
    runners = {artifact.name: {**_about(artifact), **measured.get(artifact.name, _not_built(artifact))} for artifact in artifacts}
    how = {"images": len(images), "rounds": params.benchmark.rounds, "throughput": "one image after another, from decoded image to boxes"}
    machine = {"cpu": cpu_name(), "cpus": os.cpu_count(), "threads": threads}
    cost = {runner: _cost(measured.get(artifact.name, {}), runners[f"{runner}_int8"]) for runner, artifact in before.items()}
    write_metrics(args.metrics, {"runners": runners, "fallback_cost": cost, "machine": machine, "how": how})
    done = {name: item["p50_ms"] for name, item in runners.items() if item["status"] == "measured"}
    for runner, item in cost.items():
        if item["relative"] is not None:
            print(f"benchmark: the layers that went back to float make int8 {item['relative']:.0%} slower on {runner}")
    print("benchmark: p50 " + ", ".join(f"{name} {value:.1f} ms" for name, value in sorted(done.items(), key=lambda item: item[1])))
    return 0


def _before_fallback(path: Path) -> dict[str, Artifact]:
    """By runner the int8 model from before layers went back to float; none where none did."""
    return {runner: Artifact(f"{runner}_int8_before", runner, "int8", path) for runner in ONNX_RUNNERS} if path.is_file() else {}


def _cost(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float | None]:
    """What the layers in float cost in latency: medians before and after in milliseconds, and the share by which it grew."""
    old, new = before.get("p50_ms"), after.get("p50_ms")
    return {"before_p50_ms": old, "after_p50_ms": new, "relative": None if old is None or new is None else new / old - 1}


def _about(artifact: Artifact) -> dict[str, Any]:
    return {"runner": artifact.runner, "precision": artifact.precision, "sha256": artifact.sha256(), "size_mb": artifact.size_mb()}


def _not_built(artifact: Artifact) -> dict[str, Any]:
    return {"status": "not_run", "reason": f"not built: {artifact.note}"}


if __name__ == "__main__":
    stage_main(
        "export.stages.benchmark",
        work,
        {
            "params": "params.yaml",
            "model": "checkpoint of the training",
            "export": "folder of the ONNX files",
            "engines": "folder of the engines and engines.json",
            "search": "folder that quantize wrote for int8",
            "dataset": "folder of the dataset",
            "raw": "folder that the samples' paths are relative to",
            "metrics": "benchmark.json to write",
        },
    )
