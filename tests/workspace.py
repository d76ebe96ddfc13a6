"""A small project folder in which tests run the real pipeline: few images, a tiny input size, two epochs."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]

# What differs from params.yaml so that a whole round takes about a minute, and yet the model finds something: `verify` passes nothing else.
TINY: dict[str, dict[str, Any]] = {
    "train": {
        "imgsz": 96,
        "epochs": 20,
        "batch": 2,
        "nominal_batch": 2,
        "optimizer": "AdamW",
        "lr0": 0.002,
        "mosaic": 0.0,
        "scale": 0.0,
        "translate": 0.0,
    },
    "export": {"calibration_images": 4, "max_relative_drop": 1.0, "max_class_relative_drop": 1.0},  # no search for sensitive layers
    "benchmark": {"images": 4, "warmup": 1, "rounds": 1},
    "release": {"min_ap50": 0.0, "max_p99_ms": 60000, "golden_images": 2},
    "mine": {"gallery_images": 6},
    "report": {"gallery_images": 6},
}
# Stages whose outputs hold measured times, or are made from them.
TIMED = {"benchmark", "release", "report"}


@dataclass(frozen=True)
class Finished:
    """One finished command."""

    status: int
    stdout: str
    stderr: str

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.startswith("error: ")]


@dataclass(frozen=True)
class Workspace:
    """A project folder and the commands that tests give in it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        bin_folder = str(Path(sys.executable).parent)
        return {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(self, *command: str, timeout_s: float = 600) -> Finished:
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False)
        return Finished(done.returncode, done.stdout, done.stderr)

    def detloop(self, *arguments: str) -> Finished:
        return self.run(sys.executable, "-m", "pipelines.cli", *arguments)

    def stage(self, name: str) -> Finished:
        """Run a stage's own command, without DVC."""
        return self.run(*shlex.split(stage_command(self.folder, name)))

    def lock(self) -> dict[str, Any]:
        stages: dict[str, Any] = YAML(typ="safe", pure=True).load((self.folder / "dvc.lock").read_text())["stages"]
        return stages

    def hashes(self, relative: str = "data") -> dict[str, str]:
        """sha256 of every file below a folder."""
        base = self.folder / relative
        files = sorted(path for path in base.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def new_workspace(folder: Path, images: int = 40, *sample_options: str) -> Workspace:
    """Make the folder by `detloop new` and fill its inbox with a small sample."""
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text())
    for section, values in TINY.items():
        params[section].update(values)
    folder.parent.mkdir(parents=True, exist_ok=True)
    params_path = folder.parent / f"{folder.name}-params.yaml"
    with params_path.open("w") as file:
        yaml.dump(params, file)
    maker = Workspace(ROOT)
    made = maker.run(sys.executable, "-m", "pipelines.cli", "new", str(folder), "--params", str(params_path))
    assert made.status == 0, made.stderr
    workspace = Workspace(folder)
    sample = workspace.detloop("sample", "--images", str(images), *sample_options)
    assert sample.status == 0, sample.stderr
    return workspace


def stage_commands(folder: Path) -> dict[str, str]:
    """Every stage of dvc.yaml in its order, foreach stages unrolled as `name@item`, with its command."""
    graph = YAML(typ="safe", pure=True).load((folder / "dvc.yaml").read_text())["stages"]
    commands: dict[str, str] = {}
    for name, stage in graph.items():
        if "foreach" in stage:
            commands.update({f"{name}@{item}": stage["do"]["cmd"].replace("${item}", item) for item in stage["foreach"]})
        else:
            commands[name] = stage["cmd"]
    return commands


def stage_command(folder: Path, name: str) -> str:
    return stage_commands(folder)[name].replace("python -m", f"{sys.executable} -m", 1)


class Repro:
    """A `dvc repro` in the background that can be watched and killed with everything it started."""

    def __init__(self, workspace: Workspace) -> None:
        self.log = (workspace.folder / "repro.log").open("ab")
        self.process = subprocess.Popen(
            ["dvc", "repro"], cwd=workspace.folder, env=workspace.environment, stdout=self.log, stderr=self.log, start_new_session=True
        )
        self.commands = {name: _key(command) for name, command in stage_commands(workspace.folder).items()}

    def running_stage(self) -> str | None:
        """The stage whose process runs now."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
            lines = [_key(shlex.join(child.cmdline())) for child in children]
        except psutil.Error:
            return None
        return next((name for name, key in self.commands.items() if key in lines), None)

    def finished(self) -> bool:
        return self.process.poll() is not None

    def kill_in(self, stage: str) -> bool:
        """SIGKILL to dvc, the stage and whatever they started, if that stage still runs; False when it has ended.

        dvc is stopped first: killed while it writes dvc.lock, it leaves half a file, which is no stage's doing (`git restore dvc.lock` mends it).
        """
        os.kill(self.process.pid, signal.SIGSTOP)
        if self.running_stage() != stage:
            os.kill(self.process.pid, signal.SIGCONT)
            return False
        children = psutil.Process(self.process.pid).children(recursive=True)
        os.killpg(self.process.pid, signal.SIGKILL)
        for child in children:
            if child.is_running():
                child.kill()
        self.process.wait()
        psutil.wait_procs(children, timeout=10)
        self.log.close()
        return True

    def durations_s(self) -> dict[str, float]:
        """Watch to the end; how long each stage's process ran."""
        seen: dict[str, tuple[float, float]] = {}
        while not self.finished():
            name, now = self.running_stage(), time.monotonic()
            if name is not None:
                seen[name] = (seen.get(name, (now, now))[0], now)
            time.sleep(0.05)
        self.log.close()
        return {name: end - start for name, (start, end) in seen.items()}


def _key(command: str) -> str:
    """The part of a command that tells stages apart: module and precision."""
    match = re.search(r"-m (?:pipelines\.core\.stage )?(\S+stages\S+)(?:.*?--precision (\S+))?", command)
    return f"{match[1]} {match[2]}" if match else ""
