"""The report as one HTML page: templates over the inputs. Pure; the same inputs give the same bytes.

Templates ask for each figure by its key; what is not there reads "not measured" and is counted. All text from data is escaped by the template engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.core.types import LABELED_SPLITS
from pipelines.report import charts, text
from pipelines.report.cases import Cases
from pipelines.report.champions import cost_curve, suite_history, suite_views
from pipelines.report.facts import Absences, Node
from pipelines.report.gallery import KINDS, gallery_filters, picture_view, thumbnail_view
from pipelines.report.inputs import Inputs
from pipelines.report.weakest import hardest_hit, weakest_class

TEMPLATES = Path(__file__).parent
SECTIONS = (
    ("top", "Verdict"),
    ("data", "Data and drops"),
    ("labels", "Labels"),
    ("split", "Split"),
    ("training", "Training curves"),
    ("metrics", "Metrics"),
    ("champion", "Champion and candidate"),
    ("badcases", "Bad cases"),
    ("artifacts", "Artifacts"),
    ("gate", "Gate"),
    ("next", "What to do next"),
)

CASES_PAGE = "cases.html"
CHECKS = {  # the gate's checks in words; a new one is shown by its name
    "test_ap50": "AP50 on test",
    "champion": "against the champion",
    "fp32_onnx_ships": "an fp32 ONNX ships",
    "verify": "verified",
    "verified_file": "on this very file",
    "timed_file": "timed on this file",
    "p99_ms": "p99 in ms",
    "size_mb": "size in MB",
}


@cache
def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": text.percent,
        "points": text.points,
        "count": text.count,
        "counted": text.counted,
        "decimal": text.decimal,
        "ms": text.milliseconds,
        "seconds": text.seconds,
        "megabytes": text.megabytes,
        "short": text.short,
        "said": text.said,
        "words": text.words,
        "message": text.message,
        "anything": text.anything,
        "check": lambda name: CHECKS.get(name) or text.words(name),
    }
    return environment


def render(inputs: Inputs) -> str:
    """The whole page."""
    absences = Absences()
    nodes = {name.removesuffix(".json"): Node(content, name, absences) for name, content in inputs.files.items()}
    evaluate, verify, release = nodes["evaluate"], nodes["verify"], nodes["release"]
    gallery = [picture_view(item, inputs) for item in inputs.gallery]
    checks = release.each("checks")
    best_epoch = nodes["train"].number("best_epoch")
    default = release.at("default").as_text
    champions = nodes["champion"].at("champions")
    champion_rows = [champions.at(index) for index in range(len(champions.value))] if isinstance(champions.value, list) else []
    suite = suite_views(inputs.suite, inputs.suite_results, champion_rows)
    drop = verify.at("artifacts", default).number("relative_drop") if default else None
    return (
        _environment()
        .get_template("report.html")
        .render(
            **nodes,
            sections=SECTIONS,
            css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            js=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
            classes=inputs.classes,
            kinds=KINDS,
            absences=absences,
            dataset_sizes=_sizes(nodes["dataset"]),
            leaks=_leaks(inputs),
            box_sizes=_box_sizes(nodes["card"], inputs.classes),
            weakest_class=weakest_class(evaluate, inputs.classes),
            shipped_change=None if drop is None else -drop,
            thumbnails=[thumbnail_view(item, inputs.classes) for item in inputs.thumbnails],
            brightness=charts.brightness_histogram(inputs.samples),
            best_epoch=best_epoch,
            training=charts.training_charts(inputs.curves, best_epoch),
            matrix=_matrix(nodes["confusion"]),
            badcase_count=None if inputs.badcases is None else len(inputs.badcases),
            ranked_count=None if inputs.ranked is None else len(inputs.ranked),
            gallery=gallery,
            gallery_left_out=inputs.gallery_left_out,
            filters=gallery_filters(gallery),
            scatter=charts.latency_scatter(verify, nodes["benchmark"]),
            champions=champion_rows,
            suite=suite,
            cost_curve=cost_curve(champion_rows, nodes["train"], evaluate),
            suite_history=suite_history(suite, champion_rows),
            cases_page=CASES_PAGE,
            gate=_gate(release),
            check_detail=_check_detail,
            hardest_hit=hardest_hit,
            failed=[check for check in checks if not check.at("artifact").present and check.at("status").value != "pass"],
            count_bars=charts.count_bars,
            cost_bars=charts.cost_bars,
            class_count_bars=charts.class_count_bars,
            class_bars=charts.class_bars,
            precision_recall=charts.precision_recall,
            confidence_chart=charts.confidence_chart,
        )
    )


def render_cases(cases: Cases) -> str:
    """The page of all bad cases."""
    files = {name.replace(".", "_"): Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("report.css", "cases.css", "cases.js")}
    page = _environment().get_template("cases.html")
    return page.render(css=files["report_css"], cases_css=files["cases_css"], js=files["cases_js"], data=cases.script(), left_out=cases.left_out)


def _sizes(dataset: Node) -> str | Markup:
    """Images of train, val and test in a row."""
    counts = [dataset.number("splits", split, "images") for split in LABELED_SPLITS]
    return text.NOT_MEASURED if None in counts else " / ".join(str(text.count(count)) for count in counts)


def _box_sizes(card: Node, classes: Sequence[str]) -> dict[str, Any] | None:
    """Boxes of train, val and test by their size: names of the bins, and the counts of each class."""
    edges = [edge.number() for edge in card.each("box_side_edges_px")]
    found = {name: [[cell.number() for cell in card.each("box_sizes", split, name)] for split in LABELED_SPLITS] for name in classes}
    if not edges or any(len(cells) != len(edges) for parts in found.values() for cells in parts):
        return None
    bins = [f"{low:g} to {high:g}" for low, high in pairwise(edge or 0 for edge in edges)] + [f"{edges[-1] or 0:g} and more"]
    return {"bins": bins, "rows": [(name, [sum(cell or 0 for cell in cells) for cells in zip(*parts, strict=True)]) for name, parts in found.items()]}


def _leaks(inputs: Inputs) -> dict[str, int] | None:
    """How many images and groups stand on more than one side, counted anew from the dataset's own lines."""
    if not all(split in inputs.samples for split in LABELED_SPLITS):
        return None
    sides_of_image: dict[str, set[str]] = {}
    sides_of_group: dict[str, set[str]] = {}
    for split in LABELED_SPLITS:
        for sample in inputs.samples[split]:
            sides_of_image.setdefault(sample.image_id, set()).add(split)
            sides_of_group.setdefault(sample.group, set()).add(split)
    return {
        "images": sum(len(sides) > 1 for sides in sides_of_image.values()),
        "groups": sum(len(sides) > 1 for sides in sides_of_group.values()),
        "total_images": len(sides_of_image),
        "total_groups": len(sides_of_group),
    }


def _gate(release: Node) -> dict[str, Any]:
    """The checks of single artifacts as a table: names of the checks, and for each artifact one check or None in each column."""
    cells: dict[str, dict[str, Node]] = {}
    columns: dict[str, None] = {}
    for check in release.each("checks"):
        artifact, name = check.at("artifact").as_text, check.at("name").as_text
        if artifact and name:
            columns.setdefault(name)
            cells.setdefault(artifact, {})[name] = check
    return {"checks": list(columns), "rows": [(artifact, [row.get(name) for name in columns]) for artifact, row in cells.items()]}


def _check_detail(check: Node) -> str | Markup:
    """What was found and what was asked for, where the result's word does not say it already."""
    found, limit = check.at("value").value, check.at("limit").value
    if found is None or found == check.at("status").value:
        return ""
    return text.anything(found) if found == limit else f"{text.anything(found)}, asked: {text.anything(limit)}"


def _matrix(confusion: Node) -> dict[str, Any] | None:
    """The confusion on test: names, and rows of cells with count, share of the row, and whether the cell is a right answer."""
    names = confusion.at("labels").texts
    counts = [[cell.number() or 0 for cell in row.each()] for row in confusion.each("test")]
    if not names or [len(row) for row in counts] != [len(names)] * len(names):
        return None
    rows = []
    for row_index, row in enumerate(counts):
        total = sum(row)
        cells = [
            {"count": count, "share": count / total if total else 0.0, "right": column == row_index < len(names) - 1}
            for column, count in enumerate(row)
        ]
        rows.append({"name": names[row_index], "cells": cells})
    return {"names": names, "rows": rows}
