"""Measuring one image: upright size, brightness, contrast, sharpness, perceptual hash and thumbnail, from a reduced grey decode.

A measurement is a function of the file's bytes alone; thresholds judge it later. JPEGs are decoded at 1/2 to 1/8 size, so sharpness speaks of shapes
some pixels wide: it finds flat and badly blurred pictures, not slightly soft ones. Owner of simplejpeg, the one decoder at hand that says when the
data of a JPEG was damaged; what it accepts, OpenCV (the pipeline's decoder) accepts too.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipelines.core.containers import REASON_ALPHA, REASON_CORRUPT, REASON_DAMAGED, UPRIGHT, Header, RefusedError, read_header, require_whole

THUMBNAIL_PX = 32
HASH_PX = 8  # the hash keeps the 8x8 lowest frequencies of the thumbnail's cosine transform
_HASH_BITS = HASH_PX * HASH_PX
MIN_REDUCED_SIDE_PX = 48  # a reduced decode keeps at least this, so that the thumbnail is always made from more pixels than it has

REASON_TOO_LARGE = "too_large"

# libjpeg's warnings that pixels are lost (its jerror.h); others, such as bytes too many before the end marker, change no pixel
_DAMAGE = ("premature end of data", "Premature end of JPEG", "bad Huffman code", "bad arithmetic code", "instead of RST")

_REDUCED_FLAGS = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 1: cv2.IMREAD_GRAYSCALE}


@dataclass(frozen=True)
class Measurement:
    """Figures of one decoded image. `thumbnail` is 32x32 grey, row by row."""

    extension: str
    width_px: int
    height_px: int
    phash: int
    brightness: float
    contrast: float
    sharpness: float
    thumbnail: bytes


def measure(content: bytes, max_pixels: int) -> Measurement:
    """Check and measure one image file.

    Raises:
        RefusedError: the pipeline does not take the file; too_large is decided before decoding.
    """
    header = read_header(content)
    if header.width_px * header.height_px > max_pixels:
        raise RefusedError(REASON_TOO_LARGE)
    if header.extension == "jpg":
        grey, (width, height) = _decode_jpeg(content, header)
    else:
        require_whole(content, header.extension)
        grey, (width, height) = _decode_other(content)
    thumbnail = cv2.resize(grey, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    mean, deviation = cv2.meanStdDev(grey)
    _, laplacian_deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return Measurement(
        extension=header.extension,
        width_px=width,
        height_px=height,
        phash=perceptual_hash(thumbnail),
        brightness=float(mean[0, 0]),
        contrast=float(deviation[0, 0]),
        sharpness=float(laplacian_deviation[0, 0] ** 2),
        thumbnail=np.ascontiguousarray(thumbnail, dtype=np.uint8).tobytes(),
    )


def perceptual_hash(thumbnail: NDArray[np.uint8] | cv2.typing.MatLike) -> int:
    """64-bit DCT hash of a 32x32 grey thumbnail: one bit for each of the 8x8 lowest frequencies, set where above their median, first bit highest.

    The method of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), in the variant of the ImageHash package.
    """
    low: NDArray[np.float64] = np.asarray(cv2.dct(thumbnail.astype(np.float64))[:HASH_PX, :HASH_PX], dtype=np.float64)
    ordered = np.sort(low, axis=None)
    median = (ordered[_HASH_BITS // 2 - 1] + ordered[_HASH_BITS // 2]) / 2
    return int.from_bytes(np.packbits(low > median).tobytes(), "big")


def reduction_for(width_px: int, height_px: int) -> int:
    """How far a JPEG of this size may be reduced while decoding: 8, 4, 2 or 1."""
    return next((factor for factor in (8, 4, 2) if min(width_px, height_px) >= MIN_REDUCED_SIDE_PX * factor), 1)


def _decode_jpeg(content: bytes, header: Header) -> tuple[cv2.typing.MatLike, tuple[int, int]]:
    """Reduced grey pixels, upright, and the upright (width, height) of the full image."""
    factor = reduction_for(header.width_px, header.height_px)
    strict = _strict_grey(content, header, factor)
    if header.orientation == UPRIGHT and strict is not None:
        return strict, (header.width_px, header.height_px)
    grey = _decode(content, _REDUCED_FLAGS[factor])  # OpenCV turns it, as it will in the rest of the pipeline
    stored, turned = ((-(-side // factor)) for side in (header.width_px, header.height_px))
    size = (grey.shape[1], grey.shape[0])
    if header.width_px == header.height_px or (size == (stored, turned) and stored != turned):
        return grey, (header.width_px, header.height_px)
    if size == (turned, stored) and stored != turned:
        return grey, (header.height_px, header.width_px)
    upright = _decode(content, cv2.IMREAD_GRAYSCALE)  # reduced sides are equal: only the full size tells whether the picture was turned
    return grey, (upright.shape[1], upright.shape[0])


def _strict_grey(content: bytes, header: Header, factor: int) -> NDArray[np.uint8] | None:
    """Reduced grey pixels as stored; None where this decoder does not know the kind of JPEG.

    Raises:
        RefusedError: truncated, corrupt or damaged.
    """
    sides = {"min_height": -(-header.height_px // factor), "min_width": -(-header.width_px // factor)}
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, "GRAY", **sides)
    except ValueError as error:
        require_whole(content, "jpg")
        if any(word in str(error) for word in _DAMAGE):
            raise RefusedError(REASON_DAMAGED) from error
        return None
    return pixels[:, :, 0]


def _decode_other(content: bytes) -> tuple[cv2.typing.MatLike, tuple[int, int]]:
    """Grey pixels as the pipeline's own colour decode gives them; an alpha channel is accepted only where nothing is transparent."""
    raw = _decode(content, cv2.IMREAD_UNCHANGED)
    if raw.dtype != np.uint8:
        raise RefusedError(REASON_CORRUPT)
    if raw.ndim == 3 and raw.shape[2] == 4 and int(raw[:, :, 3].min()) < 255:
        raise RefusedError(REASON_ALPHA)
    colour = _decode(content, cv2.IMREAD_COLOR)
    return cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY), (colour.shape[1], colour.shape[0])


def _decode(content: bytes, flags: int) -> cv2.typing.MatLike:
    try:
        image = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags)
    except cv2.error as error:  # among others: more pixels than OpenCV's own limit
        raise RefusedError(REASON_CORRUPT) from error
    if image is None:
        raise RefusedError(REASON_CORRUPT)
    return image
