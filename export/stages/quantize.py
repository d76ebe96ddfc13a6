"""Stage quantize: the ONNX model in a smaller precision, fp16 or int8 (calibrated on train images only)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from pipelines.core.cli import run_guarded
from pipelines.core.errors import ParamsError
from pipelines.core.images import read_image
from pipelines.core.io import write_bytes
from pipelines.core.params import load_params
from pipelines.core.records import read_samples

PRECISIONS = ("fp16", "int8")


def work(args: argparse.Namespace) -> None:
    """Read, convert, write."""
    params = load_params(args.params)
    if args.precision not in PRECISIONS:
        raise ParamsError(f"--precision {args.precision!r} is unknown: use one of {', '.join(PRECISIONS)}")
    from export.convert.onnx_model import metadata_of, read_onnx, with_metadata
    from export.metadata import calibration_record, contract_from_metadata, thresholds_entry
    from export.stages.on_val import accuracy_on, val_split

    model = read_onnx(args.onnx)
    contract = contract_from_metadata(metadata_of(model), str(args.onnx))
    contract.require_classes(params.class_names, str(args.onnx))
    if args.precision == "fp16":
        from export.convert.fp16_from_onnx import fp16_from_onnx

        content = fp16_from_onnx(model)
        note = ""
    else:
        from export.convert.calibration import calibration_batches, choose_calibration, require_train_only
        from export.convert.int8_from_onnx import int8_from_onnx

        train = read_samples(args.dataset / "train.jsonl")
        held_out = [sample.image_id for split in ("val", "test") for sample in read_samples(args.dataset / f"{split}.jsonl")]
        chosen = choose_calibration(train, params.export.calibration_images)
        ids = [sample.image_id for sample in chosen]
        require_train_only(ids, [sample.image_id for sample in train], held_out)
        shown = tqdm(chosen, desc="calibrate", unit="image", file=sys.stderr, disable=not sys.stderr.isatty())
        content = int8_from_onnx(
            model,
            calibration_batches(shown, contract, lambda sample: read_image(args.raw / sample.path)),
            input_name=contract.input_name,
            keep_float=params.export.int8_keep_float,
            calibration=calibration_record(ids),
        )
        note = f", calibrated on {len(ids)} train images"
    accuracy = accuracy_on(val_split(read_samples(args.dataset / "val.jsonl"), args.raw, params), content)
    content = with_metadata(content, thresholds_entry(accuracy.thresholds))
    write_bytes(args.quantized, content)
    print(f"quantized to {args.precision}: {len(content) / 1e6:.1f} MB{note}")


def main() -> None:
    """Parse, run, exit."""
    parser = argparse.ArgumentParser(prog="python -m export.stages.quantize", allow_abbrev=False)
    parser.add_argument("--params", type=Path, required=True, help="params.yaml")
    parser.add_argument("--precision", required=True, help="fp16 or int8")
    parser.add_argument("--onnx", type=Path, required=True, help="float32 ONNX file of the export_onnx stage")
    parser.add_argument("--dataset", type=Path, required=True, help="folder of train.jsonl, val.jsonl and test.jsonl")
    parser.add_argument("--raw", type=Path, required=True, help="folder that the samples' paths start from")
    parser.add_argument("--quantized", type=Path, required=True, help="ONNX file to write")
    args = parser.parse_args()
    sys.exit(run_guarded(lambda: work(args)))


if __name__ == "__main__":
    main()
