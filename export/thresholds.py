"""The score from which a detection of each class is shown: chosen on val by `evaluate`, fitted anew for each precision by `quantize`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.errors import ClassContractError, DataError
from pipelines.core.io import read_json


def checked_thresholds(by_name: Mapping[str, Any], classes: Sequence[str], where: str) -> dict[str, float]:
    """The score from which a detection of each class is shown, in class order.

    Raises:
        ClassContractError: the names are not `classes`.
        DataError: a threshold is not a number from 0 to 1.
    """
    if set(by_name) != set(classes):
        raise ClassContractError(f"{where} has thresholds for {sorted(by_name)}, the classes are {list(classes)}: run `dvc repro evaluate`")
    values = [by_name[name] for name in classes]
    if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in values):
        raise DataError(f"{where} has thresholds {values}, wanted numbers from 0 to 1: run `dvc repro evaluate`")
    return dict(zip(classes, map(float, values), strict=True))


def read_thresholds(path: Path, classes: Sequence[str]) -> dict[str, float]:
    """The evaluation's threshold of each class, in class order; see `checked_thresholds`."""
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("classes"), dict):
        raise DataError(f"{path} holds no thresholds by class: run `dvc repro evaluate`")
    return checked_thresholds(content["classes"], classes, str(path))
