"""Everything that the report shows, read from disk into one value. A file that is not there is None, one that cannot be read stops the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.errors import DataError
from pipelines.core.io import read_json, read_jsonl
from pipelines.core.records import read_samples
from pipelines.core.types import LABELED_SPLITS, SPLITS, Sample, Split
from pipelines.report.curves import Curve, read_curves
from pipelines.report.pictures import data_uri, small_jpeg

METRICS = ("collect", "labels", "dataset", "train", "evaluate", "challenge", "mine", "quantize_int8", "verify", "benchmark", "release")
EVALUATION = ("thresholds", "confusion", "pr", "confidence")
THUMBNAIL_PX = 320
THUMBNAILS = 12
PICTURE_PX = 900
KEEP_BELOW_BYTES = 60_000  # a gallery picture up to this size goes in as it is
PICTURES_BYTES = 3_900_000  # of all pictures together; base64 makes 5.2 MB of it, and the page is to stay below 6


@dataclass(frozen=True)
class Thumbnail:
    """A dataset image made small; the sample's boxes are drawn over it."""

    sample: Sample
    split: Split
    uri: str


@dataclass(frozen=True)
class Picture:
    """A gallery picture with its row of the gallery's index."""

    row: Mapping[str, Any]
    uri: str


@dataclass(frozen=True)
class Inputs:
    """What the page is made of. `files` maps a file's name to its content, None where there is none."""

    classes: tuple[str, ...]
    files: Mapping[str, Any]
    curves: Mapping[str, Curve]
    badcases: Sequence[Mapping[str, Any]] | None
    ranked: Sequence[Mapping[str, Any]] | None
    samples: Mapping[Split, Sequence[Sample]]
    thumbnails: Sequence[Thumbnail]
    gallery: Sequence[Picture]
    gallery_left_out: int  # pictures that are on disk, but did not fit into the page
    suite: Sequence[Mapping[str, Any]]
    suite_results: Sequence[Mapping[str, Any]]


def read_inputs(
    *,
    classes: tuple[str, ...],
    metrics: Path,
    training: Path,
    evaluation: Path,
    badcases: Path,
    dataset: Path,
    raw: Path,
    release: Path,
    champion: Path,
    challenge: Path,
    gallery_images: int,
    pictures_bytes: int = PICTURES_BYTES,
) -> Inputs:
    """Read all of it, with at most `gallery_images` bad cases, and pictures (before base64) of at most `pictures_bytes`.

    Raises:
        DataError: a file is there, but is not what its name says.
        MissingInputError: a picture that another file names is not there.
    """
    paths = {f"{name}.json": metrics / f"{name}.json" for name in METRICS}
    paths |= {f"{name}.json": evaluation / f"{name}.json" for name in EVALUATION}
    paths |= {"card.json": dataset / "card.json", "bundle.json": release / "bundle.json", "index.json": badcases / "gallery" / "index.json"}
    paths["champion.json"] = champion
    files = {name: read_json(path) if path.is_file() else None for name, path in paths.items()}
    samples: dict[Split, Sequence[Sample]] = {
        split: read_samples(dataset / f"{split}.jsonl") for split in SPLITS if (dataset / f"{split}.jsonl").is_file()
    }
    thumbnails = [
        Thumbnail(sample, split, data_uri(small_jpeg(raw / sample.path, THUMBNAIL_PX)))
        for split, sample in chosen_samples(samples, classes, THUMBNAILS)
    ]
    gallery, left_out = _read_gallery(
        badcases / "gallery", files["index.json"], gallery_images, pictures_bytes - sum(len(item.uri) for item in thumbnails)
    )
    return Inputs(
        classes=classes,
        files=files,
        curves=read_curves(training),
        badcases=_rows(badcases / "badcases.jsonl"),
        ranked=_rows(badcases / "ranked.jsonl"),
        samples=samples,
        thumbnails=thumbnails,
        gallery=gallery,
        gallery_left_out=left_out,
        suite=_rows(badcases / "suite.jsonl") or [],
        suite_results=_rows(challenge / "suite.jsonl") or [],
    )


def chosen_samples(samples: Mapping[Split, Sequence[Sample]], classes: Sequence[str], wanted: int) -> list[tuple[Split, Sample]]:
    """A few labeled images, always the same: two of each class, rarest first; one verified empty; the darkest and the brightest; others.

    Within a kind the smallest image_id is taken, which is as good as a draw, since ids are hashes.
    """
    pool = sorted(((split, item) for split in LABELED_SPLITS for item in samples.get(split, [])), key=lambda pair: pair[1].image_id)
    boxes = {name: sum(box.class_name == name for _, item in pool for box in item.boxes) for name in classes}
    picked: dict[str, tuple[Split, Sample]] = {}

    def pick(candidates: Sequence[tuple[Split, Sample]], count: int) -> None:
        for split, item in [pair for pair in candidates if pair[1].image_id not in picked][:count]:
            if len(picked) < wanted:
                picked[item.image_id] = (split, item)

    for name in sorted(classes, key=lambda name: boxes[name]):
        pick([pair for pair in pool if any(box.class_name == name for box in pair[1].boxes)], 2)
    pick([pair for pair in pool if pair[1].state == "verified_empty"], 1)
    by_brightness = sorted(pool, key=lambda pair: pair[1].brightness)
    pick(by_brightness, 1)
    pick(by_brightness[::-1], 1)
    pick(pool, wanted)
    return sorted(picked.values(), key=lambda pair: (LABELED_SPLITS.index(pair[0]), pair[1].image_id))


def _rows(path: Path) -> list[dict[str, Any]] | None:
    return read_jsonl(path) if path.is_file() else None


def _read_gallery(folder: Path, index: Any, most: int, room_bytes: int) -> tuple[list[Picture], int]:
    """The first pictures of the index that fit, and how many were left out."""
    rows = index if isinstance(index, list) else []
    pictures: list[Picture] = []
    for row in rows[:most]:
        if not isinstance(row, Mapping) or not isinstance(row.get("file"), str) or not isinstance(row.get("image_id"), str):
            raise DataError(f"{folder / 'index.json'} has a row without file and image_id: run `dvc repro mine`")
        jpeg = small_jpeg(folder / Path(row["file"]).name, PICTURE_PX, KEEP_BELOW_BYTES)
        room_bytes -= len(jpeg)
        if room_bytes < 0:
            break
        pictures.append(Picture(row, data_uri(jpeg)))
    return pictures, len(rows) - len(pictures)
