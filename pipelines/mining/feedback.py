"""Complaints from the product: `data/feedback/*.csv` and `*.jsonl`, one complaint a row. They always come first in the queue.

Columns or keys: `image` (its id, its path in the inbox, or its file name), `complaint` (words), and optionally `class` and `box` ([x1, y1, x2, y2] in
pixels; in CSV four numbers apart by spaces). Where `image_id` is given, it names the image. Other keys are ignored.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.core.errors import DataError, listed
from pipelines.core.io import canonical_json, sha256_bytes

_ID_DIGITS = 16


@dataclass(frozen=True)
class Complaint:
    """One complaint; `where` is its file and line. `class_name` and `box` are None where the product does not say."""

    image: str
    text: str
    class_name: str | None
    box: tuple[float, float, float, float] | None
    where: str

    @property
    def id(self) -> str:
        """Names the complaint by its content, so that it is asked about once."""
        return sha256_bytes(canonical_json([self.image, self.text, self.class_name, self.box]).encode())[:_ID_DIGITS]

    def sentence(self) -> str:
        """As people read it."""
        about = "" if self.class_name is None else f" about {self.class_name}"
        place = "" if self.box is None else f" at ({', '.join(f'{value:g}' for value in self.box)})"
        return f"product complaint{about}{place}: {self.text}"


def read_complaints(files: Mapping[str, str], class_of: Mapping[str, str]) -> list[Complaint]:
    """The complaints of all files (name to text), in the order of names and lines. `class_of` maps names and aliases to classes.

    Raises:
        DataError: rows that cannot be read, all of them listed.
    """
    complaints: list[Complaint] = []
    problems: list[str] = []
    for name in sorted(files):
        for where, row in _rows(name, files[name]):
            result = row if isinstance(row, str) else _complaint(row, where, class_of)
            if isinstance(result, str):
                problems.append(f"{where}: {result}")
            else:
                complaints.append(result)
    if problems:
        raise DataError(f"feedback cannot be read ({len(problems)} rows: {listed(problems)}): mend these rows")
    return complaints


def resolved(complaints: Iterable[Complaint], files: Iterable[tuple[str, str]]) -> tuple[dict[str, list[Complaint]], list[Complaint]]:
    """Complaints by image_id, and those whose image is not there or not clear. `files` are (origin, image_id) of kept images, copies too."""
    by_name: dict[str, set[str]] = {}
    for origin, image_id in files:
        for name in (image_id, origin, origin.rsplit("/", 1)[-1]):
            by_name.setdefault(name, set()).add(image_id)
    found: dict[str, list[Complaint]] = {}
    lost: list[Complaint] = []
    for item in complaints:
        ids = by_name.get(item.image, set())
        if len(ids) == 1:
            found.setdefault(next(iter(ids)), []).append(item)
        else:
            lost.append(item)
    return found, lost


def _rows(name: str, text: str) -> list[tuple[str, Mapping[str, Any] | str]]:
    """`where` and the row as a mapping, or as a text that says what is wrong with it."""
    rows: list[tuple[str, Mapping[str, Any] | str]] = []
    if name.endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text))
        return [
            (f"{name} line {reader.line_num}", {key: value for key, value in row.items() if key is not None and value not in (None, "")})
            for row in reader
        ]
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would end lines at signs that a JSON text may hold, like U+2028
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            value = f"not JSON ({error.msg} at sign {error.colno})"
        rows.append((f"{name} line {number}", value if isinstance(value, dict | str) else "not a JSON object"))
    return rows


def _complaint(row: Mapping[str, Any], where: str, class_of: Mapping[str, str]) -> Complaint | str:
    missing = [key for key in ("image", "complaint") if not isinstance(row.get(key), str) or not row[key].strip()]
    if missing:
        return f"lacks {' and '.join(missing)}"
    name = row.get("class")
    if name is not None and not (isinstance(name, str) and name in class_of):
        return f"class {name!r} is not in params.yaml"
    box = row.get("box")
    parts = box.split() if isinstance(box, str) else box
    place = None
    if parts is not None:
        try:
            x1, y1, x2, y2 = (float(value) for value in parts)
        except (TypeError, ValueError):
            return f"box is {box!r}, wanted [x1, y1, x2, y2]"
        if not (-math.inf < x1 < x2 < math.inf and -math.inf < y1 < y2 < math.inf):
            return f"box is {box!r}, wanted finite [x1, y1, x2, y2] with x1 < x2 and y1 < y2"
        place = (x1, y1, x2, y2)
    image = row["image_id"] if isinstance(row.get("image_id"), str) else row["image"].strip()
    return Complaint(image, row["complaint"].strip(), None if name is None else class_of[name], place, where)
