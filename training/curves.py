"""Training curves as a dvclive folder: one TSV a metric, which `dvc plots show` and `dvc exp show` understand. Owner of dvclive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dvclive import Live

from pipelines.core.io import new_folder


def write_curves(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write `folder` anew: step i holds epoch i of `history` (metric name to value; "/" in a name makes a subfolder).

    Built beside `folder` and moved at the end. The same history gives the same bytes, however often the training that made it was interrupted;
    neither experiments nor git are touched.
    """
    with new_folder(folder) as new:
        live = Live(str(new), report=None, save_dvc_exp=False, dvcyaml=False)
        for step, metrics in enumerate(history):
            live.step = step
            for name, value in metrics.items():
                live.log_metric(name, value, timestamp=False)
        live.make_summary()
