"""The champions and the regression suite as the report shows them: rows and charts over the record and the suite's own history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipelines.report.facts import Node
from pipelines.report.figures import Series, line_chart, percent_tick
from pipelines.report.text import percent

ID_LENGTH = 8
NOTHING = "-"


@dataclass(frozen=True)
class SuiteView:
    """One item: `history` has one entry a champion, None where the item was not judged then."""

    id: str
    kind: str
    label: str
    taken_for: str
    round: int
    history: list[bool | None]
    state: str | None


def suite_views(suite: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]], champions: Sequence[Node]) -> list[SuiteView]:
    """The items, those that need a look first: regressed, still bad, fixed."""
    state = {row["id"]: str(row["state"]) for row in results}
    numbers = [item.at("number").value for item in champions]
    order = ("regressed", "still_bad", "fixed", "not_judged")
    views = []
    for row in suite:
        right = {entry["champion"]: bool(entry["right"]) for entry in row["history"]}
        views.append(
            SuiteView(
                str(row["id"])[:ID_LENGTH],
                str(row["kind"]),
                row["class_name"] or NOTHING,
                row["predicted_class"] or NOTHING,
                int(row["round"]),
                [right.get(number) for number in numbers],
                state.get(row["id"]),
            )
        )
    return sorted(views, key=lambda item: (order.index(item.state) if item.state in order else len(order), item.round, item.id))


def cost_curve(champions: Sequence[Node], train: Node, evaluate: Node) -> Markup | None:
    """AP and AP50 on test over the labeled boxes trained on: the champions, and this round's model last."""
    rows = [(item.at("train", "boxes"), item.at("test"), f"champion {item.at('number').value}") for item in champions]
    rows.append((train.at("boxes", "train"), evaluate.at("test"), "this model"))
    lines = []
    for metric in ("AP", "AP50"):
        found = [(boxes.as_number, test.at(metric).as_number, name) for boxes, test, name in rows]
        known = sorted((float(x), float(y), name) for x, y, name in found if x is not None and y is not None)
        marks = [(x, y, f"{name}: {metric} {percent(y)} with {x:.0f} boxes") for x, y, name in known]
        lines.append(Series(metric, [(x, y) for x, y, _ in known], marks))
    listed = "; ".join(text for line in lines for _, _, text in line.marks)
    return line_chart(
        lines,
        label=f"AP over labeled boxes: {listed}",
        x_label="labeled boxes trained on",
        y_label="",
        x_range=(0, _furthest(lines)),
        y_range=(0, 1),
        y_tick=percent_tick,
    )


def _furthest(lines: Sequence[Series]) -> float:
    return max((x for line in lines for x, _ in line.points), default=1.0)


def suite_history(suite: Sequence[SuiteView], champions: Sequence[Node]) -> Markup | None:
    """How many items each champion and this model are right and wrong about, of those that are in the suite now."""
    if not suite:
        return None
    right = [(position + 1.0, float(sum(item.history[position] is True for item in suite))) for position in range(len(champions))]
    wrong = [(position + 1.0, float(sum(item.history[position] is False for item in suite))) for position in range(len(champions))]
    last = len(champions) + 1.0
    right.append((last, float(sum(item.state == "fixed" for item in suite))))
    wrong.append((last, float(sum(item.state in ("still_bad", "regressed") for item in suite))))
    names = [f"champion {item.at('number').value}" for item in champions] + ["this model"]
    series = [
        Series(title, points, [(x, y, f"{names[int(x) - 1]}: {y:.0f} {title}") for x, y in points])
        for title, points in (("right", right), ("wrong", wrong))
    ]
    listed = "; ".join(text for line in series for _, _, text in line.marks)
    return line_chart(
        series,
        label=f"Items of the regression suite: {listed}",
        x_label="champions in their order, this model last",
        y_label="items",
        x_range=(0, last + 1),
        y_range=(0, len(suite)),
    )
