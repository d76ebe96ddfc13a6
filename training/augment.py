"""Albumentations from params.yaml, by class name and arguments. Owner of albumentations."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.core.errors import ParamsError
from pipelines.core.params import AugmentationParams
from training.environment import quiet_ultralytics

quiet_ultralytics()  # albumentations would ask its package index for a newer version at import

import albumentations as A  # noqa: E402, N812 the name that its own documentation uses

TRIAL_SIZE_PX = 128


def serialised_augmentations(augmentations: Sequence[AugmentationParams]) -> list[dict[str, Any]]:
    """Each transform as the dictionary that `albumentations.from_dict` reads; built and tried once on a small image with one box.

    Raises:
        ParamsError: an unknown transform or argument, a value that albumentations refuses, or a transform that changes the image's size; the
            message names the key.
    """
    return [A.to_dict(_transform(f"train.augmentations[{position}]", item)) for position, item in enumerate(augmentations)]


def _transform(key: str, item: AugmentationParams) -> Any:
    kind = getattr(A, item.name, None)
    abstract = (A.Lambda, A.ImageOnlyTransform, A.DualTransform)
    if not (isinstance(kind, type) and issubclass(kind, A.ImageOnlyTransform | A.DualTransform)) or kind in abstract:
        raise ParamsError(f"{key}.name = {item.name!r} is no transform of albumentations {A.__version__} for images and boxes: correct it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an unknown argument is only a warning there
            transform = kind(**item.args)
    except (TypeError, ValueError, UserWarning) as error:
        raise ParamsError(f"{key}.args = {item.args!r}: {_one_line(error)}") from error
    _try(key, item.name, transform)
    return transform


def _try(key: str, name: str, transform: Any) -> None:
    """Run a copy of the transform with certainty: what needs other data, or gives another size, would fail in the middle of an epoch."""
    image = np.random.default_rng(0).integers(0, 255, (TRIAL_SIZE_PX, TRIAL_SIZE_PX, 3), dtype=np.uint8)
    inputs: dict[str, Any] = {"image": image}
    options: dict[str, Any] = {}
    if isinstance(transform, A.DualTransform):
        inputs |= {"bboxes": np.array([[0.5, 0.5, 0.4, 0.4]]), "labels": np.zeros(1)}
        options = {"bbox_params": A.BboxParams(format="yolo", label_fields=["labels"])}
    try:
        certain = A.from_dict(A.to_dict(transform))
        certain.p = 1.0
        result = A.Compose([certain], seed=0, **options)(**inputs)
    except Exception as error:  # a transform of another library may raise anything; the user gets it with the key's name
        raise ParamsError(f"{key} ({name}) fails on an image with boxes: {_one_line(error)}") from error
    if result["image"].shape != image.shape or result["image"].dtype != np.uint8:
        raise ParamsError(f"{key} ({name}) changes the image's size or type, and a batch needs one size: remove it")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
