"""What the first round draws from, when there is no model yet: images without a label, as unlike each other as perceptual hashes tell."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from pipelines.commands.queue_inputs import DATASET, MANIFEST, QueueInputs, clusters_of, complaint_candidates, hash_of, slice_name
from pipelines.core.params import Params
from pipelines.core.records import read_annotations, read_manifest
from pipelines.mining.queue import POOL, Candidate, merged
from pipelines.mining.selection import PoolImage, hash_features

ANNOTATIONS = Path("data/labels/annotations.jsonl")
NOTE = "no model yet: the first images to label are chosen to look unlike each other"
REASON = "no label and no model yet"


def is_first_round() -> bool:
    """Whether images are collected, and there is no data set that a model could be trained on."""
    return MANIFEST.is_file() and not (DATASET / "train.jsonl").is_file()


def first_inputs(params: Params) -> QueueInputs:
    """Every kept image of which people have said nothing; those that the product complains about say so."""
    kept = read_manifest(MANIFEST).filter(status="kept")
    labels = read_annotations(ANNOTATIONS) if ANNOTATIONS.is_file() else []
    said = pl.col("image_id").is_in([item.image_id for item in labels])
    new, known = kept.filter(~said), kept.filter(said)
    rows = list(new.select("image_id", "path", "source", "brightness").iter_rows())
    complaints, complaint_ids, notes = complaint_candidates(params)
    candidates = [Candidate(image_id, path, POOL, 0.0, {"unlabeled": 1}, (REASON,)) for image_id, path, _, _ in rows]
    sources = [path for path in (MANIFEST, ANNOTATIONS) if path.is_file()]
    return QueueInputs(
        candidates=merged([*candidates, *complaints]),
        clusters=clusters_of(kept),
        labeled=frozenset(known["image_id"]),
        pool=[PoolImage(image_id, 1.0, frozenset(), slice_name(params, source, brightness)) for image_id, _, source, brightness in rows],
        features=hash_features(new["phash"].to_numpy()),
        known=hash_features(known["phash"].to_numpy()),
        hash=hash_of(sources, complaint_ids),
        notes=[NOTE, *notes],
    )
