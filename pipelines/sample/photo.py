"""From linear light to a JPEG as a small industrial camera writes it: lens, sensor noise, tone curve, compression."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.core.images import Image

F32 = NDArray[np.float32]
GAMMA = np.float32(1 / 2.2)
EXIF_TURNED = bytes.fromhex("45786966000049492a0008000000010012010300010000000600000000000000")  # one tag: orientation 6


@dataclass(frozen=True)
class Exposure:
    """How one frame is taken: gain on the light, blur of the lens in pixels, noise as a fraction of full scale, colour cast (B, G, R)."""

    gain: float
    blur_px: float
    noise: float
    cast: tuple[float, float, float]


def falloff(width: int, height: int, centre: tuple[float, float], strength: float) -> F32:
    """Light of a lamp over `centre` (fractions of width and height), falling off to the sides; shape (height, width, 1), 1 at the centre."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    distance = ((x / width - centre[0]) * 1.2) ** 2 + (y / height - centre[1]) ** 2
    light: F32 = (1 / (1 + np.float32(strength) * distance))[..., None].astype(np.float32)
    return light


def develop(light: F32, exposure: Exposure, rng: np.random.Generator) -> Image:
    """An 8-bit BGR picture of linear `light` (height, width, 3)."""
    height, width = light.shape[:2]
    image = light * (np.float32(exposure.gain) * np.array(exposure.cast, dtype=np.float32))
    image = image * falloff(width, height, (0.5, 0.5), 0.35)
    image = cv2.GaussianBlur(image, (0, 0), exposure.blur_px).astype(np.float32, copy=False)
    shot = rng.standard_normal((height, width), dtype=np.float32)
    chroma = cv2.resize(rng.standard_normal((height // 2, width // 2, 3), dtype=np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    level = np.float32(exposure.noise) * np.sqrt(np.maximum(image, 0) + np.float32(0.02))
    image = image + level * (shot[..., None] + np.float32(0.6) * chroma)
    image = np.maximum(image, 0)
    image = image * (1 + image * np.float32(0.25)) / (1 + image * np.float32(0.55))  # a soft shoulder instead of a hard clip
    image = image**GAMMA
    soft = cv2.GaussianBlur(image, (0, 0), 1.2)
    image = image + np.float32(0.35) * (image - soft)  # the camera's own sharpening
    picture: Image = np.clip(image * np.float32(255) + np.float32(0.5), 0, 255).astype(np.uint8)
    return picture


def jpeg(image: Image, quality: int) -> bytes:
    """Compress a BGR picture; no metadata."""
    _, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return content.tobytes()


def turned_jpeg(image: Image, quality: int) -> bytes:
    """Compress with the pixels stored a quarter turn to the left and EXIF orientation 6, which tells viewers to turn them back."""
    content = jpeg(np.ascontiguousarray(np.rot90(image)), quality)
    segment = b"\xff\xe1" + (len(EXIF_TURNED) + 2).to_bytes(2, "big") + EXIF_TURNED
    return content[:2] + segment + content[2:]
