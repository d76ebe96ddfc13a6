"""What params.train may say: models by exact name, albumentations by name and arguments; everything else is refused with the key's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.core.errors import DataError, MissingPartError, ParamsError
from pipelines.core.params import AugmentationParams, TrainParams, load_params
from pipelines.core.records import write_samples
from tests.training_data import CLASSES, write_dataset
from training.augment import serialised_augmentations
from training.fit import make_plan, train
from training.models import build_network, model_identity

KNOWN = ("yolov3-tiny", "yolov5n", "yolov5n-p6", "yolov6n", "yolov8n", "yolov8s-p2", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n")


@pytest.mark.parametrize("name", KNOWN)
def test_known_architectures(name: str) -> None:
    assert model_identity(f"{name}.yaml") == f"{name}.yaml"


@pytest.mark.parametrize("name", ["yolov5n", "yolov10n", "yolo26n"])
def test_networks_have_our_classes(name: str) -> None:
    network = build_network(f"{name}.yaml", CLASSES)
    assert network.names == dict(enumerate(CLASSES))
    assert network.model[-1].nc == len(CLASSES)
    assert network.yaml["yaml_file"] == f"{name}.yaml"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("yolo11n", r"neither a \.yaml architecture .* nor a \.pt checkpoint"),
        ("yolo11.yaml", r"leaves the scale open: put one of l, m, n, s, x"),
        ("yolo11q.yaml", r"is no architecture of ultralytics"),
        ("yolo99n.yaml", r"is no architecture of ultralytics .*yolo26\.yaml"),
        ("yolov9n.yaml", r"is no architecture of ultralytics"),
        ("yolo11n-seg.yaml", r"is no YOLO detector"),
        ("rtdetr-l.yaml", r"is no YOLO detector"),
        ("yolo11n.pt", r"there is no such checkpoint file"),
        ("here/yolo11n.yaml", r"there is no such file"),
    ],
)
def test_other_models_are_refused(model: str, message: str) -> None:
    with pytest.raises(ParamsError, match=rf"train\.model = '{model}'.*{message}"):
        model_identity(model)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"not a zip")
    with pytest.raises(ParamsError, match="is not an ultralytics checkpoint"):
        model_identity(str(path))
    torch.save({"model": print}, path)  # a pickle that names a function
    with pytest.raises(ParamsError, match="is not an ultralytics checkpoint"):
        model_identity(str(path))


def test_augmentations_become_what_albumentations_reads() -> None:
    import albumentations as A  # noqa: N812

    items = [AugmentationParams(name="MotionBlur", args={"blur_limit": 5, "p": 0.25}), AugmentationParams(name="RandomRotate90", args={})]
    blur, turn = (A.from_dict(item) for item in serialised_augmentations(items))
    assert isinstance(blur, A.MotionBlur)
    assert (blur.p, blur.blur_limit) == (0.25, (3, 5))
    assert isinstance(turn, A.RandomRotate90)
    assert serialised_augmentations([]) == []


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("MotionBlurr", {}, r"train\.augmentations\[1\]\.name = 'MotionBlurr' is no transform"),
        ("Compose", {}, r"train\.augmentations\[1\]\.name = 'Compose' is no transform"),
        ("MotionBlur", {"blur_limt": 5}, r"train\.augmentations\[1\]\.args = .*blur_limt.* not valid for transform MotionBlur"),
        ("MotionBlur", {"blur_limit": "wide"}, r"train\.augmentations\[1\]\.args = .*blur_limit"),
        ("MotionBlur", {"p": 2}, r"train\.augmentations\[1\]\.args = .*less than or equal to 1"),
        ("RandomCrop", {"height": 50, "width": 50}, r"train\.augmentations\[1\] \(RandomCrop\) changes the image's size"),
        ("ToFloat", {}, r"train\.augmentations\[1\] \(ToFloat\) changes the image's size or type"),
        ("FDA", {}, r"train\.augmentations\[1\] \(FDA\) fails"),
    ],
)
def test_wrong_augmentations_are_named(name: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        serialised_augmentations([AugmentationParams(name="Blur"), AugmentationParams(name=name, args=args)])


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a CUDA GPU")
def test_missing_gpu_is_named(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, {"train": 4, "val": 4})
    with pytest.raises(MissingPartError, match=r"train\.device = '0,1', and torch sees 0 CUDA GPUs: set it to auto or cpu$"):
        train(TrainParams(device="0,1"), CLASSES, folder / "dataset", folder / "raw", tmp_path / "work")


@pytest.mark.parametrize(
    ("text", "images", "input_wh"),
    [
        ("{imgsz: 192}", 1, (192, 160)),  # the first image is 96 x 72: 192 x 144
        ("{imgsz: 192}", 2, (192, 192)),  # and the second 72 x 96
        ("{imgsz: 192, input_wh: square}", 1, (192, 192)),
        ("{imgsz: 192, input_wh: [128, 96]}", 2, (128, 96)),
        ("{imgsz: 192, model: yolov5n-p6.yaml}", 1, (192, 192)),  # its coarsest grid has cells of 64 pixels
    ],
)
def test_input_of_the_model(tmp_path: Path, text: str, images: int, input_wh: tuple[int, int]) -> None:
    assert planned_input(tmp_path, text, images) == input_wh


@pytest.mark.parametrize(
    ("text", "key"), [("{imgsz: 96, model: yolov5n-p6.yaml}", "imgsz"), ("{input_wh: [128, 96], model: yolov5n-p6.yaml}", "input_wh")]
)
def test_input_between_the_grids_cells_is_refused(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ParamsError, match=rf"train\.{key} = .* multiples? of 64, the coarsest grid of yolov5n-p6\.yaml"):
        planned_input(tmp_path, text, 1)


def planned_input(tmp_path: Path, text: str, images: int) -> tuple[int, int]:
    folder = write_dataset(tmp_path, {"train": images, "val": 1})
    (tmp_path / "params.yaml").write_text(f"classes: [{{name: red}}, {{name: green}}, {{name: blue}}]\ntrain: {text}\n")
    params = load_params(tmp_path / "params.yaml").train
    return make_plan(params, CLASSES, folder / "dataset", folder / "raw", tmp_path / "work", "cpu", "f32", progress=False).input_wh


def test_nothing_to_train_on_is_named(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, {"train": 4})
    write_samples(folder / "dataset" / "val.jsonl", [])
    with pytest.raises(DataError, match=r"val\.jsonl has no images"):
        train(TrainParams(), CLASSES, folder / "dataset", folder / "raw", tmp_path / "work")
