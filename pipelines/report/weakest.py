"""Which class fares worst."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.report.facts import Node


def weakest_class(evaluate: Node, classes: Sequence[str]) -> tuple[str, float] | None:
    """The class with the lowest AP50 on test among those that have one."""
    found = [(name, evaluate.at("test", "per_class", name, "AP50").as_number) for name in classes]
    return min(((name, float(value)) for name, value in found if value is not None), key=lambda item: item[1], default=None)


def hardest_hit(judged: Node) -> tuple[str, float] | None:
    """The class that lost the largest share of its AP, of a model judged against another."""
    found = [(name, row.at("relative_drop").as_number) for name, row in judged.items("per_class")]
    return max(((name, float(value)) for name, value in found if value is not None), key=lambda item: item[1], default=None)
