"""Stage quantize: the float32 ONNX model in another precision, judged on val. int8 is calibrated on train images only, and where it loses more than
allowed, its most sensitive layers go back to float until it does not.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from export.artifacts import BEFORE_FILE
from pipelines.core.cli import run_guarded
from pipelines.core.errors import DataError, ParamsError
from pipelines.core.images import read_for
from pipelines.core.io import json_text, read_json, sha256_bytes, write_bytes, write_folder, write_json, write_metrics
from pipelines.core.params import Params, load_params
from pipelines.core.records import read_samples
from pipelines.core.slices import SliceLimits

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from export.stages.on_val import ValGate
    from pipelines.core.contract import ModelContract
    from pipelines.core.types import Sample

PRECISIONS = ("fp16", "int8")
LIBRARIES = ("numpy", "onnxruntime", "opencv-python-headless")  # what measured ranges depend on
SEARCH_IMAGES = 8  # calibration images that rank the layers
ACTIVATION_IMAGES = 32  # calibration images that activations are fitted on
WIDENINGS = (1.0, 1.12, 1.25, 1.4, 1.6)  # of the measured ranges: what is cut off is large, and large values carry the detections


@dataclass(frozen=True)
class Quantized:
    """The model, the same before layers went back to float (None: none did), the layers by sensitivity, what the search says of itself, and by which
    factor of WIDENINGS the measured ranges were widened (None: not int8). `activations` tells what became of fitted ones where they were asked for.
    """

    content: bytes
    before: bytes | None
    ranking: dict[str, float]
    fallback: dict[str, Any] | None
    note: str
    widened: float | None = None
    activations: dict[str, Any] | None = None


def work(args: argparse.Namespace) -> None:
    """Read, convert, judge on val, write."""
    params = load_params(args.params)
    if args.precision not in PRECISIONS:
        raise ParamsError(f"--precision {args.precision!r} is unknown: use one of {', '.join(PRECISIONS)}")
    from export.convert.onnx_model import metadata_of, read_onnx, with_metadata
    from export.metadata import contract_from_metadata, thresholds_entry, thresholds_from_metadata
    from export.stages.on_val import val_gate

    model = read_onnx(args.onnx)
    contract = contract_from_metadata(metadata_of(model), str(args.onnx))
    contract.require_classes(params.class_names, str(args.onnx))
    thresholds = thresholds_from_metadata(metadata_of(model), params.class_names, str(args.onnx))
    if thresholds is None:
        raise DataError(f"{args.onnx} states no thresholds to start from: run `dvc repro export_onnx`")
    gate = val_gate(read_samples(args.dataset / "val.jsonl"), args.raw, params, args.onnx.read_bytes(), thresholds)
    result = (_fp16 if args.precision == "fp16" else _int8)(args, params, model, contract, gate)
    judged = gate.judge(result.content)
    content = with_metadata(result.content, thresholds_entry(judged.thresholds))
    files = {"layers.json": json_text({"disturbance": result.ranking}).encode()}
    if result.before is not None:
        files[BEFORE_FILE] = with_metadata(result.before, thresholds_entry(judged.thresholds))
    write_folder(args.search, files)
    write_bytes(args.quantized, content)
    about = {"precision": args.precision, "sha256": sha256_bytes(content), "split": "val", **judged.to_json(), "fallback": result.fallback}
    if result.widened is not None:
        about["ranges_widened_by"] = result.widened
    if result.activations is not None:
        about["activations"] = result.activations
    write_metrics(args.metrics, about)
    print(f"quantized to {args.precision}: {len(content) / 1e6:.1f} MB{result.note}; on val {judged.sentence()}")


def _fp16(args: argparse.Namespace, params: Params, model: onnx.ModelProto, contract: ModelContract, gate: ValGate) -> Quantized:
    """Fitted activations where they are asked for and val allows them; else exact ones."""
    from export.convert.fp16_from_onnx import fp16_from_onnx

    if params.export.fp16_activations == "exact":
        return Quantized(fp16_from_onnx(model), None, {}, None, "")
    from export.convert.onnx_model import with_metadata
    from export.metadata import CALIBRATION_KEY

    calibration = _calibration(args, params, contract)
    fits, changed = _with_fits(args, model, calibration, contract)
    content = with_metadata(fp16_from_onnx(changed), {CALIBRATION_KEY: calibration.record})
    judged = gate.judge(content)
    if judged.passes is not False:
        return Quantized(content, None, {}, None, f", {fits} activations fitted", activations={"fitted": fits, "refused": None})
    about = ", fitted activations lost too much"
    return Quantized(fp16_from_onnx(model), None, {}, None, about, activations={"fitted": 0, "refused": judged.to_json()})


def _int8(args: argparse.Namespace, params: Params, model: onnx.ModelProto, contract: ModelContract, gate: ValGate) -> Quantized:
    """Fitted activations where they are asked for and val allows them; else exact ones, with a fallback to float layers where that is not enough."""
    calibration = _calibration(args, params, contract)
    about = f", calibrated on {len(calibration.images)} train images"
    refused = None
    if params.export.int8_activations == "fitted":
        fits, changed = _with_fits(args, model, calibration, contract)
        content, widened = _converted(args, params, changed, calibration, contract)
        judged = gate.judge(content)
        if judged.passes is not False:
            note = f"{about}, ranges x {widened:g}, {fits} activations fitted"
            return Quantized(content, None, {}, None, note, widened, {"fitted": fits, "refused": None})
        refused = judged.to_json()
        about += ", fitted activations lost too much"
    content, widened = _converted(args, params, model, calibration, contract)
    note = f"{about}, ranges x {widened:g}"
    activations = None if refused is None else {"fitted": 0, "refused": refused}
    judged = gate.judge(content)
    if judged.passes is not False:
        return Quantized(content, None, {}, None, note, widened, activations)
    found = _with_fallback(content, model, list(calibration.batches(SEARCH_IMAGES, "rank layers")), contract, gate, note)
    return replace(found, widened=widened, activations=activations)


@dataclass(frozen=True)
class Calibration:
    """The train images that are measured, their record for the model file, and their inputs (1, 3, H, W): the first `count`, with a title to show."""

    images: Sequence[Sample]
    record: str
    batches: Callable[[int, str], Iterator[NDArray[np.float32]]]

    def kept(self, work: Path, model: bytes, method: str) -> Path:
        """Where what `method` measures on a model is kept."""
        from export.convert.calibration import calibration_key

        versions = {"method": method, **{name: importlib.metadata.version(name) for name in LIBRARIES}}
        return work / f"{calibration_key(sha256_bytes(model), self.record, versions)}.json"


def _calibration(args: argparse.Namespace, params: Params, contract: ModelContract) -> Calibration:
    from export.convert.calibration import calibration_batches, calibration_record, choose_calibration, require_train_only

    settings = params.evaluate
    limits = SliceLimits(settings.small_area_px, settings.medium_area_px, settings.dark_below, settings.bright_above)
    train = read_samples(args.dataset / "train.jsonl")
    held_out = [sample.image_id for split in ("val", "test") for sample in read_samples(args.dataset / f"{split}.jsonl")]
    chosen = choose_calibration(train, params.export.calibration_images, limits)
    require_train_only([sample.image_id for sample in chosen], [sample.image_id for sample in train], held_out)

    def batches(count: int, title: str) -> Iterator[NDArray[np.float32]]:
        shown = tqdm(chosen[:count], desc=title, unit="image", file=sys.stderr, disable=not sys.stderr.isatty())
        return calibration_batches(shown, contract, lambda sample: read_for(args.raw / sample.path, contract.decode_to_wh))

    return Calibration(chosen, calibration_record(chosen, limits), batches)


def _with_fits(args: argparse.Namespace, model: onnx.ModelProto, calibration: Calibration, contract: ModelContract) -> tuple[int, onnx.ModelProto]:
    """How many activations a model has, and the model with a fit in place of each."""
    from export.convert.activations import METHOD, Fit, fitted, silu_inputs, value_counts, with_fitted_activations

    kept = calibration.kept(args.work, model.SerializeToString(deterministic=True), METHOD)
    if not kept.is_file():
        batches = calibration.batches(ACTIVATION_IMAGES, "fit activations")
        counts = value_counts(model, batches, contract.input_name, silu_inputs(model))
        write_json(kept, {name: fitted(count)._asdict() for name, count in counts.items()})
    fits = {name: Fit(**fit) for name, fit in read_json(kept).items()}
    return len(fits), with_fitted_activations(model, fits)


def _converted(
    args: argparse.Namespace, params: Params, model: onnx.ModelProto, calibration: Calibration, contract: ModelContract
) -> tuple[bytes, float]:
    """A float32 model in int8, and the factor of WIDENINGS."""
    from export.convert.equalize import channel_peaks, equalized
    from export.convert.int8_from_onnx import int8_from_onnx, quantized_tensors
    from export.convert.ranges import METHOD, measured_ranges

    kept = calibration.kept(args.work, model.SerializeToString(deterministic=True), f"{METHOD}, widened by one of {WIDENINGS}")
    if not kept.is_file():
        every = len(calibration.images)
        peaks = channel_peaks(model, calibration.batches(every, "equalize channels"), contract.input_name, quantized_tensors(model, "none"))
        even = equalized(model, peaks)
        ranges = measured_ranges(even, calibration.batches(every, "calibrate"), contract.input_name, quantized_tensors(even, "none"))
        write_json(kept, {"peaks": peaks, **_widened(ranges, even, list(calibration.batches(SEARCH_IMAGES, "widen ranges")), contract)})
    found = read_json(kept)
    keep_float = params.export.int8_keep_float
    read = set(quantized_tensors(model, keep_float))
    even = equalized(model, {name: peaks for name, peaks in found["peaks"].items() if name in read})
    return int8_from_onnx(even, found["ranges"], keep_float=keep_float, calibration=calibration.record), float(found["widened_by"])


def _widened(ranges: dict[str, float], fp32: onnx.ModelProto, batches: Sequence[NDArray[np.float32]], contract: ModelContract) -> dict[str, Any]:
    """The ranges times the factor of WIDENINGS with which the model's output is disturbed least, all layers in int8; and the factor."""
    from export.convert.float_layers import disturbance
    from export.convert.int8_from_onnx import int8_from_onnx

    candidates = {factor: {name: factor * end for name, end in ranges.items()} for factor in WIDENINGS}
    models = {factor: int8_from_onnx(fp32, ends, keep_float="none", calibration="") for factor, ends in candidates.items()}
    exact = _outputs(fp32.SerializeToString(), batches)
    best = min(WIDENINGS, key=lambda factor: disturbance(exact, _outputs(models[factor], batches), contract.layout))
    return {"widened_by": best, "ranges": candidates[best]}


def _with_fallback(
    content: bytes, fp32: onnx.ModelProto, batches: Sequence[NDArray[np.float32]], contract: ModelContract, gate: ValGate, note: str
) -> Quantized:
    """Put layers back to float until the gate passes; the untouched model when no set of layers does it."""
    import onnx

    from export.convert.float_layers import fewest_layers, quantized_layers, sensitivities, with_float_layers

    int8 = onnx.load_from_string(content)

    def progress(layers: Sequence[str]) -> Any:
        return tqdm(layers, desc="rank layers", unit="layer", file=sys.stderr, disable=not sys.stderr.isatty())

    ranking = sensitivities(int8, fp32, lambda candidate: _outputs(candidate, batches), contract.layout, progress)
    layers = list(ranking)
    answers: dict[int, dict[str, Any]] = {}

    def passes(group: tuple[str, ...]) -> bool:
        judged = gate.judge(with_float_layers(int8, fp32, group))
        answers[len(group)] = judged.to_json()
        return judged.passes is True

    search = fewest_layers(layers, passes, most=len(layers) // 2)
    fallback = {
        "needed": True,
        "float_layers": list(search.layers or ()),
        "quantized_layers": len(quantized_layers(int8)) - len(search.layers or ()),
        "before": gate.judge(content).to_json(),
        "tried": {str(count): answers[count] for count in sorted(answers)},
    }
    if search.layers is None:
        return Quantized(content, None, ranking, fallback, f"{note}; no fallback of up to {len(layers) // 2} layers brings it under the gate")
    named = f"{note}; back in float: {', '.join(search.layers)}"
    return Quantized(with_float_layers(int8, fp32, search.layers), content, ranking, fallback, named)


def _outputs(model: bytes, batches: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Raw outputs of a model on all batches, (N, …)."""
    import numpy as np

    from export.runners import open_runner

    with tempfile.TemporaryDirectory(prefix="detloop-rank-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        with open_runner("onnxruntime", path, threads=os.cpu_count() or 1) as runner:
            return np.concatenate([runner.infer(batch) for batch in batches])


def main() -> None:
    """Parse, run, exit."""
    parser = argparse.ArgumentParser(prog="python -m export.stages.quantize", allow_abbrev=False)
    parser.add_argument("--params", type=Path, required=True, help="params.yaml")
    parser.add_argument("--precision", required=True, help="fp16 or int8")
    parser.add_argument("--onnx", type=Path, required=True, help="float32 ONNX file of the export_onnx stage")
    parser.add_argument("--dataset", type=Path, required=True, help="folder of train.jsonl, val.jsonl and test.jsonl")
    parser.add_argument("--raw", type=Path, required=True, help="folder that the samples' paths start from")
    parser.add_argument("--work", type=Path, required=True, help="folder in which measured ranges are kept")
    parser.add_argument("--quantized", type=Path, required=True, help="ONNX file to write")
    parser.add_argument("--search", type=Path, required=True, help="folder to write: the layers by sensitivity, and the model before any went back")
    parser.add_argument("--metrics", type=Path, required=True, help="metrics file to write")
    args = parser.parse_args()
    sys.exit(run_guarded(lambda: work(args)))


if __name__ == "__main__":
    main()
