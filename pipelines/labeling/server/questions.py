"""What people are asked: the rows of all rounds and the conflicts of the last snapshot, one question an image, worst first. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.core.types import Annotation
from pipelines.formats.labelstudio_config import ASK_KEY

IMAGE_ID_KEY = "image_id"  # the key of a task's data that joins it with everything of ours
KINDS_KEY, CONFLICT = "kinds", "conflict"
NOTHING_ASKED: Mapping[str, Any] = {ASK_KEY: "", KINDS_KEY: "", "score": None, "round": 0, "rank": 0}  # in the order of the columns


@dataclass(frozen=True)
class AskedImage:
    """A kept image of the manifest: where it lies below data/raw, and its true size."""

    path: str
    size_wh: tuple[int, int]


@dataclass(frozen=True)
class Question:
    """One image and what its task says: `data` is everything but the image's address."""

    image_id: str
    image: AskedImage
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Questions:
    """The open questions, worst first, and the ids of asked images that the manifest does not keep."""

    items: tuple[Question, ...]
    not_kept: tuple[str, ...]


def open_questions(rows: Iterable[Mapping[str, Any]], snapshot: Sequence[Annotation], images: Mapping[str, AskedImage]) -> Questions:
    """Join queue rows (of all rounds, see `pipelines.mining.queue`) and the snapshot's conflicts.

    An image in several rounds is asked what the newest asks. Conflicts come first, then the rounds from the newest, each in its order.
    """
    newest: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        image_id = str(row["image_id"])
        if image_id not in newest or int(row["round"]) > int(newest[image_id]["round"]):
            newest[image_id] = row
    conflicts = {item.image_id: item for item in snapshot if item.state == "conflict"}
    order = sorted(conflicts) + [
        image_id
        for image_id, row in sorted(newest.items(), key=lambda pair: (-int(pair[1]["round"]), int(pair[1]["rank"])))
        if image_id not in conflicts
    ]
    items = tuple(
        Question(image_id, images[image_id], _data(image_id, newest.get(image_id), conflicts.get(image_id)))
        for image_id in order
        if image_id in images
    )
    return Questions(items, tuple(image_id for image_id in order if image_id not in images))


def _data(image_id: str, row: Mapping[str, Any] | None, conflict: Annotation | None) -> dict[str, Any]:
    """Why the image is asked, in words and in columns that Label Studio can sort by."""
    data: dict[str, Any] = {**NOTHING_ASKED, IMAGE_ID_KEY: image_id}
    words = []
    if conflict is not None:
        words.append(_dispute(conflict.annotation_ids))
        data[KINDS_KEY] = CONFLICT
    if row is not None:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(row["kinds"].items()))
        words.append(f"Round {row['round']}: {'; '.join(row.get('actions') or row['reasons'])} ({kinds}; score {float(row['score']):.3f})")
        data |= {"round": int(row["round"]), "rank": int(row["rank"]), "score": float(row["score"])}
        data[KINDS_KEY] = ", ".join(word for word in (data[KINDS_KEY], kinds) if word)
    return data | {ASK_KEY: ". ".join(words)}


def _dispute(annotation_ids: Sequence[str]) -> str:
    """What is wrong with an image's labels; those of files have no annotation to name."""
    if not annotation_ids:
        return "Conflict: its labels from files disagree or cannot be used, so label it here"
    if len(annotation_ids) == 1:
        return f"Conflict: annotation {annotation_ids[0]} cannot be used as it is, so correct it"
    return "Conflict: decide between annotations " + ", ".join(annotation_ids)
