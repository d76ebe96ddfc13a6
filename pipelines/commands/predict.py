"""`detloop predict --bundle DIR IMAGES…`: run a released bundle on images; JSON, and pictures with `--draw`.

Needs numpy, OpenCV and one runtime only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from export.bundle.draw import draw_detections, encode_jpeg
from export.bundle.golden import require_golden
from export.bundle.in_order import in_order, portion_for, portions
from export.bundle.reader import Bundle, detect_shown, detections_to_json, load_bundle, open_fastest
from export.runners import Runner
from pipelines.core.cli import EXIT_USER_ERROR, positive
from pipelines.core.errors import DataError, MissingInputError, counted
from pipelines.core.images import Decoded, read_for, read_image, use_one_thread_a_call
from pipelines.core.io import write_bytes, write_text

MAX_STEM = 200  # bytes of an image's name that its picture keeps: file systems take 255
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="the released bundle (data/release)")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGES", help="image files, or folders of them (with their subfolders)")
    parser.add_argument("--draw", type=Path, metavar="OUT_DIR", help="also write the pictures with boxes there")
    parser.add_argument("--runner", metavar="NAME", help="one of the bundle's runners (default: the fastest that runs here)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON there instead of printing it")
    parser.add_argument(
        "--threads", type=positive, default=os.cpu_count() or 1, help="CPU threads; several images are worked on side by side (default: all)"
    )


def run(args: argparse.Namespace) -> int:
    """Detect on every image and report; 2 when an image could not be read (its entry says why, the others are done)."""
    bundle = load_bundle(args.bundle)
    files, skipped = image_files(args.images)
    workers = min(args.threads, len(files))
    if workers > 1:
        use_one_thread_a_call()
    name, runner = open_fastest(bundle, args.runner, threads=args.threads, streams=workers, portion=portion_for(len(files)), say=_say)
    require_golden(bundle, name, runner)
    targets: list[Path | None] = [None] * len(files) if args.draw is None else list(drawn_names(args.draw, files))
    with runner:
        some = portions([*zip(files, targets, strict=True)], workers=workers, most=runner.max_batch)
        rows = [row for found in in_order(lambda work: _predict(runner, bundle, work), some, workers=workers) for row in found]
    about = {"bundle": str(args.bundle), "runner": name, "class_hash": bundle.contract.class_hash, "skipped_files": skipped}
    text = _json_text(about, rows)
    if args.json:
        write_text(args.json, text)
        _say(f"{counted(len(rows), 'image')} with {name}: {args.json}")
    else:
        sys.stdout.write(text)
    bad = sum("error" in row for row in rows)
    if bad:
        _say(f"{bad} of {len(rows)} images could not be read: see their `error`")
    return EXIT_USER_ERROR if bad else 0


def image_files(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """The files to read, each once, in the order given, a folder's sorted; and how many files in folders were passed over for their ending.

    Raises:
        MissingInputError: a path does not exist, or there is no image at all.
    """
    found: list[Path] = []
    skipped = 0
    for path in paths:
        if path.is_dir():
            inside = sorted(item for item in path.rglob("*") if item.is_file())
            images = [item for item in inside if item.suffix.lower() in IMAGE_SUFFIXES]
            skipped += len(inside) - len(images)
            found.extend(images)
        elif path.is_file():
            found.append(path)
        else:
            raise MissingInputError(f"{path} is neither a file nor a folder: name images that exist")
    if not found:
        raise MissingInputError(f"no image in {', '.join(map(str, paths))}: wanted files that end in {', '.join(IMAGE_SUFFIXES)}")
    return list(dict.fromkeys(found)), skipped


def drawn_names(folder: Path, files: Sequence[Path]) -> Iterator[Path]:
    """Where each file's picture goes: a name that no other picture of this call has, nor one of its images that lies there."""
    there = folder.resolve()
    taken = {file.name for file in files if file.parent.resolve() == there}
    for file in files:
        stem = file.stem if len(os.fsencode(file.stem)) <= MAX_STEM else os.fsencode(file.stem)[:MAX_STEM].decode(errors="ignore")
        name, number = f"{stem}_detections.jpg", 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}_detections.jpg"
        taken.add(name)
        yield folder / name


def _predict(runner: Runner, bundle: Bundle, work: Sequence[tuple[Path, Path | None]]) -> list[dict[str, Any]]:
    """The rows of some files, each with the name of its picture."""
    rows: list[dict[str, Any]] = [{"file": str(file)} for file, _ in work]
    read = []

    def images() -> Iterator[Decoded]:
        for (file, drawn), row in zip(work, rows, strict=True):
            try:
                image = read_for(file, bundle.contract.decode_to_wh)
            except (DataError, MissingInputError) as error:
                row["error"] = str(error)
            except OSError as error:
                row["error"] = f"{file} cannot be read ({error.strerror}): make it readable for this user"
            else:
                row["width"], row["height"] = image.original_wh
                read.append((file, drawn, row))
                yield image

    for detections, (file, drawn, row) in zip(detect_shown(runner, images(), bundle), read, strict=True):
        row["detections"] = detections_to_json(detections, bundle.contract.classes)
        if drawn is not None:
            write_bytes(drawn, encode_jpeg(draw_detections(read_image(file), detections, bundle.contract.classes)))
            row["drawn"] = str(drawn)
    return rows


def _json_text(about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """One JSON object, an image a line: short enough to read, one object to parse. Bytes of file names that are no text are escaped as Python reads
    them back.
    """
    head = json.dumps(about, ensure_ascii=False)[:-1]
    text = head + ', "images": [\n' + ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows) + "\n]}\n"
    return text.encode(errors="backslashreplace").decode()


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
