"""Finding the image files of a dataset that someone else laid out, and their sizes. Owner of Pillow in the label code; pixels are not decoded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from pipelines.core.io import require_folder
from pipelines.formats.reading import Problem

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_ORIENTATION_TAG = 0x0112  # EXIF; 5 to 8 turn the image by a quarter
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # Label Studio puts it before the name of an uploaded file


class ImageIndex:
    """All image files below a folder, by their paths relative to it."""

    def __init__(self, root: Path) -> None:
        """Look through `root`; hidden files and folders are left out."""
        self.root = require_folder(root, "name the folder of images with --images")
        self.names: list[str] = sorted(
            path.relative_to(root).as_posix()
            for path in root.rglob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in path.relative_to(root).parts) and path.is_file()
        )
        self._known = set(self.names)
        self._by_last: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for name in self.names:
            self._by_last.setdefault(PurePosixPath(name).name, []).append(name)
            self._by_stem.setdefault(PurePosixPath(name).stem, []).append(name)

    def path(self, name: str) -> Path:
        """The file of an indexed name."""
        return self.root / name

    def find(self, wanted: str, near: Sequence[str], where: str) -> str | Problem:
        """The image that a dataset calls `wanted`: below one of the folders `near` (relative to the root), or the one whose path is the tail of
        `wanted` or has it as its tail. Problems: missing_image, ambiguous_image."""
        for folder in near:
            name = PurePosixPath(folder, wanted).as_posix()
            if name in self._known:
                return name
        parts = _parts(wanted)
        matches = {name: _common_tail(PurePosixPath(name).parts, parts) for name in self._by_last.get(parts[-1] if parts else "", [])}
        whole = {name: tail for name, tail in matches.items() if tail == min(len(parts), len(PurePosixPath(name).parts))}
        longest = [name for name, tail in whole.items() if tail == max(whole.values())]
        return _one(longest, wanted, where)

    def find_stem(self, wanted: str, where: str) -> str | Problem:
        """The image whose path without its ending is `wanted`, else the only one with that bare name."""
        bare = self._by_stem.get(PurePosixPath(wanted + ".x").stem, [])
        exact = [name for name in bare if PurePosixPath(name).with_suffix("").as_posix() == wanted]
        return _one(exact or bare, wanted, where)

    def find_url(self, url: str, where: str) -> str | Problem:
        """The image behind a link in Label Studio, by its file name: upload, local-files, s3://, https://."""
        split = urlsplit(url)
        local = re.search(r"(?:^|&)d=([^&]*)", split.query)
        path = unquote(local.group(1) if local else split.path)
        last = PurePosixPath(path).name
        options = [path, str(PurePosixPath(path).with_name(_UPLOAD_PREFIX.sub("", last)))] if _UPLOAD_PREFIX.match(last) else [path]
        found = [self.find(option, (), where) for option in options]
        named = sorted({item for item in found if isinstance(item, str)})
        if not named:  # the server's folders are not those below --images: the bare name decides when it is the only one
            named = sorted({name for option in options for name in self._by_last.get(PurePosixPath(option).name, [])})
        return _one(named, url, where)


def upright_size(path: Path) -> tuple[int, int] | None:
    """(width, height) as a person sees the image, EXIF orientation applied, from its header; None when it is no readable image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION_TAG, 1) in (5, 6, 7, 8)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return (height, width) if turned else (width, height)


def _one(names: Sequence[str], wanted: str, where: str) -> str | Problem:
    if len(names) == 1:
        return names[0]
    if not names:
        return Problem("missing_image", where, f"no image {wanted}")
    return Problem("ambiguous_image", where, f"{wanted} may be any of {', '.join(names[:5])}")


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", ".", ".."))


def _common_tail(a: Sequence[str], b: Sequence[str]) -> int:
    count = 0
    for left, right in zip(reversed(a), reversed(b), strict=False):
        if left != right:
            break
        count += 1
    return count
