"""`detloop import`: bring a labeled dataset (VOC, COCO, YOLO, a Label Studio export) into the inbox and the label sources."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipelines.core.errors import MAX_LISTED, DataError, counted
from pipelines.core.params import load_params
from pipelines.labeling.bring_in import Plan, plan, refusals, write
from pipelines.labeling.datasets import FoundDataset, read_coco_dataset, read_labelstudio_dataset, read_voc_dataset
from pipelines.labeling.yolo_dataset import read_yolo_dataset

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("source", type=Path, metavar="SRC", help="the dataset: a folder, or a JSON file for coco and labelstudio")
    parser.add_argument("--format", required=True, choices=("voc", "coco", "yolo", "labelstudio"), help="how SRC holds its labels")
    parser.add_argument("--images", type=Path, help="the folder of its images, where they do not lie inside SRC")
    parser.add_argument("--name", help="the source's name in the inbox and in reports (default: the name of SRC)")
    parser.add_argument("--class-names", type=Path, help="yolo without data.yaml: a file with one class name a line")
    parser.add_argument("--inbox", type=Path, default=Path("data/inbox"), help="where images go (default: %(default)s)")
    parser.add_argument("--labels", type=Path, default=Path("data/label_sources"), help="where labels go (default: %(default)s)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the file with the class contract (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be brought in, write nothing")


def run(args: argparse.Namespace) -> int:
    """Read, check, write, and say what was brought in."""
    params = load_params(args.params)
    place = args.source.resolve()
    name = args.name or (place.name if place.is_dir() else place.stem)
    if not _NAME.fullmatch(name):
        raise DataError(f"the name {name!r} cannot be a folder's: give another with --name (letters, digits, '.', '_', '-')")
    job = plan(_dataset(args), name, params.class_of, lambda images: _bar(images, "reading"))
    if args.dry_run:
        new = sum(not (args.inbox / name / image).exists() for image, _, _ in job.images)
        bad = refusals(job, args.inbox, args.labels)
        print("dry run, nothing written" + (f"; would be refused: {'; '.join(bad)}" if bad else ""))
    else:
        new = write(job, args.inbox, args.labels, lambda images: _bar(images, "images"))
    print(account(job, new))
    return 0


def account(job: Plan, new: int) -> str:
    """The summary for people: counts, then the problems by kind, the first of them in full."""
    lines = [
        f"{job.name}: {counted(len(job.images), 'image')} ({new} new); "
        + ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in job.states.items()),
        "boxes: " + (", ".join(f"{name} {count}" for name, count in job.boxes_per_class.items()) or "none"),
    ]
    if job.splits:
        lines.append("its own split: " + ", ".join(f"{split} {count}" for split, count in job.splits.items()))
    if job.unnamed_images:
        lines.append(f"{job.unnamed_images} more images in the folder are named by no label: left out")
    kinds = Counter(item.kind for item in job.problems)
    if kinds:
        lines.append("listed: " + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))
        lines += [f"  {item.kind}: {item.where}: {item.detail}" for item in job.problems[:MAX_LISTED]]
    if len(job.problems) > MAX_LISTED:
        lines.append(f"  and {len(job.problems) - MAX_LISTED} more")
    return "\n".join(lines)


def _dataset(args: argparse.Namespace) -> FoundDataset:
    if args.class_names is not None and args.format != "yolo":
        raise DataError(f"--class-names is for --format yolo; {args.format} carries its class names: leave it out")
    if args.format == "voc":
        return read_voc_dataset(args.source, args.images)
    if args.format == "coco":
        return read_coco_dataset(args.source, args.images)
    if args.format == "yolo":
        return read_yolo_dataset(args.source, args.images, args.class_names)
    return read_labelstudio_dataset(args.source, args.images)


def _bar(items: Iterable[Any], text: str) -> Iterable[Any]:
    return tqdm(items, desc=text, unit="image", disable=None, leave=False)
