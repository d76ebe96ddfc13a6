"""How much accuracy one model loses against another, overall and class by class, and whether that is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Accuracy:
    """AP in [0, 1] over all classes and of each; None without labels."""

    ap: float | None
    per_class: Mapping[str, float | None]


@dataclass(frozen=True)
class Drops:
    """Shares of the reference's AP that are lost, negative for a gain; None where there is nothing to measure on."""

    mean: float | None
    per_class: Mapping[str, float | None]


def relative_drop(reference: float | None, value: float | None) -> float | None:
    """Share of the reference that is lost, negative for a gain; None where there is nothing to measure on, 0 when the reference is 0."""
    if reference is None or value is None:
        return None
    return (reference - value) / reference if reference > 0 else 0.0


def drops_between(reference: Accuracy, candidate: Accuracy) -> Drops:
    """What the candidate lost."""
    return Drops(
        relative_drop(reference.ap, candidate.ap),
        {name: relative_drop(value, candidate.per_class[name]) for name, value in reference.per_class.items()},
    )


def worst_drops(several: Sequence[Drops]) -> Drops:
    """The largest drop in each figure."""

    def worst(values: Sequence[float | None]) -> float | None:
        return max((value for value in values if value is not None), default=None)

    names = several[0].per_class if several else {}
    return Drops(worst([item.mean for item in several]), {name: worst([item.per_class[name] for item in several]) for name in names})


def drop_reasons(drops: Drops, max_mean: float, max_class: float, than: str) -> list[str]:
    """Why the drops are not allowed, one sentence each; `than` names the reference."""
    reasons = []
    if drops.mean is None:
        reasons.append("no AP could be measured: there are no labels")
    elif drops.mean > max_mean:
        reasons.append(f"AP is {drops.mean:.2%} below {than}'s, {max_mean:.2%} is allowed")
    lost = {name: value for name, value in drops.per_class.items() if value is not None and value > max_class}
    if lost:
        named = ", ".join(f"{name} {value:.2%}" for name, value in sorted(lost.items(), key=lambda item: (-item[1], item[0])))
        reasons.append(f"AP of single classes is too far below {than}'s: {named}; {max_class:.2%} is allowed")
    return reasons
