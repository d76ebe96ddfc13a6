"""`engines.json`: what each engine was built from, by which library, and whether anything here could run it. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.contract import ModelContract
from pipelines.core.errors import DataError
from pipelines.core.io import read_json, sha256_file

ENGINES_FILE = "engines.json"
REBUILD = "build it here: `detloop engine build --bundle DIR` for a bundle, `dvc repro -f build_engine` in a project"
BUILT = "built"  # a GPU of this machine can load it
BUILT_NOT_RUN = "built, not run"  # no GPU here can load it, so nothing is known of its results
NOT_BUILT = "not_built"  # `reason` says why


@dataclass(frozen=True)
class EngineRecord:
    """What a runner must know of a built engine."""

    library: str  # tensorrt | tensorrt_rtx
    library_version: str
    precision: str
    contract: ModelContract
    thresholds: dict[str, float] | None
    max_batch: int
    sha256: str
    onnx_sha256: str
    gpu: str | None  # None: any GPU that the library supports
    driver: str | None  # None: any driver

    def foreign_here(self, library_version: str, gpu: str, driver: str) -> str | None:
        """Why this machine must not run the engine; None when it may."""
        if self.library_version != library_version:
            return f"built by {self.library} {self.library_version}, here is {library_version}"
        if self.gpu is not None and self.gpu != gpu:
            return f"built for {self.gpu}, here is {gpu}"
        if self.driver is not None and self.driver != driver:
            return f"built under driver {self.driver}, here is {driver}"
        return None


def engines_document(entries: Mapping[str, Mapping[str, Any]], contract: ModelContract) -> dict[str, Any]:
    """The JSON object of `engines.json`; `entries` by precision, as `export.convert.engine_from_onnx` makes them."""
    return {"contract": contract.to_json(), "engines": {name: dict(entry) for name, entry in entries.items()}}


def engine_record(path: Path) -> EngineRecord:
    """The record of the engine file `path`, from the `engines.json` beside it, held against the file's bytes.

    Raises:
        MissingInputError: no `engines.json`.
        DataError: it does not list the file, or the file is another one.
    """
    listing = path.parent / ENGINES_FILE
    document = read_json(listing, "keep it beside the engine, or run `dvc repro build_engine`")
    try:
        found = [(name, entry) for name, entry in document["engines"].items() if entry.get("file") == path.name]
        if not found:
            raise DataError(f"{listing} does not list {path.name}, so its contract is unknown: run `dvc repro build_engine`")
        precision, entry = found[0]
        record = EngineRecord(
            library=entry["library"],
            library_version=entry["library_version"],
            precision=precision,
            contract=ModelContract.from_json(document["contract"], str(listing)),
            thresholds=entry.get("thresholds"),
            max_batch=entry["max_batch"],
            sha256=entry["sha256"],
            onnx_sha256=entry["onnx_sha256"],
            gpu=entry.get("gpu"),
            driver=entry.get("driver"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{listing} has another form ({error!r}): run `dvc repro build_engine`") from error
    actual = sha256_file(path)
    if actual != record.sha256:
        raise DataError(f"{path} has sha256 {actual[:12]}…, {listing.name} says {record.sha256[:12]}…: run `dvc repro build_engine`")
    if f"detloop-{record.onnx_sha256}".encode() not in path.read_bytes():
        raise DataError(f"{path} is the engine of another ONNX file than {listing.name} states: run `dvc repro -f build_engine`")
    return record


def require_built_from(path: Path, onnx: Path) -> None:
    """Refuse an engine that was built from another ONNX file than `onnx` as it lies there.

    Raises:
        DataError: it was, or its record cannot be used.
    """
    record, now = engine_record(path), sha256_file(onnx)
    if record.onnx_sha256 != now:
        raise DataError(
            f"{path} is the engine of another ONNX file (sha256 {record.onnx_sha256[:12]}…, {onnx} has {now[:12]}…): run `dvc repro -f build_engine`"
        )
