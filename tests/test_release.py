"""The gate by hand, and the release stage: what ships, what is left out, and what a rejection leaves."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.bundle.gate import ArtifactNow, Limits, decide
from export.bundle.writer import golden_samples
from export.stages import release, verify
from pipelines.core.io import sha256_file
from pipelines.core.types import Box, Sample
from tests.conftest import ROOT
from tests.tiny_detector import Project, make_project

LIMITS = Limits(min_ap50=0.5, max_p99_ms=100, max_size_mb=10, max_memory_mb=1000)
NOW = {
    "onnxruntime_fp32": ArtifactNow("onnxruntime", "fp32", "a" * 64, 9.0),
    "openvino_int8": ArtifactNow("openvino", "int8", "b" * 64, 3.0),
    "tensorrt_fp32": ArtifactNow("tensorrt", "fp32", "c" * 64, 9.0),
}
VERIFY: dict[str, Any] = {
    "artifacts": {
        "onnxruntime_fp32": {"status": "pass", "sha256": "a" * 64, "reasons": []},
        "openvino_int8": {"status": "pass", "sha256": "b" * 64, "reasons": []},
        "tensorrt_fp32": {"status": "not_run", "sha256": "c" * 64, "reasons": ["built, not run: no GPU"]},
    }
}
BENCHMARK: dict[str, Any] = {
    "runners": {
        "onnxruntime_fp32": {"status": "measured", "sha256": "a" * 64, "p50_ms": 8.0, "p99_ms": 12.0, "peak_rss_mb": 200.0},
        "openvino_int8": {"status": "measured", "sha256": "b" * 64, "p50_ms": 4.0, "p99_ms": 7.0, "peak_rss_mb": 200.0},
        "tensorrt_fp32": {"status": "not_run", "sha256": "c" * 64, "reason": "no GPU"},
    }
}
EVALUATE: dict[str, Any] = {"test": {"AP50": 0.8}}
CHALLENGE: dict[str, Any] = {"verdict": "promote", "same_model": False, "reasons": ["the whole test set gained"]}


def changed(content: dict[str, Any], *path: str, value: Any) -> dict[str, Any]:
    """A deep copy with one entry set, or taken out for None."""
    copy: dict[str, Any] = json.loads(json.dumps(content))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copy


FP32, INT8 = ("artifacts", "onnxruntime_fp32"), ("artifacts", "openvino_int8")
T_FP32, T_INT8 = ("runners", "onnxruntime_fp32"), ("runners", "openvino_int8")
both = ("openvino_int8", "onnxruntime_fp32")

# name: verify.json, benchmark.json, evaluate.json, what ships (fastest first)
DECISIONS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "all is well": (VERIFY, BENCHMARK, EVALUATE, both),
    "the other is faster": (VERIFY, changed(BENCHMARK, *T_INT8, "p50_ms", value=9.0), EVALUATE, both[::-1]),
    "int8 fails verification": (changed(VERIFY, *INT8, "status", value="fail"), BENCHMARK, EVALUATE, both[1:]),
    "int8 was not run": (changed(VERIFY, *INT8, "status", value="not_run"), BENCHMARK, EVALUATE, both[1:]),
    "int8 was not verified at all": (changed(VERIFY, *INT8, value=None), BENCHMARK, EVALUATE, both[1:]),
    "an unknown status is no pass": (changed(VERIFY, *INT8, "status", value="passed"), BENCHMARK, EVALUATE, both[1:]),
    "int8 file changed after verification": (changed(VERIFY, *INT8, "sha256", value="d" * 64), BENCHMARK, EVALUATE, both[1:]),
    "int8 file changed after timing": (VERIFY, changed(BENCHMARK, *T_INT8, "sha256", value="d" * 64), EVALUATE, both[1:]),
    "int8 was not timed": (VERIFY, changed(BENCHMARK, *T_INT8, value=None), EVALUATE, both[1:]),
    "int8 is too slow": (VERIFY, changed(BENCHMARK, *T_INT8, "p99_ms", value=100.1), EVALUATE, both[1:]),
    "int8 needs too much memory": (VERIFY, changed(BENCHMARK, *T_INT8, "peak_rss_mb", value=1000.1), EVALUATE, both[1:]),
    "its memory was not measured": (VERIFY, changed(BENCHMARK, *T_INT8, "peak_rss_mb", value=None), EVALUATE, both[1:]),
    "at the limit is within": (VERIFY, changed(BENCHMARK, *T_INT8, "p99_ms", value=100), EVALUATE, both),
    "AP50 at the limit": (VERIFY, BENCHMARK, {"test": {"AP50": 0.5}}, both),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_what_ships(name: str) -> None:
    verify_json, benchmark, evaluate, order = DECISIONS[name]
    decision = decide(NOW, verify_json, benchmark, evaluate, CHALLENGE, LIMITS)
    assert (decision.verdict, decision.order, decision.default) == ("released", order, order[0])
    assert {item for item, (status, _) in decision.artifacts.items() if status == "ships"} == set(order)
    assert all(reasons for status, reasons in decision.artifacts.values() if status != "ships")


REJECTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "AP50 too low": (VERIFY, BENCHMARK, {"test": {"AP50": 0.49}}, "test_ap50 is 0.49, wanted at least 0.5"),
    "AP50 not measured": (VERIFY, BENCHMARK, {"test": {"AP50": None}}, "test_ap50"),
    "no evaluation": (VERIFY, BENCHMARK, {}, "test_ap50"),
    "fp32 fails verification": (changed(VERIFY, *FP32, "status", value="fail"), BENCHMARK, EVALUATE, "fp32_onnx_ships is none"),
    "fp32 was not run": (changed(VERIFY, *FP32, "status", value="not_run"), BENCHMARK, EVALUATE, "fp32_onnx_ships is none"),
    "nothing was verified": ({}, BENCHMARK, EVALUATE, "fp32_onnx_ships is none"),
    "nothing was timed": (VERIFY, {}, EVALUATE, "fp32_onnx_ships is none"),
}


@pytest.mark.parametrize("name", REJECTIONS)
def test_what_is_rejected(name: str) -> None:
    verify_json, benchmark, evaluate, reason = REJECTIONS[name]
    decision = decide(NOW, verify_json, benchmark, evaluate, CHALLENGE, LIMITS)
    assert decision.verdict == "rejected"
    assert any(reason in item for item in decision.reasons)


def test_engines_that_were_not_run_are_left_out_with_the_command_to_build_them() -> None:
    status, reasons = decide(NOW, VERIFY, BENCHMARK, EVALUATE, CHALLENGE, LIMITS).artifacts["tensorrt_fp32"]
    assert status == "not_run"
    assert "built, not run: no GPU" in reasons
    assert any("dvc repro" in reason and "build_engine" in reason for reason in reasons)


def test_size_and_the_missing_file() -> None:
    now = {**NOW, "openvino_int8": replace(NOW["openvino_int8"], size_mb=10.5), "tensorrt_fp32": ArtifactNow("tensorrt", "fp32", None, None)}
    decision = decide(now, VERIFY, BENCHMARK, EVALUATE, CHALLENGE, LIMITS)
    assert decision.artifacts["openvino_int8"] == ("fails", ("size_mb is 10.5, wanted at most 10",))
    assert decision.artifacts["tensorrt_fp32"][0] == "not_run"


LOST = {"verdict": "reject", "same_model": False, "reasons": ["class nut lost -20.0 points of AP"]}
CHAMPION: dict[str, tuple[dict[str, Any], Limits, str]] = {
    "promote": (CHALLENGE, LIMITS, "pass"),
    "there is no champion yet": ({"verdict": "first", "same_model": False, "reasons": []}, LIMITS, "pass"),
    "inconclusive": ({**CHALLENGE, "verdict": "inconclusive"}, LIMITS, "pass"),
    "inconclusive, and only better ones may ship": ({**CHALLENGE, "verdict": "inconclusive"}, replace(LIMITS, verdicts=("promote",)), "fail"),
    "the champion itself": ({"verdict": "inconclusive", "same_model": True, "reasons": []}, replace(LIMITS, verdicts=("promote",)), "pass"),
    "reject": (LOST, LIMITS, "fail"),
    "not decided": ({}, LIMITS, "not_run"),
}


@pytest.mark.parametrize("name", CHAMPION)
def test_the_champion_gates_verdict_is_read(name: str) -> None:
    challenge, limits, status = CHAMPION[name]
    decision = decide(NOW, VERIFY, BENCHMARK, EVALUATE, challenge, limits)
    check = next(check for check in decision.checks if check.name == "champion")
    assert check.status == status
    assert decision.verdict == ("released" if status == "pass" else "rejected")
    assert ("class nut lost" in " ".join(decision.reasons)) == (name == "reject")


def sample(name: str, *classes: str) -> Sample:
    return Sample(name, f"{name}.png", 9, 9, "labeled", tuple(Box(item, (0, 0, 5, 5)) for item in classes), "s", name, None, 1.0)


def test_golden_images_show_every_class_first() -> None:
    samples = [sample("a"), sample("b", "nut", "nut", "nut"), sample("c", "bolt", "nut"), sample("d", "washer")]
    assert [item.image_id for item in golden_samples(samples, 3)] == ["c", "d", "b"]
    assert len(golden_samples(samples, 9)) == 4
    assert golden_samples([], 2) == []


def run_release(
    project: Project, *, ap50: float = 1.0, challenge: dict[str, Any] = CHALLENGE, do_verify: bool = True, faster_ms: float = 0.0
) -> dict[str, Any]:
    """verify (really), a benchmark.json with given times, then release."""
    paths = {name: project.root / name for name in ("params.yaml", "export", "engines", "dataset", "raw", "predictions", "evaluation")}
    paths["params"] = paths.pop("params.yaml")
    if do_verify:
        judged = {precision: project.metrics / f"quantize_{precision}.json" for precision in ("fp16", "int8")}
        verify.work(Namespace(**paths, **judged, metrics=project.metrics / "verify.json"))
    artifacts = json.loads((project.metrics / "verify.json").read_text())["artifacts"]
    runners = {
        name: {
            "status": "measured",
            "sha256": item["sha256"],
            "p50_ms": 2.0 + number - faster_ms,
            "p99_ms": 9.0,
            "peak_rss_mb": 99.0,
            "throughput_ips": 100.0,
        }
        for number, (name, item) in enumerate(sorted(artifacts.items()))
        if item["status"] != "not_run"
    }
    (project.metrics / "benchmark.json").write_text(json.dumps({"runners": runners, "machine": {"cpus": 2}}))
    (project.metrics / "evaluate.json").write_text(json.dumps({"test": {"AP50": ap50}}))
    (project.metrics / "challenge.json").write_text(json.dumps(challenge))
    metrics = {name: project.metrics / f"{name}.json" for name in ("verify", "benchmark", "evaluate", "challenge")}
    del paths["predictions"], paths["evaluation"]
    release.work(Namespace(**paths, **metrics, licence=ROOT / "LICENSE", release=project.root / "release", metrics=project.metrics / "release.json"))
    record: dict[str, Any] = json.loads((project.metrics / "release.json").read_text())
    return record


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_release_holds_what_passed_and_is_the_same_twice(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", changes={"int8": {"reads": (2, 1, 0)}})
    record = run_release(project)
    assert (record["verdict"], record["default"]) == ("released", "onnxruntime_fp16")
    assert {name: item["status"] for name, item in record["artifacts"].items()} == {
        **{f"{runner}_{precision}": "ships" for runner in ("onnxruntime", "openvino") for precision in ("fp32", "fp16")},
        "onnxruntime_int8": "fails",
        "openvino_int8": "fails",
        "tensorrt_fp32": "not_run",
    }
    first = contents(project.root / "release")
    assert "model_int8.onnx" not in first
    assert set(first) >= {"bundle.json", "model.onnx", "model_fp16.onnx", "README.md", "timings.json", "golden/00.png", "golden/00.npz"}
    bundle = json.loads(first["bundle.json"])
    for name, item in bundle["artifacts"].items():
        assert item["sha256"] == sha256_file(project.export / item["file"]) == sha256_file(project.root / "release" / item["file"]), name
    run_release(project)
    assert contents(project.root / "release") == first
    run_release(project, faster_ms=0.5)  # other times on another day
    again = contents(project.root / "release")
    assert {name for name in first if again[name] != first[name]} == {"timings.json"}


def test_a_file_changed_after_verification_does_not_ship(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    run_release(project)
    path = project.export / "model_int8.onnx"
    path.write_bytes(path.read_bytes() + b"\n")
    record = run_release(project, do_verify=False)
    assert record["artifacts"]["onnxruntime_int8"]["status"] == "fails"
    assert any("verified_file" in reason for reason in record["artifacts"]["onnxruntime_int8"]["reasons"])
    assert "model_int8.onnx" not in contents(project.root / "release")


def test_a_rejection_leaves_its_reasons_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = make_project(tmp_path / "p", images=2)
    run_release(project)
    record = run_release(project, ap50=0.2)
    assert record["verdict"] == "rejected"
    assert list(contents(project.root / "release")) == ["bundle.json"]
    bundle = json.loads((project.root / "release" / "bundle.json").read_text())
    assert bundle["verdict"] == "rejected"
    assert bundle["reasons"] == ["test_ap50 is 0.2, wanted at least 0.5 (fail)"]
    assert "release: REJECTED: test_ap50 is 0.2" in capsys.readouterr().out
