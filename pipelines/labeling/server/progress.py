"""How far people are: tasks by state for each round and in all, and what each person did. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

STATES = ("answered", "skipped", "begun", "open")


@dataclass
class Progress:
    """Tasks by state for each round (0: asked in none), and annotations by person; skips are counted apart."""

    rounds: dict[int, Counter[str]] = field(default_factory=dict)
    submitted: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)


def progress_of(rows: Iterable[Mapping[str, Any]]) -> Progress:
    """Count the tasks of an export. answered: somebody submitted; skipped: all who came skipped; begun: a draft at most; open: nothing yet."""
    found = Progress()
    for row in rows:
        submitted = [item for item in row["annotations"] if not item["was_cancelled"]]
        state = "answered" if submitted else "skipped" if row["annotations"] else "begun" if row["drafts"] else "open"
        number = row["data"].get("round")
        found.rounds.setdefault(number if isinstance(number, int) else 0, Counter())[state] += 1
        for item in row["annotations"]:
            (found.skipped if item["was_cancelled"] else found.submitted)[str(item["completed_by"])] += 1
    return found


def progress_text(found: Progress) -> str:
    """The counts as lines for people."""
    lines = []
    for number, counts in sorted(found.rounds.items()):
        name = f"round {number:03d}" if number else "no round"
        total = sum(counts.values())
        lines.append(
            f"{name}: {total - counts['open'] - counts['begun']} of {total} done; " + ", ".join(f"{counts[state]} {state}" for state in STATES)
        )
    people = sorted(found.submitted | found.skipped, key=lambda name: (len(name), name))
    lines += [f"user {person}: {found.submitted[person]} submitted, {found.skipped[person]} skipped" for person in people]
    return "\n".join(lines) or "no tasks yet: `detloop labels push` brings the open queue"
