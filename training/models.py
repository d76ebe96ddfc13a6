"""The detectors that train.model may name: an architecture that ultralytics ships, or a checkpoint file; and the untrained network of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path, PurePath
from typing import Any

from pipelines.core.errors import ParamsError
from pipelines.core.io import sha256_file
from training.environment import quiet_ultralytics

quiet_ultralytics()

import ultralytics  # noqa: E402
from ultralytics.nn.modules import Detect, v10Detect  # noqa: E402
from ultralytics.nn.tasks import DetectionModel, load_checkpoint, torch_safe_load  # noqa: E402
from ultralytics.utils import YAML  # noqa: E402

SHIPPED = Path(ultralytics.__file__).parent / "cfg" / "models"
SCALE = re.compile(r"\d([nslmx])")
HEADS = ("Detect", "v10Detect")  # the detect heads of the YOLO family; others (RT-DETR, World, segmentation …) have other outputs or losses


def model_identity(model: str) -> str:
    """What a training's fingerprint says of train.model: the name, and for a checkpoint its content's sha256.

    Raises:
        ParamsError: neither a YOLO detect architecture that this ultralytics ships, nor an existing .yaml or .pt file of one. Nothing is fetched
            and no similar name is taken.
    """
    path = Path(model)
    if path.suffix == ".pt":
        if not path.is_file():
            raise ParamsError(
                f"train.model = {model!r}: there is no such checkpoint file; give the path of one, or an architecture such as yolo11n.yaml"
            )
        _check_checkpoint(model)
        return f"{path.name} {sha256_file(path)}"
    if path.suffix != ".yaml":
        raise ParamsError(
            f"train.model = {model!r} is neither a .yaml architecture (such as yolo11n.yaml) nor a .pt checkpoint: write it with its ending"
        )
    if path.is_file():
        _check_head(model, YAML.load(path))
        return f"{path.name} {sha256_file(path)}"
    if path.name != model:
        raise ParamsError(f"train.model = {model!r}: there is no such file")
    _check_head(model, _shipped(model))
    return model


def build_network(model: str, classes: Sequence[str]) -> Any:
    """The DetectionModel that training starts from: random weights for an architecture, those that fit for a checkpoint.

    Of a checkpoint's class scores, those of classes with the same name are kept, as ultralytics does. Draws from torch's global generator.
    """
    if not model.endswith(".pt"):
        network = DetectionModel(model, ch=3, nc=len(classes), verbose=False)
        network.names = dict(enumerate(classes))
    else:
        start, _ = load_checkpoint(model)
        network = DetectionModel(deepcopy(start.yaml), ch=3, nc=len(classes), verbose=False)
        network.names = dict(enumerate(classes))
        network.load(start, verbose=False)
        network.pt_path = None  # where the checkpoint lay is no part of a model
    network.yaml["yaml_file"] = PurePath(str(network.yaml.get("yaml_file", model))).name
    return network


def stride_of(model: str, classes: Sequence[str]) -> int:
    """Pixels between the cells of the model's coarsest grid, of which its input's sides must be multiples. Draws as `build_network` does."""
    return int(max(build_network(model, classes).stride))


def _shipped(model: str) -> dict[str, Any]:
    """The description behind an architecture's name: `yolo11n.yaml` is scale n of `yolo11.yaml`."""
    known = {path.name: path for path in SHIPPED.rglob("*.yaml")}
    unscaled = re.sub(r"(\d+)([nslmx])(.+)?$", r"\1\3", model)  # as ultralytics.nn.tasks.yaml_model_load
    if model in known:
        description: dict[str, Any] = YAML.load(known[model])
        if description.get("scales") and _is_detector(description) and not SCALE.search(model):
            scales = ", ".join(sorted(description["scales"]))
            raise ParamsError(f"train.model = {model!r} leaves the scale open: put one of {scales} after the version number, as in yolo11n.yaml")
        return description
    if unscaled not in known:
        names = sorted(name for name, path in known.items() if _is_detector(YAML.load(path)))
        raise ParamsError(
            f"train.model = {model!r} is no architecture of ultralytics {ultralytics.__version__}; it has {', '.join(names)} (with the scale after "
            "the version number, as in yolo11n.yaml)"
        )
    description = YAML.load(known[unscaled])
    match = SCALE.search(model)
    scale = match.group(1) if match else ""
    if scale not in (description.get("scales") or {}):
        raise ParamsError(f"train.model = {model!r}: {unscaled} has the scales {', '.join(sorted(description.get('scales') or {})) or 'none'}")
    return description


def _is_detector(description: dict[str, Any]) -> bool:
    try:
        return description["head"][-1][2] in HEADS
    except (KeyError, IndexError, TypeError):
        return False


def _check_head(model: str, description: dict[str, Any]) -> None:
    if not _is_detector(description):
        raise ParamsError(f"train.model = {model!r} is no YOLO detector (its last layer must be one of {', '.join(HEADS)}): choose another")


def _check_checkpoint(model: str) -> None:
    try:
        content, _ = torch_safe_load(model, safe_only=True)
        network = content.get("ema") or content["model"]
        head = network.model[-1]
    except (TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ParamsError(f"train.model = {model!r} is not an ultralytics checkpoint ({' '.join(str(error).split())[:200]})") from error
    if type(head) not in (Detect, v10Detect):
        raise ParamsError(f"train.model = {model!r} is a {type(head).__name__} model, not a YOLO detector: choose another")
