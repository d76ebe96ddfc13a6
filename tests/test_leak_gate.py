"""The leak gate's look at the pictures: planted leaks in real images stop the run, real images without leaks do not."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from pipelines.core.errors import LeakError, MissingInputError
from pipelines.core.records import read_manifest, read_samples, write_annotations
from pipelines.core.types import Annotation, Box
from pipelines.dataset.alike import MIN_ALIGNED_IN_BURST, RULES, aligned, alike_pairs
from pipelines.dataset.leaks import Lookalikes, Member, find_lookalikes
from pipelines.dataset.looks import THUMBNAIL_PX, Looks, coarse_cells, thumbnail
from pipelines.stages import collect, dataset
from tests.workspace import ROOT, stage_commands

Picture = NDArray[np.uint8]
KNOWN_PAIRS = {("BloodImage_00037.jpg", "BloodImage_00038.jpg"), ("BloodImage_00386.jpg", "BloodImage_00391.jpg")}


def encoded(picture: Picture, quality: int = 95) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def cropped(picture: Picture, left: float, top: float, right: float, bottom: float) -> Picture:
    height, width = picture.shape[:2]
    return picture[round(top * height) : height - round(bottom * height), round(left * width) : width - round(right * width)]


def brightened(picture: Picture, gain: float, grey_levels: float = 0) -> Picture:
    return np.clip(picture.astype(np.float32) * gain + grey_levels, 0, 255).astype(np.uint8)


def decoded(content: bytes) -> Picture:
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), dtype=np.uint8)


COPIES: dict[str, Callable[[bytes], bytes]] = {
    "exact": lambda content: content,
    "other_bytes": lambda content: content + b"\0",
    "reencoded": lambda content: encoded(decoded(content), 40),
    "as_png": lambda content: cv2.imencode(".png", decoded(content))[1].tobytes(),
    "half_size": lambda content: encoded(cv2.resize(decoded(content), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
    "cropped_3_percent_each_side": lambda content: encoded(cropped(decoded(content), 0.03, 0.03, 0.03, 0.03)),
    "cropped_3_percent_at_a_corner": lambda content: encoded(cropped(decoded(content), 0.03, 0.03, 0, 0)),
    "cropped_3_percent_below": lambda content: encoded(cropped(decoded(content), 0, 0, 0, 0.03)),
    "brightened": lambda content: encoded(brightened(decoded(content), 1.3)),
    "lightened": lambda content: encoded(brightened(decoded(content), 1, 50)),
    "darkened": lambda content: encoded(brightened(decoded(content), 0.6)),
    "cropped_brightened_and_reencoded": lambda content: encoded(brightened(cropped(decoded(content), 0.03, 0.03, 0.03, 0.03), 1.2, 10), 60),
}


@pytest.fixture(scope="session")
def clip(shared: Path) -> list[Picture]:
    """Every frame of the clip, at half its size."""
    video = cv2.VideoCapture(str(shared / "data/video/one-by-one-person-detection.mp4"))
    frames: list[Picture] = []
    while (read := video.read())[0]:
        frames.append(np.asarray(cv2.resize(read[1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), dtype=np.uint8))
    return frames


class Project:
    """An inbox whose log gives each file its side, and the stages run on it. Every image is labeled."""

    def __init__(self, folder: Path, params: str = "") -> None:
        self.folder = folder
        (folder / "params.yaml").write_text("classes: [{name: cell}]\n" + params)
        for name in ("data/inbox/lab", "data/fetched"):
            (folder / name).mkdir(parents=True)
        shutil.copytree(ROOT / "data/lists", folder / "data/lists")
        shutil.copyfile(ROOT / "data/models/champion.json", folder / "data/screener.json")
        self.log: list[dict[str, str]] = []

    def add(self, name: str, content: bytes, **columns: str) -> None:
        (self.folder / "data/inbox/lab" / name).write_bytes(content)
        self.log.append({"file": name, **columns})

    def run(self) -> dict[str, object]:
        (self.folder / "data/inbox/lab/log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.log))
        work(self.folder)
        metrics: dict[str, object] = json.loads((self.folder / "data/metrics/dataset.json").read_text())
        return metrics


def places(stage: str, folder: Path) -> argparse.Namespace:
    """A stage's options as dvc.yaml has them, below `folder`."""
    words = shlex.split(stage_commands(ROOT)[stage])
    words = words[words.index("--params") :]
    return argparse.Namespace(**{name.removeprefix("--"): folder / value for name, value in zip(words[::2], words[1::2], strict=True)})


def work(folder: Path) -> None:
    """collect and dataset, with a label for each kept image."""
    collect.work(places("collect", folder))
    kept = read_manifest(folder / "data/raw/manifest.parquet").filter(pl.col("status") == "kept")
    box = (Box("cell", (1.0, 1.0, 9.0, 9.0)),)
    labels = [Annotation(row["image_id"], "labeled", row["width_px"], row["height_px"], box, "lab") for row in kept.iter_rows(named=True)]
    write_annotations(folder / "data/labels/annotations.jsonl", labels)
    dataset.work(places("dataset", folder))


@pytest.fixture
def smears(shared: Path, tmp_path: Path) -> Project:
    """20 blood smears, 12 in train, 4 in val, 4 in test."""
    project = Project(tmp_path)
    names = sorted(path.name for path in (shared / "data/bccd/JPEGImages").glob("*.jpg"))[60:80]
    for number, name in enumerate(names):
        side = "train" if number < 12 else "val" if number < 16 else "test"
        project.add(f"{side}{number}.jpg", (shared / "data/bccd/JPEGImages" / name).read_bytes(), split=side)
    return project


def test_without_a_plant_the_run_goes_through(smears: Project) -> None:
    assert smears.run()["dropped"] == 0


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize(
    ("original", "planted_in"), [("test17.jpg", "train"), ("train3.jpg", "test"), ("val13.jpg", "train")], ids=lambda value: value
)
def test_a_planted_copy_stops_the_run_and_is_named(smears: Project, copy: str, original: str, planted_in: str) -> None:
    content = COPIES[copy]((smears.folder / "data/inbox/lab" / original).read_bytes())
    smears.add("plant.png" if copy == "as_png" else "plant.jpg", content, split=planted_in)
    with pytest.raises(LeakError, match="1 leak (in|between)") as caught:
        smears.run()
    assert f"lab/{original} ({original.rstrip('.jpg0123456789')})" in str(caught.value)
    assert f"({planted_in})" in str(caught.value)
    assert "plant." in str(caught.value)
    assert "dataset.leave_out" in str(caught.value)
    assert not (smears.folder / "data/dataset").exists()


@pytest.mark.parametrize("first", range(0, 1380, 138))
def test_a_planted_next_frame_of_the_clip_stops_the_run(smears: Project, clip: list[Picture], first: int) -> None:
    smears.add("frame.jpg", encoded(clip[first]), split="train")
    smears.add("next.jpg", encoded(clip[first + 1], 80), split="test")
    with pytest.raises(LeakError, match=r"lab/next.jpg \(test\) and lab/frame.jpg \(train\): alike"):
        smears.run()


def test_frames_of_one_moment_are_held_to_a_lower_bar(smears: Project, clip: list[Picture]) -> None:
    """A person who walks: frames 300 ms apart pass by their pictures alone, and are named where the log tells their times."""
    a, b = walking(clip)
    smears.add("frame.jpg", encoded(a), split="train")
    smears.add("later.jpg", encoded(b), split="test")
    smears.run()
    for name, moment in (("frame.jpg", "2026-03-01T10:00:00.000Z"), ("later.jpg", "2026-03-01T10:00:00.300Z")):
        next(row for row in smears.log if row["file"] == name)["captured_at"] = moment
    shutil.rmtree(smears.folder / "data/work/dataset")  # pairs that passed are not looked at again
    with pytest.raises(LeakError, match=r"lab/later.jpg \(test\) and lab/frame.jpg \(train\)|lab/frame.jpg \(train\) and lab/later.jpg \(test\)"):
        smears.run()


@pytest.mark.parametrize(
    ("moments", "expected"),
    [(("2026-03-01", "2026-03-01"), 0), (("2026-03-01T10:00:00", "2026-03-01T10:00:02Z"), 1), (("2026-03-01T10:00:00", "2026-03-01T10:00:03"), 0)],
    ids=["a_day_is_no_moment", "two_seconds", "three_seconds"],
)
def test_what_counts_as_one_moment(clip: list[Picture], moments: tuple[str, str], expected: int) -> None:
    a, b = walking(clip)
    looks = {"a": thumbnail(encoded(a), (384, 216), "a"), "b": thumbnail(encoded(b), (384, 216), "b")}
    members = [Member(name, name, side, "cam", moment, False, None) for name, side, moment in zip("ab", ("train", "test"), moments, strict=True)]
    assert len(lookalikes(members, looks)) == expected
    # the stamp of an upload: a hundred others share it
    crowd = [Member(f"c{number}", "c", "train", "cam", moments[0], False, None) for number in range(100)]
    others = {member.image_id: np.random.default_rng(int(member.image_id[1:])).bytes(THUMBNAIL_PX**2) for member in crowd}
    assert not lookalikes([*members, *crowd], {**looks, **others})


def lookalikes(members: list[Member], looks: dict[str, bytes]) -> list[Lookalikes]:
    """The pairs that the gate finds among members whose thumbnails are `looks`."""
    thumbnails = np.stack([np.frombuffer(content, np.uint8).reshape(THUMBNAIL_PX, THUMBNAIL_PX) for content in looks.values()])
    schema = {name: pl.Boolean if name == "given" else pl.String for name in Member.__annotations__}
    table = pl.DataFrame([vars(member) for member in members], schema=schema)
    places = [list(looks).index(member.image_id) for member in members]
    return find_lookalikes(table.with_columns(place=pl.Series(places, dtype=pl.Int64)), thumbnails, coarse_cells(thumbnails))


def walking(clip: list[Picture]) -> tuple[Picture, Picture]:
    """The first two frames, three apart, whose alignment is worse than alike and better than chance."""
    looks = stacked(encoded(frame) for frame in clip)
    scores = ((index, aligned(looks[index], looks[index + 3])) for index in range(len(looks) - 3))
    index = next(index for index, score in scores if MIN_ALIGNED_IN_BURST + 0.03 < score < 0.87)
    return clip[index], clip[index + 3]


def test_every_next_frame_of_the_clip_is_alike(clip: list[Picture]) -> None:
    looks = stacked(encoded(frame) for frame in clip[::7])
    following = stacked(encoded(frame, 80) for frame in clip[1::7])
    missed = [index for index, (a, b) in enumerate(zip(looks, following, strict=False)) if not any(alike(np.stack([a, b]), [0], [1]))]
    assert not missed


def stacked(contents: Iterator[bytes]) -> Picture:
    looks = [np.frombuffer(thumbnail(content, (384, 216), "frame"), np.uint8).reshape(THUMBNAIL_PX, THUMBNAIL_PX) for content in contents]
    return np.stack(looks)


def alike(looks: Picture, first: list[int], second: list[int]) -> list[tuple[int, int]]:
    return [(pair.a, pair.b) for pair in alike_pairs(looks, coarse_cells(looks), np.array(first), np.array(second))]


# --- no false stops


def blood_cells(shared: Path, folder: Path, params: str = "") -> Project:
    """All of BCCD, each image on the side that its own lists give it."""
    project = Project(folder, params)
    source = shared / "data/bccd"
    for side in ("train", "val", "test"):
        for name in (source / f"ImageSets/Main/{side}.txt").read_text().split():
            project.add(f"{name}.jpg", (source / f"JPEGImages/{name}.jpg").read_bytes(), split=side)
    return project


def test_bccd_stops_for_two_true_pairs_and_for_nothing_else(shared: Path, tmp_path: Path) -> None:
    """00037/00038 is one field refocused; 00386/00391 one field moved by 27 pixels: the same white cell with the same neighbours."""
    with pytest.raises(LeakError, match="2 leaks") as caught:
        blood_cells(shared, tmp_path).run()
    assert all(name in str(caught.value) for pair in KNOWN_PAIRS for name in pair)
    (tmp_path / "params.yaml").write_text("classes: [{name: cell}]\ndataset: {leave_out: [lab/BloodImage_00038.jpg, lab/BloodImage_00386.jpg]}\n")
    work(tmp_path)
    metrics = json.loads((tmp_path / "data/metrics/dataset.json").read_text())
    assert {(row["origin"], row["like"][0]["origin"], row["like"][0]["split"]) for row in metrics["left_out"]} == {
        ("lab/BloodImage_00038.jpg", "lab/BloodImage_00037.jpg", "val"),
        ("lab/BloodImage_00386.jpg", "lab/BloodImage_00391.jpg", "test"),
    }
    assert sum(metrics["splits"][side]["images"] for side in ("train", "val", "test")) == 362


def test_any_split_of_bccd_is_free_of_false_stops(shared: Path) -> None:
    """All 66,066 pairs of images, not only those across BCCD's own lists."""
    paths = sorted((shared / "data/bccd/JPEGImages").glob("*.jpg"))
    looks = np.stack([np.frombuffer(thumbnail(path.read_bytes(), (640, 480), path.name), np.uint8) for path in paths])
    everyone = list(range(len(paths)))
    pairs = {(paths[a].name, paths[b].name) for a, b in alike(looks.reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX), everyone, everyone) if a < b}
    assert pairs == KNOWN_PAIRS


# --- what passed once is not looked at again


def test_only_new_images_are_read_again(smears: Project) -> None:
    smears.run()
    work = smears.folder / "data/work/dataset"
    sides = {side: read_samples(smears.folder / f"data/dataset/{side}.jsonl") for side in ("train", "val", "test")}
    looks = Looks(work)
    passed = dict(zip(looks.places["image_id"], looks.passed(RULES), strict=True))
    assert passed == {sample.image_id: side for side, samples in sides.items() for sample in samples}
    assert looks.passed("other rules").is_null().all()
    old = sides["train"][0]
    (smears.folder / "data/raw" / old.path).unlink()
    wanted = pl.DataFrame([{name: getattr(old, name) for name in ("image_id", "path", "width_px", "height_px")}])
    Looks(work).require(wanted, smears.folder / "data/raw")  # it is known, so its file is not wanted
    with pytest.raises(MissingInputError, match=f"{old.image_id}.jpg is missing"):
        Looks(smears.folder / "elsewhere").require(wanted, smears.folder / "data/raw")


def test_a_lost_or_torn_work_folder_changes_nothing(smears: Project) -> None:
    """Each file of it cut in half or gone: the next run makes it anew, and the dataset stays the same."""
    smears.run()
    before = {path.name: path.read_bytes() for path in (smears.folder / "data/dataset").iterdir()}
    folder = smears.folder / "data/work/dataset"
    whole = {path.relative_to(folder): path.read_bytes() for path in folder.glob("*/*")}
    assert {path.name.partition("-")[0] for path in whole} == {"ids", "thumbnails.bin", "cells.bin", "passed", "annotations", "assignments"}
    for name in whole:
        for content in (None, whole[name][: len(whole[name]) // 2]):
            (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
            smears.run()
            assert {path.name: path.read_bytes() for path in (smears.folder / "data/dataset").iterdir()} == before
            assert {path.relative_to(folder): path.read_bytes() for path in folder.glob("*/*")} == whole


def test_looks_of_images_that_left_are_forgotten_in_the_end(tmp_path: Path) -> None:
    """Known looks survive when the others go; which they do once they are the most of many."""
    names = [f"{number:05d}" for number in range(9000)]
    pictures = np.random.default_rng(0).integers(0, 255, (len(names), THUMBNAIL_PX**2), dtype=np.uint8)
    looks = Looks(tmp_path)
    looks.add(pl.Series("image_id", names), [picture.tobytes() for picture in pictures])
    wanted = pl.DataFrame({"image_id": names[:500], "path": "gone.jpg", "width_px": 9, "height_px": 9})
    looks.require(wanted, tmp_path)
    again = Looks(tmp_path)
    assert again.places["image_id"].to_list() == names[:500]
    assert np.array_equal(again.thumbnails.reshape(500, -1), pictures[:500])


def test_pairs_that_passed_are_left_alone_and_new_ones_are_not() -> None:
    """Two twins whose sides passed before are not compared again; when one of them is new to its side, they are."""
    picture = np.random.default_rng(0).integers(0, 255, (THUMBNAIL_PX, THUMBNAIL_PX), dtype=np.uint8)
    looks = {"a": picture.tobytes(), "b": picture.tobytes()}
    for passed, expected in ((("train", "test"), 0), (("train", None), 1), ((None, "test"), 1), (("test", "test"), 1)):
        members = [
            Member(image_id, f"{image_id}.jpg", side, "cam", None, False, before)
            for image_id, side, before in zip("ab", ("train", "test"), passed, strict=True)
        ]
        assert len(lookalikes(members, looks)) == expected


def test_a_record_of_sides_that_was_edited_by_hand_stops_the_run(smears: Project) -> None:
    """A near-duplicate that was dealt with its twin is moved to test in the assignments file."""
    smears.add("twin.jpg", COPIES["reencoded"]((smears.folder / "data/inbox/lab/train3.jpg").read_bytes()), split="train")
    smears.run()
    path = smears.folder / "data/splits/assignments.jsonl"
    twin = read_manifest(smears.folder / "data/raw/manifest.parquet").filter(pl.col("origin") == "lab/twin.jpg")["image_id"][0]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, **({"split": "test"} if line["image_id"] == twin else {})}) + "\n" for line in lines))
    with pytest.raises(LeakError, match="1 images on another side than those they were dealt with") as caught:
        smears.run()
    assert f"{twin} (test)" in str(caught.value)


@pytest.mark.parametrize("copy", [name for name in COPIES if name != "exact"])
def test_a_crop_that_collect_does_not_link_stops_the_run_when_it_comes_later(smears: Project, copy: str) -> None:
    """A later copy of a test image, on no list: it follows the test image where collect links them, else it stops the run before it enters train."""
    smears.run()
    content = COPIES[copy]((smears.folder / "data/inbox/lab/test17.jpg").read_bytes())
    smears.add("later.png" if copy == "as_png" else "later.jpg", content)
    stopped = ""
    try:
        smears.run()
    except LeakError as error:
        stopped = str(error)
    test = read_samples(smears.folder / "data/dataset/test.jsonl")
    assert "lab/later." in stopped or len(test) == 5, "it stands beside its original"
