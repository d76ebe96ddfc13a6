"""What ships: a decision over the figures of four other stages. A check without a figure is not_run, and only a pass passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from export.check.parity import Status

Verdict = Literal["released", "rejected"]
ArtifactStatus = Literal["ships", "fails", "not_run"]
BUILD_THERE = "left out, since nothing here could run it; on a machine that can: `dvc repro -s -f build_engine verify benchmark release`"


@dataclass(frozen=True)
class Limits:
    """What params.yaml asks for."""

    min_ap50: float
    max_p99_ms: float
    max_size_mb: float
    max_memory_mb: float
    verdicts: tuple[str, ...] = ("promote", "inconclusive")


@dataclass(frozen=True)
class ArtifactNow:
    """An artifact as it lies on disk now: its runner and precision, and its file's sha256 and size, None where there is no file."""

    runner: str
    precision: str
    sha256: str | None
    size_mb: float | None


@dataclass(frozen=True)
class Check:
    """One question with its answer; `artifact` is None for those about the whole release."""

    name: str
    artifact: str | None
    value: Any
    limit: Any
    status: Status

    def to_json(self) -> dict[str, Any]:
        """The check as it stands in release.json."""
        return {"name": self.name, "artifact": self.artifact, "value": self.value, "limit": self.limit, "status": self.status}

    def sentence(self) -> str:
        """The check in words, for people."""
        return f"{self.artifact + ': ' if self.artifact else ''}{self.name} is {self.value}, wanted {self.limit} ({self.status})"


@dataclass(frozen=True)
class Decision:
    """`order` holds the artifacts that ship, fastest first; `artifacts` all of them with the reasons why one does not."""

    verdict: Verdict
    checks: tuple[Check, ...]
    artifacts: dict[str, tuple[ArtifactStatus, tuple[str, ...]]]
    order: tuple[str, ...]

    @property
    def default(self) -> str | None:
        """The fastest artifact that ships."""
        return self.order[0] if self.order else None

    @property
    def reasons(self) -> list[str]:
        """Why the release is rejected: the checks of the whole release that do not pass."""
        return [check.sentence() for check in self.checks if check.artifact is None and check.status != "pass"]


def decide(
    artifacts: Mapping[str, ArtifactNow],
    verify: Mapping[str, Any],
    benchmark: Mapping[str, Any],
    evaluate: Mapping[str, Any],
    challenge: Mapping[str, Any],
    limits: Limits,
) -> Decision:
    """Apply the gate to `artifacts` (by name) and the contents of verify.json, benchmark.json, evaluate.json and challenge.json.

    An artifact ships when its verification passed, on the very file that lies there now, and its latency and size are within the limits. The release
    needs the test AP50, a verdict of the champion gate that `limits` allows, and at least one fp32 ONNX artifact that ships.
    """
    checks: list[Check] = []
    states: dict[str, tuple[ArtifactStatus, tuple[str, ...]]] = {}
    p50: dict[str, float] = {}
    for name in sorted(artifacts):
        now = artifacts[name]
        verified = verify.get("artifacts", {}).get(name, {})
        timed = benchmark.get("runners", {}).get(name, {})
        own = [
            Check("verify", name, verified.get("status", "not_run"), "pass", _state(verified.get("status"))),
            Check("verified_file", name, _short(verified.get("sha256")), _short(now.sha256), _same(verified.get("sha256"), now.sha256)),
            Check("timed_file", name, _short(timed.get("sha256")), _short(now.sha256), _same(timed.get("sha256"), now.sha256)),
            _at_most("p99_ms", name, timed.get("p99_ms"), limits.max_p99_ms),
            _at_most("size_mb", name, now.size_mb, limits.max_size_mb),
            _at_most("peak_rss_mb", name, timed.get("peak_rss_mb"), limits.max_memory_mb),
        ]
        checks.extend(own)
        wrong = [f"{check.name} is {check.value}, wanted {check.limit}" for check in own if check.status == "fail"]
        unknown = [check.name for check in own if check.status == "not_run"]
        reasons = [*verified.get("reasons", []), *wrong, *([f"not measured: {', '.join(unknown)}"] if unknown else [])]
        if all(check.status == "pass" for check in own):
            states[name] = ("ships", ())
            p50[name] = timed["p50_ms"]
        elif any(check.status == "fail" for check in own):
            states[name] = ("fails", tuple(reasons))
        else:
            states[name] = ("not_run", (*reasons, *([BUILD_THERE] if now.runner == "tensorrt" else [])))
    order = tuple(sorted(p50, key=lambda name: (p50[name], name)))
    onnx_fp32 = [name for name in order if artifacts[name].precision == "fp32" and artifacts[name].runner != "tensorrt"]
    ap50 = evaluate.get("test", {}).get("AP50")
    overall = [
        Check("test_ap50", None, ap50, f"at least {limits.min_ap50}", "not_run" if ap50 is None else "pass" if ap50 >= limits.min_ap50 else "fail"),
        _champion_check(challenge, limits.verdicts),
        Check("fp32_onnx_ships", None, ", ".join(onnx_fp32) or "none", "at least one runner", "pass" if onnx_fp32 else "fail"),
    ]
    verdict: Verdict = "released" if all(check.status == "pass" for check in overall) else "rejected"
    return Decision(verdict, (*overall, *checks), states, order)


def _state(status: Any) -> Status:
    return "pass" if status == "pass" else "fail" if status == "fail" else "not_run"


def _champion_check(challenge: Mapping[str, Any], verdicts: tuple[str, ...]) -> Check:
    """The champion gate's verdict; without a champion, and for the champion itself, there is nothing to lose."""
    word = challenge.get("verdict")
    limit = f"{' or '.join(verdicts)}, where there is a champion"
    if word is None:
        return Check("champion", None, None, limit, "not_run")
    passes = word == "first" or word in verdicts or challenge.get("same_model") is True
    return Check("champion", None, word if passes else f"{word} ({'; '.join(challenge.get('reasons', []))})", limit, "pass" if passes else "fail")


def _same(measured: str | None, now: str | None) -> Status:
    return "not_run" if measured is None or now is None else "pass" if measured == now else "fail"


def _at_most(name: str, artifact: str, value: float | None, limit: float) -> Check:
    return Check(name, artifact, value, f"at most {limit}", "not_run" if value is None else "pass" if value <= limit else "fail")


def _short(sha256: str | None) -> str | None:
    return None if sha256 is None else sha256[:12]
