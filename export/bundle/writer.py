"""Writing the release folder: what passed the gate, how to feed it, and golden vectors to test it with on another machine.

The same inputs give the same bytes, but for `timings.json` and the order of the runners, which follows from them.
"""

from __future__ import annotations

import importlib.metadata
import io
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.artifacts import Artifact
from export.bundle.gate import Decision
from export.bundle.golden import EXPECTED_MARGIN
from export.bundle.program import PROGRAM_FILE
from export.bundle.reader import BUNDLE_FILE, FORMAT, detections_to_json, sealed
from export.engine_records import ENGINES_FILE
from export.runners import open_runner
from export.runners.detect import NmsValues, above, detect, model_input
from pipelines.core.contract import ModelContract
from pipelines.core.errors import DataError
from pipelines.core.images import Decoded, decode_for
from pipelines.core.io import json_text, require_file, sha256_bytes
from pipelines.core.types import Sample

EXPECTED_FILE = "golden/expected.json"
TIMINGS_FILE = "timings.json"
_SCORECARD = ("AP", "AP50", "relative_drop", "missed", "extra", "class_flips", "near_threshold", "near_tie", "matched")
_TIMINGS = ("p50_ms", "p95_ms", "p99_ms", "throughput_ips", "load_s", "peak_rss_mb", "size_mb")
_LIBRARIES = (
    "numpy",
    "onnx",
    "onnxruntime",
    "opencv-python-headless",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "torch",
    "ultralytics-opencv-headless",
)


@dataclass(frozen=True)
class Release:
    """What the writer needs beside the decision; `golden` are the test samples that travel along, `program` is `detloop.pyz`."""

    contract: ModelContract
    nms: NmsValues
    artifacts: Mapping[str, Artifact]
    golden: Sequence[Sample]
    raw: Path
    program: bytes
    verify: Mapping[str, Any]
    benchmark: Mapping[str, Any]


def golden_samples(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` test samples: by turns the one with most classes not yet shown, then most boxes, then the smallest image_id."""
    chosen: list[Sample] = []
    shown: set[str] = set()
    left = sorted(samples, key=lambda sample: sample.image_id)
    while left and len(chosen) < count:
        best = max(left, key=lambda sample: (len({box.class_name for box in sample.boxes} - shown), len(sample.boxes)))
        left.remove(best)
        chosen.append(best)
        shown |= {box.class_name for box in best.boxes}
    return chosen


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that made the release, those that are installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def rejected_files(decision: Decision) -> dict[str, bytes]:
    """A folder that holds the verdict and its reasons, nothing to run."""
    about = {"format": FORMAT, "verdict": decision.verdict, "reasons": decision.reasons, "not_shipped": _not_shipped(decision)}
    return {BUNDLE_FILE: json_text(sealed(about)).encode()}


def released_files(decision: Decision, release: Release, *, threads: int) -> dict[str, bytes]:
    """The whole bundle: file name relative to it, content.

    Raises:
        DataError: a golden image cannot be read, a model's input is not that of the others, or a model changed meanwhile.
    """
    files: dict[str, bytes] = {}
    artifacts = {}
    for name in sorted(decision.order):
        artifact, scores = release.artifacts[name], release.verify["artifacts"][name]
        assert artifact.path is not None  # the gate lets nothing pass that has no file
        file = artifact.path.name
        if artifact.runner == "tensorrt":
            file = f"engines/{file}"
            files[f"engines/{ENGINES_FILE}"] = (artifact.path.parent / ENGINES_FILE).read_bytes()
        if file not in files:
            files[file] = artifact.path.read_bytes()
        if sha256_bytes(files[file]) != scores["sha256"]:
            raise DataError(f"{artifact.path} changed while the release was written: run `dvc repro`")
        artifacts[name] = {
            "runner": artifact.runner,
            "precision": artifact.precision,
            "file": file,
            "sha256": scores["sha256"],
            "scorecard": {key: scores[key] for key in _SCORECARD},
        }
    golden, images = _golden(release, files)
    expected = {}
    for name in sorted(decision.order):
        artifacts[name]["thresholds"], expected[name] = _expected(release.artifacts[name], images, release, threads)
    files[EXPECTED_FILE] = json_text(expected).encode()
    files[PROGRAM_FILE] = release.program
    files["README.md"] = _readme(release.contract).encode()
    about = {
        "format": FORMAT,
        "verdict": decision.verdict,
        "contract": release.contract.to_json(),
        "nms": asdict(release.nms),
        "artifacts": artifacts,
        "order": list(decision.order),
        "default": decision.default,
        "not_shipped": _not_shipped(decision),
        "files": {name: sha256_bytes(content) for name, content in files.items()},
        "golden": golden,
        "expected": EXPECTED_FILE,
        "library_versions": library_versions(),
    }
    runners = release.benchmark["runners"]
    timings = {
        "machine": release.benchmark.get("machine"),
        "artifacts": {name: {key: runners[name].get(key) for key in _TIMINGS} for name in decision.order},
    }
    return {**files, TIMINGS_FILE: json_text(timings).encode(), BUNDLE_FILE: json_text(sealed(about)).encode()}


def _golden(release: Release, files: dict[str, bytes]) -> tuple[list[dict[str, str]], list[tuple[str, Decoded]]]:
    """Put each golden image and its network input into `files`; their entries, and the decoded images by file name."""
    golden, images = [], []
    for number, sample in enumerate(release.golden):
        path = release.raw / sample.path
        content = require_file(path).read_bytes()
        if sha256_bytes(content) != sample.image_id:
            raise DataError(f"{path} is not the image that the dataset names: run `dvc checkout`, or `dvc repro collect`")
        image = decode_for(content, str(path), release.contract.decode_to_wh)
        tensor, _ = model_input(image, release.contract)
        entry = {"image": f"golden/{number:02d}{path.suffix}", "input": f"golden/{number:02d}.npz", "image_id": sample.image_id}
        files[entry["image"]], files[entry["input"]] = content, _npz(tensor)
        golden.append(entry)
        images.append((entry["image"], image))
    return golden, images


def _expected(
    artifact: Artifact, images: Sequence[tuple[str, Decoded]], release: Release, threads: int
) -> tuple[dict[str, float] | None, dict[str, list[dict[str, Any]]]]:
    """The artifact's thresholds, and what it finds on each golden image."""
    assert artifact.path is not None
    with open_runner(artifact.runner, artifact.path, threads=threads) as runner:
        if runner.contract != release.contract:
            raise DataError(f"{artifact.path} has another input contract than the fp32 model: run `dvc repro quantize build_engine`")
        thresholds = runner.require_thresholds()
        found = {file: above(detect(runner, image, release.nms), thresholds, EXPECTED_MARGIN) for file, image in images}
        return runner.thresholds, {file: detections_to_json(item, release.contract.classes) for file, item in found.items()}


def _not_shipped(decision: Decision) -> dict[str, Any]:
    return {name: {"status": status, "reasons": list(reasons)} for name, (status, reasons) in decision.artifacts.items() if status != "ships"}


def _npz(tensor: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, input=tensor)  # numpy gives each entry the zip format's zero date, so equal tensors are equal bytes
    return buffer.getvalue()


def _readme(contract: ModelContract) -> str:
    width, height = contract.input_wh
    reduced = ""
    if contract.decoding == "reduced":
        reduced = (
            "; a JPEG by its decoder at 1/8, 1/4 or 1/2 of its size (OpenCV's `IMREAD_REDUCED_COLOR_8`, `_4` or `_2`): the smallest that divides "
            "both sides and leaves neither smaller than step 2 makes it"
        )
    reading = (
        f"(N, {4 + len(contract.classes)}, anchors): centre x, centre y, width, height in input pixels, then a score for each class; "
        "NMS class by class, values under `nms`"
        if contract.layout == "cxcywh_scores"
        else "(N, boxes, 6): x1, y1, x2, y2 in input pixels, score, class index; no NMS needed"
    )
    return f"""# Detector bundle

Classes: {", ".join(contract.classes)}.

    python DIR/{PROGRAM_FILE} bundle test DIR                          # does it work on this machine?
    python DIR/{PROGRAM_FILE} predict --bundle DIR IMAGES --draw OUT   # JSON, and pictures

Needs Python 3.11 or newer with numpy, OpenCV and one runtime: `pip install numpy opencv-python-headless onnxruntime` (or openvino, or TensorRT).

With your own code, follow `bundle.json`:

1. Decode to {contract.colour} with the EXIF orientation applied{reduced}.
2. Letterbox to {width}x{height}: one scale for both sides, bilinear, centred (an odd pixel goes right and below), padded with {contract.pad_value}.
3. Divide by {contract.divide_by:g}; float32, (N, 3, {height}, {width}), input `{contract.input_name}`.
4. Output `{contract.output_name}`: {reading}.
5. Show a detection when its score reaches its class's value under the artifact's `thresholds`; map boxes back by the letterbox,
   cut them at the image's edges, and leave out what has no area then: it lay in the padding.

`golden/` holds images, the network input that each must give (`input` in the .npz), and the detections that each runner gave (`expected.json`).
`timings.json` was measured on the releasing machine.
"""
