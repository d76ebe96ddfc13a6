"""Looking at single files: what is refused, and what is measured. Oracles: Pillow, ImageHash, OpenCV's full decode, hand-worked figures."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipelines.collect.fates import Thresholds, with_reasons
from pipelines.collect.measure import MIN_REDUCED_SIDE_PX, measure, perceptual_hash, reduction_for
from pipelines.collect.screening import Looked, look_at
from pipelines.core.containers import RefusedError, read_header
from pipelines.core.images import decode_image
from tests.images import bad_files, encoded, jpeg, jpeg_with_orientation, odd_but_good, picture

THRESHOLDS = Thresholds(min_side_px=32, max_pixels=1_000_000, min_brightness=8, max_brightness=250, min_sharpness=3)
BAD, GOOD = bad_files(), odd_but_good()


def look(content: bytes, folder: Path, stored: dict[str, bytes] | None = None, name: str = "file") -> Looked:
    path = folder / name
    path.write_bytes(content)
    return look_at(str(path), THRESHOLDS.max_pixels, set(), ({} if stored is None else stored).__setitem__)


def reason(found: Looked) -> str | None:
    """What the thresholds make of it."""
    columns = ("width_px", "height_px", "brightness", "sharpness")
    row = {name: getattr(found.measurement, name, None) for name in columns}
    schema = {"refused": pl.String, "width_px": pl.Int32, "height_px": pl.Int32, "brightness": pl.Float64, "sharpness": pl.Float64}
    reason: str | None = with_reasons(pl.DataFrame([{"refused": found.refused, **row}], schema=schema), THRESHOLDS)["reason"].item()
    return reason


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_dropped_with_its_reason(name: str, tmp_path: Path) -> None:
    content, wanted = BAD[name]
    stored: dict[str, bytes] = {}
    found = look(content, tmp_path, stored, name)
    assert (reason(found), found.bytes) == (wanted, len(content))
    assert not (found.refused and stored)


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_but_good_file_is_kept_byte_for_byte(name: str, tmp_path: Path) -> None:
    stored: dict[str, bytes] = {}
    found = look(GOOD[name], tmp_path, stored, name)
    assert reason(found) is None
    assert list(stored.values()) == [GOOD[name]]
    with Image.open(io.BytesIO(GOOD[name])) as image:
        assert next(iter(stored)).rpartition(".")[2] == {"JPEG": "jpg", "PNG": "png", "BMP": "bmp", "WEBP": "webp", "TIFF": "tif"}[str(image.format)]
        assert found.measurement is not None
        assert (found.measurement.width_px, found.measurement.height_px) == image.size
    height, width = decode_image(GOOD[name], name).shape[:2]
    assert (width, height) == (found.measurement.width_px, found.measurement.height_px)


def test_every_cut_of_a_jpeg_is_found(tmp_path: Path) -> None:
    content = encoded(picture(3, (120, 90)), quality=85)
    for end in [*range(1, 40), *range(40, len(content) - 1, 41), len(content) - 1]:
        assert look(content[:end], tmp_path).refused in ("truncated", "not_an_image", "corrupt"), end
    assert look(content, tmp_path).refused is None


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=200),
    head=st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBPVP8X", b"II*\0\x08\0\0\0", b"BM\0\0\0\0\0\0\0\0"]),
)
def test_garbage_behind_a_good_start_is_refused_not_a_crash(head: bytes, data: bytes) -> None:
    with pytest.raises(RefusedError):
        measure(head + data, 10_000)


@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from(sorted(GOOD)), position=st.floats(0, 1), value=st.integers(0, 255))
def test_a_changed_byte_is_measured_or_refused(name: str, position: float, value: int) -> None:
    content = bytearray(GOOD[name])
    content[int(position * (len(content) - 1))] = value
    with suppress(RefusedError):
        assert measure(bytes(content), 1_000_000).extension


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size_wh", [(96, 64), (801, 640), (640, 639), (200, 200)], ids=str)
def test_sizes_and_pixels_are_upright_as_a_person_sees_them(orientation: int, size_wh: tuple[int, int]) -> None:
    content = jpeg_with_orientation(4, orientation, size_wh)
    with Image.open(io.BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image)
    found = measure(content, 1_000_000)
    assert (found.width_px, found.height_px) == upright.size
    assert (found.height_px, found.width_px) == decode_image(content, "it").shape[:2]
    expected = np.asarray(upright.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=float)
    assert np.abs(np.frombuffer(found.thumbnail, np.uint8).reshape(32, 32) - expected).mean() < 4


def test_header_sizes_are_pillows() -> None:
    for name, content in GOOD.items():
        with Image.open(io.BytesIO(content)) as image:
            header = read_header(content)
            assert (header.width_px, header.height_px) == image.size, name


def test_too_large_is_decided_before_decoding() -> None:
    content = jpeg(1, (200, 100))
    with pytest.raises(RefusedError, match="too_large"):
        measure(content, 19_999)
    assert measure(content, 20_000).width_px == 200


@given(width=st.integers(1, 20_000), height=st.integers(1, 20_000))
def test_a_reduced_decode_keeps_enough_pixels(width: int, height: int) -> None:
    factor = reduction_for(width, height)
    assert factor == 1 or min(width, height) // factor >= MIN_REDUCED_SIDE_PX


def test_brightness_contrast_and_sharpness_of_hand_made_pictures() -> None:
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = 200
    found = measure(encoded(Image.fromarray(halves), "PNG"), 10_000)
    assert (found.brightness, found.contrast) == (100.0, 100.0)
    # the Laplacian is 200 in one column beside the edge and -200 in the other: mean 0, variance 2/64 * 200 squared
    assert found.sharpness == pytest.approx(2 / 64 * 200**2)


def test_hash_of_a_real_picture_is_imagehashs(shared: Path) -> None:
    imagehash = pytest.importorskip("imagehash")
    distances = []
    for path in sorted((shared / "data/bccd/JPEGImages").glob("*.jpg"))[::12]:
        with Image.open(path) as image:
            oracle = int(str(imagehash.phash(image)), 16)
        distances.append((oracle ^ measure(path.read_bytes(), 10**7).phash).bit_count())
    assert max(distances) <= 6  # the resampling differs
    assert np.mean(distances) < 1.5


def test_hash_bits_are_the_cosine_transforms() -> None:
    thumbnail = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    k, n = np.arange(8)[:, None], np.arange(32)[None, :]
    basis = np.cos(np.pi * (2 * n + 1) * k / 64) * np.where(k == 0, np.sqrt(1 / 32), np.sqrt(2 / 32))  # the DCT-II, written out
    low = basis @ thumbnail.astype(float) @ basis.T
    bits = "".join("1" if value > np.median(low) else "0" for value in low.ravel())
    assert perceptual_hash(thumbnail) == int(bits, 2)


def test_brightness_from_the_reduced_decode_is_that_of_the_whole(shared: Path) -> None:
    content = (shared / "data/bccd/JPEGImages/BloodImage_00000.jpg").read_bytes()
    whole = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert whole is not None
    assert measure(content, 10**7).brightness == pytest.approx(float(whole.mean()), abs=0.5)


def test_jpegs_damaged_inside_the_scan_are_found(shared: Path) -> None:
    """No stray marker, the structure whole: only the decoder sees that data is lost. Where it does not, the picture has its number of blocks."""
    rng = np.random.default_rng(0)
    found = dict.fromkeys(("zeroed", "cut_out", "overwritten"), 0)
    paths = sorted((shared / "data/bccd/JPEGImages").glob("*.jpg"))[::12]
    for path in paths:
        content = path.read_bytes()
        assert measure(content, 10**7).extension == "jpg"
        start = int(rng.integers(content.index(b"\xff\xda") + 14, len(content) - 400))
        noise = rng.integers(1, 255, 32, dtype=np.uint8).tobytes()
        damaged = {
            "zeroed": content[:start] + bytes(200) + content[start + 200 :],
            "cut_out": content[:start] + content[start + 100 :],
            "overwritten": content[:start] + noise + content[start + 32 :],
        }
        for kind, broken in damaged.items():
            with suppress(RefusedError):
                measure(broken, 10**7)
                found[kind] -= 1
            found[kind] += 1
    assert found["zeroed"] == found["cut_out"] == len(paths)
    assert found["overwritten"] >= 0.8 * len(paths)


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    content = encoded(picture(5, (64, 64)), progressive=True, quality=90)
    first = content.index(b"\xff\xda")
    scan = content[first : content.index(b"\xff", first + 20)]
    with pytest.raises(RefusedError, match="too_many_scans"):
        measure(content[:first] + scan * 5000 + content[first:], 10**6)
