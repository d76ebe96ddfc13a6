"""Decoding images one way everywhere: BGR uint8, EXIF orientation applied, reduced where a detector asks for it, and the letterbox that it sees.

The image's bytes are never rewritten; whoever needs pixels reads them through here, so that labels, training, predictions and the shipped bundle
agree on what is left and what is up. Owner of OpenCV in the pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.core.containers import UNKNOWN_ORIENTATION, RefusedError, read_header
from pipelines.core.errors import DataError, MissingInputError

Image = NDArray[np.uint8]
_JPEG_START = b"\xff\xd8"
_TURNED = range(5, 9)  # EXIF orientations that swap width and height
REDUCED_FLAGS = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


@dataclass(frozen=True)
class Decoded:
    """An image's BGR pixels, whole or reduced by the decoder, and the (width, height) of the whole upright image, in which boxes are told."""

    pixels: Image
    original_wh: tuple[int, int]

    @staticmethod
    def whole(image: Image) -> Decoded:
        """Of pixels that are at hand already."""
        return Decoded(image, (image.shape[1], image.shape[0]))


def decode_image(content: bytes, name: str) -> Image:
    """Decode a file's bytes to BGR uint8, shape (height, width, 3), EXIF orientation applied.

    Raises:
        DataError: not an image that OpenCV reads; `name` says which.
    """
    return _decode(content, name, 1)


def decode_for(content: bytes, name: str, input_wh: tuple[int, int] | None) -> Decoded:
    """Decode a file's bytes as far as an input of `input_wh` needs: a JPEG by its decoder at 1/2, 1/4 or 1/8 (see `reduction_for`), others whole.

    The decoder leaves high frequencies out, so that a reduced JPEG costs less than half the time and has no aliasing. None: always whole.

    Raises:
        DataError: not an image that OpenCV reads; `name` says which.
    """
    if input_wh is not None and content.startswith(_JPEG_START):
        try:
            header = read_header(content)
        except RefusedError:  # of a kind that the pipeline refuses: what OpenCV makes of it is taken whole
            return Decoded.whole(decode_image(content, name))
        stored = (header.width_px, header.height_px)
        upright = stored[::-1] if header.orientation in _TURNED else stored
        factor = reduction_for(upright, input_wh) if header.orientation != UNKNOWN_ORIENTATION else 1
        if factor > 1:
            return Decoded(_decode(content, name, factor), upright)
    return Decoded.whole(decode_image(content, name))


def reduction_for(original_wh: tuple[int, int], input_wh: tuple[int, int]) -> int:
    """How far a JPEG may be reduced while it is decoded for an input: 8, 4, 2 or 1.

    Both sides are whole multiples of it, so that the reduced pixels lie exactly on the original's, and no side becomes smaller than letterboxed.
    """
    wanted = letterbox_for(original_wh, input_wh).resized_wh
    fits = (
        factor for factor in (8, 4, 2) if all(side % factor == 0 and side // factor >= small for side, small in zip(original_wh, wanted, strict=True))
    )
    return next(fits, 1)


def _decode(content: bytes, name: str, factor: int) -> Image:
    array = np.frombuffer(content, dtype=np.uint8)
    try:
        image = cv2.imdecode(array, REDUCED_FLAGS[factor]) if array.size else None
    except cv2.error:  # it states more pixels than OpenCV takes (2 ** 30)
        image = None
    if image is None:
        raise DataError(f"{name} is not a readable image: replace or remove it")
    return image.astype(np.uint8, copy=False)


def use_one_thread_a_call() -> None:
    """Have OpenCV compute each call in its caller's thread alone, for a process whose own threads work on an image each."""
    cv2.setNumThreads(1)


def read_image(path: Path) -> Image:
    """Read and decode one image file; see `decode_image`.

    Raises:
        MissingInputError: no such file.
    """
    return decode_image(_content(path), str(path))


def read_for(path: Path, input_wh: tuple[int, int] | None) -> Decoded:
    """Read and decode one image file as far as an input needs; see `decode_for`.

    Raises:
        MissingInputError: no such file.
    """
    return decode_for(_content(path), str(path), input_wh)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingInputError(f"image {path} is missing: restore it, or run `dvc repro`") from error


@dataclass(frozen=True)
class Letterbox:
    """Where an image lies inside a detector's input: scaled by `scale`, moved by `(left_px, top_px)`, padded to `input_wh`.

    The geometry is ultralytics' LetterBox with auto=False, center=True: sides rounded, an odd padding pixel goes right and below.
    """

    input_wh: tuple[int, int]
    resized_wh: tuple[int, int]
    scale: float
    left_px: int
    top_px: int

    def to_original(self, xyxy: NDArray[np.float32], original_wh: tuple[int, int]) -> NDArray[np.float32]:
        """Map boxes (N, 4) from input pixels to pixels of the original image, cut at its edges; a new array."""
        shift = np.array([self.left_px, self.top_px] * 2, dtype=np.float32)
        boxes = (xyxy.astype(np.float32) - shift) / np.float32(self.scale)
        limits = np.array([*original_wh, *original_wh], dtype=np.float32)
        return np.clip(boxes, np.float32(0), limits)


def letterbox_for(original_wh: tuple[int, int], input_wh: tuple[int, int]) -> Letterbox:
    """The letterbox that fits an image of `original_wh` (width, height) into `input_wh`."""
    scale = min(input_wh[0] / original_wh[0], input_wh[1] / original_wh[1])
    resized = (max(1, round(original_wh[0] * scale)), max(1, round(original_wh[1] * scale)))  # of a very thin image a line is left
    pad_w, pad_h = (input_wh[0] - resized[0]) / 2, (input_wh[1] - resized[1]) / 2
    return Letterbox(input_wh, resized, scale, round(pad_w - 0.1), round(pad_h - 0.1))


def apply_letterbox(image: Image, box: Letterbox, pad_value: int) -> Image:
    """Resize (bilinear) and pad a BGR image to `box.input_wh`; shape (input height, input width, 3), uint8."""
    height, width = image.shape[:2]
    if (width, height) != box.resized_wh:
        image = cv2.resize(image, box.resized_wh, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    canvas = np.full((box.input_wh[1], box.input_wh[0], 3), pad_value, dtype=np.uint8)
    canvas[box.top_px : box.top_px + box.resized_wh[1], box.left_px : box.left_px + box.resized_wh[0]] = image
    return canvas


def tensor_from_letterboxed(images: Sequence[Image]) -> NDArray[np.float32]:
    """Batch of letterboxed BGR images to what the network takes: float32 (N, 3, height, width), RGB, divided by 255, contiguous."""
    height, width = images[0].shape[:2]
    batch = np.empty((len(images), 3, height, width), dtype=np.float32)
    for image, planes in zip(images, batch, strict=True):
        for plane, colour in zip(planes, reversed(cv2.split(image)), strict=True):  # half the time of a transposed view: each plane is read in a row
            np.divide(colour, np.float32(255), out=plane)
    return batch
