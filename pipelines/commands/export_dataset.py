"""`detloop export-dataset`: write train, val and test with their labels as other tools want them (YOLO, COCO, VOC, Label Studio)."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from tqdm import tqdm

from pipelines.core.containers import UPRIGHT, RefusedError, read_header
from pipelines.core.errors import DataError, counted
from pipelines.core.io import link_or_copy, new_folder, require_file
from pipelines.core.params import load_params
from pipelines.core.records import read_samples
from pipelines.core.types import LABELED_SPLITS
from pipelines.dataset.layouts import LAYOUTS

_HEADER_BYTES = 1 << 18  # EXIF data, a preview and a colour profile have room in them


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("target", type=Path, metavar="DIR", help="the folder to write; it must not exist yet")
    parser.add_argument("--format", required=True, choices=tuple(LAYOUTS), help="how DIR is laid out")
    parser.add_argument(
        "--link", action="store_true", help="hard links instead of copies of the images: a tool that changes them changes data/raw too"
    )
    parser.add_argument("--dataset", type=Path, default=Path("data/dataset"), help="the dataset (default: %(default)s)")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="the folder of its images (default: %(default)s)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the file with the class contract (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Read the dataset, write the folder whole or not at all, and say what is in it.

    Raises:
        DataError: the target exists already.
        MissingInputError: no dataset here, or one of its images is gone.
    """
    if args.target.exists():
        raise DataError(f"{args.target} exists already: name another folder, or remove it")
    classes = load_params(args.params).class_names
    splits = {split: read_samples(require_file(args.dataset / f"{split}.jsonl", "run `dvc repro dataset`")) for split in LABELED_SPLITS}
    layout = LAYOUTS[args.format](splits, classes)
    turned = 0
    with new_folder(args.target) as folder:
        for name, text in layout.texts.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for name, sample in tqdm(layout.images.items(), desc="images", unit="image", disable=None, leave=False):
            source = require_file(args.raw / sample.path, "run `dvc repro collect`")
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            turned += _is_turned(source)
            if args.link:
                link_or_copy(source, place)
            else:
                shutil.copyfile(source, place)
    counts = ", ".join(f"{split} {len(samples)}" for split, samples in splits.items())
    print(f"{args.target}: {args.format}, images: {counts}; boxes: {sum(len(sample.boxes) for samples in splits.values() for sample in samples)}")
    if turned:
        print(
            f"note: {counted(turned, 'image')} with an EXIF orientation: boxes are where a person sees them, so read images with it applied"
            " (as OpenCV and ultralytics do; Pillow with ImageOps.exif_transpose)"
        )
    if args.format == "yolo" and not splits["val"]:
        print("note: val has no images, and ultralytics trains on no folder without: label images of more groups, or name a `val` in data.yaml")
    return 0


def _is_turned(path: Path) -> bool:
    """Whether an image has an EXIF orientation; reads its beginning alone, where that holds the header."""
    with path.open("rb") as file:
        content = file.read(_HEADER_BYTES)
        try:
            header = read_header(content)
        except RefusedError:
            header = read_header(content + file.read())
    return header.orientation != UPRIGHT
