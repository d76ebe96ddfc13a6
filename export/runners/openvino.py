"""OpenVINO on the CPU, reading the ONNX file as it is. Owner of `openvino`."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.metadata import contract_from_metadata, precision_from_metadata, thresholds_from_metadata
from export.runners.base import Runner, one_line
from pipelines.core.errors import DataError, MissingPartError
from pipelines.core.images import Image

MOST_COPIES = 8  # one for each caller; they cost some 30 MB and a weight file each, and gain where an image takes milliseconds
LARGEST_COPIED = 32_000_000  # bytes of a model file
_METADATA = "framework"  # where OpenVINO keeps an ONNX file's metadata pairs


def arithmetic_hint(precision: str, core: Any) -> str:
    """The type in which OpenVINO computes what is float in a file of `precision`: for int8 and fp16 bfloat16, where the CPU need not emulate it."""
    return "bf16" if precision in ("int8", "fp16") and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


def _computes_with_amx(compiled: Any) -> bool:
    """Whether a compiled model uses the CPU's matrix unit, whose kernels take long to begin."""
    about = (operation.get_rt_info() for operation in compiled.get_runtime_model().get_ordered_ops())
    return any("amx" in item["primitiveType"].astype(str) for item in about if "primitiveType" in item)


class OpenVinoRunner(Runner):
    """An `.onnx` file in OpenVINO, CPU device; `streams` callers share the `threads`. A batch is computed image by image: on most CPUs that is as
    fast, a fixed shape is faster than a free one, and int8 with a free one crashes on CPUs with AMX (openvinotoolkit/openvino issue 37577). Each of a
    few callers has a copy of a small model, which computes in the caller's thread: OpenVINO's streams hand every image to another thread and back.
    Where the CPU computes with AMX, a copy also takes `portion` images at once, with the same results in four fifths of the time.

    A float32 file is computed in float32: left alone, OpenVINO takes bfloat16 on CPUs that have it, and boxes move by pixels. An fp16 file is
    computed in the 16 bits that the CPU has, which is bfloat16, with AMX in half the time; so is what an int8 file leaves in float (activations,
    concatenations), as coarse as the int8 beside it. Val and test judge what that makes of the boxes. Another `precision_hint` (f32, bf16, f16) is
    for looking at what it would cost.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, path: Path, *, threads: int, streams: int = 1, portion: int = 1, precision_hint: str | None = None) -> None:
        try:
            import openvino
            import openvino.preprocess
        except ImportError as error:
            raise MissingPartError(f"OpenVINO is not installed ({error}): pip install openvino") from error
        self.path = path
        self.version = str(openvino.__version__).split("-")[0]
        try:
            core = openvino.Core()
            model = core.read_model(str(path))
            info = model.get_rt_info(_METADATA).value if model.has_rt_info(_METADATA) else {}
            metadata = {str(key): str(value) for key, value in info.items()}
            self.contract = contract_from_metadata(metadata, str(path))
            self.precision = precision_from_metadata(metadata, str(path))
            self.thresholds = thresholds_from_metadata(metadata, self.contract.classes, str(path))
            self.require_names([item.get_any_name() for item in model.inputs], [item.get_any_name() for item in model.outputs])
            self.require_input_shape([side.get_length() if side.is_static else None for side in model.input(0).partial_shape])
        except RuntimeError as error:
            raise DataError(f"{path} cannot be loaded by OpenVINO ({one_line(error)}): run `dvc repro export_onnx`") from error
        self._once, self._precision_hint = Lock(), precision_hint or arithmetic_hint(self.precision, core)
        self._openvino, self._core, self._threads, self._streams, self._portion = openvino, core, threads, streams, portion
        self._pixels = self._compiled(self._reading_pixels(model))
        self._tensors: SimpleQueue[Any] | None = None  # what parity and timing feed; compiled when they do

    def _reading_pixels(self, model: Any) -> Any:
        """The model with the contract's colour order and scale in front, from uint8 (1, height, width, 3) BGR."""
        layouts = self._openvino.Layout("NHWC"), self._openvino.Layout("NCHW")
        builder = self._openvino.preprocess.PrePostProcessor(model)
        source = builder.input()
        source.tensor().set_element_type(self._openvino.Type.u8).set_layout(layouts[0]).set_color_format(self._openvino.preprocess.ColorFormat.BGR)
        source.model().set_layout(layouts[1])
        source.preprocess().convert_element_type(self._openvino.Type.f32).convert_color(self._openvino.preprocess.ColorFormat.RGB)
        source.preprocess().scale(self.contract.divide_by)
        return builder.build()

    def _compiled(self, model: Any) -> SimpleQueue[dict[int, Any]]:
        """For each stream a request for one image and, where that gains, one for a portion, by number of images; those that nobody computes with."""
        own = 1 < self._streams <= MOST_COPIES and self.path.stat().st_size <= LARGEST_COPIED
        copies = self._streams if own else 1
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": self._precision_hint,
            "INFERENCE_NUM_THREADS": max(1, self._threads // copies),
            "NUM_STREAMS": self._streams // copies,
            "PERFORMANCE_HINT": "LATENCY" if self._streams == copies else "THROUGHPUT",
        }
        if own:
            settings["ENABLE_CPU_PINNING"] = False  # each copy would pin its threads to the same first processors
        try:
            models = {1: self._copies(model, 1, copies, settings)}
            if own and self._portion > 1 and _computes_with_amx(models[1][0]):
                models[self._portion] = self._copies(model, self._portion, copies, settings)
        except RuntimeError as error:
            raise DataError(f"{self.path} cannot be loaded by OpenVINO ({one_line(error)}): run `dvc repro export_onnx`") from error
        self._graph = models[1][0].get_runtime_model  # of the model compiled last, asked for when somebody wants to know
        requests: SimpleQueue[dict[int, Any]] = SimpleQueue()
        for stream in range(self._streams):
            requests.put({images: of[stream % copies].create_infer_request() for images, of in models.items()})
        return requests

    def _copies(self, model: Any, images: int, count: int, settings: dict[str, Any]) -> list[Any]:
        """The model compiled for so many images at once, so many times."""
        model.reshape([images, *list(model.input(0).partial_shape)[1:]])
        compiled = self._core.compile_model(model, "CPU", settings)
        content = compiled.export_model().getvalue() if count > 1 else b""  # to load it is several times as fast as to compile it
        return [compiled, *(self._core.import_model(BytesIO(content), "CPU", settings) for _ in range(count - 1))]

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._once:
            if self._tensors is None:
                self._tensors = self._compiled(self._core.read_model(str(self.path)))
        return self._each(self._tensors, [*batch])

    def _infer_images(self, letterboxed: Sequence[Image]) -> NDArray[np.float32]:
        output = self._each(self._pixels, letterboxed)
        self._check_output(output, len(letterboxed))
        return output

    def _each(self, requests: SimpleQueue[dict[int, Any]], items: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        by_images = requests.get()
        outputs: list[NDArray[np.float32]] = []
        try:
            done, most = 0, max(by_images)
            while done < len(items):
                images = most if len(items) - done >= most else 1
                batch = np.ascontiguousarray(items[done][None] if images == 1 else np.stack(items[done : done + images]))
                # A Tensor, not an array: what OpenVINO does to find out what an array is takes twice as long as all the rest of a call.
                found = by_images[images].infer(self._openvino.Tensor(batch, shared_memory=True), share_outputs=True)[0]
                outputs.append(np.array(found, dtype=np.float32))  # a copy: the request writes its next result to the same place
                done += images
        finally:
            requests.put(by_images)
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def arithmetic(self) -> dict[str, str]:
        """By node of the file; several that OpenVINO computes at once share one type."""
        found = {}
        for operation in self._graph().get_ordered_ops():
            about = operation.get_rt_info()
            if "runtimePrecision" in about and "originalLayersNames" in about:
                names = about["originalLayersNames"].astype(str).split(",")
                found.update({name: about["runtimePrecision"].astype(str) for name in names if name})
        return found

    def close(self) -> None:
        """Free the compiled models."""
        self._pixels, self._tensors = SimpleQueue(), None
