"""The in-memory dataset against ultralytics' own reader of a written-out YOLO dataset; the files that it must not write."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.core.errors import ClassContractError, DataError
from pipelines.core.records import ground_truth, read_samples
from tests.training_data import CLASSES, write_dataset
from training.data import SampleDataset, SplitFiles
from training.plan import smallest_input

IMGSZ = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), {"train": 8})


def settings(**changes: Any) -> Any:
    from ultralytics.cfg import get_cfg

    return get_cfg(overrides={"imgsz": IMGSZ, "degrees": 5.0, "flipud": 0.5, **changes})


def options(augment: bool) -> dict[str, Any]:
    return {
        "imgsz": IMGSZ,
        "augment": augment,
        "hyp": settings(),
        "batch_size": 4,
        "data": {"names": dict(enumerate(CLASSES)), "nc": len(CLASSES), "channels": 3},
    }


def ours(folder: Path, augment: bool, input_wh: tuple[int, int] | None = None) -> SampleDataset:
    split = SplitFiles(tuple(read_samples(folder / "dataset" / "train.jsonl")), folder / "raw", CLASSES)
    return SampleDataset(split, input_wh, **options(augment))


def theirs(folder: Path, target: Path, augment: bool) -> Any:
    """The same images written as ultralytics wants them: images/ and labels/ with class, centre, width and height in fractions."""
    from ultralytics.data.dataset import YOLODataset

    (target / "images").mkdir(parents=True)
    (target / "labels").mkdir()
    for sample in read_samples(folder / "dataset" / "train.jsonl"):
        (target / "images" / f"{sample.image_id}.jpg").write_bytes((folder / "raw" / sample.path).read_bytes())
        truth = ground_truth(sample, CLASSES)
        rows = []
        for (x1, y1, x2, y2), index in zip(truth.xyxy.tolist(), truth.class_index.tolist(), strict=True):
            w, h = sample.width_px, sample.height_px
            rows.append(f"{index} {(x1 + x2) / 2 / w!r} {(y1 + y2) / 2 / h!r} {(x2 - x1) / w!r} {(y2 - y1) / h!r}\n")
        (target / "labels" / f"{sample.image_id}.txt").write_text("".join(rows))
    return YOLODataset(img_path=str(target / "images"), cache="ram", **options(augment))


def items(dataset: Any) -> Iterator[dict[str, Any]]:
    for position in range(len(dataset)):
        random.seed(position)
        np.random.seed(position)  # noqa: NPY002 ultralytics draws from it
        torch.manual_seed(position)
        yield dataset[position]


@pytest.mark.parametrize("augment", [False, True], ids=["letterbox", "augmented"])
def test_equals_ultralytics_reader(folder: Path, tmp_path: Path, augment: bool) -> None:
    mine, other = ours(folder, augment), theirs(folder, tmp_path / "yolo", augment)
    assert [Path(name).name for name in mine.im_files] == [Path(name).name for name in other.im_files]
    boxes = 0
    for a, b in zip(items(mine), items(other), strict=True):
        assert torch.equal(a["img"], b["img"])
        assert a["ori_shape"] == b["ori_shape"]
        assert torch.equal(a["cls"], b["cls"])
        torch.testing.assert_close(a["bboxes"], b["bboxes"], rtol=0, atol=1e-6)
        boxes += len(a["cls"])
    assert boxes > 8


@pytest.mark.parametrize("input_wh", [(64, 32), (32, 64), (96, 64)])
def test_equals_ultralytics_letterbox_to_a_rectangle(folder: Path, tmp_path: Path, input_wh: tuple[int, int]) -> None:
    mine, other = ours(folder, augment=False, input_wh=input_wh), theirs(folder, tmp_path / "yolo", augment=False)
    other.rect, other.batch, other.batch_shapes = True, np.zeros(len(mine), int), np.array([input_wh[::-1]])
    for a, b in zip(items(mine), items(other), strict=True):
        assert a["img"].shape == (3, *input_wh[::-1])
        assert torch.equal(a["img"], b["img"])
        torch.testing.assert_close(a["bboxes"], b["bboxes"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("stride", [32, 64])
@pytest.mark.parametrize("size_wh", [(640, 480), (480, 640), (1920, 1080), (64, 64), (1000, 37), (333, 777), (640, 639)])
def test_smallest_input_is_ultralytics_minimum_rectangle(size_wh: tuple[int, int], stride: int) -> None:
    from ultralytics.data.augment import LetterBox

    padded = LetterBox(new_shape=(320, 320), auto=True, stride=stride)(image=np.zeros((*size_wh[::-1], 3), np.uint8))
    assert smallest_input([size_wh], 320, stride) == padded.shape[1::-1]


def test_smallest_input_holds_every_image() -> None:
    assert smallest_input([(640, 480), (1920, 1080)], 320, 32) == (320, 256)
    assert smallest_input([(640, 480), (480, 640)], 320, 32) == (320, 320)
    assert smallest_input([], 320, 32) == (320, 320)


def test_sideways_image_is_read_upright(folder: Path) -> None:
    dataset = ours(folder, augment=False)
    sizes = {(sample.height_px, sample.width_px) for sample in dataset.split.samples}
    assert {dataset[position]["ori_shape"] for position in range(len(dataset))} == sizes


def test_reads_only(folder: Path) -> None:
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    list(items(ours(folder, augment=True)))
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


def test_items_do_not_depend_on_what_was_read_before(folder: Path) -> None:
    """Transforms may write to an image that they are given; the one kept in memory must not change."""
    dataset = ours(folder, augment=True)
    dataset.close_mosaic(settings())
    first, second = list(items(dataset)), list(items(dataset))
    assert all(torch.equal(a["img"], b["img"]) for a, b in zip(first, second, strict=True))


def test_broken_image_and_unknown_class_are_named(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, {"train": 4})
    samples = tuple(read_samples(folder / "dataset" / "train.jsonl"))
    with pytest.raises(ClassContractError, match=r"has classes \['red'\]|has classes \['blue', 'red'\]|'red'"):
        SampleDataset(SplitFiles(samples, folder / "raw", ("green", "blue")), **options(augment=False))
    (folder / "raw" / samples[0].path).write_bytes(b"no image")
    with pytest.raises(DataError, match=f"{samples[0].image_id}.jpg is not a readable image"):
        SampleDataset(SplitFiles(samples, folder / "raw", CLASSES), **options(augment=False))
