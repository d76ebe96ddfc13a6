"""Stage export_onnx: the trained model becomes an ONNX file that says itself how to feed and read it."""

from __future__ import annotations

import argparse

from export.thresholds import read_thresholds
from pipelines.core.cli import stage_main
from pipelines.core.io import require_file, write_bytes
from pipelines.core.params import load_params


def work(args: argparse.Namespace) -> None:
    """Load, trace, check, write."""
    params = load_params(args.params)
    require_file(args.model, "run `dvc repro train`")
    from export.convert.onnx_from_torch import onnx_from_torch  # imported here: torch is slow, and a missing file should be said at once
    from training.checkpoint import load_detector

    thresholds = read_thresholds(args.thresholds, params.class_names)
    module, contract = load_detector(args.model, params.class_names)
    content = onnx_from_torch(module, contract, opset=params.export.opset, thresholds=thresholds)
    write_bytes(args.onnx, content)
    print(f"exported {len(content) / 1e6:.1f} MB of ONNX, input {contract.input_wh[0]}x{contract.input_wh[1]}, output {contract.layout}")


if __name__ == "__main__":
    stage_main(
        "export.stages.export_onnx",
        work,
        {
            "params": "params.yaml",
            "model": "model file of the train stage",
            "thresholds": "thresholds.json of the evaluate stage",
            "onnx": "ONNX file to write",
        },
    )
