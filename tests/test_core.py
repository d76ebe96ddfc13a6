"""Core: params, atomic files, records, boxes, matching, contract, the error boundary."""

from __future__ import annotations

import errno
import json
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cli import main
from pipelines.core import boxes, io, records
from pipelines.core.cli import run_guarded
from pipelines.core.collect_params import StoreSource, VideoSource
from pipelines.core.columns import detection_columns, truth_columns
from pipelines.core.contract import ModelContract, class_hash, require_appended
from pipelines.core.errors import ClassContractError, DataError, MissingInputError, ParamsError, counted, listed
from pipelines.core.matching import greedy_match
from pipelines.core.params import load_params
from pipelines.core.types import Annotation, Box, Detections, Sample

ROOT = Path(__file__).resolve().parents[1]
MINIMAL = "classes:\n  - name: a\n"


def params_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return path


def test_the_shipped_params_load() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.class_names == ("bolt", "nut", "washer")
    assert params.class_of["screw"] == "bolt"


def test_yaml_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    assert load_params(params_file(tmp_path, MINIMAL + "train: {lr0: 1e-3, device: 0}\n")).train.lr0 == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no mapping"),
        ("classes: [", "is not YAML"),
        ("train: {}\n", "classes is missing"),
        (MINIMAL + "trian: {}\n", "trian is unknown"),
        (MINIMAL + "train: {epoch: 3}\n", "train.epoch is unknown"),
        (MINIMAL + "train: {epochs: '3'}\n", "train.epochs = '3'"),
        (MINIMAL + "train: {epochs: 0}\n", "train.epochs = 0"),
        (MINIMAL + "train: {device: gpu}\n", "train.device = 'gpu'"),
        (MINIMAL + "train: {input_wh: [320, 250]}\n", "train.input_wh"),
        (MINIMAL + "train: {input_wh: oblong}\n", "train.input_wh"),
        (MINIMAL + "labeling: {resolve: newest}\n", "labeling.resolve = 'newest'"),
        (MINIMAL + "labeling: {resolve: newest}\n", "wanted one of latest, consensus, ground_truth"),
        (MINIMAL + "mine: {folds: 1}\nverify: {match_iou: {fp32: 0.5}}\n", "one fold leaves nothing .*; verify.match_iou: a value for fp16, int8"),
        (MINIMAL + "train: {epochs: 3.0, lr0: .nan}\ntrian: {}\n", "train.epochs = 3.0: .*; train.lr0 = nan: .*; trian is unknown"),
        (MINIMAL + "train: {mosaic: true}\n", "train.mosaic = True"),
        (MINIMAL + "collect: {sources: [{name: x, type: file}]}\n", "collect.sources.0 = .*'file', wanted one of files, video, log, urls, store"),
        (MINIMAL + "collect: {sources: [{name: x, type: video, pth: a}]}\n", "sources.0.path is missing: .*; collect.sources.0.pth is unknown"),
        (MINIMAL + "collect: {sources: [&a {name: x, type: files, path: y}, *a]}\n", "collect.sources: the names \\['x'\\] stand twice"),
        (MINIMAL + "dataset: {val_fraction: 0.5, test_fraction: 0.5}\n", "leave nothing to train on"),
        (MINIMAL + "labeling: {images: 's3://bucket/raw'}\n", "labeling.images = 's3://bucket/raw': wanted `upload`, or an address with {path}"),
        (MINIMAL + "labeling: {images: 's3://bucket/{file}'}\n", "labeling.images = .*wanted `upload`"),
        (MINIMAL + "labeling: {images: 's3://bucket/{path.name}'}\n", "labeling.images = .*wanted `upload`"),
        (MINIMAL + "labeling: {images: 's3://bucket/{path'}\n", "labeling.images = .*wanted `upload`"),
        (MINIMAL + "labeling: {images: ''}\n", "labeling.images = ''"),
        (MINIMAL + "mine: {splits: []}\n", "mine.splits = \\[\\]"),
        (MINIMAL + "mine: {background_iou: 0.6}\n", "mine.background_iou = 0.6 is above mine.foreground_iou = 0.5"),
        (MINIMAL + "evaluate: {small_area_px: 10000}\n", "evaluate.small_area_px = 10000 is above evaluate.medium_area_px = 9216"),
        (MINIMAL + "evaluate: {dark_below: 200}\n", "evaluate.dark_below = 200 is above evaluate.bright_above = 190"),
        ("classes:\n  - {name: a, aliases: [b]}\n  - name: b\n", "names \\['b'\\] stand twice"),
        (
            "classes:\n  - name: ' a'\n  - name: \"b\\tc\"\n  - name: d e\n",
            "classes: \\[' a', 'b.*tc'\\] have a space at an end or a sign .*: rename",
        ),
    ],
)
def test_bad_params_are_one_line_that_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message) as caught:
        load_params(params_file(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_the_sources_of_params_are_of_their_types(tmp_path: Path) -> None:
    text = (
        MINIMAL
        + "collect: {sources: [{name: x, type: video, path: a.mp4, min_gap_s: 2}, {type: store, name: y, url: 's3://b', options: {k: [1]}}]}\n"
    )
    sources = load_params(params_file(tmp_path, text)).collect.sources
    assert sources == (VideoSource("x", "a.mp4", min_gap_s=2.0), StoreSource("y", "s3://b", {"k": [1]}))


def test_missing_params_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="restore it"):
        load_params(tmp_path / "params.yaml")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    io.write_json(target, {"a": 1})
    with pytest.raises(ValueError, match="NaN|JSON compliant"):
        io.write_json(target, {"a": math.nan})
    with pytest.raises(TypeError):
        io.write_bytes(target, "text")  # type: ignore[arg-type]
    assert json.loads(target.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_metrics_are_rounded_and_nan_is_null(tmp_path: Path) -> None:
    io.write_metrics(tmp_path / "m.json", {"x": np.float32(0.1), "y": math.nan, "z": [1, 0.12345678], "s": "t", "n": None, "b": True})
    assert io.read_json(tmp_path / "m.json") == {"x": 0.1, "y": None, "z": [1, 0.123457], "s": "t", "n": None, "b": True}


@pytest.mark.parametrize("line", ["{", "[1]", '"x"', "\xff", pytest.param("[" * 100_000, id="nested_beyond_measure")])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"a":1}\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(DataError, match="line 2"):
        io.read_jsonl(tmp_path / "x.jsonl")


def test_parquet_of_other_columns_is_refused(tmp_path: Path) -> None:
    io_path = tmp_path / "d.parquet"
    pl.DataFrame({"a": [1]}).write_parquet(io_path)
    with pytest.raises(DataError, match="wanted"):
        records.read_detections(io_path, ["a"])
    io_path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match="not a readable parquet"):
        records.read_detections(io_path, ["a"])


finite = st.floats(0, 1000, width=32)
box = st.tuples(finite, finite, finite, finite)


@given(st.lists(st.tuples(box, st.floats(0, 1, width=32), st.integers(0, 2)), max_size=8))
def test_detections_come_back_best_first(rows: list[tuple[tuple[float, float, float, float], float, int]]) -> None:
    classes = ["a", "b", "c"]
    given_detections = Detections(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([row[2] for row in rows], int),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.parquet"
        records.write_detections(path, {"y": given_detections, "x": Detections.empty()}, classes)
        first = path.read_bytes()
        back = records.read_detections(path, classes)
        records.write_detections(path, back, classes)
        assert path.read_bytes() == first
    assert set(back) == ({"y"} if rows else set())
    if rows:
        order = np.argsort(-given_detections.score, kind="stable")
        np.testing.assert_array_equal(back["y"].xyxy, given_detections.xyxy[order])
        np.testing.assert_array_equal(back["y"].class_index, given_detections.class_index[order])


def test_annotations_have_one_form(tmp_path: Path) -> None:
    one = Annotation("b", "labeled", 10, 20, (Box("z", (1, 2, 3, 4)), Box("a", (0.12345, 0, 5, 5))), "s", ("ann",), ("7",), "2026-01-01T00:00:00Z")
    two = Annotation("a", "verified_empty", 10, 20, (), "s")
    records.write_annotations(tmp_path / "1", [one, two])
    records.write_annotations(tmp_path / "2", records.read_annotations(tmp_path / "1")[::-1])
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert [item.image_id for item in records.read_annotations(tmp_path / "1")] == ["a", "b"]


def test_a_class_outside_the_contract_is_refused() -> None:
    sample = Sample("i", "p", 10, 10, "labeled", (Box("dog", (0, 0, 1, 1)),), "s", "g", None, 1.0)
    with pytest.raises(ClassContractError, match="dog"):
        records.ground_truth(sample, ["cat"])
    assert records.ground_truth(sample, ["cat", "dog"]).class_index.tolist() == [1]


def test_iou_by_hand() -> None:
    a = np.array([[0, 0, 2, 2], [0, 0, 0, 0], [5, 5, 4, 4]], np.float32)
    b = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(boxes.iou_matrix(a, b), [[1 / 7, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert boxes.iou_matrix(np.zeros((0, 4), np.float32), b).shape == (0, 3)


@given(st.lists(box, max_size=5))
def test_layouts_round_trip(rows: list[tuple[float, float, float, float]]) -> None:
    xyxy = np.array(rows, np.float64).reshape(-1, 4)
    np.testing.assert_allclose(boxes.xyxy_from_xywh(boxes.xywh_from_xyxy(xyxy)), xyxy, atol=1e-9)
    centred = boxes.cxcywh_from_xyxy(xyxy)
    np.testing.assert_allclose(centred[:, :2] + centred[:, 2:] * [[0.5, 0.5]], xyxy[:, 2:], atol=1e-9)
    np.testing.assert_allclose(centred[:, :2] - centred[:, 2:] * [[0.5, 0.5]], xyxy[:, :2], atol=1e-9)


@pytest.mark.parametrize(
    ("iou", "expected"),
    [
        (np.zeros((0, 0)), []),
        (np.zeros((2, 0)), [-1, -1]),
        (np.array([[0.6], [0.9]]), [0, -1]),  # the better-scored detection takes the label though the other fits better
        (np.array([[0.6, 0.7], [0.8, 0.9]]), [1, 0]),
        (np.array([[0.5, 0.5]]), [1]),  # pycocotools takes the last of equals
        (np.array([[0.4]]), [-1]),
    ],
    ids=["empty", "no labels", "score wins", "best free", "tie", "below"],
)
def test_greedy_match(iou: np.ndarray, expected: list[int]) -> None:
    assert greedy_match(iou, 0.5).tolist() == expected


def test_contract_round_trip_and_refusals() -> None:
    contract = ModelContract(("a", "b"), (320, 320), "cxcywh_scores")
    assert ModelContract.from_json(json.loads(json.dumps(contract.to_json())), "x") == contract
    assert class_hash(["a", "b"]) != class_hash(["b", "a"])
    with pytest.raises(ClassContractError, match="params.yaml has"):
        contract.require_classes(["b", "a"], "model")
    with pytest.raises(ClassContractError, match="states class hash"):
        ModelContract.from_json({**contract.to_json(), "classes": ["b", "a"]}, "x")
    with pytest.raises(DataError, match="no readable model contract"):
        ModelContract.from_json({"classes": ["a"]}, "x")


@pytest.mark.parametrize(
    ("before", "today"),
    [
        ([], ["a"]),
        (["a", "b"], ["a", "b", "c"]),
        (["a", "b"], ["a", "b2 b"]),
        (["a", "b", "c"], ["a b", "c", "d"]),
        (["a", "b", "c"], ["b a", "c"]),
        (["a", "b", "c"], ["b", "c a"]),
    ],
    ids=["first", "appended", "renamed", "merged into the earlier", "merged into the later", "merged at the later's place"],
)
def test_classes_that_were_appended_renamed_or_merged_pass(before: list[str], today: list[str]) -> None:
    require_appended(before, class_of(today), "x")


@pytest.mark.parametrize(
    "today",
    [["b", "a", "c"], ["a", "c"], ["a", "d", "b", "c"], ["a", "c", "b"], ["b2 b", "a", "c"], ["d", "a b", "c"], ["c", "a b"]],
    ids=["swapped", "removed", "inserted", "the last two", "renamed and moved", "inserted and merged", "merged and moved"],
)
def test_classes_that_were_moved_or_removed_are_refused(today: list[str]) -> None:
    with pytest.raises(ClassContractError, match=r"x (has the classes \['a', 'b', 'c'\]|knows \['b'\]).*append-only.*new ones at the end.*alias"):
        require_appended(["a", "b", "c"], class_of(today), "x")


def class_of(today: list[str]) -> dict[str, str]:
    """As `Params.class_of` of entries `NAME ALIAS …`."""
    return {name: entry.split()[0] for entry in today for name in entry.split()}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DataError("wanted\na thing"), "error: wanted a thing"),
        (OSError(errno.ENOSPC, "x"), "disk is full"),
        (OSError(errno.EROFS, "x", "some/file"), "read-only.*some/file"),
        (PermissionError(errno.EACCES, "x"), "permission denied"),
        (NotADirectoryError(errno.ENOTDIR, "x", "a/file"), "a folder is wanted.*a/file"),
        (IsADirectoryError(errno.EISDIR, "x", "a/folder"), "a file is wanted.*a/folder"),
    ],
)
def test_the_boundary_says_one_line_and_exits_2(error: Exception, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise error

    assert run_guarded(work) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert re.search(text, printed)


def test_a_bug_is_not_swallowed() -> None:
    def work() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        run_guarded(work)


def test_long_lists_are_cut_with_a_count() -> None:
    assert [counted(count, "image") for count in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert listed([str(number) for number in range(25)]).endswith("19; and 5 more")


# ---- columns

FEW = st.integers(0, 3)  # few values, so that rows tie


@given(st.lists(st.tuples(FEW, FEW, FEW, FEW, FEW, FEW, FEW), max_size=30))
def test_columns_stand_in_an_order_of_their_content(rows: list[tuple[int, ...]]) -> None:
    values = np.array(rows, dtype=np.int64).reshape(-1, 7)
    image, class_index, score, xyxy = values[:, 0], values[:, 1], values[:, 2] / 4, values[:, 3:].astype(np.float64)
    labels, found = truth_columns(image, class_index, xyxy), detection_columns(image, class_index, xyxy, score)
    wanted = sorted((image, class_index, *box) for image, class_index, _, *box in rows)
    assert [(*pair, *box) for *pair, box in zip(labels.image.tolist(), labels.class_index.tolist(), labels.xyxy.tolist(), strict=True)] == wanted
    wanted = sorted((image, -score / 4, class_index, *box) for image, class_index, score, *box in rows)
    columns = (found.image.tolist(), (-found.score).tolist(), found.class_index.tolist(), found.xyxy.tolist())
    assert [(*three, *box) for *three, box in zip(*columns, strict=True)] == wanted
    for item in (labels, found):
        assert item.position.tolist() == [item.image[:place].tolist().count(number) for place, number in enumerate(item.image.tolist())]


# ---- the command line


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """`detloop … | head`: more output than a pipe holds, and output that is still in the buffer at the end."""
    for lines in (100_000, 1):
        code = f"import sys; from pipelines.core.cli import run_guarded; sys.exit(run_guarded(lambda: print('x' * 20, *range({lines}))))"
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None
        process.stdout.close()
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (141, b"")


def test_another_broken_pipe_stays_an_error() -> None:
    def work() -> None:
        raise BrokenPipeError(errno.EPIPE, "the server went away")

    with pytest.raises(BrokenPipeError, match="the server went away"):
        run_guarded(work)


def test_the_report_is_found_from_inside_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data/report").mkdir(parents=True)
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    (tmp_path / "data/report/index.html").write_text("<html>")
    monkeypatch.chdir(tmp_path / "data/report")
    assert main(["report"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "data/report/index.html")
