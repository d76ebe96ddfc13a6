"""Labeled datasets as other tools lay them out (VOC, COCO, a Label Studio export; YOLO has its own module), read into one form. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.core.errors import DataError, LeakError, MissingInputError, listed
from pipelines.core.io import read_json, read_text, require_file, require_folder
from pipelines.formats.coco import read_coco
from pipelines.formats.labelstudio import read_tasks
from pipelines.formats.reading import Problem, ReadBox
from pipelines.formats.voc import VocImage, read_voc
from pipelines.labeling.imagefiles import ImageIndex

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class FoundLabel:
    """What a dataset says of one image: where, the size it states (if any), boxes and problems."""

    where: str
    size_wh: tuple[int, int] | None
    boxes: tuple[ReadBox, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class FoundImage:
    """One image of a dataset: its name below the dataset's images, its file, its side of the dataset's own split, its labels (none: unlabeled)."""

    name: str
    path: Path
    split: str | None
    labels: tuple[FoundLabel, ...] = ()


@dataclass(frozen=True)
class FoundDataset:
    """All images by name, the problems of records without an image, and how many images nothing names.

    For Label Studio also the raw tasks, for each task its image's name (None: not found), and the labels of tasks whose image was not found.
    """

    images: tuple[FoundImage, ...]
    problems: tuple[Problem, ...]
    unnamed_images: int = 0
    tasks: tuple[Mapping[str, Any], ...] | None = None
    image_of_task: tuple[str | None, ...] = ()
    homeless: tuple[FoundLabel, ...] = ()


def read_voc_dataset(source: Path, images: Path | None) -> FoundDataset:
    """VOC: `Annotations/*.xml`, `JPEGImages/`, `ImageSets/Main/{train,val,test}.txt`; or XML files beside their images.

    An image belongs to the XML file of the same name. One without XML is unlabeled; an XML file without objects says that there are none.

    Raises:
        DataError: XML files that cannot be read.
        LeakError: an image in two split lists.
    """
    require_folder(source, "name a VOC folder")
    folder = source / "Annotations" if (source / "Annotations").is_dir() else source
    beside = [source / name for name in ("JPEGImages", "images") if (source / name).is_dir()]
    index = ImageIndex(images or (beside[0] if beside else source))
    problems: list[Problem] = []
    labels: dict[str, list[FoundLabel]] = {}
    broken: list[str] = []
    for path in sorted(folder.rglob("*.xml")):
        where = path.relative_to(source).as_posix()
        try:
            read = read_voc(path.read_bytes(), where)
        except DataError as error:
            broken.append(str(error))
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix()
        problems.extend(_filename_problem(read, stem, where))
        name = index.find_stem(stem, where)
        if isinstance(name, Problem):
            problems.append(name)
        else:
            labels.setdefault(name, []).append(FoundLabel(where, read.size_wh, read.boxes, read.problems))
    if broken:
        raise DataError(f"{len(broken)} XML files cannot be read: {listed(broken)}")
    listed_in: dict[str, list[str]] = {}
    for split in ("train", "val", "test"):
        path = source / "ImageSets" / "Main" / f"{split}.txt"
        for line in read_text(path).splitlines() if path.is_file() else []:
            if not line.strip():
                continue
            name = index.find_stem(line.strip(), path.relative_to(source).as_posix())
            if isinstance(name, Problem):
                problems.append(name)
            else:
                listed_in.setdefault(name, []).append(split)
    split_of = one_split(listed_in)
    found = [FoundImage(name, index.path(name), split_of.get(name), tuple(labels.get(name, ()))) for name in index.names]
    return FoundDataset(tuple(found), tuple(problems))


def read_coco_dataset(source: Path, images: Path | None) -> FoundDataset:
    """COCO: one JSON file, or a folder with one file for each split (below it, in `annotations/`, or in `train/`, `val/`, `test/`).

    A file whose name or folder says train, val or test gives that split. Only images that a file names are taken.

    Raises:
        MissingInputError: no JSON file.
        DataError: a file that is no COCO file, or an image in two files.
    """
    folder = source if source.is_dir() else source.parent
    files = [require_file(source, "name a COCO file or folder")] if not source.is_dir() else _json_files(source)
    if not files:
        raise MissingInputError(f"{source} has no COCO file (*.json, annotations/*.json, train/*.json …): name the file itself")
    index = ImageIndex(images or folder)
    found: dict[str, FoundImage] = {}
    problems: list[Problem] = []
    twice: list[str] = []
    for path in files:
        where = path.relative_to(folder).as_posix()
        split = _split_word(where)
        coco = read_coco(read_json(path), where)
        problems.extend(replace(item, where=f"{where} {item.where}") for item in coco.problems)
        beside = path.parent.relative_to(index.root).as_posix() if path.parent.is_relative_to(index.root) else "."
        near = [beside, "images", *[name for name, meaning in SPLIT_NAMES.items() if meaning == split]]
        for image in coco.images:
            name = index.find(image.file_name, near, where)
            if isinstance(name, Problem):
                problems.append(name)
                continue
            if name in found:
                twice.append(f"{name} (again in {where})")
            labels = (FoundLabel(where, image.size_wh, image.boxes, image.problems),) if image.labeled else ()
            found[name] = FoundImage(name, index.path(name), split, labels)
    if twice:
        raise DataError(f"{len(twice)} images stand twice in the COCO files: {listed(twice)}: name one file, or mend them")
    return FoundDataset(tuple(found[name] for name in sorted(found)), tuple(problems), len(index.names) - len(found))


def read_labelstudio_dataset(source: Path, images: Path | None) -> FoundDataset:
    """A Label Studio JSON export; each task's image is found below `images` (else beside the export) by its file name."""
    raw = read_json(source, "name a JSON export")
    tasks = read_tasks(raw, source.name)
    index = ImageIndex(images or source.parent)
    problems: list[Problem] = []
    names: list[str | None] = []
    labels: dict[str, list[FoundLabel]] = {}
    homeless: list[FoundLabel] = []
    for task in tasks:
        where = f"task {task.task_id}"
        match = index.find_url(task.image, where) if task.image else Problem("missing_image", where, "the task has no data.image")
        if isinstance(match, Problem):
            problems.append(match)
        names.append(None if isinstance(match, Problem) else match)
        place = homeless if isinstance(match, Problem) else labels.setdefault(match, [])
        for item in task.annotations:
            if not item.cancelled:
                size_wh = item.sizes_wh[0] if item.sizes_wh else None
                place.append(FoundLabel(f"{where} annotation {item.annotation_id}", size_wh, item.boxes, item.problems))
    used = sorted(name for name in set(names) if name is not None)
    found = tuple(FoundImage(name, index.path(name), None, tuple(labels[name])) for name in used)
    return FoundDataset(found, tuple(problems), len(index.names) - len(used), tuple(raw), tuple(names), tuple(homeless))


def _filename_problem(read: VocImage, stem: str, where: str) -> Iterator[Problem]:
    if read.filename and PurePosixPath(read.filename).stem != PurePosixPath(stem + ".x").stem:
        yield Problem("filename_differs", where, f"it names {read.filename}; the image of its own name is taken")


def one_split(in_splits: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Each name's one split.

    Raises:
        LeakError: names in several.
    """
    leaks = [f"{name} in {' and '.join(sorted(set(splits)))}" for name, splits in sorted(in_splits.items()) if len(set(splits)) > 1]
    if leaks:
        raise LeakError(f"{len(leaks)} images stand on two sides of the dataset's own split: {listed(leaks)}: mend its lists")
    return {name: splits[0] for name, splits in in_splits.items()}


def _json_files(source: Path) -> list[Path]:
    folders = [source, source / "annotations", *[source / name for name in SPLIT_NAMES]]
    return [path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.json"))]


def _split_word(where: str) -> str | None:
    words = {meaning for word, meaning in SPLIT_NAMES.items() for part in PurePosixPath(where.lower()).parts if word in _words(part)}
    return words.pop() if len(words) == 1 else None


def _words(text: str) -> set[str]:
    return set("".join(character if character.isalpha() else " " for character in text).split())
