"""A released bundle on a user's machine: predict, self-test, and everything that must be refused."""

from __future__ import annotations

import ast
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from export.bundle.draw import PALETTE_BGR, draw_detections
from export.bundle.in_order import in_order, portions
from export.bundle.reader import detect_shown, detections_from_json, detections_to_json, load_bundle, open_artifact, sealed
from export.runners.cuda import gpu_names
from export.runners.detect import detect, model_input
from export.runners.tensorrt_library import installed_libraries
from pipelines.cli import main
from pipelines.core.errors import ClassContractError, DataError, DetloopError, GateError, MissingInputError
from pipelines.core.images import Decoded, read_image
from pipelines.core.io import sha256_bytes, sha256_file
from pipelines.core.types import Detections
from tests.conftest import ROOT
from tests.images import bomb_png
from tests.test_release import run_release
from tests.tiny_detector import CLASSES, make_project, model_bytes, other_contract


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = make_project(tmp_path_factory.mktemp("bundle") / "p")
    assert run_release(project)["verdict"] == "released"
    return project.root / "release"


@pytest.fixture
def bundle(released: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may spoil."""
    return Path(shutil.copytree(released, tmp_path / "bundle"))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change bundle.json as whoever writes one does: its hash fits."""
    content = json.loads((folder / "bundle.json").read_text())
    change(content)
    (folder / "bundle.json").write_text(json.dumps(sealed(content)))


def damage(folder: Path, old: bytes, new: bytes) -> None:
    """Change bundle.json as a bad disk does."""
    content = (folder / "bundle.json").read_bytes()
    assert old in content
    (folder / "bundle.json").write_bytes(content.replace(old, new, 1))


def cells(rows: list[dict[str, Any]]) -> list[tuple[str, list[float]]]:
    return sorted((row["class"], row["xyxy"]) for row in rows)


def test_predict_finds_the_squares(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.full((64, 96, 3), 30, np.uint8)
    image[9:21, 24:36] = (30, 30, 255)  # red in OpenCV's BGR: input column 2, row 2 of the 8-pixel cells (scale 2/3, 10 rows of padding above)
    path = tmp_path / "one.png"
    cv2.imwrite(str(path), image)
    assert main(["predict", "--bundle", str(released), str(path), "--draw", str(tmp_path / "drawn")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["runner"] == "onnxruntime_fp16"
    (row,) = result["images"]
    assert (row["file"], row["width"], row["height"]) == (str(path), 96, 64)
    assert cells(row["detections"]) == [("red", [24.0, 9.0, 36.0, 21.0])]  # 16..24 / (2/3); (16-10)..(24-10) / (2/3)
    assert 0.9 < row["detections"][0]["score"] < 1
    assert row["drawn"] == str(tmp_path / "drawn" / "one_detections.jpg")
    assert cv2.imread(row["drawn"]) is not None


def test_a_box_in_the_padding_is_not_shown(released: Path, bundle: Path) -> None:
    """A padding as bright as a red square: the detector finds red in each of its cells, which lie outside the image."""
    path = bundle / "model.onnx"
    path.write_bytes(model_bytes(contract=other_contract(pad_value=255)))
    edit(bundle, lambda content: content["files"].update({"model.onnx": sha256_file(path)}))
    edit(bundle, lambda content: content["contract"].update(pad_value=255))
    loaded = load_bundle(bundle)
    image = Decoded.whole(read_image(released / "golden" / "00.png"))
    with open_artifact(loaded, "onnxruntime_fp32", threads=1) as runner:
        flat = [box for box in detect(runner, image, loaded.nms).xyxy.tolist() if box[1] == box[3]]
        (shown,) = detect_shown(runner, [image], loaded)
    assert len(flat) > 8  # rows of cells above and below
    assert len(shown) > 0
    assert (shown.xyxy[:, 2:] > shown.xyxy[:, :2]).all()


@pytest.mark.parametrize("runner", ["onnxruntime_fp32", "openvino_int8"])
def test_every_runner_gives_the_expected_detections(released: Path, runner: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--bundle", str(released), "--runner", runner, str(released / "golden")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["runner"], len(result["images"]), result["skipped_files"]) == (runner, 4, 5)  # the .npz files and expected.json
    expected = json.loads((released / "golden" / "expected.json").read_text())[runner]
    for row in result["images"]:
        assert cells(row["detections"]) == cells(expected[f"golden/{Path(row['file']).name}"])


def test_unreadable_images_are_listed_and_the_rest_is_done(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    shutil.copy(released / "golden" / "00.png", folder / "good.PNG")
    (folder / "bad.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not counted as an image")
    target = tmp_path / "out.json"
    assert main(["predict", "--bundle", str(released), str(tmp_path / "in"), "--json", str(target)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "1 of 2 images could not be read" in captured.err
    rows = json.loads(target.read_text())["images"]
    assert [Path(row["file"]).name for row in rows] == ["bad.jpg", "good.PNG"]
    assert "not a readable image" in rows[0]["error"]
    assert rows[1]["detections"]


def test_odd_images_and_names_stop_nothing(released: Path, tmp_path: Path) -> None:
    good = (released / "golden" / "00.png").read_bytes()
    folder = tmp_path / "in"
    folder.mkdir()
    thin = ((20_000, 10), (10, 20_000), (30_000, 1))  # one side is less than half a pixel of the network's input
    for wh in thin:
        Image.new("RGB", wh).save(folder / f"thin {wh[0]}.png")
    (folder / "bomb.png").write_bytes(bomb_png())  # more pixels than OpenCV takes
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / f"{'long' * 60}.png").write_bytes(good)
    (folder / os.fsdecode(b"no text \xff.png")).write_bytes(good)
    command = [sys.executable, "-m", "pipelines.cli", "predict", "--bundle", str(released), str(folder), "--draw", str(tmp_path / "drawn")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=60, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False), done.stderr
    rows = {Path(row["file"]).name: row for row in json.loads(done.stdout)["images"]}
    assert set(rows) == {path.name for path in folder.iterdir()} - {"gone.png"}  # a link to nothing is no file
    assert [name for name in rows if "error" in rows[name]] == ["bomb.png"]
    assert "not a readable image" in rows["bomb.png"]["error"]
    assert [(rows[name]["width"], rows[name]["height"]) for name in sorted(rows) if name.startswith("thin")] == sorted(thin)
    assert all(Path(row["drawn"]).is_file() for name, row in rows.items() if name != "bomb.png")
    assert len(rows[os.fsdecode(b"no text \xff.png")]["detections"]) == 4


def test_pictures_of_the_same_name_do_not_overwrite_each_other(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(released / "golden" / "00.png", tmp_path / name / "same.png")
    assert main(["predict", "--bundle", str(released), str(tmp_path / "a"), str(tmp_path / "b"), "--draw", str(tmp_path / "a")]) == 0
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"same.png", "same_detections.jpg", "same_2_detections.jpg"}


def test_no_picture_takes_the_place_of_an_image(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one.png", "one_detections.jpg"):
        shutil.copy(released / "golden" / "00.png", tmp_path / name)
    before = (tmp_path / "one_detections.jpg").read_bytes()
    assert main(["predict", "--bundle", str(released), str(tmp_path), "--draw", str(tmp_path)]) == 0
    assert (tmp_path / "one_detections.jpg").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} >= {"one_2_detections.jpg", "one_detections_detections.jpg"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png"], "nowhere.png is neither a file nor a folder"),
        (["--runner", "onnxruntime_fp64", "{golden}/00.png"], "has no runner 'onnxruntime_fp64': choose one of"),
        (["{empty}"], "no image in"),
    ],
)
def test_wrong_arguments_are_one_line(released: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    filled = [item.format(golden=released / "golden", empty=tmp_path) for item in arguments]
    assert main(["predict", "--bundle", str(released), *filled]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_many_threads_give_what_one_gives_in_the_same_order(released: Path, tmp_path: Path) -> None:
    """Pictures of several sizes, one of them broken, one much slower to decode than those after it."""
    folder = tmp_path / "in"
    folder.mkdir()
    golden = cv2.imread(str(released / "golden" / "00.png"))
    assert golden is not None
    for number in range(12):
        scale = 40 if number == 3 else 1 + number % 4
        cv2.imwrite(str(folder / f"{number:02d}.png"), cv2.resize(golden, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST))
    (folder / "05.png").write_bytes(b"no image")
    rows = {}
    for threads in ("1", "4"):
        target = tmp_path / f"{threads}.json"
        assert main(["predict", "--bundle", str(released), str(folder), "--json", str(target), "--threads", threads]) == 2
        rows[threads] = json.loads(target.read_text())["images"]
    assert rows["1"] == rows["4"]
    assert [Path(row["file"]).stem for row in rows["4"]] == [f"{number:02d}" for number in range(12)]
    assert [len(row["detections"]) for row in rows["4"] if "error" not in row] == [4] * 11


def test_a_batch_of_several_sizes_gives_what_single_images_give(released: Path) -> None:
    bundle = load_bundle(released)
    images = [
        Decoded.whole(cv2.resize(read_image(released / item.image), None, fx=scale, fy=1))
        for item, scale in zip(bundle.golden, (1, 2, 1.5, 3), strict=True)
    ]
    with open_artifact(bundle, "openvino_fp32", threads=1) as runner:
        together = [detections_to_json(found, CLASSES) for found in detect_shown(runner, images, bundle)]
        assert together == [detections_to_json(detect_shown(runner, [image], bundle)[0], CLASSES) for image in images]
    assert sum(map(len, together)) > 4


@pytest.mark.parametrize(
    ("count", "workers", "most", "sizes"),
    [
        (24, 2, None, [4, 4, 4, 3, 2, 1, 1, 1, 1, 1, 1, 1]),
        (24, 2, 2, [2] * 8 + [2, 1, 1, 1, 1, 1, 1]),
        (7, 2, None, [1] * 7),
        (7, 1, None, [3, 2, 1, 1]),
        (0, 1, 8, []),
    ],
)
def test_portions_leave_nothing_out_and_get_small_at_the_end(count: int, workers: int, most: int | None, sizes: list[int]) -> None:
    found = list(portions(range(count), workers=workers, most=most))
    assert [item for some in found for item in some] == list(range(count))
    assert [len(some) for some in found] == sizes


def test_work_in_order_is_lazy_and_raises_at_its_place() -> None:
    begun: list[int] = []
    release = [threading.Event() for _ in range(4)]

    def work(item: int) -> int:
        begun.append(item)
        if item < 4:
            assert release[item].wait(20)
        if item == 6:
            raise ValueError("six")
        return item * 10

    results = in_order(work, itertools.count(), workers=4)
    threading.Thread(target=lambda: [event.set() for event in reversed(release)]).start()  # the first item ends last
    assert [next(results) for _ in range(6)] == [0, 10, 20, 30, 40, 50]
    assert max(begun) < 6 + 3 * 4  # an endless source is not run through
    with pytest.raises(ValueError, match="six"):
        next(results)


def spoil_model(folder: Path) -> None:
    path = folder / "model_fp16.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_model(folder: Path, **changes: object) -> None:
    """Another model with its right hash, as someone might patch a bundle by hand."""
    path = folder / "model_fp16.onnx"
    path.write_bytes(model_bytes(contract=other_contract(**changes), precision="fp16"))
    edit(folder, lambda content: content["files"].update({"model_fp16.onnx": sha256_file(path)}))


REFUSED: dict[str, tuple[Callable[[Path], Any], type[DetloopError], str]] = {
    "no bundle there": (shutil.rmtree, MissingInputError, "is missing"),
    "not JSON": (lambda folder: (folder / "bundle.json").write_text("{"), DataError, "is not JSON"),
    "a rejected one": (
        lambda folder: edit(folder, lambda c: c.update(verdict="rejected", reasons=["AP50 is low"])),
        GateError,
        "rejected .*AP50 is low",
    ),
    "no verdict": (lambda folder: edit(folder, lambda c: c.pop("verdict")), GateError, "was rejected"),
    "another format": (lambda folder: edit(folder, lambda c: c.update(format=1)), DataError, "format 1, this detloop reads 3"),
    "a value of NMS changed on the way": (
        lambda folder: damage(folder, b'"iou_threshold": 0.7', b'"iou_threshold": 0.5'),
        DataError,
        "changed or damaged",
    ),
    "a number became none": (lambda folder: damage(folder, b'"iou_threshold": 0.7', b'"iou_threshold": NaN'), DataError, "changed or damaged"),
    "a precision changed on the way": (lambda folder: damage(folder, b'"int8"', b'"inu8"'), DataError, "changed or damaged"),
    "a part is gone": (lambda folder: edit(folder, lambda c: c.pop("nms")), DataError, "not a whole bundle"),
    "classes in another order": (
        lambda folder: edit(folder, lambda c: c["contract"].update(classes=["blue", "green", "red"])),
        ClassContractError,
        "states class hash",
    ),
    "a threshold is gone": (
        lambda folder: edit(folder, lambda c: c["artifacts"]["onnxruntime_fp16"]["thresholds"].pop("red")),
        ClassContractError,
        "has thresholds for",
    ),
    "a threshold that the model does not state": (
        lambda folder: edit(folder, lambda c: c["artifacts"]["onnxruntime_fp16"]["thresholds"].update(red=0.4)),
        DataError,
        "states thresholds .*bundle.json",
    ),
    "a path that leads out": (lambda folder: edit(folder, lambda c: c["files"].update({"../x": "0"})), DataError, "outside the bundle"),
    "an unknown artifact in the order": (lambda folder: edit(folder, lambda c: c["order"].append("x_fp32")), DataError, "orders"),
    "a model is gone": (lambda folder: (folder / "model_fp16.onnx").unlink(), MissingInputError, "lacks model_fp16.onnx"),
    "a model changed": (spoil_model, DataError, "is not the file that passed the gate"),
    "a model of other classes": (lambda folder: other_model(folder, classes=("blue", "green", "red")), ClassContractError, "was made for classes"),
    "a model of another input": (lambda folder: other_model(folder, pad_value=0), DataError, "wants another input"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_predict_refuses_in_one_line(case: str, bundle: Path, released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, kind, message = REFUSED[case]
    spoil(bundle)
    assert main(["predict", "--bundle", str(bundle), str(released / "golden" / "00.png")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    with pytest.raises(kind, match=message):
        open_artifact(load_bundle(bundle), "onnxruntime_fp16", threads=1)


def test_the_self_test_passes_on_a_whole_bundle(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "test", str(released), "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["ok", "files"], ["ok", "preprocessing"], ["ok", "onnxruntime_fp16"]]
    assert len(lines) == 8
    assert "at most 0.00 grey levels off" in lines[1]
    assert "16 golden boxes found" in lines[2]


def tamper_expected(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "golden" / "expected.json"
        content = json.loads(path.read_text())
        change(content["openvino_fp32"]["golden/00.png"])
        path.write_text(json.dumps(content))
        edit(folder, lambda about: about["files"].update({"golden/expected.json": sha256_file(path)}))

    return spoil


def darker_image(folder: Path) -> None:
    path = folder / "golden" / "00.png"
    image = cv2.imread(str(path))
    assert image is not None
    cv2.imwrite(str(path), np.where(image > 200, image, image + 2).astype(np.uint8))
    edit(folder, lambda about: about["files"].update({"golden/00.png": sha256_file(path)}))


def damaged_golden_input(folder: Path) -> None:
    path = folder / "golden" / "01.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def fed_otherwise(make: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """The first golden input as the releasing machine made it of the golden image, where this machine's preprocessing is another."""

    def spoil(folder: Path) -> None:
        path = folder / "golden" / "00.npz"
        np.savez_compressed(path, input=make(read_image(folder / "golden" / "00.png")))
        edit(folder, lambda about: about["files"].update({"golden/00.npz": sha256_file(path)}))

    return spoil


def letterboxed_tensor(image: np.ndarray, pad_value: int) -> np.ndarray:
    return model_input(Decoded.whole(image), other_contract(pad_value=pad_value))[0]


# name: how the bundle (or the machine) differs, and which answer must fail
SELF_TEST_FAULTS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "a golden image changed": (lambda folder: (folder / "golden" / "00.png").write_bytes(b"x"), "files", "is not the file"),
    "a golden input is damaged": (damaged_golden_input, "preprocessing", "holds no golden input"),
    "a golden input is empty": (lambda folder: (folder / "golden" / "01.npz").write_bytes(b""), "preprocessing", "holds no golden input"),
    "preprocessing two grey levels off": (darker_image, "preprocessing", "pixels: up to"),
    "BGR where RGB is wanted": (
        fed_otherwise(lambda image: letterboxed_tensor(image, 114)[:, ::-1]),
        "preprocessing",
        "colour order: BGR is fed where RGB is wanted",
    ),
    "another pad value": (
        fed_otherwise(lambda image: letterboxed_tensor(image, 0)),
        "preprocessing",
        "pad value: 114 is fed where 0 is wanted",
    ),
    "a box is missing here": (tamper_expected(lambda rows: rows.append({**rows[0], "xyxy": [0, 0, 5, 5]})), "openvino_fp32", "1 missed"),
    "a box is new here": (tamper_expected(lambda rows: rows.pop(0)), "openvino_fp32", "1 extra"),
    "a class changed": (
        tamper_expected(lambda rows: rows[0].update({"class": CLASSES[(CLASSES.index(rows[0]["class"]) + 1) % 3]})),
        "openvino_fp32",
        "1 class flips",
    ),
    "a score moved": (tamper_expected(lambda rows: rows[0].update(score=rows[0]["score"] - 0.1)), "openvino_fp32", "0.1"),
    "an unknown class": (tamper_expected(lambda rows: rows[0].update({"class": "violet"})), "openvino_fp32", "cannot be read"),
}


@pytest.mark.parametrize("case", SELF_TEST_FAULTS)
def test_the_self_test_sees_faults(case: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, name, detail = SELF_TEST_FAULTS[case]
    spoil(bundle)
    assert main(["bundle", "test", str(bundle), "--threads", "1"]) == 2
    captured = capsys.readouterr()
    failed = {line.split()[1]: line for line in captured.out.splitlines() if line.startswith("FAILED")}
    assert detail in failed[name]
    assert "fails its self-test here" in captured.err
    if name == "openvino_fp32":
        assert set(failed) == {name}


# A process in which everything but numpy, OpenCV and one runtime is missing.
BLOCKED = """
import sys
import zipfile
from importlib.abc import MetaPathFinder
class Block(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Block())
from pipelines.cli import main
sys.exit(main(sys.argv[1:]))
"""
NOT_NEEDED = [
    "torch",
    "torchvision",
    "ultralytics",
    "polars",
    "pydantic",
    "msgspec",
    "ruamel",
    "onnx",
    "hotcoco",
    "tqdm",
    "PIL",
    "matplotlib",
    "psutil",
    "dvc",
    "scipy",
]


def run_blocked(blocked: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    code = BLOCKED.format(blocked=set(blocked))
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_predict_needs_numpy_opencv_and_one_runtime_only(released: Path) -> None:
    image = str(released / "golden" / "00.png")
    done = run_blocked([*NOT_NEEDED, "onnxruntime", "tensorrt", "tensorrt_rtx"], "predict", "--bundle", str(released), image)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runner"] == "openvino_fp16"
    assert "onnxruntime_fp16 cannot run here" in done.stderr  # passed over, and said so
    chosen = run_blocked([*NOT_NEEDED, "onnxruntime"], "predict", "--bundle", str(released), "--runner", "onnxruntime_fp32", image)
    assert chosen.returncode == 2
    assert "ONNX Runtime is not installed" in chosen.stderr
    assert chosen.stderr.count("\n") == 1


def test_the_self_test_says_which_runners_are_not_here(released: Path) -> None:
    done = run_blocked([*NOT_NEEDED, "openvino"], "bundle", "test", str(released))
    assert done.returncode == 0, done.stderr
    words = {line[8:28].strip(): line[:8].strip() for line in done.stdout.splitlines()}
    assert (words["onnxruntime_fp32"], words["openvino_fp32"]) == ("ok", "not run")
    nothing = run_blocked([*NOT_NEEDED, "openvino", "onnxruntime"], "bundle", "test", str(released))
    assert nothing.returncode == 2
    assert "no runner of bundle" in nothing.stderr


def run_program(folder: Path, blocked: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The bundle's own program, in a folder and a process where this project is not to be found."""
    code = BLOCKED.replace("from pipelines.cli import main\nsys.exit(main(sys.argv[1:]))", RUN_PROGRAM).format(blocked=set(blocked))
    command = [sys.executable, "-I", "-c", code, str(folder / "detloop.pyz"), *arguments]
    return subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=False, timeout=60)


RUN_PROGRAM = """
import runpy
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    ours = [module for name, module in sys.modules.items() if name.split(".")[0] in ("pipelines", "export", "training")]
    strangers = [module.__file__ for module in ours if ".pyz" not in str(module.__file__)]
    assert ours and not strangers, strangers
"""


def test_the_bundle_needs_nothing_but_numpy_opencv_and_a_runtime(bundle: Path) -> None:
    blocked = [*NOT_NEEDED, "openvino", "tensorrt", "tensorrt_rtx"]
    done = run_program(bundle, blocked, "bundle", "test", str(bundle))
    assert done.returncode == 0, done.stderr
    assert "ok      onnxruntime_fp32" in done.stdout
    predicted = run_program(bundle, blocked, "predict", "--bundle", str(bundle), str(bundle / "golden" / "00.png"))
    assert predicted.returncode == 0, predicted.stderr
    expected = json.loads((bundle / "golden" / "expected.json").read_text())["onnxruntime_fp16"]["golden/00.png"]
    assert cells(json.loads(predicted.stdout)["images"][0]["detections"]) == cells(expected)
    assert "invalid choice: 'queue'" in run_program(bundle, blocked, "queue", "accept").stderr  # it is no whole detloop
    with zipfile.ZipFile(bundle / "detloop.pyz") as archive:
        names = archive.namelist()
    assert "LICENSE" in names
    assert not [name for name in names if name.startswith(("training/", "export/convert/", "pipelines/stages/"))]


def test_an_old_python_is_told_what_the_program_needs(released: Path) -> None:
    with zipfile.ZipFile(released / "detloop.pyz") as archive:
        start = archive.read("__main__.py").decode()
    ast.parse(start, feature_version=(3, 7))
    told = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.version_info = (3, 10, 1)\n{start}"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == "error: this program needs Python 3.11 or newer, this is 3.10: start it with another one\n"


def test_a_runner_that_fails_the_golden_image_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that was trained on BGR, put in the place of the released one with all hashes right."""
    path = bundle / "model_fp16.onnx"
    path.write_bytes(model_bytes(precision="fp16", reads=(2, 1, 0)))
    edit(bundle, lambda content: content["files"].update({"model_fp16.onnx": sha256_file(path)}))
    assert main(["predict", "--bundle", str(bundle), "--runner", "onnxruntime_fp16", str(bundle / "golden" / "00.png")]) == 2
    error = capsys.readouterr().err
    assert "does not pass the golden image here" in error
    assert "fault: colour order: they agree when red and blue are swapped" in error
    assert error.count("\n") == 1


def local_engine(folder: Path, golden: str) -> None:
    """An engine as `detloop engine build` leaves it; no GPU here can load it."""
    onnx_sha256 = sha256_file(folder / "model.onnx")
    content = f"engine detloop-{onnx_sha256}".encode()
    (folder / "local").mkdir()
    (folder / "local" / "fp32.engine").write_bytes(content)
    about = json.loads((folder / "bundle.json").read_text())
    entry = {
        "file": "fp32.engine",
        "sha256": sha256_bytes(content),
        "onnx_sha256": onnx_sha256,
        "library": "tensorrt_rtx",
        "library_version": "1",
        "onnx": "model.onnx",
    }
    entry |= {"max_batch": 8, "golden": golden, "checked_as": "openvino_fp32", "thresholds": about["artifacts"]["openvino_fp32"]["thresholds"]}
    (folder / "local" / "engines.json").write_text(json.dumps({"contract": about["contract"], "engines": {"fp32": entry}}))


@pytest.mark.skipif(bool(gpu_names()), reason="this machine has a GPU")
def test_an_engine_built_here_is_first_choice_once_it_passed(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    local_engine(bundle, "pass")
    loaded = load_bundle(bundle)
    assert loaded.order[0] == "tensorrt_fp32"
    assert loaded.require_unchanged("local/fp32.engine").is_file()
    assert main(["predict", "--bundle", str(bundle), str(bundle / "golden" / "00.png")]) == 0
    captured = capsys.readouterr()
    assert "tensorrt_fp32 cannot run here (no CUDA GPU can load the engine here" in captured.err
    assert json.loads(captured.out)["runner"] == "onnxruntime_fp16"
    (bundle / "local" / "fp32.engine").write_bytes(b"another")
    with pytest.raises(DataError, match="is not the file that passed the gate"):
        open_artifact(load_bundle(bundle), "tensorrt_fp32", threads=1)


def test_an_engine_of_the_bundle_that_lay_here_before_is_refused(bundle: Path) -> None:
    local_engine(bundle, "pass")
    (bundle / "model.onnx").write_bytes(model_bytes(bias=-8.5))  # the next release, copied over the last one
    edit(bundle, lambda content: content["files"].update({"model.onnx": sha256_file(bundle / "model.onnx")}))
    with pytest.raises(DataError, match=r"local/fp32.engine in .* was built from another ONNX file .* run `detloop engine build --bundle"):
        load_bundle(bundle)
    shutil.rmtree(bundle / "local")
    assert load_bundle(bundle).order[0] == "onnxruntime_fp16"


@pytest.mark.parametrize("golden", ["fail", "not_run"])
def test_an_engine_that_did_not_pass_is_not_offered(bundle: Path, golden: str) -> None:
    local_engine(bundle, golden)
    assert "tensorrt_fp32" not in load_bundle(bundle).order


@pytest.mark.skipif("tensorrt_rtx" not in installed_libraries() or bool(gpu_names()), reason="needs tensorrt-rtx and no GPU")
def test_engines_are_built_from_the_bundle_and_not_used_before_they_ran(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    local_engine(bundle, "pass")
    (bundle / "local" / "engines.json").write_text("{")  # whatever lies there is replaced
    assert main(["bundle", "test", str(bundle)]) == 2
    assert "engines.json is not JSON" in capsys.readouterr().err
    assert main(["engine", "build", "--bundle", str(bundle)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["not_run", precision] for precision in ("fp16", "fp32", "int8")]
    assert all("built, not run: no CUDA GPU" in line for line in lines)
    listing = json.loads((bundle / "local" / "engines.json").read_text())["engines"]
    for entry in listing.values():
        assert entry["onnx_sha256"] == sha256_file(bundle / entry["onnx"])
        assert (bundle / "local" / entry["file"]).is_file()
    assert not [name for name in load_bundle(bundle).order if name.startswith("tensorrt")]
    assert main(["bundle", "test", str(bundle)]) == 0  # the released files are as they were


def test_detections_survive_json() -> None:
    rows = [{"class": "blue", "score": 0.1235, "xyxy": [1.0, 2.5, 3.25, 4.75]}, {"class": "red", "score": 0.5, "xyxy": [0.0, 0.0, 1.0, 1.0]}]
    assert detections_to_json(detections_from_json(rows, CLASSES), CLASSES) == rows
    assert detections_to_json(detections_from_json([], CLASSES), CLASSES) == []


def test_drawing_keeps_the_image_and_draws_at_the_edges() -> None:
    image = np.full((600, 800, 3), 90, np.uint8)
    item = Detections(np.array([[0, 0, 799, 40], [700, 500, 800, 600]], np.float32), np.array([0.9, 0.8], np.float32), np.array([0, 9]))
    drawn = draw_detections(image, item, [f"class {number}" for number in range(10)])
    assert (image == 90).all()
    assert drawn.shape == image.shape
    colours = {tuple(int(value) for value in pixel) for pixel in drawn.reshape(-1, 3)[::7]}
    assert {PALETTE_BGR[0], PALETTE_BGR[9 % 7]} <= colours
    assert (draw_detections(image, Detections.empty(), CLASSES) == image).all()


@pytest.mark.parametrize("command", [["predict", "--bundle", "b", "a.png"], ["bundle", "test", "b"], ["parity", "a", "b", "--images", "c"]])
def test_no_threads_are_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--threads", "0"])
    assert ended.value.code == 2
    assert "argument --threads: 0 is not a number from 1 up" in capsys.readouterr().err
