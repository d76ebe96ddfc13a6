"""`detloop import`: four formats, what it lists, what it refuses, and that a second or a killed run does no harm."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.cli import main
from pipelines.commands import import_dataset
from pipelines.core.io import read_jsonl, write_bytes, write_jsonl
from pipelines.core.records import read_annotations
from pipelines.core.types import Annotation, Box
from pipelines.formats.coco import coco_from_boxes
from pipelines.formats.labelstudio import annotation_from_boxes, task_from_annotations
from pipelines.formats.voc import voc_from_boxes
from pipelines.formats.yolo import yolo_from_boxes
from pipelines.labeling.imagefiles import ImageIndex, upright_size

ROOT = Path(__file__).resolve().parents[1]
SIZE = (40, 30)
CLASSES = ("bolt", "nut")
BOLT, NUT = Box("bolt", (1.0, 2.0, 11.0, 12.0)), Box("nut", (20.0, 10.0, 40.0, 30.0))


class Project:
    """A folder with params.yaml, a dataset folder `set`, and the command's targets."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.set = folder, folder / "set"
        (folder / "params.yaml").write_text("classes: [{name: bolt, aliases: [screw]}, {name: nut}]\n")
        self.set.mkdir()

    def image(self, name: str, seed: int | None = None, orientation: int = 1, size_wh: tuple[int, int] = SIZE) -> str:
        """Write an image; its image_id."""
        path = self.set / name
        path.parent.mkdir(parents=True, exist_ok=True)
        number = seed if seed is not None else int(sha256(name.encode()).hexdigest()[:8], 16)
        pixels = np.random.default_rng(number).integers(0, 255, (size_wh[1], size_wh[0], 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(path, exif=exif)
        return sha256(path.read_bytes()).hexdigest()

    def voc(self, name: str, *boxes: Box, filename: str | None = None, size_wh: tuple[int, int] = SIZE) -> None:
        path = self.set / "Annotations" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(voc_from_boxes(filename or f"{name}.jpg", size_wh, boxes))

    def text(self, name: str, text: str) -> None:
        path = self.set / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def arguments(self, kind: str, *more: str, source: str = "set") -> list[str]:
        paths = ["--inbox", str(self.folder / "inbox"), "--labels", str(self.folder / "labels"), "--params", str(self.folder / "params.yaml")]
        return ["import", str(self.folder / source), "--format", kind, *paths, *more]

    def labels(self, name: str = "set") -> dict[str, Annotation]:
        return {item.image_id: item for item in read_annotations(self.folder / "labels" / f"{name}.jsonl")}

    def log(self, name: str = "set") -> dict[str, str | None]:
        rows = read_jsonl(self.folder / "inbox" / name / "log.jsonl")
        assert {row["source"] for row in rows} == {name}
        return {row["file"]: row.get("split") for row in rows}

    def written(self) -> dict[str, tuple[bytes, int]]:
        """Every file below the targets with its bytes and time of change."""
        files = [path for target in ("inbox", "labels") for path in (self.folder / target).rglob("*") if path.is_file()]
        return {path.relative_to(self.folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def _line(image_id: str, *boxes: Box, source: str = "set") -> Annotation:
    return Annotation(image_id, "labeled" if boxes else "verified_empty", *SIZE, boxes, source)


def test_voc(project: Project, capsys: pytest.CaptureFixture[str]):
    a, b, _ = (project.image(f"JPEGImages/{name}.jpg") for name in "abc")
    project.voc("a", NUT, BOLT)
    project.voc("b")
    project.voc("gone", BOLT)
    project.text("ImageSets/Main/train.txt", "a\nc\n")
    project.text("ImageSets/Main/test.txt", "b\nlost\n")
    assert main(project.arguments("voc")) == 0
    assert project.labels() == {a: _line(a, BOLT, NUT), b: _line(b)}
    assert project.log() == {"a.jpg": "train", "b.jpg": "test", "c.jpg": "train"}
    said = capsys.readouterr().out
    assert "3 images (3 new); 1 labeled, 1 unlabeled, 1 verified empty" in said
    assert "listed: missing_image 2" in said
    assert "Annotations/gone.xml: no image gone" in said
    assert "ImageSets/Main/test.txt: no image lost" in said


def test_xml_files_beside_their_images(project: Project):
    ids = [project.image("left/a.jpg"), project.image("right/a.png")]
    for folder, box in (("left", BOLT), ("right", NUT)):
        project.text(f"{folder}/a.xml", voc_from_boxes("a.jpg", SIZE, [box]).decode())
    assert main(project.arguments("voc")) == 0
    assert project.labels() == {ids[0]: _line(ids[0], BOLT), ids[1]: _line(ids[1], NUT)}


def test_faulty_boxes_are_brought_in_as_they_are_and_listed(project: Project, capsys: pytest.CaptureFixture[str]):
    a = project.image("JPEGImages/a.jpg")
    flat, over, screw = Box("bolt", (5.0, 5.0, 5.0, 5.0)), Box("nut", (30.0, 5.0, 45.0, 9.0)), Box("screw", (1.0, 1.0, 9.0, 9.0))
    project.voc("a", flat, over, screw, filename="other.jpg")
    assert main(project.arguments("voc")) == 0
    assert project.labels()[a].boxes == (flat, over, screw)
    said = capsys.readouterr().out
    assert "listed: filename_differs 1, past_edge 1, zero_area_box 1" in said
    assert "zero_area_box: Annotations/a.xml object 1: bolt [5.0, 5.0, 5.0, 5.0] on 40x30" in said


def test_records_that_are_no_box_stay_with_their_image(project: Project):
    a = project.image("images/a.jpg")
    project.text("labels/a.txt", "0 0.1 0.1 0.2 0.1 0.2 0.2\n")
    project.text("classes.txt", "bolt\nnut\n")
    assert main(project.arguments("yolo")) == 0
    (row,) = read_jsonl(project.folder / "labels/set.jsonl")
    assert (row["image_id"], row["state"], row["boxes"]) == (a, "labeled", [])  # not verified_empty
    assert [(item["kind"], item["where"]) for item in row["problems"]] == [("polygon", "labels/a.txt line 1")]


def test_sizes_are_those_that_a_person_sees(project: Project):
    a = project.image("images/a.jpg", orientation=6, size_wh=(30, 40))  # stored upright, shown lying
    project.text("labels/a.txt", yolo_from_boxes([BOLT], CLASSES, SIZE))
    project.text("data.yaml", "names: {0: bolt, 1: nut}\ntrain: images\n")
    assert main(project.arguments("yolo")) == 0
    assert (project.labels()[a].width_px, project.labels()[a].height_px) == SIZE
    assert project.labels()[a].boxes == (BOLT,)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_size_is_opencvs(project: Project, orientation: int):
    import cv2

    project.image("a.jpg", orientation=orientation)
    shown = cv2.imread(str(project.set / "a.jpg"))
    assert shown is not None
    assert upright_size(project.set / "a.jpg") == (shown.shape[1], shown.shape[0])


def test_a_stated_size_that_is_not_the_images_is_kept_and_listed(project: Project, capsys: pytest.CaptureFixture[str]):
    a = project.image("JPEGImages/a.jpg")
    project.voc("a", BOLT, size_wh=(30, 40))
    assert main(project.arguments("voc")) == 0
    assert (project.labels()[a].width_px, project.labels()[a].height_px) == (30, 40)
    assert "size_differs: Annotations/a.xml: labeled at (30, 40), the image is (40, 30)" in capsys.readouterr().out


def test_yolo_with_its_own_split(project: Project):
    names = ["images/train/a.jpg", "images/train/b.jpg", "images/val/a.jpg", "images/test/c.jpg"]
    ids = [project.image(name) for name in names]
    project.text("labels/train/a.txt", yolo_from_boxes([BOLT], CLASSES, SIZE))
    project.text("labels/train/b.txt", "")
    project.text("labels/val/a.txt", yolo_from_boxes([NUT], CLASSES, SIZE))
    project.text("test.txt", "./images/test/c.jpg\n")
    project.text("data.yaml", "path: /somewhere/else\nnames: [bolt, nut]\ntrain: ../images/train\nval: [images/val]\ntest: test.txt\n")
    assert main(project.arguments("yolo", "--name", "mine")) == 0
    wanted = {ids[0]: _line(ids[0], BOLT, source="mine"), ids[1]: _line(ids[1], source="mine"), ids[2]: _line(ids[2], NUT, source="mine")}
    assert project.labels("mine") == wanted  # c has no text: unlabeled
    assert project.log("mine") == dict(zip(names, ("train", "train", "val", "test"), strict=True))


def test_coco_with_a_file_for_each_split(project: Project, capsys: pytest.CaptureFixture[str]):
    a, b, c = project.image("train2017/a.jpg"), project.image("val2017/a.jpg"), project.image("val2017/c.jpg")
    project.image("val2017/unnamed.jpg")
    train = coco_from_boxes([("train2017/a.jpg", SIZE, [BOLT, NUT])], CLASSES)
    val = coco_from_boxes([("val2017/a.jpg", SIZE, [NUT]), ("c.jpg", SIZE, []), ("gone.jpg", SIZE, [NUT])], CLASSES)
    project.text("annotations/instances_train2017.json", json.dumps(train))
    project.text("annotations/instances_val2017.json", json.dumps(val))
    assert main(project.arguments("coco")) == 0
    assert project.labels() == {a: _line(a, BOLT, NUT), b: _line(b, NUT), c: _line(c)}
    assert project.log() == {"train2017/a.jpg": "train", "val2017/a.jpg": "val", "val2017/c.jpg": "val"}
    said = capsys.readouterr().out
    assert "1 more images in the folder are named by no label" in said
    assert "missing_image: annotations/instances_val2017.json: no image gone.jpg" in said


def test_one_coco_file_with_images_elsewhere(project: Project):
    a = project.image("pictures/a.jpg")
    project.text("labels.json", json.dumps(coco_from_boxes([("a.jpg", SIZE, [BOLT])], CLASSES)))
    assert main(project.arguments("coco", "--images", str(project.set / "pictures"), source="set/labels.json")) == 0
    assert project.labels("labels") == {a: _line(a, BOLT, source="labels")}


def test_labelstudio_finds_images_by_their_names(project: Project, capsys: pytest.CaptureFixture[str]):
    ids = {
        name: project.image(f"pictures/{name}")
        for name in ("one.jpg", "two words.jpg", "cam/three.jpg", "cam/same.jpg", "dock/same.jpg", "named.jpg")
    }
    links = [
        ("/data/upload/3/0a1b2c3d-one.jpg", "one.jpg"),
        ("/data/local-files/?d=raw/two%20words.jpg", "two words.jpg"),
        ("s3://bucket/2026/three.jpg", "cam/three.jpg"),
        ("https://example.com/dock/same.jpg?x=1", "dock/same.jpg"),
        ("/data/upload/3/same.jpg", None),
        ("/data/upload/3/gone.jpg", None),
    ]
    tasks: list[dict[str, Any]] = []
    for number, (link, _) in enumerate(links):
        task = task_from_annotations(number, "", link, [annotation_from_boxes([BOLT], SIZE, number, 1, "2026-01-01T00:00:00Z")])
        tasks.append(task | {"data": {"image": link}})
    tasks.append(task_from_annotations(9, ids["named.jpg"], "/x/named.jpg", []))
    project.text("export.json", json.dumps(tasks))
    assert main(project.arguments("labelstudio", "--images", str(project.set / "pictures"), source="set/export.json")) == 0
    written = json.loads((project.folder / "labels/export.json").read_text())
    assert [task["data"].get("image_id") for task in written] == [*(ids[name] if name else None for _, name in links), ids["named.jpg"]]
    assert [{**task, "data": None} for task in written] == [{**task, "data": None} for task in tasks]
    assert set(project.log("export")) == {"one.jpg", "two words.jpg", "cam/three.jpg", "dock/same.jpg", "named.jpg"}
    said = capsys.readouterr().out
    assert "ambiguous_image: task 4" in said
    assert "missing_image: task 5" in said


def test_labelstudio_refuses_another_images_id(project: Project, capsys: pytest.CaptureFixture[str]):
    project.image("a.jpg")
    project.text("export.json", json.dumps([task_from_annotations(1, "f" * 64, "a.jpg", [])]))
    assert main(project.arguments("labelstudio", source="set/export.json")) == 2
    assert "1 tasks name another image than the one found: task 1: a.jpg" in capsys.readouterr().err


def _unknown(project: Project, kind: str) -> str:
    """A dataset in which 25 labels have a class that params.yaml lacks; returns its source."""
    gears = [Box("gear", BOLT.xyxy)] * 25
    project.image("images/a.jpg")
    if kind == "voc":
        project.text("images/a.xml", voc_from_boxes("a.jpg", SIZE, gears).decode())
    elif kind == "yolo":
        project.text("labels/a.txt", yolo_from_boxes(gears, ("gear",), SIZE))
        project.text("classes.txt", "gear\n")
    elif kind == "coco":
        project.text("a.json", json.dumps(coco_from_boxes([("a.jpg", SIZE, gears)], ("gear",))))
    else:
        project.text(
            "a.json", json.dumps([task_from_annotations(1, "", "a.jpg", [annotation_from_boxes(gears, SIZE, 1, 1, "2026-01-01T00:00:00Z")])])
        )
        return "set/a.json"
    return "set"


@pytest.mark.parametrize("kind", ["voc", "yolo", "coco", "labelstudio"])
def test_unknown_classes_are_refused_and_nothing_is_written(project: Project, kind: str, capsys: pytest.CaptureFixture[str]):
    assert main(project.arguments(kind, source=_unknown(project, kind))) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert error.count("'gear'") == 20
    assert "25 labels have a class that params.yaml lacks" in error
    assert "and 5 more" in error
    assert project.written() == {}


def test_a_class_number_without_a_name_is_refused(project: Project, capsys: pytest.CaptureFixture[str]):
    project.image("images/a.jpg")
    project.text("labels/a.txt", "0 0.5 0.5 0.1 0.1\n2 0.5 0.5 0.1 0.1\n")
    project.text("names", "bolt\nnut\n")
    assert main(project.arguments("yolo", "--class-names", str(project.set / "names"))) == 2
    assert "labels/a.txt line 2: class index 2, there are 2 names" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "files", "more", "message"),
    [
        ("voc", {}, (), "no image found: name their folder with --images"),
        ("voc", {"Annotations/a.xml": "<x", "Annotations/b.xml": "<svg/>"}, (), "2 XML files cannot be read: Annotations/a.xml is not XML"),
        (
            "voc",
            {"ImageSets/Main/train.txt": "a", "ImageSets/Main/test.txt": "a"},
            (),
            "1 images stand on two sides of the dataset's own split: a.jpg in test and train",
        ),
        ("voc", {}, ("--images", "nowhere"), "folder nowhere is missing: name the folder of images with --images"),
        ("voc", {}, ("--name", "../up"), "the name '../up' cannot be a folder's"),
        ("voc", {}, ("--class-names", "x"), "--class-names is for --format yolo"),
        ("yolo", {}, (), "give the class names, one a line, with --class-names FILE"),
        ("yolo", {"data.yaml": "names: {1: bolt}"}, (), "wanted 0, 1, 2"),
        ("yolo", {"data.yaml": "names: [bolt]\ntrain: lost"}, (), "data.yaml train = 'lost' is nowhere"),
        ("yolo", {"data.yaml": "names: [bolt"}, (), "data.yaml is not YAML"),
        ("yolo", {"data.yaml": "names: [bolt]\ntrain: 5"}, (), "data.yaml: train = 5, wanted a path or a list of paths"),
        ("yolo", {"classes.txt": b"M\xfctze\n"}, (), "classes.txt is not UTF-8 text"),
        ("yolo", {"data.yaml": "names: [bolt]\ntrain: train.txt", "train.txt": b"\xfc.jpg\n"}, (), "train.txt is not UTF-8 text"),
        ("voc", {"ImageSets/Main/train.txt": b"\xfc\n"}, (), "train.txt is not UTF-8 text"),
        ("coco", {}, (), "has no COCO file"),
        ("coco", {"a.json": "[]"}, (), "a.json is not a COCO file"),
        ("labelstudio", {}, (), "name a JSON export"),
    ],
)
def test_what_is_refused_says_what_to_do(
    project: Project, kind: str, files: dict[str, str | bytes], more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
):
    if kind != "voc" or files:
        project.image("a.jpg")
    for name, content in files.items():
        write_bytes(project.set / name, content.encode() if isinstance(content, str) else content)
    assert main(project.arguments(kind, *more)) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert message in error
    assert project.written() == {}


def test_an_image_in_two_coco_files_is_refused(project: Project, capsys: pytest.CaptureFixture[str]):
    project.image("a.jpg")
    for name in ("train.json", "val.json"):
        project.text(name, json.dumps(coco_from_boxes([("a.jpg", SIZE, [BOLT])], CLASSES)))
    assert main(project.arguments("coco")) == 2
    assert "1 images stand twice in the COCO files: a.jpg (again in val.json)" in capsys.readouterr().err


def test_a_second_import_changes_nothing(project: Project, capsys: pytest.CaptureFixture[str]):
    project.image("JPEGImages/a.jpg")
    project.voc("a", BOLT)
    assert main(project.arguments("voc", "--dry-run")) == 0
    assert project.written() == {}
    assert "dry run, nothing written\nset: 1 image (1 new)" in capsys.readouterr().out
    assert main(project.arguments("voc")) == 0
    first = project.written()
    assert set(first) == {"inbox/set/a.jpg", "inbox/set/log.jsonl", "labels/set.jsonl"}
    assert main(project.arguments("voc")) == 0
    assert project.written() == first
    assert "1 image (0 new)" in capsys.readouterr().out


def test_a_second_import_keeps_what_people_added_to_the_log(project: Project):
    project.image("JPEGImages/a.jpg")
    project.voc("a", BOLT)
    assert main(project.arguments("voc")) == 0
    log = project.folder / "inbox/set/log.jsonl"
    rows = [{"file": "a.jpg", "source": "set", "group": "part 7"}, {"file": "by_hand.jpg", "source": "set", "group": "part 8"}]
    write_jsonl(log, rows)
    project.image("JPEGImages/b.jpg")
    project.text("ImageSets/Main/test.txt", "a\n")
    assert main(project.arguments("voc")) == 0
    found = {row["file"]: row for row in read_jsonl(log)}
    assert found == {
        "a.jpg": {"file": "a.jpg", "source": "set", "group": "part 7", "split": "test"},
        "b.jpg": {"file": "b.jpg", "source": "set"},
        "by_hand.jpg": rows[1],
    }


@pytest.mark.parametrize("kind", ["coco", "labelstudio"])
def test_labels_of_another_set_of_the_same_name_are_never_overwritten(kind: str, project: Project, capsys: pytest.CaptureFixture[str]):
    """Tools call each of their exports the same, and the file's name is the default: the second set took the first one's labels."""

    def export(number: int) -> str:
        image_id = project.image(f"{number}/{number}.jpg")
        task = task_from_annotations(number, "", f"/x/{number}.jpg", [annotation_from_boxes([BOLT], SIZE, number, 1, "2026-01-01T00:00:00Z")])
        content = {
            "coco": coco_from_boxes([(f"{number}.jpg", SIZE, [BOLT])], CLASSES),
            "labelstudio": [task | {"data": {"image": f"/x/{number}.jpg"}}],
        }
        project.text(f"{number}/result.json", json.dumps(content[kind]))
        return image_id

    def arguments(number: int, *more: str) -> list[str]:
        return project.arguments(kind, "--images", str(project.set / str(number)), *more, source=f"set/{number}/result.json")

    first = export(1)
    export(2)
    assert main(arguments(1)) == 0
    before = project.written()
    assert main(arguments(2)) == 2
    said = f"has labels of 1 images that this dataset has none for ({first[:12]}): choose another --name, or remove that file"
    assert said in capsys.readouterr().err
    assert main(arguments(2, "--dry-run")) == 0
    assert said in capsys.readouterr().out
    assert project.written() == before
    assert main(arguments(2, "--name", "second")) == 0
    assert before.items() < project.written().items()


@pytest.mark.parametrize("damage", ["one line is cut", "a name with U+2028"])
def test_a_label_file_that_people_changed_is_never_overwritten_unseen(damage: str, project: Project, capsys: pytest.CaptureFixture[str]):
    image_id = project.image("JPEGImages/a.jpg")
    project.voc("a", BOLT)
    target = project.folder / "labels/set.jsonl"
    target.parent.mkdir()
    row = json.dumps({"image_id": "0" * 64, "source": "line\u2028two"}, ensure_ascii=False) + "\n"
    target.write_text(row if damage == "a name with U+2028" else row + '{"image_id": "' + image_id[:9])
    before = target.read_bytes()
    assert main(project.arguments("voc")) == 2
    assert {"one line is cut": "cannot be read, so its labels", "a name with U+2028": "has labels of 1 images"}[damage] in capsys.readouterr().err
    assert target.read_bytes() == before


def test_another_image_of_the_same_name_is_never_overwritten(project: Project, capsys: pytest.CaptureFixture[str]):
    for name in ("a", "b"):
        project.image(f"JPEGImages/{name}.jpg")
        project.voc(name, BOLT)
    target = project.folder / "inbox/set/b.jpg"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"other")
    before = project.written()
    assert main(project.arguments("voc")) == 2
    assert "has 1 files of the same name and other content: b.jpg: choose another --name" in capsys.readouterr().err
    assert project.written() == before


def test_the_same_image_twice_is_listed(project: Project, capsys: pytest.CaptureFixture[str]):
    a = project.image("JPEGImages/a.jpg", seed=1)
    assert project.image("JPEGImages/b.jpg", seed=1) == a
    project.voc("a", BOLT)
    project.voc("b", NUT)
    assert main(project.arguments("voc")) == 0
    assert "same_image_twice: b.jpg: the same bytes as a.jpg" in capsys.readouterr().out
    assert [row["boxes"][0]["class"] for row in read_jsonl(project.folder / "labels/set.jsonl")] == ["bolt", "nut"]  # label_sync calls it a conflict


def test_an_unreadable_image_is_brought_in_and_listed(project: Project):
    project.image("images/a.jpg")
    project.text("images/b.jpg", "no image")
    project.text("labels/b.txt", "0 0.5 0.5 0.1 0.1\n")
    project.text("classes.txt", "bolt\n")
    # in a process of its own: where another test has loaded ultralytics, it has replaced PIL.Image.open
    command = [sys.executable, "-m", "pipelines.cli", *project.arguments("yolo")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(project.log()) == {"images/a.jpg", "images/b.jpg"}
    assert project.labels() == {}
    assert "unreadable_image: images/b.jpg" in done.stdout


def test_killed_then_run_again_completes(project: Project, shared: Path):
    shutil.copytree(shared / "data/bccd", project.folder / "bccd")
    (project.folder / "params.yaml").write_text("classes: [{name: RBC}, {name: WBC}, {name: Platelets}]\n")
    command = [sys.executable, "-m", "pipelines.cli", *project.arguments("voc", source="bccd")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    inbox = project.folder / "inbox/bccd"
    while process.poll() is None and not (inbox.is_dir() and any(inbox.iterdir())):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    if (project.folder / "labels").exists():  # labels come last
        assert len(list(inbox.iterdir())) == 365
    (inbox / ".x.jpg.ab12.tmp").write_text("left by a copy that was killed")
    assert main(project.arguments("voc", source="bccd")) == 0
    disturbed = {name: content for name, (content, _) in project.written().items()}
    for target in ("inbox", "labels"):
        shutil.rmtree(project.folder / target)
    assert main(project.arguments("voc", source="bccd")) == 0
    assert {name: content for name, (content, _) in project.written().items()} == disturbed


def test_bccd(project: Project, shared: Path, capsys: pytest.CaptureFixture[str]):
    (project.folder / "params.yaml").write_text("classes: [{name: RBC}, {name: WBC}, {name: Platelets}]\n")
    parser = argparse.ArgumentParser()
    import_dataset.configure(parser)
    arguments = project.arguments("voc")[2:]
    assert import_dataset.run(parser.parse_args([str(shared / "data/bccd"), *arguments])) == 0
    said = capsys.readouterr().out
    assert "bccd: 364 images (364 new); 364 labeled" in said
    assert "boxes: Platelets 361, RBC 4155, WBC 372" in said
    assert "its own split: test 72, train 205, val 87" in said
    assert "listed: zero_area_box 2" in said
    assert "Annotations/BloodImage_00338.xml object 13" in said
    assert "Annotations/BloodImage_00343.xml object 4" in said
    lines = (shared / "data/bccd/ImageSets/Main/test.txt").read_text().split()
    assert {name for name, split in project.log("bccd").items() if split == "test"} == {f"{line}.jpg" for line in lines}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("a.jpg", None),
        ("x/a.jpg", "x/a.jpg"),
        ("/somewhere/set/x/a.jpg", "x/a.jpg"),
        ("C:\\set\\y\\a.jpg", "y/a.jpg"),
        ("z/a.jpg", None),
        ("deep/b.jpg", "b.jpg"),
        ("z/d.jpg", None),
    ],
)
def test_finding_an_image_by_the_tail_of_its_path(project: Project, wanted: str, found: str | None):
    for name in ("x/a.jpg", "y/a.jpg", "x/d.jpg", "b.jpg", ".hidden/c.jpg"):
        project.image(name)
    index = ImageIndex(project.set)
    assert index.names == ["b.jpg", "x/a.jpg", "x/d.jpg", "y/a.jpg"]
    match = index.find(wanted, (), "here")
    assert (match if isinstance(match, str) else None) == found
