"""The page of bad cases: what is cut out and drawn, and ten thousand cases in a real browser, by mouse and by keyboard."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.core.errors import MissingInputError
from pipelines.core.types import Sample
from pipelines.report.cases import Cases, read_cases
from pipelines.report.page import render_cases
from tests.browser import LEAVE_ANSWER, answer_of, needs_chromium
from tests.test_report import HOSTILE
from tests.test_report_browser import LISTEN

IMAGE = "ab" * 32
GREEN, GREY = (0, 255, 0), (120, 120, 120)
MANY = 10_000


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """A grey image of 400 x 300 with a green square at (100, 80) to (140, 120)."""
    image = np.full((300, 400, 3), GREY, np.uint8)
    image[80:120, 100:140] = GREEN
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return Sample(IMAGE, "a.png", 400, 300, "labeled", (), "cam1", "g", None, 120.0)


def row(**changes: Any) -> dict[str, Any]:
    plain = {
        "image_id": IMAGE,
        "split": "test",
        "kind": "location",
        "class": "nut",
        "predicted_class": "nut",
        "score": 0.8,
        "iou": 0.4,
        "box": [110.0, 80.0, 150.0, 120.0],
        "truth_box": [100.0, 80.0, 140.0, 120.0],
        "slice": {"source": "cam1", "brightness": "normal", "size": "medium"},
        "rank_score": 0.8,
    }
    return {**plain, **changes}


def test_both_boxes_lie_where_they_are_in_the_cut(sample: Sample, tmp_path: Path) -> None:
    case = read_cases([row()], [sample], tmp_path, 10).rows[0]
    width, height = case["wh"]
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(case["jpeg"]), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape[:2] == (height, width)
    left, top, wide, high = (value * side for value, side in zip(case["label"], (width, height) * 2, strict=True))
    green = np.argwhere((picture[..., 1] > 190) & (picture[..., 0] < 90))
    assert green.min(axis=0) == pytest.approx([top, left], abs=2)
    assert green.max(axis=0) + 1 == pytest.approx([top + high, left + wide], abs=2)
    assert case["found"][0] - case["label"][0] == pytest.approx(10 / 120, abs=0.001)  # 10 px in a window of 50 px and 35 on each side
    assert case["found"][2:] == pytest.approx(case["label"][2:])


@pytest.mark.parametrize(
    "changes",
    [
        {"box": None, "kind": "missed", "score": None},
        {"truth_box": None, "kind": "background", "class": None},
        {"truth_box": [0.0, 0.0, 400.0, 300.0]},
        {"box": [-30.0, -30.0, 5.0, 5.0]},
        {"box": [399.0, 299.0, 430.0, 330.0], "truth_box": None},
        {"box": [10.0, 10.0, 10.0, 10.0], "truth_box": None},
    ],
    ids=["no detection", "no label", "whole image", "past the corner", "past the other corner", "without area"],
)
def test_odd_boxes_have_a_picture(changes: dict[str, Any], sample: Sample, tmp_path: Path) -> None:
    case = read_cases([row(**changes)], [sample], tmp_path, 10).rows[0]
    assert ("found" in case, "label" in case) == (row(**changes)["box"] is not None, row(**changes)["truth_box"] is not None)
    assert max(case["wh"]) == 288
    assert len(case["jpeg"]) > 100


def test_the_worst_stay_and_the_rest_is_counted(sample: Sample, tmp_path: Path) -> None:
    cases = read_cases([row(rank_score=score / 10, score=score / 10) for score in range(10)], [sample], tmp_path, 3)
    assert [case["score"] for case in cases.rows] == [0.9, 0.8, 0.7]
    assert cases.left_out == 7
    assert "7 more in data/badcases/badcases.jsonl" in render_cases(cases)
    assert read_cases([], [sample], tmp_path, 3) == Cases((), 0)
    with pytest.raises(MissingInputError, match=r"a\.png"):
        read_cases([row()], [sample], tmp_path / "nowhere", 3)


PLAY = """<script>
const view = document.getElementById("view"), form = document.getElementById("filters"), dialog = document.getElementById("large");
const cards = () => [...document.querySelectorAll(".case")];
const at = () => Number(document.activeElement.dataset.position);
const settle = () => new Promise((done) => setTimeout(done, 1));
const key = async (name, target = document.activeElement) => {
  target.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true })); await settle();
};
const set = async (name, value) => {
  form.elements[name].value = value; form.dispatchEvent(new Event("input")); await settle(); return document.getElementById("count").textContent;
};
const answer = {};
(async () => {
  await settle();
  answer.start = document.getElementById("count").textContent;
  answer.cards = [cards().length];
  answer.rects = cards()[0].querySelectorAll("rect").length;
  cards()[0].focus();
  const columns = Math.floor((document.getElementById("grid").clientWidth + 12) / 212);
  answer.moves = [];
  for (const name of ["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "ArrowUp", "End", "ArrowRight", "Home"]) {
    await key(name); answer.moves.push(at());
  }
  answer.columns = columns;
  for (let step = 0; step < 60; step += 1) {
    view.scrollTop = (view.scrollHeight * step) / 60;
    view.dispatchEvent(new Event("scroll")); await settle();
    answer.cards.push(cards().length);
  }
  view.scrollTop = view.scrollHeight; view.dispatchEvent(new Event("scroll")); await settle();
  answer.last = Math.max(...cards().map((card) => Number(card.dataset.position)));
  answer.kind = await set("kind", "missed");
  answer.score = await set("low", "0.5");
  await set("kind", ""); await set("low", "0");
  answer.hostile = await set("class", HOSTILE);
  answer.option = form.elements.class.value === HOSTILE;
  answer.source = await set("source", "cam2");
  form.reset(); await new Promise((done) => setTimeout(done, 20)); await settle();
  answer.again = document.getElementById("count").textContent;
  await set("order", "score");
  answer.first = cards()[0].textContent;
  cards()[4].click(); await settle();
  answer.open = dialog.open;
  answer.places = [];
  for (const name of ["ArrowRight", "ArrowLeft", "ArrowLeft", ""]) {
    answer.places.push(dialog.querySelector(".place").textContent); await key(name, dialog);
  }
  answer.large = dialog.querySelectorAll(".picture rect").length;
  answer.text = dialog.querySelector(".text").textContent;
  dialog.querySelector(".close").click(); await settle();
  answer.focus = at();
  await key("/", document.body);
  answer.slash = document.activeElement.name;
  answer.requests = performance.getEntriesByType("resource").map((entry) => entry.name).filter((name) => !name.startsWith("data:"));
  answer.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
})().catch((error) => problems.push(String(error))).then(() => {
  answer.problems = problems;
ANSWER});
</script>""".replace("ANSWER", LEAVE_ANSWER)


def many_cases() -> Cases:
    """Ten thousand cases of all kinds with small pictures; each has a label and a detection but the missed and the background ones."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (14, 14, 3)).astype(np.uint8) for _ in range(50)]
    pictures = [base64.b64encode(cv2.imencode(".jpg", image)[1].tobytes()).decode() for image in noise]
    rows = []
    for number in range(MANY):
        kind = ("class", "location", "both", "duplicate", "background", "missed")[number % 6]
        name = (HOSTILE, "nut", "washer")[number % 3]
        rows.append(
            {
                "kind": kind,
                "class": None if kind == "background" else name,
                "predicted_class": None if kind == "missed" else name,
                "score": None if kind == "missed" else round(1 - number / MANY, 4),
                "iou": None,
                "split": "test",
                "ap50_gain": 0.001,
                "rank_score": round(1 - number / MANY, 4),
                "source": f"cam{number % 4}",
                "brightness": "normal",
                "size": "small",
                "image": f"{number:012x}",
                "wh": (112, 112),
                **({} if kind == "background" else {"label": [0.2, 0.2, 0.5, 0.5]}),
                **({} if kind == "missed" else {"found": [0.25, 0.25, 0.5, 0.5]}),
                "jpeg": pictures[number % len(pictures)],
            }
        )
    return Cases(tuple(rows), 0)


@needs_chromium
def test_ten_thousand_cases_in_a_browser(tmp_path: Path) -> None:
    html = render_cases(many_cases())
    play = PLAY.replace("HOSTILE", json.dumps(HOSTILE).replace("</", "<\\/"))
    (tmp_path / "page.html").write_text(html.replace("<head>", f"<head>{LISTEN}").replace("</body>", f"{play}</body>"))
    options = ("--window-size=1200,900", "--virtual-time-budget=30000")
    answer = answer_of((tmp_path / "page.html").as_uri(), tmp_path, *options)
    assert answer["problems"] == []
    assert answer["requests"] == []
    assert answer["start"] == answer["again"] == f"{MANY} of {MANY} cases"
    assert 10 < max(answer["cards"]) < 100, "only what is in view exists"
    assert answer["rects"] == 2
    columns = answer["columns"]
    assert columns > 2
    assert answer["moves"] == [1, 1 + columns, columns, 0, 0, MANY - 1, MANY - 1, 0]
    assert answer["last"] == MANY - 1
    missed = sum(number % 6 == 5 for number in range(MANY))
    assert answer["kind"] == f"{missed} of {MANY} cases"
    assert answer["score"] == f"0 of {MANY} cases", "a missed label has no score"
    assert answer["hostile"] == f"{sum(number % 3 == 0 for number in range(MANY))} of {MANY} cases"
    assert answer["option"]
    assert answer["source"] == f"{sum(number % 12 == 6 for number in range(MANY))} of {MANY} cases"
    assert answer["first"].endswith("class · score 1.00 · test")
    assert answer["open"]
    assert answer["places"] == [f"{place} of {MANY}" for place in (5, 6, 5, 4)]
    assert answer["large"] == 2
    assert "worth 0.10 points of AP50" in answer["text"]
    assert answer["focus"] == 3
    assert answer["slash"] == "kind"
    assert not answer["wide"], "the page scrolls sideways"
