"""Running the collect stage in tests, and killing it. As a program: `python -m tests.collect_runs [--images 5000] [--kills 20]`."""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.champion import ChampionRecord, write_champions
from pipelines.stages.collect import work
from tests.images import jpeg

ROOT = Path(__file__).resolve().parents[1]
PARAMS = "classes: [{name: bolt}]\ncollect: {max_pixels: 1000000}\n"


def places(folder: Path, inbox: Path) -> dict[str, Path]:
    """The stage's options for a run into `folder`, made ready."""
    (folder / "fetched").mkdir(exist_ok=True, parents=True)
    if not (folder / "params.yaml").exists():
        (folder / "params.yaml").write_text(PARAMS)
    if not (folder / "lists").exists():
        shutil.copytree(ROOT / "data/lists", folder / "lists")
        write_champions(folder / "screener.json", ChampionRecord())
    names = {
        "params": "params.yaml",
        "fetched": "fetched",
        "lists": "lists",
        "screener": "screener.json",
        "store": "champions",
        "raw": "raw",
        "work": "work",
        "metrics": "collect.json",
    }
    return {"inbox": inbox, **{option: folder / name for option, name in names.items()}}


def command(folder: Path, inbox: Path) -> list[str]:
    options = [part for name, path in places(folder, inbox).items() for part in (f"--{name}", str(path))]
    return [sys.executable, "-m", "pipelines.stages.collect", *options]


def collect(folder: Path, inbox: Path) -> dict[str, Any]:
    work(argparse.Namespace(**places(folder, inbox)))
    metrics: dict[str, Any] = json.loads((folder / "collect.json").read_text())
    return metrics


def snapshot(folder: Path) -> dict[str, str]:
    """Hash of every file that the stage made; what it keeps for itself is no output."""
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.as_posix(): hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in files if path.parts[0] != "work"}


@dataclass(frozen=True)
class Killed:
    """How many images lay in data/raw at each kill, and which files differed after the rerun that followed it."""

    images_when_killed: list[int]
    differing: list[str]


def kill_at_random_moments(folder: Path, inbox: Path, kills: int, seed: int) -> Killed:
    """Run undisturbed once; then start anew, `kill -9` at a random moment, run to the end and compare, `kills` times.

    A moment is a number of images that lie there, and some time more: so all parts of a run are met on a fast and on a busy machine.
    """
    start = time.monotonic()
    subprocess.run(command(folder / "whole", inbox), cwd=ROOT, check=True, capture_output=True)
    duration_s = time.monotonic() - start
    whole, chance = snapshot(folder / "whole"), random.Random(seed)
    count = _stored(folder / "whole")
    images: list[int] = []
    differing: set[str] = set()
    for _ in range(kills):
        shutil.rmtree(folder / "out", ignore_errors=True)
        process = subprocess.Popen(command(folder / "out", inbox), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = chance.randint(0, count)
        while process.poll() is None and _stored(folder / "out") < wanted:
            time.sleep(0.002)
        time.sleep(chance.choice((0, 0, chance.uniform(0, 0.2))) * duration_s)
        process.kill()
        process.wait()
        images.append(_stored(folder / "out"))
        collect(folder / "out", inbox)
        after = snapshot(folder / "out")
        differing |= {name for name in {*whole, *after} if whole.get(name) != after.get(name)}
    return Killed(images, sorted(differing))


def _stored(folder: Path) -> int:
    return sum(1 for _ in folder.glob("raw/images/*/*.jpg"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        inbox = Path(name) / "inbox"
        inbox.mkdir()
        for number in range(args.images):
            (inbox / f"{number:05d}.jpg").write_bytes(jpeg(number, (320, 240)))
        found = kill_at_random_moments(Path(name), inbox, args.kills, seed=1)
    print(json.dumps({"images": args.images, "images_when_killed": found.images_when_killed, "differing": found.differing}))


if __name__ == "__main__":
    main()
