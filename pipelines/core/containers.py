"""What a file is, by its content: format, pixel size and whether its structure is whole. Decodes nothing.

Decoders are lenient (some give grey rows for what a cut-off file lacks), so the structure is walked here: a JPEG must reach its end marker, a PNG its
IEND chunk with every checksum right, a WebP and a BMP the length that their header states. TIFF has no such frame: only the decoder judges it. What
lies between the markers of a JPEG only a decoder can judge: see `measure`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Why a file is refused for what it is, whatever the thresholds say.
REASON_EMPTY = "empty"
REASON_NOT_AN_IMAGE = "not_an_image"
REASON_UNSUPPORTED = "unsupported_format"
REASON_TRUNCATED = "truncated"
REASON_CORRUPT = "corrupt"
REASON_DAMAGED = "damaged"  # the structure is whole, the picture's data is not
REASON_TOO_MANY_SCANS = "too_many_scans"
REASON_ANIMATED = "animated"
REASON_MULTI_PAGE = "multi_page"
REASON_SIXTEEN_BIT = "sixteen_bit"
REASON_CMYK = "cmyk"
REASON_ALPHA = "alpha"

HEAD_BYTES = 32  # as much as `sniff` needs
MAX_SCANS = 100  # a progressive JPEG has about ten; one of thousands would keep a decoder busy for minutes
UPRIGHT, UNKNOWN_ORIENTATION = 1, 0

_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 without DHT, JPG, DAC (ITU-T T.81, table B.1)
_JPEG_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_JPEG_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM and RST0 to RST7 carry no length
_JPEG_MARKERS_BETWEEN_SCANS = frozenset({0xC4, 0xCC, *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE})  # tables, the next scan, application data
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis", b"jxl ", b"crx ")
_UNSUPPORTED_HEADS = (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51", b"8BPS", b"\xff\x0a", b"\x00\x00\x00\x0cJXL ", b"qoif", b"v/1\x01")


class RefusedError(Exception):
    """The file is no image that the pipeline takes; `reason` is the word for the manifest."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Header:
    """Format (jpg, png, bmp, webp, tif) and stored size, before any EXIF orientation.

    `orientation` is that of a JPEG's EXIF, 1 to 8, UPRIGHT without one; UNKNOWN_ORIENTATION where its EXIF is odd.
    """

    extension: str
    width_px: int
    height_px: int
    orientation: int = UPRIGHT


def sniff(head: bytes) -> str:
    """The format of a file from its first HEAD_BYTES bytes: jpg, png, bmp, webp or tif.

    Raises:
        RefusedError: empty, no image, or an image format that is not taken (GIF counts as animated).
    """
    if not head:
        raise RefusedError(REASON_EMPTY)
    if head.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:4] in (b"II*\x00", b"MM\x00*"):
        return "tif"
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "bmp"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        raise RefusedError(REASON_ANIMATED)
    if head.startswith(_UNSUPPORTED_HEADS) or (head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS):
        raise RefusedError(REASON_UNSUPPORTED)
    raise RefusedError(REASON_NOT_AN_IMAGE)


def read_header(content: bytes) -> Header:
    """Size and kind of an image, from its header alone.

    Raises:
        RefusedError: not an image, a broken header, or pixels that would not mean the same everywhere (CMYK, more than 8 bits, several frames).
    """
    extension = sniff(content[:HEAD_BYTES])
    try:
        header = _jpeg_header(content) if extension == "jpg" else Header(extension, *_SIZE_OF[extension](content))
    except (struct.error, IndexError) as error:
        raise RefusedError(REASON_TRUNCATED) from error
    if header.width_px < 1 or header.height_px < 1:
        raise RefusedError(REASON_CORRUPT)
    return header


def require_whole(content: bytes, extension: str) -> None:
    """Refuse a file whose structure does not reach its end.

    Raises:
        RefusedError: truncated or corrupt.
    """
    try:
        if extension == "jpg":
            _walk_jpeg(content)
        elif extension == "png":
            _walk_png(content)
        elif extension == "webp":
            if len(content) < 8 + struct.unpack_from("<I", content, 4)[0]:
                raise RefusedError(REASON_TRUNCATED)
        elif extension == "bmp" and len(content) < _bmp_length(content):
            raise RefusedError(REASON_TRUNCATED)
    except (struct.error, IndexError) as error:
        raise RefusedError(REASON_TRUNCATED) from error


def _jpeg_header(content: bytes) -> Header:
    position = 2
    orientation = UPRIGHT
    while True:
        marker, position = _next_marker(content, position)
        if marker in _JPEG_FRAME_MARKERS:
            precision, height, width, channels = struct.unpack_from(">BHHB", content, position + 2)
            if precision != 8:
                raise RefusedError(REASON_SIXTEEN_BIT)
            if channels == 4:
                raise RefusedError(REASON_CMYK)
            if marker in _JPEG_PROGRESSIVE and content.count(b"\xff\xda") > MAX_SCANS:
                raise RefusedError(REASON_TOO_MANY_SCANS)
            return Header("jpg", width, height, orientation)
        if marker in (0xD9, 0xDA):
            raise RefusedError(REASON_CORRUPT)
        if marker == 0xE1 and content.startswith(b"Exif", position + 2):
            orientation = _exif_orientation(content[position + 8 : position + _segment_length(content, position)])
            if content.count(b"Exif\0\0") > 1:  # which one counts is the decoder's affair
                orientation = UNKNOWN_ORIENTATION
        position += 0 if marker in _JPEG_BARE_MARKERS else _segment_length(content, position)


def _exif_orientation(tiff: bytes) -> int:
    """Tag 0x0112 of the first directory (EXIF 2.3, 4.6.4)."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return UNKNOWN_ORIENTATION
    try:
        directory = struct.unpack_from(order + "I", tiff, 4)[0]
        for index in range(struct.unpack_from(order + "H", tiff, directory)[0]):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, directory + 2 + 12 * index)
            if tag == 0x0112:
                return int(value) if kind == 3 and 1 <= value <= 8 else UNKNOWN_ORIENTATION
    except struct.error:
        return UNKNOWN_ORIENTATION
    return UPRIGHT


def _walk_jpeg(content: bytes) -> None:
    """Follow the markers to the end-of-image marker; bytes after it are allowed (cameras put previews there)."""
    position = 2
    in_scans = False
    while True:
        marker, position = _next_marker(content, position)
        if marker == 0xD9:
            return
        if in_scans and marker not in _JPEG_MARKERS_BETWEEN_SCANS:  # bytes of something else lie in the picture's data
            raise RefusedError(REASON_CORRUPT)
        if marker in _JPEG_BARE_MARKERS:
            continue
        position += _segment_length(content, position)
        if marker == 0xDA:  # entropy-coded bytes follow, up to the next marker that is neither a stuffed 0xFF nor a restart
            in_scans = True
            position = _end_of_scan(content, position)


def _end_of_scan(content: bytes, position: int) -> int:
    data = content[position:]
    last = data.rfind(b"\xff\xd9")
    if last >= 0 and data.count(b"\xff", 0, last) == data.count(b"\xff\x00", 0, last):  # the common case, fast: nothing but stuffed bytes before it
        return position + last
    tail = np.frombuffer(data, dtype=np.uint8)
    escapes = np.flatnonzero(tail[:-1] == 0xFF)
    following = tail[escapes + 1]
    ends = escapes[(following != 0) & (following != 0xFF) & ((following < 0xD0) | (following > 0xD7))]
    if not len(ends):
        raise RefusedError(REASON_TRUNCATED)
    return position + int(ends[0])


def _next_marker(content: bytes, position: int) -> tuple[int, int]:
    """The marker at `position` and the place after it; fill bytes (0xFF) before it are skipped."""
    if content[position] != 0xFF:
        raise RefusedError(REASON_CORRUPT)
    while content[position] == 0xFF:
        position += 1
    return content[position], position + 1


def _segment_length(content: bytes, position: int) -> int:
    length: int = struct.unpack_from(">H", content, position)[0]
    if length < 2:
        raise RefusedError(REASON_CORRUPT)
    if position + length > len(content):
        raise RefusedError(REASON_TRUNCATED)
    return length


def _png_size(content: bytes) -> tuple[int, int]:
    width, height, depth = struct.unpack_from(">IIB", content, 16)
    if depth > 8:
        raise RefusedError(REASON_SIXTEEN_BIT)
    return width, height


def _walk_png(content: bytes) -> None:
    position = 8
    while True:
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 8 + length
        stated = struct.unpack_from(">I", content, end)[0]
        if kind == b"acTL":
            raise RefusedError(REASON_ANIMATED)
        if stated != zlib.crc32(memoryview(content)[position + 4 : end]):
            raise RefusedError(REASON_CORRUPT)
        if kind == b"IEND":
            return
        position = end + 4


def _webp_size(content: bytes) -> tuple[int, int]:
    kind = content[12:16]
    if kind == b"VP8X":
        if content[20] & 0x02:
            raise RefusedError(REASON_ANIMATED)
        return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", content, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise RefusedError(REASON_CORRUPT)


def _bmp_size(content: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", content, 14)[0] < 40:  # the header of OS/2 1.x
        width, height = struct.unpack_from("<HH", content, 18)
        return width, height
    width, height = struct.unpack_from("<ii", content, 18)
    return abs(width), abs(height)  # a negative height means rows from the top


def _bmp_length(content: bytes) -> int:
    """Where the pixels end; a compressed one is only held against its header."""
    start, header = struct.unpack_from("<II", content, 10)
    bits, compression = struct.unpack_from("<HI", content, 28) if header >= 40 else (struct.unpack_from("<H", content, 24)[0], 0)
    width, height = _bmp_size(content)
    return int(start + (width * bits + 31) // 32 * 4 * height) if compression in (0, 3, 6) else int(start)


def _tiff_size(content: bytes) -> tuple[int, int]:
    """Size from the first directory; refuses further pages, CMYK, and more than 8 bits (TIFF 6.0: tags 256, 257, 258, 262)."""
    order = "<" if content[:2] == b"II" else ">"
    directory = struct.unpack_from(order + "I", content, 4)[0]
    count = struct.unpack_from(order + "H", content, directory)[0]
    values: dict[int, int] = {}
    for index in range(count):
        at = directory + 2 + 12 * index
        tag, kind, number = struct.unpack_from(order + "HHI", content, at)
        if tag in (256, 257, 258, 262):
            place = at + 8 if not (kind == 3 and number > 2) else struct.unpack_from(order + "I", content, at + 8)[0]
            values[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), content, place)[0]
    if struct.unpack_from(order + "I", content, directory + 2 + 12 * count)[0]:
        raise RefusedError(REASON_MULTI_PAGE)
    if values.get(258, 1) > 8:
        raise RefusedError(REASON_SIXTEEN_BIT)
    if values.get(262) == 5:
        raise RefusedError(REASON_CMYK)
    return values.get(256, 0), values.get(257, 0)


_SIZE_OF: dict[str, Callable[[bytes], tuple[int, int]]] = {"png": _png_size, "webp": _webp_size, "bmp": _bmp_size, "tif": _tiff_size}
