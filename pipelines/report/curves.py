"""Training curves from a dvclive folder: one TSV a metric, a line an epoch. Reads only; the training writes it."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from pipelines.core.errors import DataError

Curve = tuple[tuple[float, float], ...]  # (step, value), by step


def read_curves(folder: Path) -> dict[str, Curve]:
    """Every metric below `folder`/plots/metrics by its name (`train/box_loss`), sorted by name; empty when there is no such folder.

    Values that are not finite numbers are left out: a gap in the line.

    Raises:
        DataError: a file without a step column.
    """
    root = folder / "plots" / "metrics"
    return {path.relative_to(root).with_suffix("").as_posix(): _curve(path) for path in sorted(root.rglob("*.tsv"))}


def _curve(path: Path) -> Curve:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        columns = [name for name in reader.fieldnames or [] if name not in ("step", "timestamp")]
        if "step" not in (reader.fieldnames or []) or len(columns) != 1:
            raise DataError(f"{path} has columns {reader.fieldnames}, wanted step and one metric: run `dvc repro train`")
        points = [(_number(row["step"]), _number(row[columns[0]])) for row in reader]
    return tuple(sorted((step, value) for step, value in points if math.isfinite(step) and math.isfinite(value)))


def _number(text: str | None) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan
