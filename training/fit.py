"""One training from params.yaml to its result: settle device and precision, train or go on, read the state that the training leaves."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pipelines.core.contract import ModelContract
from pipelines.core.errors import DataError, MissingPartError, ParamsError
from pipelines.core.params import TrainParams
from pipelines.core.records import read_samples
from pipelines.core.section import plain
from pipelines.core.types import Sample
from training.augment import serialised_augmentations
from training.checkpoint import layout_of, model_bytes
from training.models import build_network, model_identity, stride_of
from training.plan import Plan, fingerprint, smallest_input
from training.state import TrainState, read_state
from training.trainer import Trainer

LIBRARIES = ("torch", "torchvision", "ultralytics-opencv-headless", "albumentations", "opencv-python-headless", "numpy")
PASSED_ON = (  # keys of params.train that ultralytics has under the same name
    *("imgsz", "epochs", "patience", "batch", "optimizer", "lr0", "cos_lr", "workers", "seed"),
    *("mosaic", "close_mosaic", "fliplr", "flipud", "scale", "translate", "hsv_h", "hsv_s", "hsv_v"),
)


@dataclass(frozen=True)
class Training:
    """A finished training: its final state, the model file's bytes, and the metrics that go with it (no times: they would differ each run)."""

    state: TrainState
    model: bytes
    metrics: dict[str, Any]


def train(params: TrainParams, classes: tuple[str, ...], dataset: Path, raw: Path, work: Path, *, progress: bool = True) -> Training:
    """Train on `dataset`/train.jsonl, validate on val.jsonl; go on where an earlier call with the same inputs in `work` was interrupted.

    Raises:
        ParamsError: a value of params.train that this ultralytics or albumentations refuses, or a training that diverged.
        DataError: nothing labeled to train or to validate on.
        MissingPartError: a device that is not there or has too little memory.
    """
    device = _device(str(params.device))
    precision = _precision(params.precision, device)
    plan = make_plan(params, classes, dataset, raw, work, device, precision, progress)
    state = read_state(Path(plan.state), plan.fingerprint)
    if state is None:
        shutil.rmtree(plan.run, ignore_errors=True)
        Path(plan.state).unlink(missing_ok=True)
    if state is None or not state.finished:
        _run(plan, work / "plan.json")
        state = read_state(Path(plan.state), plan.fingerprint)
    if state is None or not state.finished:
        raise DataError(f"the training left no whole state in {plan.state}: free some disk space, then run the same command again")
    network = build_network(params.model, classes)
    contract = ModelContract(classes=classes, input_wh=plan.input_wh, layout=layout_of(network), decoding=plan.decoding)
    metrics = _metrics(plan, state, device, sum(value.numel() for value in network.parameters()))
    return Training(state, model_bytes(network, state.best, contract, Path(params.model).name), metrics)


def make_plan(
    params: TrainParams, classes: tuple[str, ...], dataset: Path, raw: Path, work: Path, device: str, precision: str, progress: bool
) -> Plan:
    """The plan of a training on a settled device and precision.

    Raises:
        DataError: nothing labeled to train or to validate on.
        ParamsError: an unknown model or augmentation.
    """
    splits = {name: dataset / f"{name}.jsonl" for name in ("train", "val")}
    samples = {name: read_samples(path) for name, path in splits.items()}
    for name, path in splits.items():
        if not samples[name]:
            raise DataError(f"{path} has no images, and training needs labeled images in train and in val: label more, then run `dvc repro`")
    overrides: dict[str, Any] = {key: getattr(params, key) for key in PASSED_ON}
    overrides["nbs"] = params.nominal_batch
    overrides["augmentations"] = serialised_augmentations(params.augmentations)
    threads = torch.get_num_threads()
    identity = model_identity(params.model)
    input_wh = _input_wh(params, classes, samples["train"])
    settings = {
        "params": {key: value for key, value in plain(params).items() if key not in {"device", "precision", "workers", "input_wh"}},
        "model": identity,
        "input_wh": input_wh,
        "classes": classes,
        "device": device,
        "precision": precision,
        "threads": threads if device == "cpu" else 0,
        "workers": params.workers if device != "cpu" else 0,
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    work = work.resolve()
    return Plan(
        train_samples=str(splits["train"].resolve()),
        val_samples=str(splits["val"].resolve()),
        raw=str(raw.resolve()),
        classes=classes,
        model=params.model,
        state=str(work / "state.pt"),
        run=str(work / "run"),
        fingerprint=fingerprint([path.read_bytes() for path in splits.values()], settings),
        precision=precision,
        threads=threads,
        progress=progress,
        input_wh=input_wh,
        decoding=params.decoding,
        overrides={
            **overrides,
            "model": params.model,
            "data": str(work / "plan.json"),
            "save_dir": str(work / "run"),
            "device": device,
            "amp": "bf16" if precision == "bf16" and device != "cpu" else False,  # else ultralytics would fetch a model to check its own amp
            "deterministic": True,
            "plots": False,
            "verbose": False,
            "exist_ok": True,
        },
    )


def _input_wh(params: TrainParams, classes: tuple[str, ...], train: Sequence[Sample]) -> tuple[int, int]:
    """The model's input (width, height), by params.train.input_wh."""
    stride = stride_of(params.model, classes)
    if params.imgsz % stride:
        raise ParamsError(f"train.imgsz = {params.imgsz} is no multiple of {stride}, the coarsest grid of {params.model}: choose another")
    if params.input_wh == "square":
        return params.imgsz, params.imgsz
    if params.input_wh == "auto":
        return smallest_input(((sample.width_px, sample.height_px) for sample in train), params.imgsz, stride)
    if any(side % stride for side in params.input_wh):
        raise ParamsError(
            f"train.input_wh = {list(params.input_wh)}: both must be multiples of {stride}, the coarsest grid of {params.model}: choose others"
        )
    return params.input_wh


def _run(plan: Plan, path: Path) -> None:
    plan.write(path)
    try:
        Trainer(overrides=plan.overrides).train()
    except subprocess.CalledProcessError as error:
        raise MissingPartError("a training process on one of several GPUs failed; its own message stands above") from error
    except ValueError as error:
        raise ParamsError(f"train: ultralytics refuses these values: {' '.join(str(error).split())}") from error
    except RuntimeError as error:
        if "out of memory" not in str(error).lower():
            raise
        raise MissingPartError(f"the GPU has too little memory for train.batch = {plan.overrides['batch']}: lower it or train.imgsz") from error


def _device(device: str) -> str:
    """What ultralytics calls the device; `auto` is the first GPU, or the CPU."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "0" if gpus else "cpu"
    if device == "mps" and not torch.backends.mps.is_available():
        raise MissingPartError("train.device = 'mps', and this machine has no Apple GPU that torch can use: set it to auto or cpu")
    missing = [part for part in device.split(",") if part.isdigit() and int(part) >= gpus]
    if missing:
        there = f", or to GPUs from 0 to {gpus - 1}" if gpus else ""
        raise MissingPartError(f"train.device = {device!r}, and torch sees {gpus} CUDA GPUs: set it to auto or cpu{there}")
    return device


def _precision(precision: str, device: str) -> str:
    """f32, bf16 or amp; `auto` is bf16 on a CPU with bf16 instructions, ultralytics' fp16 on a CUDA GPU, else f32."""
    if device == "cpu":
        has = torch.cpu.get_capabilities()
        fast = bool(has.get("avx512_bf16") or has.get("amx_bf16"))
        return ("bf16" if fast else "f32") if precision == "auto" else precision
    if device == "mps":
        if precision == "bf16":
            raise ParamsError("train.precision = 'bf16' is not for train.device = 'mps': set it to auto or f32")
        return "f32"
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise MissingPartError("train.precision = 'bf16', and this GPU does not have it: set it to auto or f32")
    return "amp" if precision == "auto" else precision


def _metrics(plan: Plan, state: TrainState, device: str, parameters: int) -> dict[str, Any]:
    best = state.history[state.best_epoch - 1]
    images = {name: read_samples(Path(path)) for name, path in (("train", plan.train_samples), ("val", plan.val_samples))}
    return {
        "model": Path(plan.model).name,
        "parameters": parameters,
        "device": "gpu" if device[0].isdigit() else device,
        "precision": plan.precision,
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "stopped_early": state.epoch < plan.overrides["epochs"],
        "val": {"AP": best["val/AP"], "AP50": best["val/AP50"], "precision": best["val/precision"], "recall": best["val/recall"]},
        "input_wh": list(plan.input_wh),
        "images": {name: len(samples) for name, samples in images.items()},
        "boxes": {name: sum(len(sample.boxes) for sample in samples) for name, samples in images.items()},
        "empty_images": {name: sum(not sample.boxes for sample in samples) for name, samples in images.items()},
    }
