"""`detloop queue` before there is a model: the first images to label are unlike each other, and the way to a first model is open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines.cli import main
from pipelines.core.io import write_jsonl
from pipelines.core.records import write_annotations, write_manifest
from pipelines.core.tables import MANIFEST_SCHEMA
from pipelines.core.types import Annotation
from pipelines.mining.selection import hash_features

ONES = 2**64 - 1
HALF = 2**32 - 1
# a and b differ by one bit, c in half of the bits from both, d in all from a. e is a near-duplicate of d, f was dropped.
HASHES = {"a": 0, "b": 1, "c": HALF, "d": ONES, "e": ONES ^ 1, "f": 2**40}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images are collected, nothing is labeled."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("classes: [{name: a}]\nqueue: {budget: 3, slice_limit: 1.0}\n")
    rows = [
        dict.fromkeys(MANIFEST_SCHEMA)
        | {"origin": f"cam/{name}.jpg", "image_id": name, "path": f"images/{name}.jpg", "source": "cam", "brightness": 100.0, "phash": phash}
        | {"status": "dropped" if name == "f" else "kept", "near_group": "d" if name in "de" else None}
        | {"near_duplicate_of": "d" if name == "e" else None}
        for name, phash in HASHES.items()
    ]
    write_manifest(Path("data/raw/manifest.parquet"), pl.DataFrame(rows, schema=MANIFEST_SCHEMA))
    return tmp_path


def asked(number: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(f"data/queue/round-{number:03d}.jsonl").read_text().splitlines()]


def test_the_first_round_takes_what_looks_unlike(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "accept"]) == 0
    rows = asked(1)
    assert {row["image_id"] for row in rows} == {"a", "c", "d"}
    assert {(row["split"], *row["actions"]) for row in rows} == {("pool", "label the image")}
    said = capsys.readouterr().out
    assert "no model yet" in said
    assert "1 near-duplicate of a labeled or asked image, 1 over the budget" in said
    assert main(["queue", "accept"]) == 0
    assert "round 001 was already drawn from this list" in capsys.readouterr().out


def test_what_has_a_label_is_neither_asked_nor_looked_alike(project: Path) -> None:
    labels = [Annotation(name, state, 9, 9, (), "people") for name, state in (("a", "verified_empty"), ("d", "skipped"))]
    write_annotations(Path("data/labels/annotations.jsonl"), labels)
    assert main(["queue", "accept", "--budget", "1"]) == 0
    assert [row["image_id"] for row in asked(1)] == ["c"]


def test_a_complaint_comes_first_here_too(project: Path) -> None:
    write_jsonl(Path("data/feedback/app.jsonl"), [{"image": "cam/b.jpg", "complaint": "nothing found"}])
    assert main(["queue", "accept", "--budget", "2"]) == 0
    first, second = asked(1)
    assert (first["image_id"], first["kinds"]) == ("b", {"unlabeled": 1, "feedback": 1})
    assert second["image_id"] in "acd"


def test_with_a_data_set_the_mined_list_is_wanted(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(Path("data/dataset/train.jsonl"), [])
    assert main(["queue", "build"]) == 2
    assert "file data/badcases/ranked.jsonl is missing: run `dvc repro`" in capsys.readouterr().err


def test_hash_features_count_bits() -> None:
    features = hash_features(np.array([0, 1, HALF, ONES], dtype=np.uint64))
    assert (1 - features @ features[0]).tolist() == [0, 1 / 32, 1, 2]
    assert hash_features(np.zeros(0, dtype=np.uint64)).shape == (0, 64)
