"""A `detloop serve` process for tests, and uploads that no server should take."""

from __future__ import annotations

import io
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import httpx
import numpy as np
import psutil
from PIL import Image as Pillow

from tests.conftest import ROOT

SERVE = (sys.executable, "-m", "pipelines.cli", "serve")
START_S = 60.0


@dataclass
class Running:
    """A server that answers, and a client for it."""

    process: subprocess.Popen[str]
    url: str
    client: httpx.Client

    def predict(self, *contents: bytes) -> httpx.Response:
        """The answer to a form with these images."""
        return self.client.post("/predict", files=[("images", (f"{number}.img", content)) for number, content in enumerate(contents)])

    def rss_mb(self) -> float:
        """Memory that the process holds now."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6

    def stop(self) -> tuple[int, str]:
        """SIGTERM; the exit status, and what it had said."""
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=START_S)
        return self.process.returncode, said


@contextmanager
def running(bundle: Path, *options: str, command: Sequence[str] = SERVE) -> Iterator[Running]:
    """A server on a free port, ended with the block."""
    arguments = [*command, "--bundle", str(bundle), "--port", "0", "--threads", "1", *options]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        while line and not line.startswith("serving "):
            line = process.stderr.readline()
        assert line, "the server ended before it listened"
        url = line.split()[-1]
        with httpx.Client(base_url=url, timeout=START_S) as client:
            wait_for(lambda: client.get("/ready").status_code == 200)
            yield Running(process, url, client)
    finally:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], bool], limit_s: float = START_S) -> None:
    """Until the condition holds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def encoded(ending: str, wh: tuple[int, int] = (96, 64)) -> bytes:
    """A grey picture as a file."""
    return cv2.imencode(ending, np.full((wh[1], wh[0], 3), 90, np.uint8))[1].tobytes()


def pillow(mode: str, kind: str, frames: int = 1) -> bytes:
    """A picture as Pillow writes it."""
    target = io.BytesIO()
    pictures = [Pillow.new(mode, (32, 32), 90 * number) for number in range(frames)]
    pictures[0].save(target, kind, **({"save_all": True, "append_images": pictures[1:]} if frames > 1 else {}))
    return target.getvalue()


def png_of(width: int, height: int, depth: int = 8) -> bytes:
    """A PNG of next to no bytes that claims this size (colour type 2: RGB)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def jpeg_of(width: int, height: int) -> bytes:
    """A real JPEG whose header claims another size."""
    content = bytearray(encoded(".jpg"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def flipped(content: bytes, at: int) -> bytes:
    """The content with one byte changed."""
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


# name: an upload, and the status that it must get
HOSTILE: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "text": (b"hello", 415),
    "html": (b"<html><script>alert(1)</script></html>", 415),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
    "zip": (b"PK\x03\x04" + bytes(100), 415),
    "elf": (b"\x7fELF" + bytes(100), 415),
    "zeros": (bytes(5000), 415),
    "gif": (pillow("P", "GIF"), 415),
    "animated webp": (pillow("RGB", "WEBP", 3), 415),
    "tiff of two pages": (pillow("RGB", "TIFF", 2), 415),
    "cmyk jpeg": (pillow("CMYK", "JPEG"), 415),
    "16-bit png": (pillow("I;16", "PNG"), 415),
    "half a jpeg": (encoded(".jpg")[:400], 422),
    "a jpeg without its end": (encoded(".jpg")[:-2], 422),
    "three bytes of a jpeg": (b"\xff\xd8\xff", 422),
    "half a png": (encoded(".png")[:60], 422),
    "a png of a wrong checksum": (flipped(encoded(".png"), 50), 422),
    "half a bmp": (encoded(".bmp")[:500], 422),
    "half a webp": (encoded(".webp")[:40], 422),
    "a png bomb": (png_of(60000, 60000), 413),
    "a png of the largest size": (png_of(2**31 - 1, 2**31 - 1), 413),
    "a png of no size": (png_of(0, 0), 422),
    "a png with fewer rows than stated": (png_of(900, 900), 422),
    "a jpeg bomb": (jpeg_of(65500, 65500), 413),
    "more bytes than taken": (encoded(".bmp", (700, 700)), 413),
}
