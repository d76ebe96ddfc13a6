"""Is an upload an image that the server takes? Decided from its bytes before anything is decoded, so that no small file can claim much memory."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.core.containers import REASON_CORRUPT, REASON_EMPTY, REASON_TRUNCATED, RefusedError, read_header, require_whole
from pipelines.core.errors import DataError
from pipelines.core.images import Decoded, decode_for

TOO_LARGE, BAD_REQUEST, UNSUPPORTED, UNPROCESSABLE = 413, 400, 415, 422  # RFC 9110, section 15.5
_BROKEN = {REASON_EMPTY: BAD_REQUEST, REASON_TRUNCATED: UNPROCESSABLE, REASON_CORRUPT: UNPROCESSABLE}


@dataclass(frozen=True)
class Limits:
    """What one request may bring: bytes of an image, its pixels, images; in how many seconds it has to come; and bytes of all requests at a time."""

    image_bytes: int
    image_pixels: int
    images: int
    read_s: float = 30.0
    held_bytes: int = 500_000_000

    @property
    def request_bytes(self) -> int:
        """Bytes of a whole request, with some room for what stands around the images."""
        return min(self.images * self.image_bytes + 64 * 1024, self.held_bytes)


class RefusedUploadError(Exception):
    """The upload is no image that the server takes: an HTTP status and a sentence for its sender."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def check_upload(content: bytes, limits: Limits) -> str:
    """The file ending that fits the content (jpg, png, bmp, webp, tif).

    Raises:
        RefusedUploadError: too many bytes or pixels, no image, or a broken one.
    """
    if len(content) > limits.image_bytes:
        raise RefusedUploadError(TOO_LARGE, f"the image has {len(content)} bytes, at most {limits.image_bytes} are taken: send a smaller one")
    try:
        header = read_header(content)
        pixels = header.width_px * header.height_px
        if pixels > limits.image_pixels:
            raise RefusedUploadError(
                TOO_LARGE,
                f"the image has {header.width_px}x{header.height_px} pixels, at most {limits.image_pixels} in all are taken: send a smaller one",
            )
        require_whole(content, header.extension)
    except RefusedError as error:
        status = _BROKEN.get(error.reason, UNSUPPORTED)
        raise RefusedUploadError(status, f"the image is refused ({error.reason}): send a whole 8-bit JPEG, PNG, WebP, BMP or TIFF") from error
    return header.extension


def decode_upload(content: bytes, input_wh: tuple[int, int] | None) -> Decoded:
    """A checked upload as far as an input of `input_wh` needs; None: whole.

    Raises:
        RefusedUploadError: the decoder cannot read it.
    """
    try:
        return decode_for(content, "the image", input_wh)
    except DataError as error:
        raise RefusedUploadError(UNPROCESSABLE, "the image cannot be decoded: send a whole one") from error
