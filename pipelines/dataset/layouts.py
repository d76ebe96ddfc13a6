"""The dataset as other tools lay it out: for each layout the text files to write, and where each image goes. Pure.

Train, val and test with their labels; the pool has none. Images are named by their image_id, so that a file found anywhere tells what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipelines.core.io import json_text
from pipelines.core.types import LABELED_SPLITS, Sample, Split
from pipelines.formats.coco import coco_from_boxes
from pipelines.formats.labelstudio import region_from_box
from pipelines.formats.voc import voc_from_boxes
from pipelines.formats.yolo import yolo_from_boxes

Splits = Mapping[Split, Sequence[Sample]]


@dataclass(frozen=True)
class Layout:
    """What to write below the target folder: text files by name, and for each image its place and its sample."""

    texts: Mapping[str, str]
    images: Mapping[str, Sample]


def yolo_layout(splits: Splits, classes: Sequence[str]) -> Layout:
    """`data.yaml`, `images/SPLIT/`, `labels/SPLIT/`; a verified-empty image has an empty text."""
    names = "".join(f"  {number}: {json_text(name)}" for number, name in enumerate(classes))  # a JSON string is a YAML string
    texts = {"data.yaml": "".join(f"{split}: images/{split}\n" for split in LABELED_SPLITS if splits[split]) + f"names:\n{names}"}
    for split, sample in _labeled(splits):
        texts[f"labels/{split}/{sample.image_id}.txt"] = yolo_from_boxes(sample.boxes, classes, (sample.width_px, sample.height_px))
    return Layout(texts, {f"images/{split}/{_file_name(sample)}": sample for split, sample in _labeled(splits)})


def coco_layout(splits: Splits, classes: Sequence[str]) -> Layout:
    """`annotations/instances_SPLIT.json`, and the images in `SPLIT/`."""
    texts = {
        f"annotations/instances_{split}.json": json_text(
            coco_from_boxes(((_file_name(sample), (sample.width_px, sample.height_px), sample.boxes) for sample in splits[split]), classes)
        )
        for split in LABELED_SPLITS
    }
    return Layout(texts, {f"{split}/{_file_name(sample)}": sample for split, sample in _labeled(splits)})


def voc_layout(splits: Splits, classes: Sequence[str]) -> Layout:  # noqa: ARG001  VOC has no list of classes
    """`Annotations/`, `JPEGImages/`, `ImageSets/Main/SPLIT.txt`."""
    texts = {f"ImageSets/Main/{split}.txt": "".join(f"{sample.image_id}\n" for sample in splits[split]) for split in LABELED_SPLITS}
    for _, sample in _labeled(splits):
        xml = voc_from_boxes(_file_name(sample), (sample.width_px, sample.height_px), sample.boxes)
        texts[f"Annotations/{sample.image_id}.xml"] = xml.decode()
    return Layout(texts, {f"JPEGImages/{_file_name(sample)}": sample for _, sample in _labeled(splits)})


def labelstudio_layout(splits: Splits, classes: Sequence[str]) -> Layout:  # noqa: ARG001  classes stand in the project's labeling interface
    """`tasks.json` to import into a project whose local file storage is this folder, and `images/`; the split stands in the task's data."""
    tasks = [
        {
            "data": {"image": f"/data/local-files/?d=images/{_file_name(sample)}", "image_id": sample.image_id, "split": split},
            "annotations": [
                {
                    "was_cancelled": False,
                    "result": [
                        region_from_box(box, (sample.width_px, sample.height_px), f"box-{number}") for number, box in enumerate(sample.boxes, start=1)
                    ],
                }
            ],
        }
        for split, sample in _labeled(splits)
    ]
    return Layout({"tasks.json": json_text(tasks)}, {f"images/{_file_name(sample)}": sample for _, sample in _labeled(splits)})


LAYOUTS: Mapping[str, Callable[[Splits, Sequence[str]], Layout]] = {
    "yolo": yolo_layout,
    "coco": coco_layout,
    "voc": voc_layout,
    "labelstudio": labelstudio_layout,
}


def _labeled(splits: Splits) -> Iterator[tuple[Split, Sample]]:
    return ((split, sample) for split in LABELED_SPLITS for sample in splits[split])


def _file_name(sample: Sample) -> str:
    return sample.image_id + PurePosixPath(sample.path).suffix
