"""Stage build_engine: TensorRT engines of the ONNX models, and a record of what was built; a machine without TensorRT gets the record alone."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from export.engine_from_onnx import engine_from_onnx, toolchain
from export.engine_records import ENGINES_FILE, engines_document
from export.metadata import contract_from_metadata
from pipelines.core.cli import stage_main
from pipelines.core.io import require_file, write_bytes, write_json
from pipelines.core.params import load_params

ONNX_FILES = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}


def work(args: argparse.Namespace) -> None:
    """Build into a temporary folder, then rename it."""
    params = load_params(args.params)
    wanted = [precision for precision in ONNX_FILES if precision in params.export.engines]
    sources = {precision: require_file(args.export / ONNX_FILES[precision]) for precision in wanted}
    from export.onnx_model import metadata_of, read_onnx

    main_model = args.export / ONNX_FILES["fp32"]
    contract = contract_from_metadata(metadata_of(read_onnx(main_model)), str(main_model))
    tools = toolchain()
    args.engines.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=args.engines.parent, prefix=f".{args.engines.name}."))
    try:
        entries: dict[str, dict[str, Any]] = {}
        for precision, source in sources.items():
            entry, engine = engine_from_onnx(source.read_bytes(), precision, tools)
            entries[precision] = {**entry, "onnx": source.name}
            if engine is not None:
                write_bytes(folder / entry["file"], engine)
        write_json(folder / ENGINES_FILE, engines_document(entries, contract))
        folder.chmod(0o755)
        shutil.rmtree(args.engines, ignore_errors=True)
        folder.replace(args.engines)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for name, entry in entries.items():
        print(f"engine {name}: {entry['status']}" + (f" ({entry['reason']})" if "reason" in entry else ""))


if __name__ == "__main__":
    stage_main(
        "export.stages.build_engine",
        work,
        {"params": "params.yaml", "export": "folder of the ONNX files", "engines": "folder of engines and engines.json to write"},
    )
