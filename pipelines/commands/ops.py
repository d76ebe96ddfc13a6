"""`detloop ops MODEL.onnx --target tensorrt|openvino|onnxruntime`: what does the target lack, and what can be done about it?"""

from __future__ import annotations

import argparse
from pathlib import Path

from export.convert.onnx_model import read_onnx
from export.convert.operators import TARGETS, lacking, operator_counts
from pipelines.core.errors import GateError, counted


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="the ONNX file")
    parser.add_argument("--target", choices=TARGETS, required=True, help="where it is to run")


def run(args: argparse.Namespace) -> int:
    """Print what is lacking; 0 when nothing is.

    Raises:
        GateError: the target lacks an operator.
    """
    model = read_onnx(args.model)
    counts = operator_counts(model)
    found = lacking(model, args.target)
    for item in found:
        print(f"{item.operator}: {item.nodes} nodes, first {item.first}: {item.reason}")
        print(f"    {item.advice}")
    if found:
        raise GateError(f"{args.target} lacks {len(found)} of {len(counts)} operators of {args.model}: {', '.join(item.operator for item in found)}")
    print(f"{args.target} has all {len(counts)} operators ({counted(sum(counts.values()), 'node')}) of {args.model}")
    return 0
