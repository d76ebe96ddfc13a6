"""JPEGs reduced by their decoder: the same picture as Pillow's scaled decoding and as the whole one, boxes in the whole image, and when."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from export.runners import open_runner
from export.runners.detect import above, detect, model_input
from pipelines.core.contract import ModelContract
from pipelines.core.errors import DataError
from pipelines.core.images import Image, decode_for, decode_image, letterbox_for, read_for, reduction_for
from pipelines.core.types import Detections, Sample
from tests.tiny_detector import CLASSES, NMS, THRESHOLD, make_project, model_bytes, other_contract
from training.data import SampleDataset, SplitFiles

ORIENTATION = 0x0112
sides = st.integers(1, 5000)


def scene(width: int, height: int, seed: int = 0) -> Image:
    """Smooth patches of colour with hard edges between."""
    rng = np.random.default_rng(seed)
    patches = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return cv2.GaussianBlur(patches, (0, 0), 2).astype(np.uint8)


def jpeg(image: Image, quality: int = 90) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_reduced_pixels_are_those_of_another_program(factor: int) -> None:
    content = jpeg(scene(640, 480))
    found = decode_for(content, "it", (640 // factor, 640 // factor))
    other = Pillow.open(io.BytesIO(content))
    other.draft("RGB", (640 // factor, 480 // factor))  # libjpeg's scaled decoding
    theirs = np.asarray(other.convert("RGB"))[..., ::-1]
    assert found.original_wh == (640, 480)
    assert found.pixels.shape == theirs.shape == (480 // factor, 640 // factor, 3)
    assert np.abs(found.pixels.astype(int) - theirs.astype(int)).max() <= 1


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_reduced_pixels_lie_where_the_whole_image_has_them(factor: int) -> None:
    whole = scene(640, 480)
    found = decode_for(jpeg(whole, 100), "it", (640 // factor, 640 // factor)).pixels
    small = cv2.resize(whole, (640 // factor, 480 // factor), interpolation=cv2.INTER_AREA).astype(float)
    here = np.abs(found - small).mean()
    moved = [np.abs(np.roll(found, 1, axis=axis) - small).mean() for axis in (0, 1)]
    assert here < 2.0
    assert min(moved) > 5 * here


@given(sides, sides, st.integers(32, 1280), st.integers(32, 1280))
def test_a_reduction_divides_both_sides_and_is_never_too_much(width: int, height: int, input_width: int, input_height: int) -> None:
    wanted = letterbox_for((width, height), (input_width, input_height)).resized_wh

    def fits(factor: int) -> bool:
        return width % factor == 0 and height % factor == 0 and width // factor >= wanted[0] and height // factor >= wanted[1]

    factor = reduction_for((width, height), (input_width, input_height))
    assert factor in (1, 2, 4, 8)
    assert fits(factor) or factor == 1
    assert not any(fits(other) for other in (2, 4, 8) if other > factor)


@pytest.mark.parametrize(
    ("original_wh", "input_wh", "factor"),
    [
        ((320, 240), (320, 256), 1),
        ((640, 480), (320, 256), 2),
        ((480, 640), (320, 256), 2),
        ((1280, 720), (320, 192), 4),
        ((1920, 1080), (640, 384), 2),
        ((1920, 1080), (240, 160), 8),
        ((641, 480), (320, 256), 1),
        ((1284, 964), (320, 256), 4),
        ((1282, 962), (320, 256), 2),
    ],
)
def test_how_far_usual_sizes_are_reduced(original_wh: tuple[int, int], input_wh: tuple[int, int], factor: int) -> None:
    assert reduction_for(original_wh, input_wh) == factor


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_image_is_upright(orientation: int) -> None:
    exif = Pillow.Exif()
    exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    Pillow.fromarray(scene(640, 320)).save(buffer, "JPEG", exif=exif, quality=95)
    whole = decode_image(buffer.getvalue(), "it")
    found = decode_for(buffer.getvalue(), "it", (160, 160))
    assert found.original_wh == (whole.shape[1], whole.shape[0])
    assert found.pixels.shape[:2] == (whole.shape[0] // 4, whole.shape[1] // 4)
    small = cv2.resize(whole, found.pixels.shape[1::-1], interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(found.pixels - small).mean() < 3.0
    assert np.abs(found.pixels[::-1, ::-1] - small).mean() > 20.0


def kinds() -> dict[str, bytes]:
    """Images that are decoded whole, and why."""
    wide = scene(640, 480)
    cmyk, odd = io.BytesIO(), io.BytesIO()
    Pillow.fromarray(wide).convert("CMYK").save(cmyk, "JPEG")
    exif = Pillow.Exif()
    exif[ORIENTATION] = 9
    Pillow.fromarray(wide).save(odd, "JPEG", exif=exif)
    return {
        "png": cv2.imencode(".png", wide)[1].tobytes(),
        "webp": cv2.imencode(".webp", wide)[1].tobytes(),
        "odd_width": jpeg(scene(641, 480)),
        "small": jpeg(scene(200, 160)),
        "cmyk": cmyk.getvalue(),
        "unknown_orientation": odd.getvalue(),
    }


@pytest.mark.parametrize("kind", kinds())
def test_what_cannot_be_reduced_exactly_is_decoded_whole(kind: str) -> None:
    content = kinds()[kind]
    found = decode_for(content, "it", (320, 256))
    whole = decode_image(content, "it")
    assert found.original_wh == (whole.shape[1], whole.shape[0])
    np.testing.assert_array_equal(found.pixels, whole)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8", jpeg(scene(640, 480))[:80], b"\xff\xd8\xff" + b"\0" * 64], ids=["empty", "start", "cut", "zeros"]
)
def test_what_is_no_image_is_refused_by_its_name(content: bytes) -> None:
    with pytest.raises(DataError, match="photo.jpg is not a readable image"):
        decode_for(content, "photo.jpg", (320, 256))


def test_training_sees_the_pixels_that_the_trained_model_will_see(tmp_path: Path) -> None:
    from ultralytics.cfg import get_cfg

    (tmp_path / "a.jpg").write_bytes(jpeg(scene(640, 480)))
    sample = Sample("0" * 64, "a.jpg", 640, 480, "labeled", (), "s", "g", None, 100.0)
    options = {
        "imgsz": 320,
        "augment": False,
        "hyp": get_cfg(overrides={"imgsz": 320}),
        "batch_size": 1,
        "data": {"names": {0: "a"}, "nc": 1, "channels": 3},
    }
    dataset = SampleDataset(SplitFiles((sample,), tmp_path, ("a",)), (320, 256), "reduced", **options)
    contract = ModelContract(("a",), (320, 256), "cxcywh_scores", decoding="reduced")
    seen, _ = model_input(read_for(tmp_path / "a.jpg", contract.decode_to_wh), contract)
    np.testing.assert_array_equal(dataset[0]["img"].numpy() / np.float32(255), seen[0])
    whole = SampleDataset(SplitFiles((sample,), tmp_path, ("a",)), (320, 256), **options)
    assert not np.array_equal(whole[0]["img"].numpy(), dataset[0]["img"].numpy())


def sorted_by_place(found: Detections) -> Detections:
    order = np.lexsort(found.xyxy.T)
    return Detections(found.xyxy[order], found.score[order], found.class_index[order])


def test_boxes_are_told_in_the_whole_image(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", images=1)
    picture = cv2.imread(str(next((project.raw / "images").rglob("*.png"))))
    height, width = picture.shape[:2]
    large = cv2.resize(picture, (width * 4, height * 4), interpolation=cv2.INTER_NEAREST)
    (tmp_path / "large.jpg").write_bytes(jpeg(large, 100))
    found = {}
    for decoding in ("full", "reduced"):
        path = tmp_path / f"{decoding}.onnx"
        path.write_bytes(model_bytes(contract=other_contract(decoding=decoding)))
        with open_runner("onnxruntime", path, threads=1) as runner:
            image = read_for(tmp_path / "large.jpg", runner.contract.decode_to_wh)
            found[decoding] = sorted_by_place(above(detect(runner, image, NMS), np.full(len(CLASSES), THRESHOLD)))
        assert image.original_wh == (width * 4, height * 4)
        assert image.pixels.shape[1] == (width * 4 if decoding == "full" else width)
    assert len(found["full"]) == 4
    np.testing.assert_allclose(found["reduced"].xyxy, found["full"].xyxy, atol=0.01)
    np.testing.assert_array_equal(found["reduced"].class_index, found["full"].class_index)
    np.testing.assert_allclose(found["reduced"].score, found["full"].score, atol=0.05)
