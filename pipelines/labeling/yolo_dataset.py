"""YOLO datasets as tools lay them out, read into the form of `datasets`. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines.core.errors import DataError
from pipelines.core.io import read_text, require_folder
from pipelines.formats.reading import Problem
from pipelines.formats.yolo import boxes_from_yolo
from pipelines.labeling.datasets import FoundDataset, FoundImage, FoundLabel, one_split
from pipelines.labeling.imagefiles import ImageIndex, upright_size


def read_yolo_dataset(source: Path, images: Path | None, class_names: Path | None) -> FoundDataset:
    """YOLO: a folder with data.yaml (names, train, val, test), or `images/` and `labels/` with a file of class names (`class_names` or classes.txt).

    The text of `…/images/a.jpg` is `…/labels/a.txt`, else `labels/a.txt` of the dataset, else `a.txt` beside it. An empty text says that there are no
    objects; an image without a text is unlabeled.

    Raises:
        DataError: no class names, or a split of data.yaml that is nowhere.
        LeakError: an image in two splits.
    """
    require_folder(source, "name a YOLO folder")
    index = ImageIndex(images or source)
    config = _yolo_config(source)
    classes = _yolo_names(source, config, class_names)
    problems: list[Problem] = []
    in_splits: dict[str, list[str]] = {}
    for split in ("train", "val", "test"):
        entries = config.get(split) or []
        entries = [entries] if isinstance(entries, str) else entries
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise DataError(f"{source / 'data.yaml'}: {split} = {entries!r}, wanted a path or a list of paths: mend it")
        for entry in entries:
            for name in _yolo_split(source, index, str(config.get("path") or ""), entry, f"data.yaml {split}", problems):
                in_splits.setdefault(name, []).append(split)
    split_of = one_split(in_splits)
    found, used = [], set()
    for name in index.names:
        text = _yolo_text(source, index.path(name), name)
        label: tuple[FoundLabel, ...] = ()
        if text is not None:
            used.add(text)
            where = text.relative_to(source).as_posix() if text.is_relative_to(source) else text.name
            size_wh = upright_size(index.path(name))
            boxes, faults = boxes_from_yolo(text.read_text(encoding="utf-8", errors="replace"), classes, size_wh or (1, 1))
            label = (FoundLabel(where, size_wh, boxes, faults),)
        found.append(FoundImage(name, index.path(name), split_of.get(name), label))
    unused = [text for text in sorted(source.rglob("*.txt")) if text not in used and "labels" in text.relative_to(source).parts[:-1]]
    problems.extend(Problem("missing_image", text.relative_to(source).as_posix(), f"no image {text.stem}") for text in unused)
    return FoundDataset(tuple(found), tuple(problems))


def _yolo_config(source: Path) -> dict[str, Any]:
    path = source / "data.yaml"
    if not path.is_file():
        return {}
    try:
        value = YAML(typ="safe", pure=True).load(read_text(path))
    except YAMLError as error:
        raise DataError(f"{path} is not YAML ({error}): mend it") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is no mapping with `names`, `train`, `val`: mend it")
    return value


def _yolo_names(source: Path, config: dict[str, Any], class_names: Path | None) -> list[str]:
    names = config.get("names")
    if class_names is None and isinstance(names, list):
        return [str(name) for name in names]
    if class_names is None and isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise DataError(f"{source / 'data.yaml'}: the keys of `names` are {sorted(names, key=str)}, wanted 0, 1, 2 …: mend it")
        return [str(names[position]) for position in range(len(names))]
    path = class_names or source / "classes.txt"
    text = read_text(path, "give the class names, one a line, with --class-names FILE")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _yolo_split(source: Path, index: ImageIndex, base: str, entry: str, where: str, problems: list[Problem]) -> Iterator[str]:
    """Names of the images that an entry of data.yaml means. `path` and leading ../ are often those of another machine, so `source` is tried too."""
    options = [source / base / entry, source / entry, source / entry.removeprefix("../"), index.root / entry]
    target = next((option for option in options if option.exists()), None)
    if target is None:
        raise DataError(
            f"{source / 'data.yaml'}: {where} = {entry!r} is nowhere (looked for {', '.join(str(option) for option in options)}): mend it"
        )
    if target.is_dir():
        if not target.resolve().is_relative_to(index.root.resolve()):
            raise DataError(f"{where} = {target} is not below {index.root}: name the folder that holds all images with --images")
        inside = target.resolve().relative_to(index.root.resolve())
        yield from (name for name in index.names if PurePosixPath(name).is_relative_to(inside.as_posix()))
        return
    for line in read_text(target).splitlines():
        name = index.find(line.strip(), (), where) if line.strip() else None
        if isinstance(name, Problem):
            problems.append(name)
        elif name is not None:
            yield name


def _yolo_text(source: Path, image: Path, name: str) -> Path | None:
    parts = list(image.parts)
    options: list[Path] = []
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[:-1][::-1].index("images")
        options.append(Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt"))
    below = PurePosixPath(name).with_suffix(".txt")
    options += [source / "labels" / below, image.with_suffix(".txt")]
    return next((option for option in options if option.is_file()), None)
