"""`python -m pipelines.core.stage`: a stage that starts so is the stage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROBE = """
import argparse, gc, os, sys
from pipelines.core.cli import stage_main
from pipelines.core.errors import DataError

COLLECTS_AT_IMPORT = gc.isenabled()

def work(args: argparse.Namespace) -> None:
    print(__name__, os.path.basename(sys.argv[0]), args.here, COLLECTS_AT_IMPORT, gc.isenabled(), os.environ.get("OPENBLAS_THREAD_TIMEOUT"))
    if args.here.name == "wrong":
        raise DataError("wrong: mend it")

if __name__ == "__main__":
    stage_main("probe", work, {"here": "any path"})
"""


def started(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "probe.py").write_text(PROBE)
    inherited = {name: value for name, value in os.environ.items() if name != "OPENBLAS_THREAD_TIMEOUT"}
    inherited["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run([sys.executable, "-m", *command], env=inherited | environment, capture_output=True, text=True, check=False)


def test_imports_are_not_looked_through_and_the_stage_is_as_ever(tmp_path: Path) -> None:
    assert started(tmp_path, "probe", "--here", "a/b").stdout == "__main__ probe.py a/b True True None\n"
    assert started(tmp_path, "pipelines.core.stage", "probe", "--here", "a/b").stdout == "__main__ probe.py a/b False True 4\n"
    own = started(tmp_path, "pipelines.core.stage", "probe", "--here", "a/b", OPENBLAS_THREAD_TIMEOUT="20")
    assert own.stdout == "__main__ probe.py a/b False True 20\n"


@pytest.mark.parametrize("options", [["--here", "wrong"], ["--there", "a"], []])
def test_what_is_wrong_is_told_the_same(tmp_path: Path, options: list[str]) -> None:
    plain, started_so = (started(tmp_path, *first, "probe", *options) for first in ([], ["pipelines.core.stage"]))
    assert plain.returncode == started_so.returncode == 2
    assert plain.stderr == started_so.stderr != ""
