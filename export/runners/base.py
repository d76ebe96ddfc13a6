"""The one way to run an exported model: a context manager that is fed letterboxed batches and gives raw output, checked at the door.

    with open_runner("onnxruntime", Path("model.onnx"), threads=2) as runner:
        output = runner.infer(batch)  # (N, 3, H, W) -> (N, 4 + classes, anchors) or (N, boxes, 6), see `runner.contract.layout`

Comparing and timing are the caller's. A runner module needs numpy, OpenCV and its own runtime, nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from pipelines.core.contract import ModelContract
from pipelines.core.errors import ClassContractError, DataError
from pipelines.core.images import Image, tensor_from_letterboxed

MAX_MESSAGE = 300  # of a library's own error text


def one_line(error: BaseException) -> str:
    """A library's error as one short line."""
    return " ".join(str(error).split())[:MAX_MESSAGE]


class Runner(ABC):
    """A loaded model.

    `name` is the kind that `open_runner` takes, `version` the runtime's version, `device` where it computes, `precision` what the file states (fp32,
    fp16, int8), `max_batch` the largest N it takes (None: any), `thresholds` from which score up a detection of each class is shown (None: the file
    states none). Input and output are float32 whatever the precision.
    """

    name: str
    version: str
    device: str
    path: Path
    contract: ModelContract
    precision: str
    thresholds: dict[str, float] | None = None
    max_batch: int | None = None

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raw output for a float32 batch (N, 3, H, W), a new array. May be called from several threads; more than the opener's `streams` wait.

        Raises:
            DataError: the batch's dtype or shape, or the model's output, is not what the contract says.
        """
        width, height = self.contract.input_wh
        wanted = f"{self.name} ({self.path.name}) wants float32 (N, 3, {height}, {width}) for `{self.contract.input_name}`"
        if not isinstance(batch, np.ndarray) or batch.dtype != np.float32:
            raise DataError(
                f"{wanted}, got {getattr(batch, 'dtype', type(batch).__name__)}: make it with pipelines.core.images.tensor_from_letterboxed"
            )
        if batch.ndim != 4 or batch.shape[0] == 0 or batch.shape[1:] != (3, height, width):
            raise DataError(f"{wanted} with N at least 1, got shape {batch.shape}: letterbox the images to {width}x{height} first")
        if self.max_batch is not None and batch.shape[0] > self.max_batch:
            raise DataError(f"{wanted} with N at most {self.max_batch}, got {batch.shape[0]}: feed smaller batches")
        output = self._run(np.ascontiguousarray(batch))
        self._check_output(output, batch.shape[0])
        return output

    def infer_images(self, letterboxed: Sequence[Image]) -> NDArray[np.float32]:
        """Raw output for BGR images of the input's size, as `infer` gives it: colour order and scale are the contract's, made where it is cheapest.

        Raises:
            DataError: as `infer`; or the contract asks for another colour order or scale than this code makes.
        """
        self.contract.require_known_pixels()
        return self._infer_images(letterboxed)

    def _infer_images(self, letterboxed: Sequence[Image]) -> NDArray[np.float32]:
        """Through the tensor that `infer` takes; a runner whose runtime reads pixels faster does it there."""
        return self.infer(tensor_from_letterboxed(letterboxed))

    def require_contract(self, class_hash: str) -> None:
        """Refuse a model of another class contract.

        Raises:
            ClassContractError: the hashes differ.
        """
        if self.contract.class_hash != class_hash:
            raise ClassContractError(
                f"{self.path} has class hash {self.contract.class_hash} ({list(self.contract.classes)}), wanted {class_hash}: "
                "run `dvc repro export_onnx`"
            )

    def require_thresholds(self) -> NDArray[np.float64]:
        """The score from which a detection of each class is shown, (classes,).

        Raises:
            DataError: the file states none.
        """
        if self.thresholds is None:
            raise DataError(f"{self.path} states no thresholds, so what it would show is unknown: export it with `dvc repro export_onnx`")
        return np.array([self.thresholds[name] for name in self.contract.classes], dtype=np.float64)

    def arithmetic(self) -> dict[str, str]:
        """The type in which each node of the file is computed (f32, bf16, f16, i8, u8), as far as the runtime tells; empty where it does not."""
        return {}

    def require_names(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Refuse a model whose inputs and outputs are not the contract's.

        Raises:
            DataError: they differ.
        """
        wanted = ([self.contract.input_name], [self.contract.output_name])
        if (list(inputs), list(outputs)) != wanted:
            raise DataError(
                f"{self.path} has inputs {list(inputs)} and outputs {list(outputs)}, its contract says {wanted[0]} and {wanted[1]}: "
                "export the model again"
            )

    def require_input_shape(self, stated: Sequence[object]) -> None:
        """Refuse a model whose input is not of the contract's size; of its `stated` sides those count that are numbers.

        Raises:
            DataError: they differ.
        """
        width, height = self.contract.input_wh
        wanted = (None, 3, height, width)
        if len(stated) != len(wanted) or any(
            isinstance(one, int) and other is not None and one != other for one, other in zip(stated, wanted, strict=True)
        ):
            raise DataError(f"{self.path} has an input of {list(stated)}, its contract says (N, 3, {height}, {width}): export the model again")

    @abstractmethod
    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute; `batch` is checked and contiguous."""

    @abstractmethod
    def close(self) -> None:
        """Free the model; a closed runner must not be used again."""

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _check_output(self, output: NDArray[np.float32], count: int) -> None:
        fits = output.ndim == 3 and output.shape[0] == count and output.dtype == np.float32
        if self.contract.layout == "cxcywh_scores":
            wanted, fits = f"({count}, {4 + len(self.contract.classes)}, anchors)", fits and output.shape[1] == 4 + len(self.contract.classes)
        else:
            wanted, fits = f"({count}, boxes, 6)", fits and output.shape[2] == 6
        if not fits:
            raise DataError(
                f"{self.name} ({self.path.name}) gave {output.dtype} {output.shape} for `{self.contract.output_name}`, "
                f"its contract says float32 {wanted}: export the model again"
            )
