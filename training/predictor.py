"""The trained model as a runner, and its detections on the images of a split: the reference that every exported artifact is held against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pipelines.core.cluster import map_on_ray
from pipelines.core.contract import ModelContract
from pipelines.core.errors import DataError
from pipelines.core.images import Image, Letterbox, apply_letterbox, letterbox_for, read_for, tensor_from_letterboxed
from pipelines.core.params import PredictParams
from pipelines.core.postprocess import detections_from_output
from pipelines.core.types import Detections, Sample
from training.checkpoint import load_detector

_BATCHES_A_TASK = 4  # images that one task of a cluster gets, in batches
READERS = 2  # threads that decode images while the network runs


class TorchRunner:
    """The model file through torch, float32, fused; a context manager as the runners of exported artifacts are."""

    name = "torch"

    def __init__(self, path: Path, classes: Sequence[str] | None = None, device: str = "cpu") -> None:
        self._path, self._classes, self._device = path, classes, device
        self._module: torch.nn.Module | None = None
        self._contract: ModelContract | None = None
        self._coarsest: torch.Tensor | None = None

    def __enter__(self) -> Self:
        """Load the model.

        Raises:
            MissingInputError, DataError, ClassContractError: see `training.checkpoint.load_detector`.
        """
        module, self._contract = load_detector(self._path, self._classes)
        self._module = module.to(self._device)
        head: torch.nn.Module = list(module.model.children())[-1]  # type: ignore[union-attr]  # ultralytics: layers in order, the head last
        head.register_forward_pre_hook(self._keep_features)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let the model go."""
        self._module, self._coarsest = None, None

    @property
    def contract(self) -> ModelContract:
        """How to feed the model and how to read it."""
        if self._contract is None:
            raise RuntimeError("TorchRunner is used outside its `with` block")
        return self._contract

    def _keep_features(self, _: torch.nn.Module, inputs: tuple[list[torch.Tensor], ...]) -> None:
        self._coarsest = inputs[0][-1]

    def last_features(self) -> NDArray[np.float32]:
        """What the detector saw in the images of the last `infer`, (N, C), unit length: its coarsest feature map, averaged over the image."""
        if self._coarsest is None:
            raise RuntimeError("TorchRunner has features after `infer` only")
        mean = self._coarsest.float().mean(dim=(2, 3))
        unit: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
        return unit

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raw output, float32, laid out as `contract.layout` says, for a batch of shape (N, 3, height, width) from `tensor_from_letterboxed`.

        Raises:
            DataError: another shape or type.
        """
        width, height = self.contract.input_wh
        if batch.dtype != np.float32 or batch.ndim != 4 or batch.shape[1:] != (3, height, width):
            raise DataError(f"the model takes float32 (N, 3, {height}, {width}), it was given {batch.dtype} {batch.shape}")
        if self._module is None:
            raise RuntimeError("TorchRunner is used outside its `with` block")
        with torch.inference_mode():
            output: NDArray[np.float32] = self._module(torch.from_numpy(batch).to(self._device)).cpu().numpy()
        return output

    def infer_images(self, letterboxed: Sequence[Image]) -> NDArray[np.float32]:
        """As `infer`, for BGR images of the input's size."""
        return self.infer(tensor_from_letterboxed(letterboxed))


def predict_samples(runner: TorchRunner, samples: Sequence[Sample], raw: Path, params: PredictParams, title: str) -> dict[str, Detections]:
    """Detections of every sample by image_id, in pixels of the original image."""
    return predict_with_features(runner, samples, raw, params, title)[0]


def predict_with_features(
    runner: TorchRunner, samples: Sequence[Sample], raw: Path, params: PredictParams, title: str
) -> tuple[dict[str, Detections], dict[str, NDArray[np.float32]]]:
    """As `predict_samples`, and the features of every sample, (C,) each."""
    detections: dict[str, Detections] = {}
    features: dict[str, NDArray[np.float32]] = {}
    with tqdm(total=len(samples), desc=title, unit="image", disable=None) as progress:
        for part, images, boxes in _batches(samples, raw, runner.contract, params.batch):
            outputs = runner.infer_images(images)
            for sample, output, box, feature in zip(part, outputs, boxes, runner.last_features(), strict=True):
                features[sample.image_id] = feature
                detections[sample.image_id] = detections_from_output(
                    output,
                    runner.contract,
                    box,
                    (sample.width_px, sample.height_px),
                    score_floor=params.score_floor,
                    iou_threshold=params.iou_threshold,
                    max_detections=params.max_detections,
                )
            progress.update(len(part))
    return detections, features


def predict_on_ray(
    model: Path, classes: Sequence[str], samples: Sequence[Sample], raw: Path, params: PredictParams
) -> tuple[dict[str, Detections], dict[str, NDArray[np.float32]]]:
    """As `predict_with_features` on the CPUs of a Ray cluster, whose nodes see the same folders; each process loads the model once."""
    step = _BATCHES_A_TASK * params.batch
    parts = [tuple(samples[start : start + step]) for start in range(0, len(samples), step)]
    detections: dict[str, Detections] = {}
    features: dict[str, NDArray[np.float32]] = {}
    for found, seen in map_on_ray(partial(_predict_part, str(model.resolve()), tuple(classes), str(raw.resolve()), params), parts):
        detections |= found
        features |= seen
    return detections, features


def _predict_part(
    model: str, classes: tuple[str, ...], raw: str, params: PredictParams, samples: Sequence[Sample]
) -> tuple[dict[str, Detections], dict[str, NDArray[np.float32]]]:
    return predict_with_features(_opened(model, classes), samples, Path(raw), params, "predict")


@lru_cache(maxsize=1)
def _opened(model: str, classes: tuple[str, ...]) -> TorchRunner:
    return TorchRunner(Path(model), classes).__enter__()


def _batches(
    samples: Sequence[Sample], raw: Path, contract: ModelContract, size: int
) -> Iterator[tuple[Sequence[Sample], list[Image], list[Letterbox]]]:
    def prepared(sample: Sample) -> tuple[Image, Letterbox]:
        box = letterbox_for((sample.width_px, sample.height_px), contract.input_wh)
        return apply_letterbox(read_for(raw / sample.path, contract.decode_to_wh).pixels, box, contract.pad_value), box

    with ThreadPool(READERS) as pool:
        for start in range(0, len(samples), size):
            part = samples[start : start + size]
            items = pool.map(prepared, part)
            yield part, [image for image, _ in items], [box for _, box in items]
