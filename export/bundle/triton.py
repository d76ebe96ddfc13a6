"""A released bundle as a model repository of NVIDIA's Triton inference server: the networks alone, boxes are read by the client.

OUT/detector_fp32/config.pbtxt        one model for each ONNX file that shipped, and for each engine of plain TensorRT (Triton loads no RTX engine)
OUT/detector_fp32/1/model.onnx
OUT/bundle.json                       contract and thresholds, for the client that letterboxes and reads the output
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from export.bundle.reader import BUNDLE_FILE, Bundle, BundleArtifact, open_fastest
from export.engine_records import engine_record
from pipelines.core.io import canonical_json

MAX_BATCH = 8  # images that Triton may gather for one call of an ONNX model
QUEUE_DELAY_US = 2000  # how long the first of them may wait for the others


@dataclass(frozen=True)
class _Model:
    name: str
    backend: str
    artifact: BundleArtifact
    file: str
    max_batch: int


def triton_files(bundle: Bundle) -> dict[str, bytes]:
    """File name relative to the repository, content.

    Raises:
        MissingPartError: nothing here can run the bundle, so the size of its output is unknown.
        DetloopError: a model is gone or changed.
    """
    output_dims = _output_dims(bundle)
    files = {BUNDLE_FILE: (bundle.folder / BUNDLE_FILE).read_bytes()}
    for model in _models(bundle):
        files[f"{model.name}/1/{model.file}"] = bundle.require_model(model.artifact).read_bytes()
        files[f"{model.name}/config.pbtxt"] = _config(bundle, model, output_dims).encode()
    return files


def _models(bundle: Bundle) -> Iterator[_Model]:
    """Each shipped file once; ONNX Runtime's verdict counts for Triton's onnxruntime backend, since it is the same library."""
    for artifact in (bundle.artifacts[name] for name in bundle.order):
        if artifact.runner == "onnxruntime":
            yield _Model(f"detector_{artifact.precision}", "onnxruntime", artifact, "model.onnx", MAX_BATCH)
        elif artifact.runner == "tensorrt":
            record = engine_record(bundle.require_model(artifact))
            if record.library == "tensorrt":
                yield _Model(f"detector_{artifact.precision}_tensorrt", "tensorrt", artifact, "model.plan", record.max_batch)


def _output_dims(bundle: Bundle) -> tuple[int, ...]:
    """Sides of the output for one image, as the network gives them: Triton's ONNX backend refuses -1 for a side that the file states."""
    width, height = bundle.contract.input_wh
    _, runner = open_fastest(bundle, None, threads=1, say=lambda _: None)
    with runner:
        return runner.infer(np.zeros((1, 3, height, width), np.float32)).shape[1:]


def _config(bundle: Bundle, model: _Model, output_dims: tuple[int, ...]) -> str:
    """The text of config.pbtxt (message ModelConfig of Triton's model_config.proto); dims leave the batch out."""
    contract = bundle.contract
    width, height = contract.input_wh
    output = ", ".join(map(str, output_dims))
    about = {"contract": contract.to_json(), "sha256": bundle.files[model.artifact.file]}
    return f"""name: {json.dumps(model.name)}
backend: {json.dumps(model.backend)}
max_batch_size: {model.max_batch}
input [
  {{ name: {json.dumps(contract.input_name)}, data_type: TYPE_FP32, dims: [ 3, {height}, {width} ] }}
]
output [
  {{ name: {json.dumps(contract.output_name)}, data_type: TYPE_FP32, dims: [ {output} ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_US} }}
parameters [
  {{ key: "detloop", value: {{ string_value: {json.dumps(canonical_json(about))} }} }}
]
"""
