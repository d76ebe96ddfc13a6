"""Writing the sample: a product log in the inbox, a label source, and the truth beside them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipelines.core.errors import DataError, DetloopError
from pipelines.core.io import canonical_json, write_bytes, write_json, write_jsonl, write_text
from pipelines.sample.files import Folder, Photo, fill, log_row
from pipelines.sample.labels import POOL_SHARE, Labelable, Planted
from pipelines.sample.plan import plan_bursts
from pipelines.sample.stations import Shot, build_set, shoot
from pipelines.sample.team import label

NAME = "sample"
MIN_IMAGES = 24


@dataclass(frozen=True)
class Written:
    """How much was written."""

    images: int
    boxes: int
    tasks: int


def write_sample(inbox: Path, labels: Path, truth: Path, images: int, seed: int, force: bool, unlabeled: float = POOL_SHARE) -> Written:
    """Write `inbox`/sample, `labels`/sample.json, `truth`/truth.jsonl and `truth`/planted.json; the inbox folder last, in one rename.

    The same `images` and `seed` give the same bytes (with the same versions of OpenCV and numpy on the same kind of processor).

    Raises:
        DetloopError: the folder is there already and `force` is not set, `images` is too small to hold every fault, `seed` is below 0, or `unlabeled`
            is no share.
    """
    target = inbox / NAME
    if images < MIN_IMAGES:
        raise DetloopError(f"--images {images}: the sample needs at least {MIN_IMAGES} to hold one of everything")
    if seed < 0:
        raise DetloopError(f"--seed {seed}: a seed is a whole number from 0 up")
    if not 0 < unlabeled < 1:
        raise DetloopError(f"--unlabeled {unlabeled}: a share of the images is between 0 and 1")
    if not force and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DetloopError(f"{target} is there already and not empty: give --force to write it anew, or another --inbox")
    folder, tasks, planted = make_sample(images, seed, unlabeled)
    building = inbox / f".{NAME}.tmp"
    shutil.rmtree(building, ignore_errors=True)
    try:
        for name, content in sorted({**{photo.name: photo.content for photo in folder.photos}, **folder.others}.items()):
            write_bytes(building / name, content)
        write_jsonl(building / "log.jsonl", _log(folder))
        write_text(labels / f"{NAME}.json", canonical_json(tasks) + "\n")
        write_jsonl(truth / "truth.jsonl", sorted((_truth_row(photo) for photo in folder.photos), key=lambda row: str(row["file"])))
        write_json(truth / "planted.json", planted)
        if target.exists():
            shutil.rmtree(target)
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Written(len(folder.photos), sum(len(photo.boxes) for photo in folder.photos), len(tasks))


def make_sample(images: int, seed: int, unlabeled: float = POOL_SHARE) -> tuple[Folder, list[dict[str, Any]], dict[str, Planted]]:
    """The sample in memory: files, Label Studio tasks, and what was planted in files and in labels."""
    bursts = plan_bursts(images + 1, np.random.default_rng([seed, 0]))  # one more frame: it arrives truncated
    stage = build_set(seed)
    shots: list[Shot] = [shot for burst in tqdm(bursts, desc="sample", unit="burst", disable=None, leave=False) for shot in shoot(burst, stage, seed)]
    folder = fill(shots, _last_of_a_long_burst(shots), np.random.default_rng([seed, 5]))
    if len({photo.image_id for photo in folder.photos}) != len(folder.photos):
        raise DataError("two frames of the sample came out the same: take another --seed")
    labelable = [
        Labelable(photo.image_id, f"{NAME}/{photo.name}", photo.wh, tuple((kind, box) for kind, box, _ in photo.boxes))
        for photo in sorted(folder.photos, key=lambda photo: (photo.captured_at, photo.name))
    ]
    tasks, planted = label(labelable, np.random.default_rng([seed, 6]), unlabeled)
    return folder, tasks, {"files": _in_inbox(folder.planted), "labels": planted}


def _last_of_a_long_burst(shots: list[Shot]) -> int:
    """Index of a frame of the first of the longest bursts by day, so that its loss leaves most of the burst."""
    names = [shot.burst for shot in shots]
    return max((index for index, shot in enumerate(shots) if not shot.dark), key=lambda index: (names[: index + 1].count(names[index]), -index))


def _in_inbox(planted: Planted) -> Planted:
    """File names relative to the inbox, as in the manifest."""
    return {
        kind: [{key: f"{NAME}/{value}" if key in ("file", "of") else value for key, value in row.items()} for row in rows]
        for kind, rows in planted.items()
    }


def _log(folder: Folder) -> list[dict[str, Any]]:
    return sorted([*(log_row(photo) for photo in folder.photos), *folder.more_rows], key=lambda row: (row["captured_at"], row["file"]))


def _truth_row(photo: Photo) -> dict[str, Any]:
    return {
        "image_id": photo.image_id,
        "file": f"{NAME}/{photo.name}",
        "camera": photo.camera,
        "burst": photo.burst,
        "captured_at": log_row(photo)["captured_at"],
        "dark": photo.dark,
        "width_px": photo.wh[0],
        "height_px": photo.wh[1],
        "boxes": [{"class": kind, "xyxy": list(box), "occlusion": hidden} for kind, box, hidden in photo.boxes],
    }
