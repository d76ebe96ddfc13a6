"""The queue of a round: which images people are asked about, and what. A round is drawn from one ranked list, once; no image is asked twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.core.errors import DataError, listed

# What people are asked to do about each kind of error. A duplicate is a matter of thresholds and suppression: no label mends it.
ACTIONS: dict[str, str] = {
    "unsure": "label the image, starting from its pre-labels",
    "missed": "confirm the label that the model missed",
    "class": "check the class",
    "both": "check the class and the box",
    "location": "move the box if it is off",
    "background": "confirm that nothing is there, or add the label",
}
NOT_ASKED = ("duplicate",)
_RANKED_KEYS = ("image_id", "path", "split", "score", "kinds", "reasons")


@dataclass(frozen=True)
class Draw:
    """What a draw gave: the rows of the new round, and how many images of the list were left out, by reason."""

    rows: list[dict[str, Any]]
    already_asked: int
    only_duplicates: int
    over_budget: int


def draw_round(ranked: Sequence[Mapping[str, Any]], ranked_hash: str, earlier: Sequence[Mapping[str, Any]], round_number: int, budget: int) -> Draw:
    """Take the worst `budget` images that no row of `earlier` rounds asks about. `ranked_hash` names the list in the rows.

    Raises:
        DataError: a row of the list lacks a key or has a kind that ACTIONS does not know.
    """
    bad = [f"line {number}: {problem}" for number, row in enumerate(ranked, start=1) if (problem := _problem(row))]
    if bad:
        raise DataError(f"the ranked list cannot be read ({listed(bad)}): run `dvc repro mine`")
    asked = {row["image_id"] for row in earlier}
    fresh = [row for row in ranked if row["image_id"] not in asked]
    askable = [row for row in fresh if _actions(row["kinds"])]
    rows = [
        {
            "round": round_number,
            "rank": rank,
            "image_id": row["image_id"],
            "path": row["path"],
            "split": row["split"],
            "actions": _actions(row["kinds"]),
            "reasons": row["reasons"],
            "kinds": row["kinds"],
            "score": row["score"],
            "ranked": ranked_hash,
        }
        for rank, row in enumerate(askable[:budget], start=1)
    ]
    return Draw(rows, len(ranked) - len(fresh), len(fresh) - len(askable), max(0, len(askable) - budget))


def drawn_before(ranked_hash: str, earlier: Sequence[Mapping[str, Any]]) -> int | None:
    """The round that was already drawn from this very list, if there is one."""
    return next((int(row["round"]) for row in earlier if row.get("ranked") == ranked_hash), None)


def kinds_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Errors of each kind over all rows, such as "missed 12, class 3"."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row["kinds"])
    return ", ".join(f"{kind} {counts[kind]}" for kind in (*ACTIONS, *NOT_ASKED) if counts[kind]) or "none"


def _actions(kinds: Mapping[str, int]) -> list[str]:
    return [action for kind, action in ACTIONS.items() if kinds.get(kind)]


def _problem(row: Mapping[str, Any]) -> str | None:
    missing = [key for key in _RANKED_KEYS if key not in row]
    if missing:
        return f"lacks {', '.join(missing)}"
    unknown = sorted(set(row["kinds"]) - set(ACTIONS) - set(NOT_ASKED))
    return f"unknown kinds {unknown}" if unknown else None
