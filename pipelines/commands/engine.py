"""`detloop engine build --bundle DIR`: TensorRT engines from a bundle's ONNX files, on the machine that is to run them.

They land in `DIR/local/`, beside the bundle's own files, which stay as they were released. An engine counts only after it found on the golden images
what its ONNX file found on the releasing machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from export.bundle.golden import runner_answer
from export.bundle.reader import LOCAL_FOLDER, Bundle, load_released
from export.convert.engine_from_onnx import engine_from_onnx, toolchain
from export.engine_records import ENGINES_FILE, NOT_BUILT, engines_document
from export.runners import open_runner
from pipelines.core.cli import add_action
from pipelines.core.errors import DetloopError, GateError, MissingPartError
from pipelines.core.io import new_folder, write_bytes, write_json

TIMING_CACHE = "timing.cache"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = add_action(actions, "build", "build engines of a bundle's ONNX files for this machine, and check them on the golden images")
    build.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="the bundle")


def run(args: argparse.Namespace) -> int:
    """Build each precision that the bundle ships as ONNX; one line each.

    Raises:
        MissingPartError: no TensorRT here.
        GateError: no engine could be built, or one does not find what it should.
    """
    bundle = load_released(args.bundle)
    tools = toolchain()
    if tools.library is None:
        raise MissingPartError("neither tensorrt nor tensorrt_rtx can be imported here: pip install tensorrt-rtx on x86-64 Linux")
    sources = _sources(bundle)
    entries: dict[str, dict[str, Any]] = {}
    with new_folder(bundle.folder / LOCAL_FOLDER) as folder:
        for precision, name in sources.items():
            artifact = bundle.artifacts[name]
            content = bundle.require_unchanged(artifact.file).read_bytes()
            entry, engine = engine_from_onnx(content, precision, tools, timing_cache=bundle.folder / TIMING_CACHE)
            entries[precision] = {**entry, "onnx": artifact.file, "thresholds": artifact.thresholds, "checked_as": name}
            if engine is not None:
                write_bytes(folder / entry["file"], engine)
        write_json(folder / ENGINES_FILE, engines_document(entries, bundle.contract))
        for precision, entry in entries.items():
            entry["golden"], detail = _golden(bundle, folder, entry)
            print(f"{entry['golden']:8}{precision:6} {detail}", flush=True)
        write_json(folder / ENGINES_FILE, engines_document(entries, bundle.contract))
    failed = [precision for precision, entry in entries.items() if entry["golden"] == "fail"]
    lacking = [precision for precision in failed if entries[precision]["status"] == NOT_BUILT]
    reasons = {"could not be built": lacking, "do not find what their ONNX files find": [name for name in failed if name not in lacking]}
    if failed:
        told = "; ".join(f"engines {', '.join(names)} {words}" for words, names in reasons.items() if names)
        raise GateError(f"{told}: they will not be used, see the lines above")
    return 0


def _sources(bundle: Bundle) -> dict[str, str]:
    """By precision the first artifact that runs an ONNX file."""
    found: dict[str, str] = {}
    for name in bundle.order:
        if bundle.artifacts[name].runner != "tensorrt":
            found.setdefault(bundle.artifacts[name].precision, name)
    return dict(sorted(found.items()))


def _golden(bundle: Bundle, folder: Path, entry: dict[str, Any]) -> tuple[str, str]:
    """pass, fail or not_run, and why."""
    if entry["status"] == NOT_BUILT:
        return "fail", str(entry["reason"])
    try:
        with open_runner("tensorrt", folder / entry["file"], threads=1) as runner:
            answer = runner_answer(bundle, entry["checked_as"], runner, bundle.golden)
    except MissingPartError as error:
        return "not_run", f"built, not run: {error}"
    except DetloopError as error:
        return "fail", str(error)
    return answer.status, answer.detail
