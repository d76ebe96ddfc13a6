"""Stage release: the gate over what was measured, and the bundle of what passed. A rejection is an answer, shown in the report."""

from __future__ import annotations

import argparse
import os
from typing import Any

from export.artifacts import Artifact, list_artifacts
from export.bundle.gate import ArtifactNow, Decision, Limits, decide
from export.bundle.program import program
from export.bundle.writer import Release, golden_samples, rejected_files, released_files
from export.runners import open_runner
from export.runners.detect import NmsValues
from pipelines.core.cli import stage_main
from pipelines.core.errors import DataError, counted
from pipelines.core.io import read_json, write_folder, write_metrics
from pipelines.core.params import Params, load_params
from pipelines.core.records import read_samples

PROGRAM_MODULES = ("pipelines.cli", "pipelines.commands.bundle", "pipelines.commands.predict")  # what a bundle's own program can do


def work(args: argparse.Namespace) -> int:
    """Write the release folder and release.json."""
    params = load_params(args.params)
    artifacts = {artifact.name: artifact for artifact in list_artifacts(args.export, args.engines)}
    verify, benchmark, evaluate, challenge = (read_json(path) for path in (args.verify, args.benchmark, args.evaluate, args.challenge))
    limits = Limits(
        params.release.min_ap50, params.release.max_p99_ms, params.release.max_size_mb, params.release.max_memory_mb, tuple(params.release.verdicts)
    )
    decision = decide({name: _now(artifact) for name, artifact in artifacts.items()}, verify, benchmark, evaluate, challenge, limits)
    if decision.verdict == "released":
        files = released_files(decision, _release(args, params, decision, artifacts, verify, benchmark), threads=os.cpu_count() or 1)
    else:
        files = rejected_files(decision)
    write_folder(args.release, files)
    write_metrics(args.metrics, _record(decision, artifacts))
    if decision.verdict == "released":
        left_out = ", ".join(name for name, (status, _) in decision.artifacts.items() if status != "ships")
        runners = counted(len(decision.order), "runner")
        print(f"release: released with {runners}, fastest {decision.default}{f'; left out: {left_out}' if left_out else ''}")
    else:
        print(f"release: REJECTED: {'; '.join(decision.reasons)}")
    return 0


def _now(artifact: Artifact) -> ArtifactNow:
    return ArtifactNow(artifact.runner, artifact.precision, artifact.sha256(), artifact.size_mb())


def _release(
    args: argparse.Namespace, params: Params, decision: Decision, artifacts: dict[str, Artifact], verify: dict[str, Any], benchmark: dict[str, Any]
) -> Release:
    first = next(artifacts[name] for name in decision.order if artifacts[name].precision == "fp32" and artifacts[name].runner != "tensorrt")
    assert first.path is not None
    with open_runner(first.runner, first.path, threads=1) as runner:
        contract = runner.contract
    contract.require_classes(params.class_names, str(first.path))
    samples = read_samples(args.dataset / "test.jsonl")
    if not samples:
        raise DataError(f"{args.dataset / 'test.jsonl'} has no images to make golden vectors of: label more images, then run `dvc repro`")
    return Release(
        contract=contract,
        nms=NmsValues(params.predict.score_floor, params.predict.iou_threshold, params.predict.max_detections),
        artifacts=artifacts,
        golden=golden_samples(samples, params.release.golden_images),
        raw=args.raw,
        program=program(PROGRAM_MODULES, licence=args.licence),
        verify=verify,
        benchmark=benchmark,
    )


def _record(decision: Decision, artifacts: dict[str, Artifact]) -> dict[str, Any]:
    return {
        "verdict": decision.verdict,
        "reasons": decision.reasons,
        "default": decision.default,
        "order": list(decision.order),
        "checks": [check.to_json() for check in decision.checks],
        "artifacts": {
            name: {
                "status": status,
                "reasons": list(reasons),
                "runner": artifacts[name].runner,
                "precision": artifacts[name].precision,
                "file": getattr(artifacts[name].path, "name", None),
            }
            for name, (status, reasons) in decision.artifacts.items()
        },
    }


if __name__ == "__main__":
    stage_main(
        "export.stages.release",
        work,
        {
            "params": "params.yaml",
            "export": "folder of the ONNX files",
            "engines": "folder of the engines and engines.json",
            "dataset": "folder of the dataset",
            "raw": "folder that the samples' paths are relative to",
            "verify": "verify.json",
            "benchmark": "benchmark.json",
            "evaluate": "evaluate.json",
            "licence": "licence of the code that goes into the bundle",
            "challenge": "challenge.json",
            "release": "bundle folder to write",
            "metrics": "release.json to write",
        },
    )
