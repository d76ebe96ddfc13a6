"""One artifact's detections on many images, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from export.artifacts import Artifact
from export.check.diagnosis import Reference, name_output_fault
from export.check.parity import CLASS_TIE, Status
from export.check.ties import detect_tied, lowest_of
from export.engine_records import BUILT_NOT_RUN, require_built_from
from export.runners import Runner, open_runner
from export.runners.detect import NmsValues
from pipelines.core.contract import class_hash
from pipelines.core.errors import DataError, MissingPartError
from pipelines.core.images import read_for
from pipelines.core.types import Detections

LOWER_THAN_FLOAT = ("bf16", "f16")  # what a runtime may take for float where f32 was asked


@dataclass(frozen=True)
class Attempt:
    """`found` has one entry an image, and so has `tied` (see `export.check.ties`); `thresholds` is (classes,) as the artifact states them. Without
    them `status` is not_run (nothing here can run it) or fail (the file is not what it should be).
    """

    found: tuple[Detections, ...] | None
    thresholds: NDArray[np.float64] | None = None
    tied: tuple[Detections, ...] = ()
    status: Status = "not_run"
    reason: str = ""


def attempt(artifact: Artifact, images: Sequence[Path], classes: Sequence[str], nms: NmsValues, *, threads: int) -> Attempt:
    """Run `artifact` on image files, one at a time, as it is deployed.

    Raises:
        DataError: an image cannot be read. (A model that cannot be used is an answer, not an error.)
    """
    if artifact.path is None:
        return Attempt(None, status="not_run", reason=f"not built: {artifact.note}")
    try:
        if artifact.onnx is not None:
            require_built_from(artifact.path, artifact.onnx)
        runner = open_runner(artifact.runner, artifact.path, threads=threads)
    except MissingPartError as error:
        return Attempt(None, status="not_run", reason=f"{BUILT_NOT_RUN}: {error}" if artifact.runner == "tensorrt" else str(error))
    except DataError as error:
        return Attempt(None, status="fail", reason=str(error))
    with runner:
        return attempt_with(runner, artifact, images, classes, nms)


def attempt_with(runner: Runner, artifact: Artifact, images: Sequence[Path], classes: Sequence[str], nms: NmsValues) -> Attempt:
    """The same with an opened runner.

    Raises:
        DataError: an image cannot be read.
    """
    try:
        runner.require_contract(class_hash(classes))
        thresholds = runner.require_thresholds()
    except DataError as error:
        return Attempt(None, status="fail", reason=str(error))
    lower = [f"{name} in {kind}" for name, kind in runner.arithmetic().items() if kind in LOWER_THAN_FLOAT]
    if runner.precision == "fp32" and lower:
        return Attempt(None, status="fail", reason=f"arithmetic: {runner.name} computes {len(lower)} nodes in less than f32, first {lower[0]}")
    if runner.precision != artifact.precision:
        return Attempt(None, status="fail", reason=f"{artifact.path} states precision {runner.precision}, not {artifact.precision}: run `dvc repro`")
    found, tied = [], []
    for path in tqdm(images, desc=artifact.name, unit="img", disable=None, leave=False):
        image = read_for(path, runner.contract.decode_to_wh)
        try:
            shown, other = detect_tied(runner, image, nms, lowest=lowest_of(thresholds, CLASS_TIE), tie=CLASS_TIE)
        except DataError as error:
            return Attempt(None, status="fail", reason=str(error))
        found.append(shown)
        tied.append(other)
    return Attempt(tuple(found), thresholds, tuple(tied))


def cause_of(artifact: Artifact, reference: Reference, *, threads: int) -> str | None:
    """The name of the fault that keeps an artifact from finding what the reference found (`export.check.diagnosis`), None when it is unknown."""
    assert artifact.path is not None
    with open_runner(artifact.runner, artifact.path, threads=threads) as runner:
        return name_output_fault(runner, reference)
