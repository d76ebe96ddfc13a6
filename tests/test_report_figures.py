"""The report's own charts and number formats, against hand-worked values and properties."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.report import text
from pipelines.report.facts import Absences, Node
from pipelines.report.figures import Series, bar_chart, histogram, line_chart, scatter, ticks


@settings(deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e5))
def test_ticks_cover_the_range_in_even_round_steps(low: float, span: float) -> None:
    high = low + span
    if not high > low:
        return
    found = ticks(low, high)
    assert found[0] <= low + 1e-6 * span
    assert found[-1] >= high - 1e-6 * span
    assert 2 <= len(found) <= 12
    step = found[1] - found[0]
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(mantissa - wanted) for wanted in (1, 2, 5, 10)) < 1e-3


def test_ticks_by_hand() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(1, 40, wanted=6) == [0, 10, 20, 30, 40]
    assert ticks(3, 3) == [3]


def test_a_line_runs_from_corner_to_corner() -> None:
    svg = line_chart([Series("a", [(0, 0), (1, 1)])], label="x", x_label="", y_label="", x_range=(0, 1), y_range=(0, 1), width=200, height=100)
    assert svg is not None
    found = re.search(r'class="line c0" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', svg)
    assert found
    x0, y0, x1, y1 = (float(item) for item in found.groups())
    assert (y0, x1, y1) == (60.0, 186.0, 12.0)  # 40 below for the axis, 14 to the right, 12 above
    assert x0 < 60


def test_a_bar_is_as_long_as_its_share() -> None:
    svg = bar_chart([("a", 1.0, "100"), ("b", 0.25, "25")], label="x", total=1.0)
    assert svg is not None
    widths = [float(item) for item in re.findall(r'class="bar c0" x="[\d.]+" y="\d+" width="([\d.]+)"', svg)]
    assert widths[1] / widths[0] == pytest.approx(0.25, abs=1e-3)


def test_charts_without_data_are_none() -> None:
    assert line_chart([Series("a", [])], label="", x_label="", y_label="") is None
    assert bar_chart([], label="") is None
    assert scatter([], label="", x_label="", y_label="") is None
    assert scatter([("a", 0.0, 0.5, True)], label="", x_label="", y_label="") is None
    assert histogram([0, 0], [0, 1, 2], label="", x_label="") is None


@pytest.mark.parametrize("name", ["plain", "<script>alert('x')</script>", 'a"b\' onload="x', "&amp;", "]]>", "é漢"])
def test_every_chart_is_well_formed_and_escapes_names(name: str) -> None:
    line = line_chart(
        [Series(name, [(0, 1), (2, 3)], [(2, 3, name)]), Series("b", [(1, 1)])], label=name, x_label=name, y_label=name, vertical=(1, name)
    )
    charts = [
        line,
        bar_chart([(name, 0.0, name), (name * 20, 3.0, "3")], label=name),
        scatter([(name, 3.0, 0.5, True), ("b", 3.0, 0.5, False), ("c", 3.1, 0.5, True)], label=name, x_label=name, y_label=name),
        histogram([1, 0, 3], [0, 1, 2, 3], label=name, x_label=name),
    ]
    for chart in charts:
        assert chart is not None
        root = ET.fromstring(chart)
        assert root.get("aria-label") == name
        assert {item.tag for item in root.iter()} <= {"svg", "line", "path", "circle", "rect", "text", "title"}
        assert not any(key.startswith("on") for item in root.iter() for key in item.keys())  # noqa: SIM118
        assert "nan" not in chart.lower()


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (text.percent(0.71349), "71.3 %"),
        (text.percent(-0.0000001, 2), "0.00 %"),
        (text.percent(-0.05), "\u22125.0 %"),
        (text.points(0.0041), "+0.4 %"),
        (text.points(-0.0041), "\u22120.4 %"),
        (text.points(-0.0001), "0.0 %"),
        (text.count(1234567), "1 234 567"),
        (text.counted(1, "cluster"), "1 cluster"),
        (text.counted(0, "cluster"), "0 clusters"),
        (text.counted(1234, "cluster"), "1 234 clusters"),
        (text.milliseconds(3.14159), "3.14 ms"),
        (text.milliseconds(9.999), "10.0 ms"),
        (text.milliseconds(1234.5), "1 234 ms"),
        (text.seconds(0.5), "0.50 s"),
        (text.seconds(200), "3 min 20 s"),
        (text.megabytes(10.64), "10.6 MB"),
        (text.anything(0.123456), "0.1235"),
        (text.anything(True), "True"),
        (text.percent(None), text.NOT_MEASURED),
        (text.anything(None), text.NOT_MEASURED),
    ],
)
def test_numbers_as_people_read_them(shown: str, wanted: str) -> None:
    assert shown.replace("\u202f", " ") == wanted


def test_what_is_not_there_is_remembered_once_and_by_its_highest_absent_place() -> None:
    absences = Absences()
    node = Node({"a": {"b": 1.5, "c": None, "d": True, "e": float("inf")}}, "m.json", absences)
    assert node.number("a", "b") == 1.5
    assert len(absences) == 0
    assert [node.number("a", "c"), node.number("a", "c"), node.number("a", "d"), node.number("a", "e"), node.number("x", "y", "z")] == [None] * 5
    assert list(absences.keys) == ["m.json: a.c", "m.json: a.d", "m.json: a.e", "m.json: x"]
    assert Node(None, "gone.json", absences).items("q", "r") == []
    assert list(absences.keys)[-1] == "gone.json"


@pytest.mark.parametrize(
    ("sentence", "markup"),
    [
        ("", ""),
        ("run `dvc repro`, then `detloop report`", "run <code>dvc repro</code>, then <code>detloop report</code>"),
        ("`<b>` & <i>", "<code>&lt;b&gt;</code> &amp; &lt;i&gt;"),
        ("a lone ` stays", "a lone ` stays"),
        (text.NOT_MEASURED, '<span class="absent">not measured</span>'),
    ],
    ids=["empty", "two", "escaped", "lone", "markup"],
)
def test_code_in_sentences(sentence: str, markup: str) -> None:
    assert str(text.message(sentence)) == markup
