"""Promote, reject or inconclusive: one answer to "is the candidate better than the champion", with the reasons for it.

reject          the whole, a class or a slice is worse by more than the tolerance, beyond the noise; or more of the regression suite broke than chance
promote         the whole is better beyond the noise, and nothing above holds
inconclusive    neither could be shown; the reasons say what the figures leave open
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

from pipelines.evaluation.differences import MIN_GROUPS, WHOLE, Difference

Word = Literal["promote", "reject", "inconclusive"]


@dataclass(frozen=True)
class SuiteChange:
    """Items of the regression suite that only the candidate (`fixed`) or only the champion (`broken`) is right about."""

    fixed: int
    broken: int


@dataclass(frozen=True)
class Verdict:
    """The answer, its reasons as sentences, and what else to keep in mind."""

    word: Word
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()


def decide(
    found: Sequence[Difference], metric: str, tolerance: float, confidence: float, suite: SuiteChange, *, seeds_measured: bool, same_model: bool
) -> Verdict:
    """Judge the differences (the whole set among them) by `metric`; `confidence` is that of their intervals."""
    notes = tuple(_notes(found, seeds_measured=seeds_measured))
    if same_model:
        return Verdict("inconclusive", ("the candidate is the champion itself",))
    worse = [item for item in found if item.judged and _below(item, metric, tolerance)]
    against = [f"{_title(item)} lost {_change(item, metric)}" for item in worse]
    broke = _sign_test(suite.broken, suite.fixed)
    if suite.broken > suite.fixed and broke < 1 - confidence:
        against.append(f"{suite.broken} items of the regression suite broke and {suite.fixed} were fixed (p = {broke:.3f})")
    if against:
        return Verdict("reject", tuple(against), notes)
    whole = next(item for item in found if item.name == WHOLE)
    if not whole.judged:
        return Verdict("inconclusive", (f"the test set has labels in {whole.groups} groups of images, and at least {MIN_GROUPS} are needed",), notes)
    low, high = whole.low[metric], whole.high[metric]
    if low is not None and low > 0:
        return Verdict("promote", (f"the whole test set gained {_change(whole, metric)}, and no class or slice lost beyond the noise",), notes)
    lost = high is not None and high < 0
    left_open = f"not shown to be more than the tolerance of {tolerance * 100:.1f} points" if lost else "the interval holds 0"
    return Verdict("inconclusive", (f"the whole test set {_word(whole, metric)} {_change(whole, metric)}: {left_open}",), notes)


def _below(item: Difference, metric: str, tolerance: float) -> bool:
    high = item.high[metric]
    return high is not None and high < -tolerance


def _notes(found: Sequence[Difference], *, seeds_measured: bool) -> list[str]:
    notes = []
    if not seeds_measured:
        notes.append(
            "the noise between seeds was not measured, so that the intervals are those of the test images alone: `detloop noise` measures it"
        )
    few = [item.name for item in found if not item.judged and item.boxes]
    if few:
        notes.append(f"too few groups of images (fewer than {MIN_GROUPS}) to judge {', '.join(few)}")
    return notes


def _title(item: Difference) -> str:
    return "the whole test set" if item.name == WHOLE else item.name.replace("=", " ", 1)


def _word(item: Difference, metric: str) -> str:
    return "lost" if (item.change(metric) or 0.0) < 0 else "gained"


def _change(item: Difference, metric: str) -> str:
    change, low, high = item.change(metric), item.low[metric], item.high[metric]
    assert change is not None  # only what was judged is named
    assert low is not None
    assert high is not None
    return f"{abs(change) * 100:.1f} points of {metric} ({low * 100:+.1f} to {high * 100:+.1f})"


def _sign_test(worse: int, better: int) -> float:
    """One-sided p of at least `worse` of worse + better changes when both are equally likely (McNemar's exact test)."""
    total = worse + better
    return sum(comb(total, count) for count in range(worse, total + 1)) / float(2**total)
