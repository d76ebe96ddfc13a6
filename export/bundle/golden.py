"""The bundle's self-test: are the files those that passed, and does this machine find what the releasing machine found?

Golden images travel with their expected network input and, for each artifact, the expected detections. Needs what `export.bundle.reader` needs.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.bundle.reader import Bundle, GoldenImage, detections_from_json, open_artifact
from export.check.diagnosis import Reference, name_input_fault, name_output_fault
from export.check.parity import Status, compare, total
from export.check.ties import detect_tied, lowest_of
from export.runners import Runner
from export.runners.detect import model_input
from pipelines.core.errors import DataError, DetloopError, GateError, MissingPartError
from pipelines.core.images import read_for
from pipelines.core.io import read_json

EXPECTED_MARGIN = 0.1  # expected detections are kept from this far below their threshold, so that one that moved across it can be told


@dataclass(frozen=True)
class Tolerance:
    """How far another machine may be off: boxes are the same from `match_iou` up, scores within `score`."""

    match_iou: float
    score: float


# Another CPU or runtime version orders sums otherwise (fp32), has float16 or not (fp16), or saturates 8-bit products (int8 without VNNI).
TOLERANCES = {"fp32": Tolerance(0.9, 0.01), "fp16": Tolerance(0.9, 0.03), "int8": Tolerance(0.5, 0.1)}


@dataclass(frozen=True)
class Answer:
    """One question of the self-test."""

    name: str
    status: Status
    detail: str


def self_test(bundle: Bundle, *, threads: int) -> Iterator[Answer]:
    """Check files, preprocessing and every artifact, one answer each; an artifact that cannot run here is not_run, never a pass."""
    yield _files(bundle)
    yield _preprocessing(bundle)
    for name in bundle.order:
        yield _artifact(bundle, name, threads)


def golden_tensor(path: Path) -> NDArray[np.float32]:
    """The stored network input (1, 3, height, width).

    Raises:
        DataError: not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return np.asarray(content["input"], dtype=np.float32)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} holds no golden input ({error}): get the bundle again") from error


def _files(bundle: Bundle) -> Answer:
    wrong = []
    for file in sorted(bundle.files):
        try:
            bundle.require_unchanged(file)
        except DetloopError as error:
            wrong.append(str(error))
    return Answer("files", "fail" if wrong else "pass", "; ".join(wrong) or f"{len(bundle.files)} files are those that were released")


def _preprocessing(bundle: Bundle) -> Answer:
    worst = 0.0
    for item in bundle.golden:
        try:
            image = read_for(bundle.folder / item.image, bundle.contract.decode_to_wh)
            made, _ = model_input(image, bundle.contract)
            stored = golden_tensor(bundle.folder / item.input)
        except DetloopError as error:
            return Answer("preprocessing", "fail", str(error))
        fault = name_input_fault(made, stored, image, bundle.contract)
        if fault is not None:
            return Answer("preprocessing", "fail", f"{item.image}: {fault}")
        worst = max(worst, float(np.abs(made - stored).max()) * bundle.contract.divide_by)
    return Answer("preprocessing", "pass", f"{len(bundle.golden)} images, at most {worst:.2f} grey levels off (1 is allowed)")


def _artifact(bundle: Bundle, name: str, threads: int) -> Answer:
    try:
        with open_artifact(bundle, name, threads=threads) as runner:
            return runner_answer(bundle, name, runner, bundle.golden)
    except MissingPartError as error:
        return Answer(name, "not_run", str(error))
    except DetloopError as error:
        return Answer(name, "fail", str(error))


def require_golden(bundle: Bundle, name: str, runner: Runner) -> None:
    """Refuse an opened artifact that does not find on the first golden image what it found on the releasing machine.

    Raises:
        GateError: it does not; the message names the fault where it is a usual one.
    """
    answer = runner_answer(bundle, name, runner, bundle.golden[:1])
    if answer.status != "pass":
        raise GateError(
            f"{name} does not pass the golden image here ({answer.detail}): run `detloop bundle test {bundle.folder}`, use another --runner"
        )


def runner_answer(bundle: Bundle, name: str, runner: Runner, golden: Sequence[GoldenImage]) -> Answer:
    """Does an opened artifact find on golden images what it found on the releasing machine?"""
    tolerance = TOLERANCES[bundle.artifacts[name].precision]
    try:
        expected = read_json(bundle.require_unchanged(bundle.expected))[bundle.artifacts[name].expected_as]
        images = tuple(bundle.require_unchanged(item.image) for item in golden)
        wanted = [detections_from_json(expected[item.image], bundle.contract.classes) for item in golden]
    except DetloopError as error:
        return Answer(name, "fail", str(error))
    except (KeyError, ValueError, TypeError) as error:
        return Answer(name, "fail", f"{bundle.expected} cannot be read for {name} ({error!r})")
    thresholds = runner.require_thresholds()
    lowest = lowest_of(thresholds, tolerance.score)
    found = [detect_tied(runner, read_for(image, bundle.contract.decode_to_wh), bundle.nms, lowest=lowest, tie=tolerance.score) for image in images]
    parts = [
        compare(ours, theirs, thresholds, match_iou=tolerance.match_iou, near_threshold=tolerance.score, tied=tied, tie=tolerance.score)
        for ours, (theirs, tied) in zip(wanted, found, strict=True)
    ]
    parity = total(parts, len(bundle.contract.classes))
    wrong = {word: parity.total(word) for word in ("missed", "extra", "class_flips") if parity.total(word)}
    detail = f"{parity.total('matched')} golden boxes found, scores at most {parity.max_score_difference:.4f} off ({tolerance.score} is allowed)"
    if wrong:
        detail += ", " + ", ".join(f"{count} {word.replace('_', ' ')}" for word, count in wrong.items())
    if not wrong and parity.max_score_difference <= tolerance.score:
        return Answer(name, "pass", detail)
    reference = Reference(images, tuple(wanted), thresholds, tolerance.match_iou, tolerance.score, bundle.nms)
    fault = name_output_fault(runner, reference)
    return Answer(name, "fail", detail if fault is None else f"{detail}; fault: {fault}")
