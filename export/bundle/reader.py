"""Reading a released bundle: a folder that holds all that a user of the model needs. Refuses one that was rejected, changed or does not fit together.

Needs numpy, OpenCV and one runtime; nothing else may be imported here or below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from export.bundle.program import PROGRAM_FILE
from export.engine_records import ENGINES_FILE
from export.runners import Runner, open_runner
from export.runners.detect import NmsValues, above, detect_batch
from export.thresholds import checked_thresholds
from pipelines.core.boxes import area
from pipelines.core.contract import ModelContract
from pipelines.core.errors import ClassContractError, DataError, GateError, MissingInputError, MissingPartError, ParamsError
from pipelines.core.images import Decoded
from pipelines.core.io import canonical_json, read_json, sha256_bytes, sha256_file
from pipelines.core.types import Detections

FORMAT = 3
BUNDLE_FILE = "bundle.json"
SEAL = "sha256"  # the key of bundle.json under which the hash of all the others stands
LOCAL_FOLDER = "local"  # engines that `detloop engine build` made on this machine
_GET_ANOTHER = "get the bundle again, or write it anew with `dvc repro release`"


@dataclass(frozen=True)
class BundleArtifact:
    """One way to run the model that passed the gate: which runner, which file (relative to the bundle), the score from which each class is shown."""

    name: str
    runner: str
    precision: str
    file: str
    thresholds: dict[str, float]
    expected_as: str  # whose golden detections it must find: its own, or for an engine built on this machine those of its ONNX file


@dataclass(frozen=True)
class GoldenImage:
    """An image with its expected network input; files relative to the bundle. Sizes in pixels as a person sees the image."""

    image: str
    input: str
    image_id: str


@dataclass(frozen=True)
class Bundle:
    """A readable, released bundle. `order` names the artifacts, fastest first; `files` maps each file to its sha256."""

    folder: Path
    contract: ModelContract
    nms: NmsValues
    artifacts: dict[str, BundleArtifact]
    order: tuple[str, ...]
    files: dict[str, str]
    golden: tuple[GoldenImage, ...]
    expected: str

    def require_unchanged(self, file: str) -> Path:
        """The path of one file of the bundle.

        Raises:
            MissingInputError: it is gone.
            DataError: it is not the file that passed the gate.
        """
        path = self.folder / file
        if not path.is_file():
            raise MissingInputError(f"bundle {self.folder} lacks {file}: {_GET_ANOTHER}")
        stated, now = self.files.get(file), sha256_file(path)
        if stated != now:
            raise DataError(
                f"{path} is not the file that passed the gate (sha256 {now[:12]}, bundle.json states {(stated or 'none')[:12]}): {_GET_ANOTHER}"
            )
        return path

    def require_model(self, artifact: BundleArtifact) -> Path:
        """The path of an artifact's file. Of an engine that was released, its record counts too: the runner reads from it how to feed the engine.

        Raises:
            MissingInputError, DataError: as `require_unchanged`.
        """
        record = str(PurePosixPath(artifact.file).parent / ENGINES_FILE)
        if artifact.runner == "tensorrt" and record in self.files:
            self.require_unchanged(record)
        return self.require_unchanged(artifact.file)


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` of a bundle.json with the hash over all of it, so that a value that changed on the way, such as one of NMS, is noticed."""
    return {**content, SEAL: _hash_of(content)}


def _whole(content: Mapping[str, Any]) -> bool:
    try:
        return content.get(SEAL) == _hash_of(content)
    except ValueError:  # what canonical JSON cannot hold: a number that is none, half a character
        return False


def _hash_of(content: Mapping[str, Any]) -> str:
    return sha256_bytes(canonical_json({key: value for key, value in content.items() if key != SEAL}).encode())


def load_bundle(folder: Path) -> Bundle:
    """The bundle as it is used on this machine: as it was released, and with the engines that were built here.

    Raises:
        DetloopError: see `load_released`; or the engines cannot be used.
    """
    return _with_local_engines(load_released(folder))


def load_released(folder: Path) -> Bundle:
    """Read and check `bundle.json`. The big files are checked when they are used (`Bundle.require_unchanged`).

    Raises:
        MissingInputError: no bundle there.
        GateError: the release was rejected.
        DataError: not a bundle that this code reads.
        ClassContractError: classes, hash and thresholds do not fit together.
    """
    path = folder / BUNDLE_FILE
    content = read_json(path, "name the folder of a released bundle, or write one with `dvc repro release`")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise DataError(
            f"{path} has bundle format {found}, this detloop reads {FORMAT}: use the program that came with it "
            f"(python {folder / PROGRAM_FILE} …), or {_GET_ANOTHER}"
        )
    if not _whole(content):
        raise DataError(f"{path} was changed or damaged after it was written: {_GET_ANOTHER}")
    if content.get("verdict") != "released":
        raise GateError(
            f"bundle {folder} was rejected by the release gate: {'; '.join(content.get('reasons', [])) or 'no reason stated'}; use another one"
        )
    try:
        contract = ModelContract.from_json(content["contract"], str(path))
        artifacts = {
            name: BundleArtifact(
                name,
                str(item["runner"]),
                str(item["precision"]),
                _inside(item["file"]),
                checked_thresholds(item["thresholds"], contract.classes, str(path)),
                name,
            )
            for name, item in content["artifacts"].items()
        }
        bundle = Bundle(
            folder=folder,
            contract=contract,
            nms=NmsValues(**content["nms"]),
            artifacts=artifacts,
            order=tuple(content["order"]),
            files={_inside(name): str(value) for name, value in content["files"].items()},
            golden=tuple(GoldenImage(_inside(item["image"]), _inside(item["input"]), str(item["image_id"])) for item in content["golden"]),
            expected=_inside(content["expected"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a whole bundle ({error!r}): {_GET_ANOTHER}") from error
    if set(bundle.order) != set(artifacts) or not artifacts:
        raise DataError(f"{path} orders {sorted(bundle.order)}, its artifacts are {sorted(artifacts)}: {_GET_ANOTHER}")
    return bundle


def _with_local_engines(bundle: Bundle) -> Bundle:
    """The bundle with the engines that were built on this machine and found what they should, first.

    Raises:
        DataError: their record cannot be read, or they are those of a bundle that lay here before.
    """
    listing = bundle.folder / LOCAL_FOLDER / ENGINES_FILE
    if not listing.is_file():
        return bundle
    try:
        passed = {
            f"tensorrt_{precision}": (
                entry,
                BundleArtifact(
                    f"tensorrt_{precision}",
                    "tensorrt",
                    precision,
                    f"{LOCAL_FOLDER}/{_inside(entry['file'])}",
                    entry["thresholds"],
                    entry["checked_as"],
                ),
            )
            for precision, entry in read_json(listing)["engines"].items()
            if entry.get("golden") == "pass" and entry.get("checked_as") in bundle.artifacts
        }
        files = {artifact.file: str(entry["sha256"]) for entry, artifact in passed.values()}
        strange = [artifact.file for entry, artifact in passed.values() if entry["onnx_sha256"] != bundle.files.get(entry["onnx"])]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{listing} has another form ({error!r}): remove {listing.parent}, or run `detloop engine build --bundle {bundle.folder}`"
        ) from error
    if strange:
        raise DataError(
            f"{', '.join(strange)} in {bundle.folder} was built from another ONNX file than the bundle has now: "
            f"run `detloop engine build --bundle {bundle.folder}`, or remove {listing.parent}"
        )
    artifacts = {name: artifact for name, (_, artifact) in passed.items()}
    return replace(
        bundle,
        artifacts={**bundle.artifacts, **artifacts},
        order=(*artifacts, *(name for name in bundle.order if name not in artifacts)),
        files={**bundle.files, **files},
    )


def open_artifact(bundle: Bundle, name: str, *, threads: int, streams: int = 1, portion: int = 1) -> Runner:
    """Open one artifact after checking its file; `threads`, `streams` and `portion` as `open_runner` takes them.

    Raises:
        MissingPartError: its runtime or device is not on this machine.
        DataError: the file was changed, or its own input contract is another one.
        ClassContractError: the model in the file has other classes than the bundle.
    """
    artifact = bundle.artifacts[name]
    path = bundle.require_model(artifact)
    runner = open_runner(artifact.runner, path, threads=threads, streams=streams, portion=portion)
    if runner.contract.class_hash != bundle.contract.class_hash:
        runner.close()
        raise ClassContractError(
            f"{artifact.file} was made for classes {list(runner.contract.classes)}, the bundle is for {list(bundle.contract.classes)}: {_GET_ANOTHER}"
        )
    if runner.thresholds != artifact.thresholds:
        runner.close()
        raise DataError(f"{artifact.file} states thresholds {runner.thresholds}, bundle.json {artifact.thresholds}: {_GET_ANOTHER}")
    if runner.contract != bundle.contract:
        runner.close()
        raise DataError(f"{artifact.file} wants another input than bundle.json states ({runner.contract}, {bundle.contract}): {_GET_ANOTHER}")
    return runner


def open_fastest(
    bundle: Bundle, wanted: str | None, *, threads: int, streams: int = 1, portion: int = 1, say: Callable[[str], None]
) -> tuple[str, Runner]:
    """Open `wanted`, or else the fastest artifact whose runtime is here; `say` is told of each one passed over. Returns its name and the runner.

    Raises:
        ParamsError: the bundle has no artifact `wanted`.
        MissingPartError: `wanted` cannot run here, or none can.
    """
    if wanted is not None:
        if wanted not in bundle.artifacts:
            raise ParamsError(f"bundle {bundle.folder} has no runner {wanted!r}: choose one of {', '.join(bundle.order)}")
        return wanted, open_artifact(bundle, wanted, threads=threads, streams=streams, portion=portion)
    lacks = []
    for name in bundle.order:
        try:
            return name, open_artifact(bundle, name, threads=threads, streams=streams, portion=portion)
        except MissingPartError as error:
            lacks.append(str(error))
            say(f"{name} cannot run here ({error}): the next one is taken")
    raise MissingPartError(f"none of the bundle's runners ({', '.join(bundle.order)}) can run here: {'; '.join(dict.fromkeys(lacks))}")


def detect_shown(runner: Runner, images: Iterable[Decoded], bundle: Bundle) -> list[Detections]:
    """What a user sees: the detections on each image (read by `read_for` as the contract asks) from each class's threshold up, best first. A box
    without area, such as is left of one in the padding when it is cut at the image's edge, is none.
    """
    thresholds = runner.require_thresholds()
    # nothing below the lowest threshold can be seen or suppress what can: leaving it out changes nothing and makes NMS cheap
    just_below = float(np.nextafter(np.float32(thresholds.min()), np.float32(0)))
    nms = replace(bundle.nms, score_floor=max(bundle.nms.score_floor, just_below))
    return [_with_area(above(found, thresholds)) for found in detect_batch(runner, images, nms)]


def _with_area(found: Detections) -> Detections:
    keep = area(found.xyxy) > 0
    return Detections(found.xyxy[keep], found.score[keep], found.class_index[keep])


def detections_to_json(detections: Detections, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Rows `{class, score, xyxy}`; scores to 4 decimals, boxes in pixels to 2."""
    return [
        {"class": classes[int(index)], "score": round(float(score), 4), "xyxy": [round(float(value), 2) for value in box]}
        for box, score, index in zip(detections.xyxy, detections.score, detections.class_index, strict=True)
    ]


def detections_from_json(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> Detections:
    """The inverse of `detections_to_json`, to its decimals.

    Raises:
        KeyError, ValueError: rows of another form, or an unknown class.
    """
    return Detections(
        np.array([row["xyxy"] for row in rows], dtype=np.float32).reshape(-1, 4),
        np.array([row["score"] for row in rows], dtype=np.float32),
        np.array([list(classes).index(row["class"]) for row in rows], dtype=np.int64),
    )


def _inside(file: Any) -> str:
    """A file name of bundle.json, refused when it leads out of the bundle."""
    pure = PurePosixPath(str(file))
    if pure.is_absolute() or ".." in pure.parts:
        raise DataError(f"bundle.json names the file {file}, which is outside the bundle: {_GET_ANOTHER}")
    return str(file)
