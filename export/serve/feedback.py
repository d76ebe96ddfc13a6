"""What users and traffic give back to the project: complaints, and a sample of the requests, the least confident first.

    data/inbox/feedback/IMAGE_ID.EXT          the image of a complaint
    data/feedback/TIME-ID.jsonl               the complaint, one line: {"image": "feedback/IMAGE_ID.EXT" (below the inbox), "image_id", "complaint":
                                              missed | wrong_class | wrong_place | false_alarm | other, "class" and "box" (xyxy pixels of the upright
                                              image) if given, "runner", "time"}
    data/inbox/served/TIME-ID/                the sampled images of one window, with the log.jsonl that `collect` reads
    data/feedback/requests/TIME-ID.jsonl      one line for each of them: {"image", "image_id", "confidence", "detections", "runner", "time"}

Images are written before the lines that name them, each file whole or not at all, each under a new name: several servers may share the folders.
"""

from __future__ import annotations

import heapq
import math
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from pipelines.core.errors import DataError
from pipelines.core.io import jsonl_text, sha256_bytes, write_bytes, write_folder, write_jsonl

Complaint = Literal["missed", "wrong_class", "wrong_place", "false_alarm", "other"]
COMPLAINTS: tuple[str, ...] = get_args(Complaint)


@dataclass(frozen=True)
class Served:
    """One answered image that may go into the sample; `confidence` is its least certain box's score, 1 without boxes (see `confidence_of`)."""

    content: bytes
    extension: str
    confidence: float
    detections: Sequence[dict[str, Any]]
    runner: str
    time: datetime


def confidence_of(detections: Sequence[dict[str, Any]]) -> float:
    """The lowest score of the boxes that were shown; 1 for none, so that an empty picture goes behind every doubtful one."""
    return min((float(row["score"]) for row in detections), default=1.0)


def checked_complaint(complaint: str, class_name: str | None, box: str | None, classes: Sequence[str], image_wh: tuple[int, int]) -> dict[str, Any]:
    """The fields of a complaint from a form's texts; `box` is `x1,y1,x2,y2` in pixels.

    Raises:
        DataError: an unknown complaint or class, or a box that is none or lies outside the image.
    """
    if complaint not in COMPLAINTS:
        raise DataError(f"complaint {complaint!r} is unknown: use one of {', '.join(COMPLAINTS)}")
    row: dict[str, Any] = {"complaint": complaint}
    if class_name:
        if class_name not in classes:
            raise DataError(f"class {class_name!r} is unknown: use one of {', '.join(classes)}")
        row["class"] = class_name
    if box:
        try:
            x1, y1, x2, y2 = (float(value) for value in box.split(","))
        except ValueError as error:
            raise DataError(f"box {box!r} is not x1,y1,x2,y2 in pixels: send four numbers") from error
        width, height = image_wh
        if not (all(map(math.isfinite, (x1, y1, x2, y2))) and 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise DataError(f"box {box!r} does not lie in the {width}x{height} image: send its left, top, right and bottom pixels")
        row["box"] = [x1, y1, x2, y2]
    return row


@dataclass
class Sample:
    """The `size` least confident images since the last `take`, each image once; equal ones as they came. Holds them in memory."""

    size: int
    _heap: list[tuple[float, int, str, Served]] = field(default_factory=list)  # the most confident first
    _ids: set[str] = field(default_factory=set)
    _seen: int = 0

    def offer(self, served: Served) -> None:
        """Keep it if it is among the least confident so far."""
        self._seen += 1
        if len(self._heap) >= self.size and (not self._heap or served.confidence >= -self._heap[0][0]):
            return
        image_id = sha256_bytes(served.content)
        if image_id in self._ids:
            return
        self._ids.add(image_id)
        heapq.heappush(self._heap, (-served.confidence, -self._seen, image_id, served))
        if len(self._heap) > self.size:
            self._ids.remove(heapq.heappop(self._heap)[2])

    def take(self) -> list[tuple[str, Served]]:
        """Image ids and images, the least confident first; the sample begins anew."""
        kept = sorted(self._heap, reverse=True)
        self._heap, self._ids, self._seen = [], set(), 0
        return [(image_id, served) for _, _, image_id, served in kept]


class FeedbackFolders:
    """The project's `data/inbox` and `data/feedback`, written by several threads."""

    def __init__(self, inbox: Path, feedback: Path) -> None:
        self._inbox, self._feedback = inbox, feedback
        self._lock = threading.Lock()  # the same image may come twice at a time

    def write_complaint(self, content: bytes, extension: str, row: dict[str, Any], runner: str) -> str:
        """Keep a complaint and its image; the image's id."""
        now = datetime.now(UTC)
        image_id = sha256_bytes(content)
        name = f"feedback/{image_id}.{extension}"
        with self._lock:
            if not (self._inbox / name).exists():
                write_bytes(self._inbox / name, content)
        about = {"image": name, "image_id": image_id, **row, "runner": runner, "time": now.isoformat(timespec="milliseconds")}
        write_jsonl(self._feedback / f"{_stamp(now)}.jsonl", [about])
        return image_id

    def write_sample(self, sample: Sequence[tuple[str, Served]]) -> None:
        """Keep a window's sample, if it has any."""
        if not sample:
            return
        stamp = _stamp(datetime.now(UTC))
        images = {f"{image_id}.{served.extension}": served for image_id, served in sample}
        log = [{"file": name, "captured_at": served.time.isoformat(timespec="seconds")} for name, served in images.items()]
        files = {name: served.content for name, served in images.items()}
        write_folder(self._inbox / "served" / stamp, {**files, "log.jsonl": jsonl_text(log).encode()})
        rows = [
            {
                "image": f"served/{stamp}/{image_id}.{served.extension}",
                "image_id": image_id,
                "confidence": served.confidence,
                "detections": list(served.detections),
                "runner": served.runner,
                "time": served.time.isoformat(timespec="milliseconds"),
            }
            for image_id, served in sample
        ]
        write_jsonl(self._feedback / "requests" / f"{stamp}.jsonl", rows)


def _stamp(now: datetime) -> str:
    return f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
