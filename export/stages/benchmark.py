"""Stage benchmark: latency, throughput, load time, memory and size of PyTorch and every artifact, in turns on test images."""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import Any

from export.artifacts import Artifact, list_artifacts
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
    threads = params.benchmark.threads
    nms = NmsValues(params.benchmark.score_floor, params.predict.iou_threshold, params.predict.max_detections)
    jobs = []
    for artifact in artifacts:
        if artifact.path is not None:
            opener: Any = partial(open_torch, artifact.path) if artifact is torch else partial(open_runner, artifact.runner, artifact.path)
            jobs.append(Job(artifact.name, partial(opener, threads=threads), nms))
    images = [args.raw / sample.path for sample in samples]
    measured = measure(jobs, images, warmup=params.benchmark.warmup, rounds=params.benchmark.rounds)
    runners = {artifact.name: {**_about(artifact), **measured.get(artifact.name, _not_built(artifact))} for artifact in artifacts}
    how = {"images": len(images), "rounds": params.benchmark.rounds, "throughput": "one image after another, from decoded image to boxes"}
    write_metrics(args.metrics, {"runners": runners, "machine": {"cpu": cpu_name(), "cpus": os.cpu_count(), "threads": threads}, "how": how})
    done = {name: item["p50_ms"] for name, item in runners.items() if item["status"] == "measured"}
    print("benchmark: p50 " + ", ".join(f"{name} {value:.1f} ms" for name, value in sorted(done.items(), key=lambda item: item[1])))
    return 0


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
            "dataset": "folder of the dataset",
            "raw": "folder that the samples' paths are relative to",
            "metrics": "benchmark.json to write",
        },
    )
