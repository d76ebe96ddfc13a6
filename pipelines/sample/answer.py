"""People who answer a round of questions, simulated: the true labels of the asked images as one more Label Studio export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.errors import DataError, listed
from pipelines.core.io import canonical_json, write_text
from pipelines.sample.labels import ANNOTATORS, Labelable, TeamExport

NAME = "answers"


def write_answers(labels: Path, asked: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]], round_number: int, seed: int) -> Path:
    """Write `labels`/answers-NNN.json for the `asked` rows of a round, out of the rows of truth.jsonl; its path.

    Each image is labeled by one person with the unsteady hand of people (a side up to 1 px off) and no other fault.

    Raises:
        DataError: an asked image has no true labels.
    """
    known = {row["image_id"]: row for row in truth}
    unknown = [f"{row['image_id'][:12]} ({row['path']})" for row in asked if row["image_id"] not in known]
    if unknown:
        raise DataError(f"the true labels lack {len(unknown)} of the asked images ({listed(unknown)}): only images of the sample can be answered so")
    rng = np.random.default_rng([seed, round_number])
    export = TeamExport(rng, round_number)
    for row in sorted(asked, key=lambda row: str(row["image_id"])):
        image = _labelable(known[row["image_id"]])
        annotator = ANNOTATORS[int(rng.integers(len(ANNOTATORS)))]
        export.add(image, [export.annotation(export.result(image, export.jittered(image)), annotator)])
    path = labels / f"{NAME}-{round_number:03d}.json"
    write_text(path, canonical_json(export.tasks) + "\n")
    return path


def _labelable(row: Mapping[str, Any]) -> Labelable:
    boxes = tuple((str(box["class"]), (box["xyxy"][0], box["xyxy"][1], box["xyxy"][2], box["xyxy"][3])) for box in row["boxes"])
    return Labelable(row["image_id"], row["file"], (row["width_px"], row["height_px"]), boxes)
