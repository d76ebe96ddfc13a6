"""Folders made to hurt: mutated files of eight formats, names and links that lead elsewhere, pictures of a billion pixels. All are accounted for."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.random import Generator
from PIL import Image

from pipelines.core.images import read_image
from pipelines.core.records import read_manifest
from tests.collect_runs import collect
from tests.images import bomb_png, encoded, jpeg, picture, png_chunk

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "ICO")
MUTATIONS = 500


def originals(shared: Path) -> dict[str, list[bytes]]:
    """Real photographs, made small, in eight formats, and three kinds of JPEG besides."""
    photos = sorted((shared / "data/bccd/JPEGImages").glob("*.jpg"))[::90]
    found: dict[str, list[bytes]] = {}
    for kind in FORMATS:
        for path in photos:
            with Image.open(path) as image:
                small = image.convert("RGB").resize((160, 120))
            found.setdefault(kind, []).append(encoded(small, kind))
    found["JPEG"] += [path.read_bytes() for path in photos] + [encoded(picture(1, (320, 240)), progressive=True)]
    found["TIFF"] += [encoded(picture(2), "TIFF", compression="tiff_lzw")]
    return found


def mutated(content: bytes, rng: Generator) -> bytes:
    """One of the ways in which a fuzzer changes a file."""
    data = bytearray(content)
    at, length = int(rng.integers(0, len(data))), int(rng.integers(1, 64))
    match int(rng.integers(0, 9)):
        case 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        case 1:
            data[at : at + length] = rng.bytes(length)
        case 2:
            del data[at:]
        case 3:
            del data[at : at + length]
        case 4:
            data[at:at] = data[: length * 8]
        case 5:
            data[at : at + 4] = b"\xff\xff\xff\xff"
        case 6:
            data[at : at + 4] = bytes(4)
        case 7:
            head = int(rng.integers(0, min(64, len(data))))  # the header, where sizes stand
            data[head : head + 2] = rng.bytes(2)
        case _:
            data += rng.bytes(length * 16)
    return bytes(data)


def huge_files() -> dict[str, bytes]:
    """Pictures of 30,000 x 30,000 pixels in few bytes, real and claimed."""
    side = 30_000
    row = zlib.compress(bytes(side + 1) * 200, 9)
    real_png = (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", np.array([side, 200], ">u4").tobytes() + b"\x08\0\0\0\0")
        + png_chunk(b"IDAT", row)
        + png_chunk(b"IEND", b"")
    )
    small = jpeg(3)
    frame = small.index(b"\xff\xc0") + 5
    claimed_jpeg = small[:frame] + side.to_bytes(2, "big") * 2 + small[frame + 4 :]
    bmp = bytearray(encoded(picture(4), "BMP"))
    bmp[18:26] = side.to_bytes(4, "little") * 2
    thin = io.BytesIO()
    Image.new("L", (side, 40), 90).save(thin, "JPEG")
    return {"claimed.png": bomb_png(side), "wide.png": real_png, "claimed.jpg": claimed_jpeg, "claimed.bmp": bytes(bmp), "thin.jpg": thin.getvalue()}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> tuple[Path, dict[str, bytes]]:
    """An inbox, and what lies in it that is a plain file, by origin."""
    inbox = tmp_path_factory.mktemp("hostile") / "inbox"
    rng = np.random.default_rng(11)
    files: dict[bytes, bytes] = {}
    kinds = originals(shared)
    for number in range(MUTATIONS):
        kind = FORMATS[number % len(FORMATS)]
        content = kinds[kind][int(rng.integers(0, len(kinds[kind])))]
        for _ in range(int(rng.integers(1, 4))):
            content = mutated(content, rng)
        files[f"fuzz/{number:03d}.{kind.lower()}".encode()] = content
    files |= {f"huge/{name}".encode(): content for name, content in huge_files().items()}
    names = (
        b"..\\..\\evil.jpg",
        b"C:\\evil.jpg",
        b"%2e%2e%2fup.jpg",
        b"line\nbreak.jpg",
        b"\xff\xfe.jpg",
        b"-rf.jpg",
        b"a" * 250 + b".jpg",
        b" .jpg",
        b"CON.jpg",
    )
    files |= {b"names/" + name: jpeg(100 + number) for number, name in enumerate(names)}
    for name, content in files.items():
        path = inbox / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    outside = inbox.parent / "outside"
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(jpeg(999))
    for name, target in {
        "out.jpg": outside / "secret.jpg",
        "folder": outside,
        "up": inbox.parent,
        "loop": inbox / "loop",
        "passwd.jpg": Path("/etc/passwd"),
    }.items():
        (inbox / name).symlink_to(target)
    (inbox / "gone.jpg").symlink_to(inbox / "nowhere")
    return inbox, {os.fsdecode(name): content for name, content in files.items()}


def test_every_hostile_file_is_accounted_for(hostile: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    inbox, files = hostile
    metrics = collect(tmp_path, inbox)
    manifest = read_manifest(tmp_path / "raw/manifest.parquet")
    assert metrics["seen"] == len(manifest) == len(files) + 6
    assert metrics["seen"] == metrics["kept"] + sum(entry["count"] for entry in metrics["dropped_by_reason"].values())
    assert manifest["origin"].is_unique().all()
    assert manifest.filter(pl.col("reason").is_null() != (pl.col("status") == "kept")).is_empty()
    links = manifest.filter(~pl.col("origin").str.contains("/"))
    assert dict(zip(links["origin"], links["reason"], strict=True)) == {
        "folder": "symlink_outside",
        "gone.jpg": "symlink_broken",
        "loop": "symlink_broken",
        "out.jpg": "symlink_outside",
        "passwd.jpg": "symlink_outside",
        "up": "symlink_outside",
    }
    named = manifest.filter(pl.col("origin").str.starts_with("names/"))
    assert named["status"].to_list() == ["kept"] * 9
    assert all(origin.isprintable() for origin in named["origin"])
    huge = manifest.filter(pl.col("origin").str.starts_with("huge/claimed"))
    assert set(huge["reason"]) == {"too_large"}
    stored = {path.relative_to(tmp_path / "raw").as_posix() for path in (tmp_path / "raw/images").rglob("*") if path.is_file()}
    assert stored == set(manifest["path"].drop_nulls())
    for row in manifest.filter(status="kept").iter_rows(
        named=True
    ):  # what is kept, the rest of the pipeline can read, at the size that the manifest says
        assert read_image(tmp_path / "raw" / row["path"]).shape[:2] == (row["height_px"], row["width_px"]), row["origin"]
    assert {row["reason"] for row in manifest.iter_rows(named=True)} >= {
        None,
        "corrupt",
        "truncated",
        "damaged",
        "not_an_image",
        "animated",
        "too_large",
    }
