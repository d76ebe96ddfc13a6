"""The sample: deterministic, faults where planted.json says, boxes that fit what is drawn, and labels in Label Studio's form."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageOps

from pipelines.cli import main
from pipelines.core.boxes import iou_matrix
from pipelines.core.errors import DetloopError
from pipelines.core.params import load_params
from pipelines.sample.camera import HEIGHT_PX, WIDTH_PX
from pipelines.sample.parts import CLASSES
from pipelines.sample.plan import plan_bursts
from pipelines.sample.stations import STATIONS
from pipelines.sample.write import MIN_IMAGES, write_sample

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 30
Rows = list[dict[str, Any]]


class Written:
    """A small sample on disk, with its parts read back."""

    def __init__(self, folder: Path) -> None:
        self.inbox, self.labels, self.truth = folder / "inbox", folder / "labels", folder / "truth"
        write_sample(self.inbox, self.labels, self.truth, IMAGES, 0, force=False)
        self.rows: Rows = [json.loads(line) for line in (self.truth / "truth.jsonl").read_text().splitlines()]
        self.by_id = {row["image_id"]: row for row in self.rows}
        self.tasks: Rows = json.loads((self.labels / "sample.json").read_text())
        self.planted: dict[str, dict[str, Rows]] = json.loads((self.truth / "planted.json").read_text())
        self.log: Rows = [json.loads(line) for line in (self.inbox / "sample" / "log.jsonl").read_text().splitlines()]

    def files(self) -> dict[str, str]:
        """Every file and its hash."""
        root = self.inbox.parent
        return {str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob("*")) if path.is_file()}

    def annotation(self, row: dict[str, Any]) -> dict[str, Any]:
        """The annotation that a planted row speaks of."""
        (found,) = [item for task in self.tasks if task["id"] == row["task_id"] for item in task["annotations"] if item["id"] == row["annotation_id"]]
        return dict(found)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(tmp_path_factory.mktemp("sample"))


def _upright(path: Path) -> np.ndarray[Any, Any]:
    """Grey pixels as a viewer shows them, by another library than the one that wrote them."""
    with PillowImage.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("L"))


def _pixels(result: dict[str, Any]) -> list[float]:
    """xyxy of a region, by Label Studio's definition: percent of the original size."""
    value, width, height = result["value"], result["original_width"], result["original_height"]
    x, y = value["x"] * width / 100, value["y"] * height / 100
    return [x, y, x + value["width"] * width / 100, y + value["height"] * height / 100]


def _regions(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for annotation in task["annotations"]:
        yield from annotation["result"]


def test_the_same_seed_gives_the_same_bytes(written: Written, tmp_path: Path) -> None:
    again = Written(tmp_path)
    assert again.files() == written.files()


def test_refuses_to_overwrite(written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".gitkeep").touch()
    mine = tmp_path / "sample" / "mine.jpg"
    mine.parent.mkdir()
    mine.write_bytes(b"precious")
    options = ["sample", "--inbox", str(tmp_path), "--labels", str(tmp_path / "l"), "--truth", str(tmp_path / "t"), "--images", str(MIN_IMAGES)]
    assert main(options) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert re.search(r"sample is there already and not empty: give --force", message)
    assert mine.read_bytes() == b"precious"
    assert not (tmp_path / "l").exists()
    assert main([*options, "--force", "--seed", "1"]) == 0
    assert not mine.exists()
    assert (tmp_path / "sample" / "log.jsonl").is_file()
    assert [path.name for path in tmp_path.glob(".*")] == [".gitkeep"]
    other = {json.loads(line)["image_id"] for line in (tmp_path / "t" / "truth.jsonl").read_text().splitlines()}
    assert len(other) > MIN_IMAGES
    assert not other & set(written.by_id)  # another seed, another sample


def test_if_empty_leaves_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "inbox" / "mine").mkdir(parents=True)
    options = ["sample", "--inbox", str(tmp_path / "inbox"), "--labels", str(tmp_path / "l"), "--truth", str(tmp_path / "t"), "--if-empty"]
    assert main(options) == 0
    assert "is not empty: no sample is written" in capsys.readouterr().out
    assert [path.name for path in tmp_path.rglob("*")] == ["inbox", "mine"]


@pytest.mark.parametrize(
    ("images", "seed", "unlabeled", "message"),
    [
        (MIN_IMAGES - 1, 0, 0.1, f"needs at least {MIN_IMAGES}"),
        (MIN_IMAGES, -1, 0.1, "from 0 up"),
        (MIN_IMAGES, 0, 1.0, "between 0 and 1"),
        (MIN_IMAGES, 0, 0.9, "give more --images"),
    ],
)
def test_unusable_arguments_are_refused(tmp_path: Path, images: int, seed: int, unlabeled: float, message: str) -> None:
    with pytest.raises(DetloopError, match=message):
        write_sample(tmp_path, tmp_path, tmp_path, images, seed, force=False, unlabeled=unlabeled)
    assert list(tmp_path.iterdir()) == []


def test_classes_are_those_of_params() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.class_names == CLASSES
    assert params.class_of["screw"] == "bolt"


@pytest.mark.parametrize("frames", [25, 31, 241, 1000])
def test_the_plan_holds_its_shares(frames: int) -> None:
    bursts = plan_bursts(frames, np.random.default_rng(frames))
    assert sum(len(burst.times) for burst in bursts) == frames
    assert {len(burst.times) for burst in bursts} <= {2, 3, 4}
    assert len({burst.name for burst in bursts}) == len(bursts)
    assert {burst.camera for burst in bursts} == set(STATIONS)
    kinds = Counter(kind for burst in bursts for kind, _ in burst.kinds)
    assert 0.07 <= kinds["bolt"] / kinds.total() <= 0.14
    assert min(kinds["nut"], kinds["washer"]) / kinds.total() >= 0.36
    assert any(burst.dark for burst in bursts)
    assert any(not burst.kinds for burst in bursts)
    for burst in bursts:
        gaps = np.diff([time.timestamp() for time in burst.times])
        assert ((gaps > 0.1) & (gaps < 1.0)).all()
        assert (burst.times[0].hour < 6) == burst.dark


def test_the_truth_lies_inside_the_images(written: Written) -> None:
    assert len(written.rows) == IMAGES + len(written.planted["files"]["near_duplicate"])
    counts = Counter()
    for row in written.rows:
        path = written.inbox / row["file"]
        assert sha256(path.read_bytes()).hexdigest() == row["image_id"]
        assert _upright(path).shape == (row["height_px"], row["width_px"])
        for box in row["boxes"]:
            x1, y1, x2, y2 = box["xyxy"]
            assert 0 <= x1 < x2 <= row["width_px"]
            assert 0 <= y1 < y2 <= row["height_px"]
            assert min(x2 - x1, y2 - y1) >= 3
            assert 0 <= box["occlusion"] < 1
            counts[box["class"]] += 1
    assert set(counts) == set(CLASSES)
    assert counts["bolt"] < 0.2 * counts.total()
    occlusions = [box["occlusion"] for row in written.rows for box in row["boxes"]]
    areas = [(box["xyxy"][2] - box["xyxy"][0]) * (box["xyxy"][3] - box["xyxy"][1]) for row in written.rows for box in row["boxes"]]
    assert np.mean(np.array(occlusions) > 0.1) > 0.05
    assert np.mean(np.array(areas) < load_params(ROOT / "params.yaml").evaluate.small_area_px) > 0.05


def test_the_dark_slice_is_dark(written: Written) -> None:
    limits = load_params(ROOT / "params.yaml")
    for row in written.rows:
        grey = float(_upright(written.inbox / row["file"]).mean())
        assert (limits.collect.min_brightness < grey < limits.evaluate.dark_below) == row["dark"]
        assert grey < limits.evaluate.bright_above
    assert any(row["dark"] and row["boxes"] for row in written.rows)


def test_file_sizes_are_those_of_a_small_camera(written: Written) -> None:
    sizes = [(written.inbox / row["file"]).stat().st_size for row in written.rows if not row["dark"] and "retry" not in row["file"]]
    assert 20_000 < np.mean(sizes) < 50_000


def test_the_log_names_every_image(written: Written) -> None:
    files = {f"sample/{row['file']}" for row in written.log}
    assert len(files) == len(written.log)
    assert files >= {row["file"] for row in written.rows}
    assert all((written.inbox / file).is_file() for file in files)
    assert all(row["source"] in STATIONS and row["group"] for row in written.log)
    assert [row["captured_at"] for row in written.log] == sorted(row["captured_at"] for row in written.log)


def test_the_odd_files_are_there(written: Written) -> None:
    planted = written.planted["files"]
    (copy,) = planted["exact_duplicate"]
    assert (written.inbox / copy["file"]).read_bytes() == (written.inbox / copy["of"]).read_bytes()
    (torn,) = planted["truncated"]
    content = (written.inbox / torn["file"]).read_bytes()
    assert content.startswith(b"\xff\xd8")
    assert b"\xff\xd9" not in content[-2:]
    with PillowImage.open(written.inbox / torn["file"]) as image, pytest.raises(OSError, match="truncated"):
        image.load()
    assert torn["file"] not in {row["file"] for row in written.rows}
    (text,) = planted["not_an_image"]
    assert (written.inbox / text["file"]).read_text().endswith("\n")
    assert text["file"].endswith(".jpg")
    (empty,) = planted["empty_file"]
    assert (written.inbox / empty["file"]).stat().st_size == 0
    assert (written.inbox / "sample" / "README.txt").is_file()


def test_near_duplicates_look_the_same_and_are_other_bytes(written: Written) -> None:
    twins = written.planted["files"]["near_duplicate"]
    assert len(twins) == 3
    for twin in twins:
        new, old = _upright(written.inbox / twin["file"]), _upright(written.inbox / twin["of"])
        assert twin["image_id"] != twin["of_image_id"]
        small = [cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).astype(int) for image in (new, old)]
        assert np.abs(small[0] - small[1]).mean() < 3
        scale = new.shape[1] / old.shape[1]
        boxes = [np.array([box["xyxy"] for box in written.by_id[twin[key]]["boxes"]]) for key in ("image_id", "of_image_id")]
        assert np.allclose(boxes[0], boxes[1] * scale, atol=0.51)
    assert {_upright(written.inbox / twin["file"]).shape for twin in twins} == {(480, 640), (456, 608)}


def test_the_rotated_image_is_upright_for_viewers_and_stored_on_its_side(written: Written) -> None:
    (rotated,) = written.planted["files"]["exif_rotated"]
    path = written.inbox / rotated["file"]
    with PillowImage.open(path) as image:
        assert image.getexif()[0x0112] == 6
        assert image.size == (HEIGHT_PX, WIDTH_PX)
    same_camera = [row for row in written.rows if row["burst"] == written.by_id[rotated["image_id"]]["burst"] and row["file"] != rotated["file"]]
    other = _upright(written.inbox / same_camera[0]["file"]).astype(float)
    upright = _upright(path).astype(float)
    assert np.abs(upright - other).mean() < np.abs(np.rot90(upright, 2) - other).mean()
    (task,) = [task for task in written.tasks if task["data"]["image_id"] == rotated["image_id"]]
    assert {(region["original_width"], region["original_height"]) for region in _regions(task)} == {(WIDTH_PX, HEIGHT_PX)}


def test_labels_are_the_truth_but_for_what_is_planted(written: Written) -> None:
    planted = written.planted["labels"]
    spoiled = {row["result_id"] for kind in ("wrong_class", "shifted_box", "past_edge", "alias") for row in planted[kind]}
    missing = {row["annotation_id"]: row for row in planted["missing_box"]}
    older = {row["annotation_ids"][0] for row in planted["disagreement"]}
    checked = 0
    for task in written.tasks:
        true = written.by_id[task["data"]["image_id"]]["boxes"]
        for annotation in task["annotations"]:
            if annotation["was_cancelled"] or annotation["id"] in older:
                continue
            assert len(annotation["result"]) == len(true) - (annotation["id"] in missing)
            for region in annotation["result"]:
                if region["id"] in spoiled:
                    continue
                (name,) = region["value"]["rectanglelabels"]
                offsets = [np.abs(np.array(_pixels(region)) - box["xyxy"]).max() for box in true if box["class"] == name]
                assert min(offsets) <= 1 + 1e-6
                checked += 1
    assert checked > 80


def test_planted_label_faults_are_what_they_say(written: Written) -> None:
    planted = written.planted["labels"]
    assert all(planted.values()), {kind: len(rows) for kind, rows in planted.items()}
    for row in planted["missing_box"]:
        boxes = np.array([_pixels(region) for region in written.annotation(row)["result"]])
        names = [region["value"]["rectanglelabels"][0] for region in written.annotation(row)["result"]]
        same = boxes[[name == row["true"]["class"] for name in names]].reshape(-1, 4)
        assert (np.abs(same - row["true"]["xyxy"]).max(axis=1, initial=0) > 1).all()
    for kind in ("wrong_class", "shifted_box", "past_edge", "alias"):
        for row in planted[kind]:
            (region,) = [item for item in written.annotation(row)["result"] if item["id"] == row["result_id"]]
            name, box = region["value"]["rectanglelabels"][0], np.array([_pixels(region)])
            overlap = float(iou_matrix(box, np.array([row["true"]["xyxy"]]))[0, 0])
            value = region["value"]
            if kind == "wrong_class":
                assert {name, row["true"]["class"]} == {"nut", "washer"}
                assert overlap > 0.7
            elif kind == "shifted_box":
                assert 0.15 < overlap < 0.6
            elif kind == "past_edge":
                assert value["x"] < 0 or value["x"] + value["width"] > 100
            else:
                assert (name, row["true"]["class"]) == ("screw", "bolt")
    outside = [
        region
        for task in written.tasks
        for region in _regions(task)
        if region["value"]["x"] < 0 or region["value"]["x"] + region["value"]["width"] > 100.001
    ]
    assert len(outside) == len(planted["past_edge"]) == 1


def test_planted_task_states_are_what_they_say(written: Written) -> None:
    planted, tasks = written.planted["labels"], {task["id"]: task for task in written.tasks}
    by_image = {task["data"]["image_id"]: task for task in written.tasks}
    for row in planted["verified_empty"]:
        assert written.by_id[row["image_id"]]["boxes"] == []
        assert written.annotation(row)["result"] == []
        assert not written.annotation(row)["was_cancelled"]
    for row in planted["skipped"]:
        assert [item["was_cancelled"] for item in tasks[row["task_id"]]["annotations"]] == [True]
    for row in planted["skipped_then_labeled"]:
        assert [item["was_cancelled"] for item in tasks[row["task_id"]]["annotations"]] == [True, False]
    for kind in ("two_annotators", "disagreement"):
        for row in planted[kind]:
            one, two = tasks[row["task_id"]]["annotations"]
            assert [one["id"], two["id"]] == row["annotation_ids"]
            assert one["completed_by"] != two["completed_by"]
            assert one["updated_at"] < two["created_at"]
            assert (len(one["result"]) == len(two["result"])) == (kind == "two_annotators")
    for kind, drafts, predictions in (("draft_only", 1, 0), ("prediction_only", 0, 1), ("no_annotation", 0, 0)):
        for row in planted[kind]:
            task = tasks[row["task_id"]]
            assert (len(task["annotations"]), len(task["drafts"]), len(task["predictions"])) == (0, drafts, predictions)
    for row in planted["not_in_export"]:
        assert row["image_id"] not in by_image
    labeled = {task["data"]["image_id"] for task in written.tasks}
    assert labeled | {row["image_id"] for row in planted["not_in_export"]} == set(written.by_id)
    empty = {row["image_id"] for row in written.rows if not row["boxes"]}
    assert {row["image_id"] for row in planted["verified_empty"]} == empty


def test_the_export_is_read_by_label_studios_own_converter(written: Written, tmp_path: Path) -> None:
    from label_studio_sdk.converter import Converter
    from label_studio_sdk.types import Annotation

    config = '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
    config += "".join(f'<Label value="{name}"/>' for name in (*CLASSES, "screw")) + "</RectangleLabels></View>"
    Converter(config, str(tmp_path), download_resources=False).convert_to_coco(
        str(written.labels / "sample.json"), str(tmp_path / "coco"), output_image_dir=str(tmp_path / "coco" / "images"), is_dir=False
    )
    coco = json.loads((tmp_path / "coco" / "result.json").read_text())
    regions = [region for task in written.tasks for region in _regions(task)]
    assert len(coco["annotations"]) == len(regions)
    annotations = [item for task in written.tasks for item in task["annotations"]]
    for item in annotations:
        parsed = Annotation.model_validate(item)
        assert parsed.id == item["id"]
    assert len({item["id"] for item in annotations}) == len(annotations)
    assert len({item["unique_id"] for item in annotations}) == len(annotations)
    assert len({region["id"] for region in regions}) == len(regions)


def test_the_export_has_the_keys_of_a_real_one(written: Written, shared: Path) -> None:
    (real,) = json.loads((shared / "data" / "label_studio_exports" / "sdk_converter" / "test_export_coco" / "data.json").read_text())
    plain = {"agreement", "reviews"}  # keys of the enterprise edition
    for task in written.tasks:
        assert set(task) == set(real) - plain
        for annotation in task["annotations"]:
            assert set(annotation) == set(real["annotations"][0]) - plain | {"completed_by"}  # taken out of the published export
            for region in annotation["result"]:
                assert set(region) == set(real["annotations"][0]["result"][0])
                assert set(region["value"]) == set(real["annotations"][0]["result"][0]["value"])
