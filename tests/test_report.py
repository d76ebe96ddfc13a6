"""The report: one page that loads nothing, shows the figures that the metrics files hold, and says what was not measured."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.core.cli import run_guarded
from pipelines.report.inputs import METRICS, Inputs, chosen_samples, read_inputs
from pipelines.report.page import SECTIONS, render
from pipelines.stages.report import work
from tests.report_example import KINDS, arguments, write_example

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;"
VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what tests look at."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, attrs)

    def note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice: {names}"
        self.tags.append(tag)
        values = dict(attrs)
        self.attributes.append((tag, values))
        if values.get("id"):
            self.ids.append(str(values["id"]))
        self.links += [str(values[name]) for name in ("src", "href", "action", "data", "srcset", "poster") if values.get(name) is not None]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not set(self.open) & {"style", "script"}:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).replace("\u202f", " ").split())


CLASSES = ("bolt", "nut", "washer")
FOLDERS = ("metrics", "training", "evaluation", "badcases", "dataset", "raw", "release", "challenge")
CHAMPION = Path("data/models/champion.json")


def read(root: Path, classes: tuple[str, ...] = CLASSES, **limits: int) -> Inputs:
    paths = {name: root / "data" / name for name in FOLDERS}
    return read_inputs(classes=classes, champion=root / CHAMPION, **{"gallery_images": 60, **limits}, **paths)


def with_file(inputs: Inputs, name: str, content: Any) -> Inputs:
    return replace(inputs, files={**inputs.files, name: content})


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example(tmp_path_factory.mktemp("example"))


@pytest.fixture
def copy(example: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(example, tmp_path / "copy"))


@pytest.fixture(scope="module")
def inputs(example: Path) -> Inputs:
    return read(example)


@pytest.fixture(scope="module")
def html(inputs: Inputs) -> str:
    return render(inputs)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def run_stage(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pipelines.stages.report", *arguments(root)], capture_output=True, text=True, check=False)


def test_the_stage_writes_two_pages_and_the_same_bytes_again(example: Path, copy: Path) -> None:
    first, second = run_stage(example), run_stage(copy)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    folder = example / "data" / "report"
    assert sorted(path.name for path in folder.iterdir()) == ["cases.html", "index.html"]
    for page in folder.iterdir():
        content = page.read_bytes()
        assert content == (copy / "data" / "report" / page.name).read_bytes()
        assert str(example).encode() not in content, "no path of this machine"
        assert len(content) < 6e6


def test_every_section_stands_and_the_navigation_leads_to_it(page: Page) -> None:
    assert [name for name, _ in SECTIONS] == [item for item in page.ids if item in dict(SECTIONS)]
    anchors = [link[1:] for link in page.links if link.startswith("#")]
    assert {name for name, _ in SECTIONS} <= set(anchors)
    assert set(anchors) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_nothing_is_loaded_from_elsewhere(page: Page, html: str) -> None:
    assert all(link.startswith(("#", "data:")) or link == "cases.html" for link in page.links)
    assert not re.search(r"url\(|@import|https?://|//[a-z]+\.", re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", html))
    policy = next(values["content"] for tag, values in page.attributes if tag == "meta" and values.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'")


def test_pictures_and_charts_have_texts(page: Page) -> None:
    pictures = [values for tag, values in page.attributes if tag == "img" and values["src"] != "data:,"]
    assert pictures
    assert all(str(values["src"]).startswith("data:image/jpeg;base64,") and values["alt"] for values in pictures)
    charts = [values for tag, values in page.attributes if tag == "svg" and values.get("class") == "chart"]
    assert len(charts) >= 12
    assert all(values["aria-label"] and values["role"] == "img" for values in charts)


def test_figures_are_those_of_the_metrics_files(page: Page, example: Path) -> None:
    metrics = {path.stem: json.loads(path.read_text()) for path in (example / "data" / "metrics").iterdir()}
    test = metrics["evaluate"]["test"]
    for key in ("AP", "AP50", "AP75", "AR100"):
        assert f"{test[key] * 100:.1f} %" in page.text
    for row in test["per_class"].values():
        assert f"{row['AP']:.1%}".replace("%", " %") in page.text
    for name, row in test["slices"].items():
        assert name.split("=")[1] in page.text
        assert row["AP50"] is None or f"{row['AP50'] * 100:.1f} %" in page.text
    for row in metrics["collect"]["dropped_by_reason"].values():
        assert all(origin in page.text for origin in row["first"])
    for name, row in metrics["verify"]["artifacts"].items():
        line = rf"{name} . {row['status'].replace('_', ' ')}"
        assert re.search(line, page.text), name
        if row["status"] != "not_run":
            assert f"{row['relative_drop'] * 100:.2f} %" in page.text
        assert row["sha256"][:10] in page.text
    for row in metrics["benchmark"]["runners"].values():
        if row["status"] == "measured":
            assert f"{row['throughput_ips']:.1f}" in page.text
            assert f"{row['size_mb']:.1f} MB" in page.text
    assert "released" in page.text
    assert f"{metrics['release']['default']} ships as the fastest" in page.text
    assert "detloop predict --bundle data/release IMAGES" in page.text
    assert "detloop queue accept" in page.text
    assert "bolt 0 3 15 27 6 0 0 0" in page.text  # box sizes of card.json, three splits together
    assert "best: epoch 37" in page.text


def test_boxes_are_drawn_where_the_labels_are(page: Page, example: Path) -> None:
    samples = [
        json.loads(line) for split in ("train", "val", "test") for line in (example / "data" / "dataset" / f"{split}.jsonl").read_text().splitlines()
    ]
    labels = {tuple(f"{value:.1f}" for value in (b[0], b[1], b[2] - b[0], b[3] - b[1])) for s in samples for b in (box["xyxy"] for box in s["boxes"])}
    drawn = [
        tuple(str(values[name]) for name in ("x", "y", "width", "height"))
        for tag, values in page.attributes
        if tag == "rect" and str(values.get("class")).startswith("box")
    ]
    assert drawn
    assert set(drawn) <= labels


def test_a_rejected_round_says_so_and_why(inputs: Inputs) -> None:
    release = {**inputs.files["release.json"], "verdict": "rejected", "order": [], "default": None}
    release["checks"] = [{"name": "test_ap50", "artifact": None, "value": 0.41, "limit": "at least 0.5", "status": "fail"}]
    page = Page(render(with_file(inputs, "release.json", release)))
    assert "✗ rejected" in page.text
    assert "Nothing ships. AP50 on test is 0.41, wanted at least 0.5." in page.text
    assert "detloop predict" not in page.text


def absences(text: str) -> int:
    found = re.search(r"(\d+) figures? (?:was|were) asked for and not there", text)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("gone", [*(f"metrics/{name}.json" for name in METRICS), "training", "evaluation", "badcases", "dataset", "release", ""])
def test_what_is_missing_is_said_in_place_and_counted(gone: str, copy: Path) -> None:
    target = copy / "data" / gone
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    page = Page(render(read(copy)))
    assert "not measured" in page.text
    assert absences(page.text) >= 1
    if gone.startswith("metrics/"):
        named = page.text[page.text.index("Which ones") :]
        assert Path(gone).name in named
    assert all(name in page.ids for name, _ in SECTIONS)


def test_a_round_with_everything_says_that_nothing_is_missing(inputs: Inputs, page: Page) -> None:
    left = page.text[page.text.index("Not measured in this round") :]
    names = re.findall(r"\w+\.json: \S+", left)
    assert names
    assert len(names) == absences(page.text)
    for name in names:  # each of them is really null or absent in its file
        file, keys = name.split(": ", 1)
        value = inputs.files[file]
        for key in re.findall(r"size=large|cam\d/burst-\d+|[^.]+", keys):
            value = value.get(key) if isinstance(value, dict) else None
        assert value is None, name


OTHER = {
    "test": None,
    "splits": 1,
    "artifacts": [],
    "runners": "x",
    "checks": {},
    "order": None,
    "classes": 4,
    "labels": [3],
    "verdict": 1,
    "default": 2,
}


@pytest.mark.parametrize("value", [{}, [], 3, "text", [[1]], OTHER], ids=str)
def test_files_of_another_shape_are_no_crash(value: Any, inputs: Inputs) -> None:
    inputs = replace(inputs, gallery=[], thumbnails=[])
    for name in inputs.files:
        assert absences(render(with_file(inputs, name, value))) >= (0 if name in ("index.json", "bundle.json") else 1), name


def test_every_single_key_of_the_metrics_may_be_missing_or_odd(inputs: Inputs) -> None:
    inputs = replace(inputs, gallery=[], thumbnails=[])
    for file in (f"{name}.json" for name in METRICS):
        whole = inputs.files[file]
        for key in whole:
            render(with_file(inputs, file, {name: value for name, value in whole.items() if name != key}))
            render(with_file(inputs, file, {**whole, key: "odd"}))


def test_a_figure_that_is_null_is_not_measured_and_named(inputs: Inputs) -> None:
    test = {**inputs.files["evaluate.json"]["test"], "AP75": None, "AP_small": float("nan")}
    page = Page(render(with_file(inputs, "evaluate.json", {**inputs.files["evaluate.json"], "test": test})))
    assert "evaluate.json: test.AP75" in page.text
    assert "evaluate.json: test.AP_small" in page.text
    assert "nan" not in page.text.lower().split()


def test_hostile_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    inputs = read(write_example(tmp_path, classes=(HOSTILE, "nut", "washer")), (HOSTILE, "nut", "washer"))
    origin = "cam1/<svg onload=alert(3)>.jpg"
    files = dict(inputs.files)
    for file, key, value in (
        ("collect.json", "dropped_by_reason", {"count": 1, "first": [origin]}),
        ("verify.json", "artifacts", files["verify.json"]["artifacts"]["openvino_fp32"]),
        ("benchmark.json", "runners", files["benchmark.json"]["runners"]["openvino_fp32"]),
        ("labels.json", "annotators", 3),
    ):
        files[file] = {**files[file], key: {**files[file][key], HOSTILE: value}}
    page = Page(render(replace(inputs, files=files)))
    assert page.tags.count("script") == 1
    assert not any(name.startswith("on") for _, values in page.attributes for name in values)
    assert all(values["src"] != "x" for tag, values in page.attributes if tag == "img")
    assert " ".join(HOSTILE.split()) in page.text
    assert origin in page.text
    options = [values["value"] for tag, values in page.attributes if tag == "option"]
    assert HOSTILE in options
    assert any(HOSTILE in json.loads(str(values["data-class"])) for tag, values in page.attributes if tag == "figure" and "data-class" in values)


def test_the_verdict_its_figures_and_the_history_are_shown(page: Page) -> None:
    start = page.text.index("Champion and candidate", page.text.index("What a threshold costs"))
    section = page.text[start : page.text.index("Bad cases", start)]
    assert "✓ promote the whole test set gained +7.1 points of AP" in section
    assert "whole test set 45.0 % 52.1 % +7.1 % +4.1 % to +10.1 % 70.0 % 77.1 % +7.1 %" in section
    assert "brightness dark 45.0 % 44.0 % \u22121.0 % not judged" in section
    assert "1.3 % of AP50 lost on average over the 2 classes" in section
    assert "champion 1 45.0 % 60.0 % 60 190 0 2 0 ○ first" in section
    assert f"00000003 {KINDS[3]}" in section
    assert section.index("00000003") < section.index("00000002") < section.index("00000000"), "what regressed stands first"
    labels = [str(values["aria-label"]) for tag, values in page.attributes if tag == "svg" and values.get("class") == "chart"]
    assert any("champion 2: AP 59.0\u202f% with 380 boxes; this model" in label for label in labels)
    assert any(label.startswith("Items of the regression suite: champion 1: 0 right; champion 2: 1 right; this model: 2 right") for label in labels)


@pytest.mark.parametrize(
    ("verdict", "same_model", "said"), [("promote", False, True), ("first", False, True), ("promote", True, False), ("reject", False, False)]
)
def test_the_next_steps_name_promotion_where_the_gate_allows_it(verdict: str, same_model: bool, said: bool, inputs: Inputs) -> None:
    challenge = {**inputs.files["challenge.json"], "verdict": verdict, "same_model": same_model}
    assert ("<pre>detloop promote</pre>" in render(with_file(inputs, "challenge.json", challenge))) == said


def test_commands_in_messages_are_code(page: Page, html: str) -> None:
    assert '<td class="why">there is no champion yet: <code>detloop promote</code> makes this model the first</td>' in html
    assert "`" not in page.text


def test_without_a_champion_the_report_says_so(inputs: Inputs) -> None:
    first = {"verdict": "first", "champion": None, "reasons": ["there is no champion yet"], "notes": [], "suite": {"items": 0}}
    files = {**inputs.files, "challenge.json": first, "champion.json": {"champion": None, "champions": [], "seed_noise": []}}
    page = Page(render(replace(inputs, files=files, suite=[], suite_results=[])))
    assert "○ first there is no champion yet" in page.text
    assert "None yet. detloop promote makes" in page.text


def int8_section(page: Page) -> str:
    start = page.text.index("Layers of int8 that went back to float")
    return page.text[start : page.text.index("Gate Each check", start)]


def test_which_int8_layers_went_back_to_float_and_what_they_cost_is_shown(page: Page) -> None:
    section = int8_section(page)
    assert "3 of 81. Without them in float: AP is 6.05% below float32's, 1.00% is allowed." in section
    assert "none put back ✗ fail 48.1 % 6.05 % 9.07 % washer 7.21 ms 4.10 ms" in section
    assert "3 put back ✓ pass 50.8 % 0.86 % 1.29 % washer 7.35 ms +1.9 % 4.63 ms +12.9 %" in section
    assert section.index("/model.23/cv3.0/conv/Conv") < section.index("/model.0/conv/Conv"), "the most sensitive first"


def test_what_went_back_to_float_is_shown_where_its_latency_is_not_known(inputs: Inputs) -> None:
    benchmark = {**inputs.files["benchmark.json"], "fallback_cost": {}}
    section = int8_section(Page(render(with_file(inputs, "benchmark.json", benchmark))))
    assert "not measured: what these layers cost in latency" in section
    assert "3 put back ✓ pass 50.8 % 0.86 % 1.29 % washer not measured" in section


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fallback": None}, "None: nothing on val asked for it."),
        (
            {"fallback": None, "passes": None, "AP": None, "relative_drop": None, "per_class": {}},
            "none put back nothing to compare not measured",
        ),
        (
            {"fallback": {"needed": True, "float_layers": [], "quantized_layers": 81, "before": {"reasons": ["it lost AP"]}}},
            "putting up to 40 of its 81 layers",
        ),
    ],
    ids=["passed", "no labels", "in vain"],
)
def test_int8_that_kept_all_its_layers_says_why(change: dict[str, Any], said: str, inputs: Inputs) -> None:
    section = int8_section(Page(render(with_file(inputs, "quantize_int8.json", {**inputs.files["quantize_int8.json"], **change}))))
    assert said in section
    assert "most sensitive first" not in section


def test_a_leak_between_the_sides_is_shown(inputs: Inputs, page: Page) -> None:
    assert "0 images stand and 0 groups stand on two sides" in page.text
    leaky = {**inputs.samples, "train": [*inputs.samples["train"], inputs.samples["test"][0]]}
    text = Page(render(replace(inputs, samples=leaky))).text
    assert re.search(r"✗ fail Of \d+ images", text)
    assert "1 image stands and 1 group stands on two sides" in text


def test_the_drift_and_what_was_left_out_are_shown(inputs: Inputs, page: Page) -> None:
    assert "in the pool and not proposed, near-duplicates of labeled images: 2" in page.text
    text = page.text
    assert "Against the dataset of round 1: images train 10 to 12, val 10 to 12, test 10 to 12." in text
    assert re.search(r"images by source 12\.5\s%", text)
    assert re.search(r"cam1/0003.jpg ?, like cam1/0004.jpg \(test\)", text)
    first = replace(inputs, files={**inputs.files, "card.json": {**inputs.files["card.json"], "drift": None}})
    assert "This is the first round: nothing to compare with." in render(first)


def test_lines_of_the_lists_that_did_nothing_are_shown(page: Page) -> None:
    assert re.search(r"lines of pick.txt without a file: 1 cam1/ghost.jpg", page.text)
    assert re.search(r"on both lists, and so rejected: 1 cam1/both.jpg", page.text)
    assert "reject.txt" not in page.text
    assert re.search(r"not read, since a source is a file NAME.json or NAME.jsonl: 1 export.zip", page.text)


def test_pictures_that_do_not_fit_are_counted(example: Path) -> None:
    index = json.loads((example / "data" / "badcases" / "gallery" / "index.json").read_text())
    few = read(example, gallery_images=3)
    assert (len(few.gallery), few.gallery_left_out) == (3, len(index) - 3)
    assert f"{len(index) - 3} in data/badcases/gallery" in Page(render(few)).text
    none = read(example, pictures_bytes=0)
    assert (len(none.gallery), none.gallery_left_out) == (0, len(index))


def test_thumbnails_show_every_class_and_an_empty_image(inputs: Inputs) -> None:
    chosen = chosen_samples(inputs.samples, CLASSES, 8)
    assert len(chosen) == len({sample.image_id for _, sample in chosen}) == 8
    assert {box.class_name for _, sample in chosen for box in sample.boxes} == set(CLASSES)
    assert any(sample.state == "verified_empty" for _, sample in chosen)
    assert chosen_samples({}, CLASSES, 8) == []


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda data: (data / "metrics" / "evaluate.json").write_text("{"), "evaluate.json is not JSON"),
        (lambda data: (data / "badcases" / "badcases.jsonl").write_text("no"), "badcases.jsonl line 1 is not JSON"),
        (lambda data: (data / "training" / "plots" / "metrics" / "lr.tsv").write_text("a\tb\n1\t2\n"), "lr.tsv has columns"),
        (lambda data: next((data / "badcases" / "gallery").glob("*.jpg")).unlink(), "is missing: run `dvc repro`"),
        (lambda data: next((data / "badcases" / "gallery").glob("*.jpg")).write_bytes(b"\xff\xd8\xff"), "is not a readable image"),
        (lambda data: (data / "badcases" / "gallery" / "index.json").write_text('[{"kinds": {}}]'), "index.json"),
    ],
    ids=["metrics", "jsonl", "curves", "picture-gone", "picture-broken", "index"],
)
def test_a_broken_file_is_one_line_and_the_old_report_stays(
    break_it: Callable[[Path], object], said: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = copy / "data" / "report" / "index.html"
    old.parent.mkdir(exist_ok=True)
    old.write_text("old")
    break_it(copy / "data")
    paths = {name: copy / "data" / name for name in (*FOLDERS, "report")}
    args = argparse.Namespace(params=copy / "params.yaml", champion=copy / CHAMPION, **paths)
    assert run_guarded(lambda: work(args)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert len(error.splitlines()) == 1
    assert old.read_text() == "old"


def test_the_command_prints_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 2
    assert "data/report/index.html is missing: run `dvc repro`" in capsys.readouterr().err
    path = tmp_path / "data" / "report" / "index.html"
    path.parent.mkdir(parents=True)
    path.write_text("<!doctype html>")
    assert main(["report"]) == 0
    assert capsys.readouterr().out == f"{path.resolve()}\n"


def test_the_command_opens_a_browser_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(0o755)
    path = tmp_path / "data" / "report" / "index.html"
    path.parent.mkdir(parents=True)
    path.write_text("<!doctype html>")
    script = "import sys; from pipelines.cli import main; sys.exit(main(['report', '--open']))"
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"BROWSER": str(browser), "PATH": "/usr/bin:/bin", "PYTHONPATH": root},
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert seen.read_text().strip() == path.resolve().as_uri()
