"""Stage build_engine: TensorRT engines of the ONNX models, and a record of what was built; a machine without TensorRT gets the record alone."""

from __future__ import annotations

import argparse
from typing import Any

from export.artifacts import ONNX_FILES
from export.convert.engine_from_onnx import engine_from_onnx, toolchain
from export.engine_records import ENGINES_FILE, engines_document
from export.metadata import contract_from_metadata, thresholds_from_metadata
from pipelines.core.cli import stage_main
from pipelines.core.io import new_folder, require_file, write_bytes, write_json
from pipelines.core.params import load_params


def work(args: argparse.Namespace) -> None:
    """Build every engine that params.export.engines names, and record each."""
    params = load_params(args.params)
    wanted = [precision for precision in ONNX_FILES if precision in params.export.engines]
    sources = {precision: require_file(args.export / ONNX_FILES[precision]) for precision in wanted}
    from export.convert.onnx_model import metadata_of, read_onnx

    main_model = args.export / ONNX_FILES["fp32"]
    contract = contract_from_metadata(metadata_of(read_onnx(main_model)), str(main_model))
    tools = toolchain()
    entries: dict[str, dict[str, Any]] = {}
    with new_folder(args.engines) as folder:
        for precision, source in sources.items():
            entry, engine = engine_from_onnx(source.read_bytes(), precision, tools, timing_cache=args.work / "timing.cache")
            stated = thresholds_from_metadata(metadata_of(read_onnx(source)), contract.classes, str(source))
            entries[precision] = {**entry, "onnx": source.name, "thresholds": stated}
            if engine is not None:
                write_bytes(folder / entry["file"], engine)
        write_json(folder / ENGINES_FILE, engines_document(entries, contract))
    for name, entry in entries.items():
        print(f"engine {name}: {entry['status']}" + (f" ({entry['reason']})" if "reason" in entry else ""))


if __name__ == "__main__":
    stage_main(
        "export.stages.build_engine",
        work,
        {
            "params": "params.yaml",
            "export": "folder of the ONNX files",
            "work": "folder in which TensorRT's timings are kept",
            "engines": "folder of engines and engines.json to write",
        },
    )
