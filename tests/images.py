"""Small image files for tests, written by Pillow: good ones, and every kind of bad one."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def picture(seed: int, size_wh: tuple[int, int] = (96, 64)) -> Image.Image:
    """A picture with shapes of its own: smooth noise, so that other seeds are other scenes."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(30, 225, (6, 8, 3), dtype=np.uint8)).resize(size_wh, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(seed: int, size_wh: tuple[int, int] = (96, 64), quality: int = 90) -> bytes:
    return encoded(picture(seed, size_wh), quality=quality)


def jpeg_with_orientation(seed: int, orientation: int, size_wh: tuple[int, int]) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(seed, size_wh), quality=90, exif=exif)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb_png(side: int = 60_000) -> bytes:
    """A few bytes that claim to be side x side pixels."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        + png_chunk(b"IDAT", b"")
        + png_chunk(b"IEND", b"")
    )


def rgba(transparent: bool) -> Image.Image:
    image = picture(18).convert("RGBA")
    if transparent:
        image.putpixel((3, 3), (10, 20, 30, 254))
    return image


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Name to (content, the reason that collect must give)."""
    good_jpeg, good_png = jpeg(1, (320, 240)), encoded(picture(1), "PNG")
    middle = len(good_jpeg) // 2
    noise = np.random.default_rng(0).bytes(400).replace(b"\xff", b"\x00") + b"\xff\x07"
    frames = [picture(seed) for seed in (1, 2)]
    return {
        "nothing.jpg": (b"", "empty"),
        "notes.jpg": (b"remember the milk\n" * 30, "not_an_image"),
        "archive.png": (b"PK\x03\x04" + bytes(500), "not_an_image"),
        "two_bytes.jpg": (b"\xff\xd8", "not_an_image"),
        "cut.jpg": (good_jpeg[:middle], "truncated"),
        "cut_by_two.jpg": (good_jpeg[:-2], "truncated"),
        "cut_in_header.jpg": (good_jpeg[:30], "truncated"),
        "zero_tail.jpg": (good_jpeg[:middle] + bytes(len(good_jpeg) - middle), "truncated"),
        "cut_progressive.jpg": (encoded(picture(1, (320, 240)), quality=90, progressive=True)[:-300], "truncated"),
        "noise_inside.jpg": (good_jpeg[:middle] + noise + good_jpeg[middle + len(noise) :], "corrupt"),
        "cut.png": (good_png[: len(good_png) // 2], "truncated"),
        "flipped_bit.png": (good_png[:-40] + bytes([good_png[-40] ^ 1]) + good_png[-39:], "corrupt"),
        "cut.bmp": (encoded(picture(1), "BMP")[:-100], "truncated"),
        "cut.webp": (encoded(picture(1), "WEBP")[:-100], "truncated"),
        "cut.tif": (encoded(picture(1), "TIFF")[:200], "corrupt"),
        "small.jpg": (jpeg(1, (31, 400)), "too_small"),
        "bomb.png": (bomb_png(), "too_large"),
        "animated.gif": (encoded(frames[0], "GIF"), "animated"),
        "animated.png": (encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]), "animated"),
        "animated.webp": (encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]), "animated"),
        "pages.tif": (encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]), "multi_page"),
        "deep.png": (encoded(Image.fromarray(np.arange(6400, dtype=np.uint16).reshape(80, 80)), "PNG"), "sixteen_bit"),
        "deep.tif": (encoded(Image.fromarray(np.arange(6400, dtype=np.float32).reshape(80, 80)), "TIFF"), "sixteen_bit"),
        "ink.jpg": (encoded(picture(1).convert("CMYK")), "cmyk"),
        "ink.tif": (encoded(picture(1).convert("CMYK"), "TIFF"), "cmyk"),
        "glass.png": (encoded(rgba(transparent=True), "PNG"), "alpha"),
        "glass.webp": (encoded(rgba(transparent=True), "WEBP", lossless=True), "alpha"),
        "phone.heic": (struct.pack(">I", 24) + b"ftypheic" + bytes(400), "unsupported_format"),
        "night.jpg": (encoded(Image.fromarray(np.random.default_rng(1).integers(0, 12, (64, 96, 3), dtype=np.uint8))), "too_dark"),
        "sun.png": (encoded(Image.fromarray(np.random.default_rng(1).integers(250, 256, (64, 96, 3), dtype=np.uint8)), "PNG"), "too_bright"),
        "fog.jpg": (encoded(Image.new("RGB", (320, 240), (120, 125, 130))), "blurred"),
    }


def odd_but_good() -> dict[str, bytes]:
    """Files that look odd and must be kept."""
    thumbnail = encoded(picture(9, (40, 30)))
    exif = Image.Exif()
    exif[0x010E] = "\xff\xd9 inside"
    return {
        "png_named.jpg": encoded(picture(10), "PNG"),
        "no_ending": jpeg(11),
        "progressive.jpg": encoded(picture(12, (320, 240)), progressive=True, quality=90),
        "restarts.jpg": encoded(picture(13, (320, 240)), quality=90, restart_marker_blocks=2),
        "trailer.jpg": jpeg(14) + bytes(300) + thumbnail,
        "exif_text.jpg": encoded(picture(15), exif=exif, quality=90),
        "grey.jpg": encoded(picture(16).convert("L"), quality=90),
        "palette.png": encoded(picture(17).convert("P"), "PNG"),
        "opaque.png": encoded(rgba(transparent=False), "PNG"),
        "plain.bmp": encoded(picture(19), "BMP"),
        "plain.webp": encoded(picture(20), "WEBP"),
        "lossless.webp": encoded(picture(21), "WEBP", lossless=True),
        "plain.tif": encoded(picture(22), "TIFF"),
        "lzw.tif": encoded(picture(23), "TIFF", compression="tiff_lzw"),
    }
