"""`detloop export-dataset`: every layout read back by our importers and by a reader not written here, with equal boxes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from pipelines.cli import main
from pipelines.core.errors import counted
from pipelines.core.records import read_samples, write_samples
from pipelines.core.types import LABELED_SPLITS, Sample
from pipelines.labeling.datasets import FoundDataset, read_coco_dataset, read_labelstudio_dataset, read_voc_dataset
from pipelines.labeling.yolo_dataset import read_yolo_dataset
from tests.training_data import CLASSES, write_dataset

TOLERANCE_PX = 1e-3  # labels are kept to a thousandth of a pixel
Boxes = list[tuple[str, tuple[float, ...]]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with a sideways image, an image without objects, and boxes that are no whole pixels."""
    folder = write_dataset(tmp_path_factory.mktemp("project"), {"train": 6, "val": 3, "test": 3, "pool": 2})
    for split in ("train", "val", "test"):
        path = folder / f"dataset/{split}.jsonl"
        write_samples(path, [shifted(sample) for sample in read_samples(path)])
    (folder / "params.yaml").write_text(f"classes: [{', '.join(f'{{name: {name}}}' for name in CLASSES)}]\n")
    return folder


def shifted(sample: Sample) -> Sample:
    boxes = tuple(type(box)(box.class_name, (box.xyxy[0] + 0.125, box.xyxy[1] + 0.333, box.xyxy[2], box.xyxy[3])) for box in sample.boxes)
    return Sample(**{**vars(sample), "boxes": boxes})


def export(project: Path, target: Path, layout: str, *options: str) -> int:
    places = ["--dataset", str(project / "dataset"), "--raw", str(project / "raw"), "--params", str(project / "params.yaml")]
    return main(["export-dataset", "--format", layout, *places, *options, str(target)])


def wanted(project: Path) -> dict[str, tuple[str, Boxes]]:
    """By image_id: split and boxes."""
    return {
        sample.image_id: (split, sorted((box.class_name, box.xyxy) for box in sample.boxes))
        for split in LABELED_SPLITS
        for sample in read_samples(project / f"dataset/{split}.jsonl")
    }


def require_equal(found: dict[str, tuple[str, Boxes]], project: Path, tolerance_px: float = TOLERANCE_PX) -> None:
    expected = wanted(project)
    assert set(found) == set(expected)
    for image_id, (split, boxes) in expected.items():
        assert found[image_id][0] == split
        other = sorted(found[image_id][1])
        assert [name for name, _ in other] == [name for name, _ in boxes]
        if boxes:
            np.testing.assert_allclose([xyxy for _, xyxy in other], [xyxy for _, xyxy in boxes], rtol=0, atol=tolerance_px)


IMPORTERS: dict[str, Callable[[Path], FoundDataset]] = {
    "yolo": lambda folder: read_yolo_dataset(folder, None, None),
    "coco": lambda folder: read_coco_dataset(folder, None),
    "voc": lambda folder: read_voc_dataset(folder, None),
    "labelstudio": lambda folder: read_labelstudio_dataset(folder / "tasks.json", None),
}


@pytest.mark.parametrize("layout", IMPORTERS)
def test_our_importers_read_it_back(layout: str, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(project, tmp_path / "out", layout) == 0
    said = capsys.readouterr().out
    assert f"{layout}, images: train 6, val 3, test 3; boxes: " in said
    images = [Image.open(project / "raw" / sample.path) for split in LABELED_SPLITS for sample in read_samples(project / f"dataset/{split}.jsonl")]
    turned = sum(image.getexif().get(0x0112, 1) != 1 for image in images)
    assert 0 < turned < len(images)
    assert f"note: {counted(turned, 'image')} with an EXIF orientation: boxes are where a person sees them, so read images with it applied" in said
    found = IMPORTERS[layout](tmp_path / "out")
    assert not found.problems
    assert found.unnamed_images == 0
    for image in found.images:
        assert len(image.labels) == 1, "a verified-empty image is not an unlabeled one"
        assert not image.labels[0].problems
    splits = wanted(project)
    read = {
        Path(image.name).stem: (
            # Label Studio has no splits: ours stands in the task's data, for people
            image.split or splits[Path(image.name).stem][0],
            [(item.box.class_name, item.box.xyxy) for item in image.labels[0].boxes],
        )
        for image in found.images
    }
    require_equal(read, project)


def test_ultralytics_reads_the_yolo_layout(project: Path, tmp_path: Path) -> None:
    from training.environment import quiet_ultralytics

    quiet_ultralytics(tmp_path / "settings")
    from ultralytics.cfg import get_cfg
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    assert export(project, tmp_path / "out", "yolo") == 0
    config = check_det_dataset(str(tmp_path / "out/data.yaml"))
    assert config["names"] == dict(enumerate(CLASSES))
    found: dict[str, tuple[str, Boxes]] = {}
    for split in LABELED_SPLITS:
        for row in YOLODataset(img_path=config[split], data=config, augment=False, hyp=get_cfg()).labels:
            height, width = row["shape"]
            centre, size = row["bboxes"][:, :2] * (width, height), row["bboxes"][:, 2:] * (width, height)
            boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
            named = [(CLASSES[int(index)], tuple(box)) for index, box in zip(row["cls"][:, 0], boxes.tolist(), strict=True)]
            found[Path(row["im_file"]).stem] = (split, named)
    require_equal(found, project)


def test_pycocotools_reads_the_coco_layout(project: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    assert export(project, tmp_path / "out", "coco") == 0
    found: dict[str, tuple[str, Boxes]] = {}
    for split in LABELED_SPLITS:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(tmp_path / f"out/annotations/instances_{split}.json"))
        names = {row["id"]: row["name"] for row in coco.loadCats(coco.getCatIds())}
        assert tuple(names[key] for key in sorted(names)) == CLASSES
        for image in coco.loadImgs(coco.getImgIds()):
            assert (tmp_path / "out" / split / image["file_name"]).is_file()
            rows = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
            boxes = [(names[row["category_id"]], (x, y, x + w, y + h)) for row in rows for x, y, w, h in [row["bbox"]]]
            found[Path(image["file_name"]).stem] = (split, boxes)
    require_equal(found, project)


def test_torchvision_reads_the_voc_layout(project: Path, tmp_path: Path) -> None:
    from torchvision.datasets import VOCDetection

    assert export(project, tmp_path / "out", "voc") == 0
    found: dict[str, tuple[str, Boxes]] = {}
    for split in LABELED_SPLITS:
        for name in (tmp_path / f"out/ImageSets/Main/{split}.txt").read_text().split():
            root = ET.parse(tmp_path / f"out/Annotations/{name}.xml").getroot()
            tree = VOCDetection.parse_voc_xml(root)["annotation"]
            assert (tmp_path / "out/JPEGImages" / tree["filename"]).is_file()
            corners = [(item["name"], item["bndbox"]) for item in tree.get("object", [])]
            found[name] = (split, [(label, tuple(float(box[key]) for key in ("xmin", "ymin", "xmax", "ymax"))) for label, box in corners])
    require_equal(found, project)


def test_label_studios_converter_reads_the_tasks(project: Path, tmp_path: Path) -> None:
    from label_studio_sdk.converter import Converter

    assert export(project, tmp_path / "out", "labelstudio") == 0
    tasks: list[dict[str, Any]] = json.loads((tmp_path / "out/tasks.json").read_text())
    for number, task in enumerate(tasks, start=1):  # what the server adds on import
        task["id"] = number
        for annotation in task["annotations"]:
            annotation |= {"id": number, "completed_by": 1, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}
    (tmp_path / "server.json").write_text(json.dumps(tasks))
    labels = "".join(f'<Label value="{name}"/>' for name in CLASSES)
    view = f'<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">{labels}</RectangleLabels></View>'
    Converter(view, str(tmp_path), download_resources=False).convert_to_coco(
        str(tmp_path / "server.json"), str(tmp_path / "coco"), output_image_dir=str(tmp_path / "coco/images"), is_dir=False
    )
    coco = json.loads((tmp_path / "coco/result.json").read_text())
    names = {row["id"]: row["name"] for row in coco["categories"]}
    by_number: dict[int, Boxes] = {row["id"]: [] for row in coco["images"]}
    for row in coco["annotations"]:
        x, y, w, h = row["bbox"]
        by_number[row["image_id"]].append((names[row["category_id"]], (x, y, x + w, y + h)))
    found = {
        Path(row["file_name"].rpartition("=")[2]).stem: (task["data"]["split"], by_number[row["id"]])
        for row, task in zip(coco["images"], tasks, strict=True)
    }
    require_equal(found, project)


def test_images_are_the_same_bytes_and_links_take_no_space(project: Path, tmp_path: Path) -> None:
    sample = read_samples(project / "dataset/train.jsonl")[0]
    source = project / "raw" / sample.path
    assert export(project, tmp_path / "copies", "voc") == 0
    assert export(project, tmp_path / "links", "voc", "--link") == 0
    copy, link = (tmp_path / name / "JPEGImages" / source.name for name in ("copies", "links"))
    assert copy.read_bytes() == link.read_bytes() == source.read_bytes()
    assert not os.path.samefile(copy, source)  # noqa: PTH121
    assert os.path.samefile(link, source)  # noqa: PTH121


def test_a_yolo_folder_without_val_is_told(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ultralytics refuses such a folder, and says nothing of what to do."""
    from ultralytics.data.utils import check_det_dataset

    shutil.copytree(project, tmp_path / "project")
    write_samples(tmp_path / "project/dataset/val.jsonl", [])
    assert export(tmp_path / "project", tmp_path / "out", "yolo") == 0
    assert "note: val has no images, and ultralytics trains on no folder without" in capsys.readouterr().out
    with pytest.raises(SyntaxError, match="'val:' key missing"):
        check_det_dataset(str(tmp_path / "out/data.yaml"))


def test_an_existing_folder_and_a_missing_image_are_refused_by_name(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/keep.txt").write_text("mine")
    assert export(project, tmp_path / "there", "coco") == 2
    assert "there exists already: name another folder" in capsys.readouterr().err
    assert (tmp_path / "there/keep.txt").read_text() == "mine"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert export(project, tmp_path / "out", "coco", "--raw", str(empty)) == 2
    assert "is missing: run `dvc repro collect`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "whole or not at all"
