"""A project with BCCD imported and split, for benchmarks that train on it, and the pipeline's own commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
BCCD = ROOT.parent / "shared" / "data" / "bccd"
PARAMS = ROOT / "examples" / "bccd" / "params.yaml"


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a module of the pipeline; its failure ends the benchmark."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run([sys.executable, "-m", *map(str, command)], cwd=cwd, env=environment, check=True, stdout=sys.stderr)


def project_with_dataset(work: Path) -> Path:
    """The project below `work`, made on the first call."""
    project = work / "project"
    if not (project / "data" / "dataset" / "train.jsonl").is_file():
        if not BCCD.is_dir():
            sys.exit(f"needs {BCCD}, which is not here")
        run("pipelines.cli", "new", project, "--params", PARAMS)
        run("pipelines.cli", "import", BCCD, "--format", "voc", "--name", "bccd", cwd=project)
        run("dvc", "repro", "--quiet", "dataset", cwd=project)
    return project


def write_params(path: Path, changes: dict[str, dict[str, Any]]) -> Path:
    """BCCD's params with other values."""
    yaml = YAML()
    values = yaml.load(PARAMS.read_text())
    for section, items in changes.items():
        values[section].update(items)
    with path.open("w") as file:
        yaml.dump(values, file)
    return path
