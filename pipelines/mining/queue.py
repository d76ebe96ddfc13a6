"""The queue of a round: which images people are asked about, why, and what to do. One ranked list out of all that asks; no image is asked twice.

Complaints of the product come first. Then come images with labels (bad cases, suspect labels, oddities of tracks) and images without, at least the
share `pool_fraction` of them where so many are there. Of near-duplicates people see one: an unlabeled image whose cluster has a labeled one, or one
that is asked about already, is left out. A score reads as "about so many boxes are wrong", wherever an image comes from.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from pipelines.core.errors import DataError, listed
from pipelines.mining.feedback import Complaint

# What people are asked to do about each kind of finding. A duplicate is a matter of thresholds and suppression: no label mends it.
ACTIONS: dict[str, str] = {
    "feedback": "look into the complaint and make the label right",
    "unlabeled": "label the image",
    "unsure": "label the image, starting from its pre-labels",
    "missed": "confirm the label that the model missed",
    "class": "check the class",
    "both": "check the class and the box",
    "location": "move the box if it is off",
    "background": "confirm that nothing is there, or add the label",
    "label_spurious": "confirm that the label's object is there, or remove the label",
    "label_misplaced": "move the label's box to its object",
    "label_swapped": "check the label's class",
    "label_missing": "add the label, or confirm that nothing is there",
    "track_gap": "confirm the pre-label where the track has a gap",
    "track_flip": "check the class, which flips in this frame",
    "track_single": "confirm that nothing is there, or add the label",
}
NOT_ASKED = ("duplicate",)
TRACK_SCORE = 0.5  # an oddity of a track is an error about every second time
_RANKED_KEYS = ("image_id", "path", "split", "score", "kinds", "reasons")
POOL = "pool"


@dataclass(frozen=True)
class Candidate:
    """An image that something speaks for; `complaints` are the ids of the product's complaints about it."""

    image_id: str
    path: str
    split: str
    score: float
    kinds: Mapping[str, int]
    reasons: tuple[str, ...]
    complaints: tuple[str, ...] = ()

    @property
    def actions(self) -> list[str]:
        """What people should do, by kind."""
        return list(dict.fromkeys(action for kind, action in ACTIONS.items() if self.kinds.get(kind)))


@dataclass(frozen=True)
class Askable:
    """What people may be asked about, the worst first, and how many images were left out, by reason. `first` have new complaints."""

    first: list[Candidate]
    labeled: list[Candidate]
    pool: list[Candidate]
    already_asked: int
    only_duplicates: int
    near_duplicates: int

    def __len__(self) -> int:
        return len(self.first) + len(self.labeled) + len(self.pool)


def ranked_candidates(ranked: Sequence[Mapping[str, Any]]) -> list[Candidate]:
    """The lines of `ranked.jsonl`.

    Raises:
        DataError: a row of the list lacks a key or has a kind that ACTIONS does not know.
    """
    bad = [f"line {number}: {problem}" for number, row in enumerate(ranked, start=1) if (problem := _problem(row))]
    if bad:
        raise DataError(f"the ranked list cannot be read ({listed(bad)}): run `dvc repro mine`")
    return [Candidate(row["image_id"], row["path"], row["split"], row["score"], row["kinds"], tuple(row["reasons"])) for row in ranked]


def suspect_candidates(labels: Iterable[Mapping[str, Any]], tracks: Iterable[Mapping[str, Any]]) -> list[Candidate]:
    """The images with suspect labels, and those with oddities of tracks, each image once in each of the two."""
    found = _by_image(labels, lambda row: f"label_{row['kind']}", lambda row: float(row["score"]), _suspicion)
    return found + _by_image(tracks, lambda row: f"track_{row['kind']}", lambda _: TRACK_SCORE, lambda row: str(row["why"]))


def _by_image(
    rows: Iterable[Mapping[str, Any]],
    kind: Callable[[Mapping[str, Any]], str],
    score: Callable[[Mapping[str, Any]], float],
    reason: Callable[[Any], str],
) -> list[Candidate]:
    images: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        images.setdefault(row["image_id"], []).append(row)
    result = []
    for image_id, members in images.items():
        reasons = Counter(reason(row) for row in members)
        told = tuple(text if count == 1 else f"{count} times: {text}" for text, count in reasons.items())
        total = round(sum(score(row) for row in members), 6)
        result.append(Candidate(image_id, members[0]["image"], members[0]["split"], total, dict(Counter(kind(row) for row in members)), told))
    return result


def _suspicion(row: Mapping[str, Any]) -> str:
    own, offered = row["class"], row["suggested_class"]
    return {
        "spurious": f"little speaks for a label {own}",
        "misplaced": f"a {own} is found beside its label",
        "swapped": f"labeled {own}, found to be {offered}",
        "missing": f"a {offered} is found where nothing is labeled",
    }[row["kind"]]


def complaint_candidate(image_id: str, path: str, split: str, complaints: Sequence[Complaint]) -> Candidate:
    """An image that the product complains about."""
    reasons, ids = tuple(item.sentence() for item in complaints), tuple(item.id for item in complaints)
    return Candidate(image_id, path, split, float(len(complaints)), {"feedback": len(complaints)}, reasons, ids)


def merged(candidates: Iterable[Candidate]) -> list[Candidate]:
    """One candidate an image, the worst first: kinds and reasons of all, the highest score (two lists may mean one box)."""
    found: dict[str, Candidate] = {}
    for item in candidates:
        before = found.get(item.image_id)
        if before is None:
            found[item.image_id] = item
            continue
        found[item.image_id] = replace(
            before,
            score=max(before.score, item.score),
            kinds=dict(Counter(before.kinds) + Counter(item.kinds)),
            reasons=tuple(dict.fromkeys((*before.reasons, *item.reasons))),
            complaints=(*before.complaints, *item.complaints),
        )
    return sorted(found.values(), key=lambda item: (not item.complaints, -item.score, item.image_id))


def askable(candidates: Sequence[Candidate], earlier: Sequence[Mapping[str, Any]], clusters: Mapping[str, str], labeled: Set[str]) -> Askable:
    """Those of `candidates` (as `merged` gives them) that no row of `earlier` rounds asks about, or that people complain about anew.

    `clusters` maps an image_id to its cluster of near-duplicates, `labeled` are the ids of all labeled images. An unlabeled image without a new
    complaint is left out where its cluster has an image that is labeled, was asked about, or comes before it here.
    """
    asked = {row["image_id"] for row in earlier}
    told = {complaint for row in earlier for complaint in row.get("complaints", ())}
    fresh = [item for item in candidates if item.image_id not in asked or set(item.complaints) - told]
    with_action = [item for item in fresh if item.actions]
    first = [item for item in with_action if set(item.complaints) - told]
    rest = [item for item in with_action if not set(item.complaints) - told]
    pool = []
    seen = {clusters[name] for name in {*labeled, *asked, *(item.image_id for item in first)} if name in clusters}
    for item in rest:
        cluster = clusters.get(item.image_id)
        if item.split != POOL or cluster in seen:
            continue
        pool.append(item)
        if cluster is not None:
            seen.add(cluster)
    with_label = [item for item in rest if item.split != POOL]
    near_duplicates = len(rest) - len(with_label) - len(pool)
    return Askable(first, with_label, pool, len(candidates) - len(fresh), len(fresh) - len(with_action), near_duplicates)


def pool_room(asked: Askable, budget: int, pool_fraction: float) -> int:
    """How many unlabeled images a round of `budget` asks about: at least the share of what complaints leave, more where few others ask."""
    room = max(0, budget - len(asked.first))
    return min(len(asked.pool), max(math.ceil(round(pool_fraction * room, 6)), room - len(asked.labeled)))


def draw_round(
    asked: Askable, source_hash: str, round_number: int, budget: int, *, pool_fraction: float, pool_order: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows of a round of at most `budget` images.

    `source_hash` names in the rows what they were drawn from. `pool_order` are ids of unlabeled images in the order in which they should be taken, as
    many as `pool_room` says; those that it does not name come after them, the worst first.
    """
    room = max(0, budget - len(asked.first))
    pool = {item.image_id: item for item in asked.pool}
    ordered = [*(pool[name] for name in pool_order if name in pool), *(item for name, item in pool.items() if name not in set(pool_order))]
    reserved = pool_room(asked, budget, pool_fraction)
    chosen = sorted([*asked.labeled[: room - reserved], *ordered[:reserved]], key=lambda item: (-item.score, item.image_id))
    return [_row(item, rank, round_number, source_hash) for rank, item in enumerate([*asked.first, *chosen][:budget], start=1)]


def drawn_before(source_hash: str, earlier: Sequence[Mapping[str, Any]]) -> int | None:
    """The round that was already drawn from this very list, if there is one."""
    return next((int(row["round"]) for row in earlier if row.get("ranked") == source_hash), None)


def kinds_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Findings of each kind over all rows, such as "missed 12, class 3"."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row["kinds"])
    return ", ".join(f"{kind} {counts[kind]}" for kind in (*ACTIONS, *NOT_ASKED) if counts[kind]) or "none"


def _row(item: Candidate, rank: int, round_number: int, source_hash: str) -> dict[str, Any]:
    row = {
        "round": round_number,
        "rank": rank,
        "image_id": item.image_id,
        "path": item.path,
        "split": item.split,
        "actions": item.actions,
        "reasons": list(item.reasons),
        "kinds": dict(item.kinds),
        "score": item.score,
        "ranked": source_hash,
    }
    return row | ({"complaints": list(item.complaints)} if item.complaints else {})


def _problem(row: Mapping[str, Any]) -> str | None:
    missing = [key for key in _RANKED_KEYS if key not in row]
    if missing:
        return f"lacks {', '.join(missing)}"
    unknown = sorted(set(row["kinds"]) - set(ACTIONS) - set(NOT_ASKED))
    return f"unknown kinds {unknown}" if unknown else None
