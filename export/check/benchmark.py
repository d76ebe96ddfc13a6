"""How fast is each runner? All of them in one run and in turns, so that a slow minute of the machine slows them all.

One image at a time, as a camera or a request brings them; batches are not measured. Only one runner works at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from export.check.timing import Job, Loaded, Turn, Worker
from pipelines.core.errors import DataError, MissingPartError
from pipelines.core.images import read_image

TURN_IMAGES = 10  # images that a runner gets before the next one's turn
TIMEOUT_S = 300.0  # for a load or a turn; an accelerator's first load may compile for minutes


@dataclass
class _Record:
    loaded: Loaded
    total_ms: list[float] = field(default_factory=list)
    network_ms: list[float] = field(default_factory=list)
    peak_rss_mb: float = 0.0

    def add(self, turn: Turn) -> None:
        self.total_ms.extend(turn.total_ms)
        self.network_ms.extend(turn.network_ms)
        self.peak_rss_mb = max(self.peak_rss_mb, turn.peak_rss_mb)


def measure(jobs: Sequence[Job], images: Sequence[Path], *, warmup: int, rounds: int, timeout_s: float = TIMEOUT_S) -> dict[str, dict[str, Any]]:
    """Time every job on `images`, `rounds` times; figures by job name, see `figures`, or `{"status", "reason"}` for one that is
    not_run (nothing here can run it) or fail (its file cannot be used).

    Each runner is loaded in a process of its own, one after another, and first runs `warmup` images untimed. Then they take turns of TURN_IMAGES
    images; who begins moves on by one each turn.

    Raises:
        DetloopError: a runner died or hung (the message names it), or an image cannot be read.
    """
    read_image(images[0])  # a broken image is the data's fault: it must not look like a runner's
    records: dict[str, _Record] = {}
    result: dict[str, dict[str, Any]] = {}
    turns = [images[start : start + TURN_IMAGES] for _ in range(rounds) for start in range(0, len(images), TURN_IMAGES)]
    with ExitStack() as stack, tqdm(total=len(jobs) * (1 + len(turns)), unit="turn", disable=None) as bar:
        workers: dict[str, Worker] = {}
        for job in jobs:
            bar.set_description(f"load {job.name}")
            bar.update()
            worker = stack.enter_context(Worker(job, timeout_s=timeout_s))
            try:
                records[job.name] = _Record(worker.load(images[0]))
            except MissingPartError as error:
                result[job.name] = {"status": "not_run", "reason": str(error)}
                continue
            except DataError as error:  # the file is not what it should be: verify says the same, and the gate keeps it back
                result[job.name] = {"status": "fail", "reason": str(error)}
                continue
            if warmup:
                worker.turn([images[number % len(images)] for number in range(warmup)])
            workers[job.name] = worker
        for number, batch in enumerate(turns):
            for name in _rotated(list(workers), number):
                bar.set_description(name)
                records[name].add(workers[name].turn(batch))
                bar.update()
    result.update({name: figures(record.total_ms, record.network_ms, record.loaded, record.peak_rss_mb) for name, record in records.items()})
    return {job.name: result[job.name] for job in jobs}


def figures(total_ms: Sequence[float], network_ms: Sequence[float], loaded: Loaded, peak_rss_mb: float) -> dict[str, Any]:
    """Percentiles of the latency from decoded image to boxes, the median of the runner's call in it, and images a second, one after another."""
    p50, p95, p99 = np.percentile(total_ms, [50, 95, 99]).tolist()
    return {
        "status": "measured",
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "network_p50_ms": float(np.median(network_ms)),
        "throughput_ips": 1e3 / float(np.mean(total_ms)),
        "load_s": loaded.load_s,
        "first_ms": loaded.first_ms,
        "peak_rss_mb": peak_rss_mb,
        "samples": len(total_ms),
    }


def cpu_name() -> str | None:
    """The processor's name as Linux tells it, None elsewhere."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return None
    names = [line.partition(":")[2].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else None


def _rotated(names: list[str], by: int) -> list[str]:
    start = by % len(names) if names else 0
    return names[start:] + names[:start]
