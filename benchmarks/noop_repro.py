"""A `dvc repro` that has nothing to do, against `dvc status` on the same project, in turn.

Usage: python benchmarks/noop_repro.py [PROJECT] [--rounds 5]     (PROJECT: a folder with a finished round, default this checkout)
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "noop_repro.json"


def seconds(command: list[str], project: Path) -> float:
    """Wall-clock seconds of one command that must succeed."""
    start = time.perf_counter()
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure, print one JSON object, write it to results/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path, nargs="?", default=Path())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    seconds(["dvc", "repro"], args.project)
    status_s, repro_s = [], []
    for _ in range(args.rounds):
        status_s.append(seconds(["dvc", "status"], args.project))
        repro_s.append(seconds(["dvc", "repro"], args.project))
    result = {
        "status_s": status_s,
        "noop_repro_s": repro_s,
        "ratios": {"noop_repro_vs_status": statistics.median(repro_s) / statistics.median(status_s)},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
