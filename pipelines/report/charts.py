"""The report's charts, each from the place in the files that it shows. A chart without data is None, and the page says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from pipelines.core.types import Sample, Split
from pipelines.report.curves import Curve
from pipelines.report.facts import Node
from pipelines.report.figures import Series, bar_chart, histogram, line_chart, percent_tick, scatter
from pipelines.report.text import percent, points, words

TORCH = "torch_fp32"  # the name of the reference in benchmark.json
SMALL_PX = (350, 225)  # charts that stand three in a row
BRIGHTNESS_STEP = 16  # grey levels a column
CURVE_GROUPS = (  # title, what a metric's name holds, whether it is a fraction; the first that fits takes the metric
    ("Losses", ("loss",), False),
    ("Validation mAP", ("map", "ap50", "ap"), True),
    ("Precision and recall", ("precision", "recall"), True),
    ("Learning rate", ("lr", "learning"), False),
)


def training_charts(curves: Mapping[str, Curve], best_epoch: float | None) -> list[tuple[str, Markup]]:
    """(title, chart) for each group of curves that are there; epochs count from 1, dvclive's steps from 0."""
    groups: dict[str, list[str]] = {}
    for name in curves:
        if curves[name]:
            groups.setdefault(_group(name), []).append(name)
    groups |= _by_loss(groups.pop("Losses", []))
    order = [title for title, _, _ in CURVE_GROUPS[1:]]
    order = sorted(name for name in groups if name not in order and "loss" in name.lower()) + order
    order += sorted(set(groups) - set(order))
    fractions = {title for title, _, fraction in CURVE_GROUPS if fraction}
    charts = []
    for title in order:
        names = groups.get(title, [])
        series = [Series(name, [(step + 1, value) for step, value in curves[name]]) for name in names]
        is_map = title == "Validation mAP"
        if is_map and best_epoch is not None:
            series = [
                Series(item.name, item.points, [(x, y, f"{item.name}, epoch {x:g}: {y * 100:.1f} %") for x, y in item.points if x == best_epoch])
                for item in series
            ]
        chart = line_chart(
            series,
            label=f"{title} for each epoch: {', '.join(names)}",
            x_label="epoch",
            y_label="",
            y_range=(0, 1) if title in fractions else None,
            y_tick=percent_tick if title in fractions else lambda value: f"{value:.6g}",
            vertical=(best_epoch, f"best: epoch {best_epoch:g}") if best_epoch is not None and is_map else None,
            width=SMALL_PX[0],
            height=SMALL_PX[1],
        )
        if chart is not None:
            charts.append((title, chart))
    return charts


def _by_loss(names: Sequence[str]) -> dict[str, list[str]]:
    """One group for each loss: its curve on train and on val."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(words(name.rpartition("/")[2]), []).append(name)
    return groups


def _group(name: str) -> str:
    parts = name.lower().replace("/", " ").replace("_", " ").replace("-", " ").replace("(b)", " ").replace("(", " ").replace(")", " ")
    tokens = set(parts.split())
    for title, marks, _ in CURVE_GROUPS:
        for mark in marks:
            if mark in tokens or (len(mark) > 2 and mark in parts):
                return title
    return name


def class_bars(split: Node, classes: Sequence[str], key: str) -> Markup | None:
    """One bar a class for `key` (AP or AP50) of a split's `per_class`."""
    found = [(name, split.at("per_class", name).number(key)) for name in classes]
    rows = [(name, value, str(percent(value))) for name, value in found if value is not None]
    return bar_chart(
        rows, label=f"{key} for each class: " + ", ".join(f"{name} {text}" for name, _, text in rows), colour=_of(classes, rows), total=1.0
    )


def count_bars(entries: Sequence[tuple[str, Node]], what: str) -> Markup | None:
    """One bar an entry whose value is a count, the largest first."""
    found = [(name, node.number()) for name, node in entries]
    rows = sorted(
        ((words(name), float(value), f"{value:,}".replace(",", "\u202f")) for name, value in found if value is not None),
        key=lambda row: (-row[1], row[0]),
    )
    return bar_chart(rows, label=f"{what}: " + ", ".join(f"{name} {text}" for name, _, text in rows))


def cost_bars(mine: Node, split: str, kinds: Sequence[tuple[str, str]]) -> Markup | None:
    """One bar a kind of error: the AP50 that mending it alone would add on `split`."""
    found = [(kind, mine.at("splits", split, "tide", "dAP", kind).number()) for kind, _ in kinds]
    rows = [(words(kind), max(value, 0.0), str(points(value))) for kind, value in found if value is not None]
    return bar_chart(
        rows, label=f"AP50 that mending one kind of error would add on {split}: " + ", ".join(f"{name} {text}" for name, _, text in rows)
    )


def class_count_bars(entries: Sequence[tuple[str, Node]], classes: Sequence[str], what: str) -> Markup | None:
    """One bar a class in the order of the contract, in the class's colour."""
    values = dict(entries)
    found = [(name, values[name].number()) for name in classes if name in values]
    rows = [(name, float(value), f"{value:,}".replace(",", "\u202f")) for name, value in found if value is not None]
    return bar_chart(rows, label=f"{what}: " + ", ".join(f"{name} {text}" for name, _, text in rows), colour=_of(classes, rows))


def precision_recall(pr: Node, classes: Sequence[str]) -> Markup | None:
    """Precision over recall at IoU 0.5, one line a class."""
    rows = pr.each("points")
    lines = []
    for name in classes:
        points = _points(rows, name, "recall", "precision")
        while points and points[-1][1] == 0:  # beyond the highest recall reached, COCO's precision is 0 by definition: no curve there
            points.pop()
        lines.append(Series(name, points))
    return line_chart(
        lines,
        label=f"Precision over recall for {', '.join(classes)}",
        x_label="recall",
        y_label="precision",
        x_range=(0, 1),
        y_range=(0, 1),
        y_tick=percent_tick,
    )


def confidence_chart(confidence: Node, thresholds: Node, name: str) -> Markup | None:
    """Precision, recall and F1 of one class over the score from which detections are shown, with the chosen threshold."""
    rows = confidence.each("points")
    lines = [Series("F1" if key == "f1" else key, _points(rows, name, "score", key)) for key in ("precision", "recall", "f1")]
    chosen = thresholds.number("classes", name)
    return line_chart(
        lines,
        label=f"Precision, recall and F1 of {name} over the score threshold",
        x_label="score threshold",
        y_label="",
        x_range=(0, 1),
        y_range=(0, 1),
        y_tick=percent_tick,
        vertical=None if chosen is None else (chosen, f"chosen: {chosen:.3g}"),
        width=SMALL_PX[0],
        height=SMALL_PX[1],
    )


def _points(rows: Sequence[Node], name: str, x_key: str, y_key: str) -> list[tuple[float, float]]:
    """The points of one class where both values are known."""
    found = [(row.at(x_key).as_number, row.at(y_key).as_number) for row in rows if row.at("class").value == name]
    return [(x, y) for x, y in found if x is not None and y is not None]


def latency_scatter(verify: Node, benchmark: Node) -> Markup | None:
    """AP over median latency, one point an artifact that was measured in both."""
    points = []
    found = [(TORCH, verify.at("reference", "AP"), True)]
    found += [
        (name, verify.at("artifacts", name, "AP"), verify.at("artifacts", name, "status").value == "pass") for name in verify.at("artifacts").names
    ]
    for name, ap, solid in found:
        speed = benchmark.at("runners", name, "p50_ms").as_number
        if speed is not None and ap.as_number is not None:
            points.append((name, speed, ap.as_number, solid))
    listed = "; ".join(f"{name} {x:.1f} ms {y * 100:.1f} %" for name, x, y, _ in points)
    return scatter(points, label=f"AP over median latency: {listed}", x_label="median latency of one image in ms (logarithmic)", y_label="AP")


def brightness_histogram(samples: Mapping[Split, Sequence[Sample]]) -> Markup | None:
    """How many images of the dataset have which mean grey level."""
    edges = [float(value) for value in range(0, 257, BRIGHTNESS_STEP)]
    counts = [0] * (len(edges) - 1)
    for items in samples.values():
        for item in items:
            counts[min(max(int(item.brightness // BRIGHTNESS_STEP), 0), len(counts) - 1)] += 1
    return histogram(counts, edges, label="Images of the dataset by mean grey level", x_label="mean grey level, 0 black to 255 white")


def _of(classes: Sequence[str], rows: Sequence[tuple[str, float, str]]) -> Callable[[int], int]:
    return lambda index: list(classes).index(rows[index][0])
