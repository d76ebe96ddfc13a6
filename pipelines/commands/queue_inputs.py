"""What `detloop queue` draws from, read from a project: mined images, suspect labels, tracks, complaints of the product, and the unlabeled pool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.core.errors import DataError, counted
from pipelines.core.io import read_json, read_jsonl, require_file, sha256_bytes, sha256_file
from pipelines.core.params import Params
from pipelines.core.records import read_detections, read_features, read_manifest, read_samples
from pipelines.core.slices import SliceLimits
from pipelines.core.types import LABELED_SPLITS, SPLITS, Detections, Sample, Split
from pipelines.mining.feedback import Complaint, read_complaints, resolved
from pipelines.mining.queue import Candidate, complaint_candidate, merged, ranked_candidates, suspect_candidates
from pipelines.mining.selection import PoolImage, class_rarity, pool_image

SUSPECTS = (Path("data/suspects/labels.jsonl"), Path("data/suspects/tracks.jsonl"))
FEEDBACK = Path("data/feedback")
MANIFEST = Path("data/raw/manifest.parquet")
DATASET = Path("data/dataset")
POOL_DETECTIONS, FEATURES = Path("data/predictions/pool.parquet"), Path("data/predictions/features.parquet")
THRESHOLDS = Path("data/evaluation/thresholds.json")
_HASH_DIGITS = 16


@dataclass(frozen=True)
class QueueInputs:
    """All candidates in one list, and the pool for selection: `features` (pool, C) and `known` (labeled images, C), of unit length.

    `clusters` maps an image_id to its cluster of near-duplicates, `labeled` are the ids of all labeled images. `hash` names everything that the
    candidates come from; `notes` say what was not there.
    """

    candidates: list[Candidate]
    clusters: dict[str, str]
    labeled: frozenset[str]
    pool: list[PoolImage]
    features: NDArray[np.float64]
    known: NDArray[np.float64]
    hash: str
    notes: list[str]


def read_inputs(ranked: Path, params: Params) -> QueueInputs:
    """Read what is there; only the mined list must be.

    Raises:
        MissingInputError, DataError: a file is missing or cannot be read.
    """
    parts = ranked_candidates(read_jsonl(ranked))
    sources = [ranked]
    notes = []
    if all(path.is_file() for path in SUSPECTS):
        labels, tracks = (read_jsonl(path) for path in SUSPECTS)
        parts += suspect_candidates(labels, tracks)
        sources += SUSPECTS
    else:
        notes.append(f"no suspect labels or tracks yet ({SUSPECTS[0].parent}): run `dvc repro` for them")
    complaints, complaint_ids, lost = complaint_candidates(params)
    parts += complaints
    notes += lost
    labeled = [sample for split in LABELED_SPLITS for sample in _samples(split)]
    pool, features, known = _pool(params, labeled)
    clusters = clusters_of(read_manifest(MANIFEST)) if MANIFEST.is_file() else {}
    ids = frozenset(sample.image_id for sample in labeled)
    return QueueInputs(merged(parts), clusters, ids, pool, features, known, hash_of(sources, complaint_ids), notes)


def hash_of(sources: Sequence[Path], complaint_ids: Sequence[str]) -> str:
    """The name of everything that a round is drawn from."""
    hashes = [*(sha256_file(path) for path in sources), *complaint_ids]
    return (hashes[0] if len(hashes) == 1 else sha256_bytes("".join(hashes).encode()))[:_HASH_DIGITS]


def complaint_candidates(params: Params) -> tuple[list[Candidate], list[str], list[str]]:
    """The images that the product complains about, the ids of all complaints, and a note where some are about images that are not there."""
    complaints = read_complaints(_feedback_files(), params.class_of)
    if not complaints:
        return [], [], []
    found, lost = _complaints(complaints)
    ids = [item.id for item in complaints]
    if not lost:
        return found, ids, []
    listed = ", ".join(f"{item.image} ({item.where})" for item in lost[:20])
    return found, ids, [f"{len(lost)} complaints are about images that are not there, or whose name is not clear: {listed}"]


def clusters_of(manifest: pl.DataFrame) -> dict[str, str]:
    """For each kept image that has near-duplicates the one that stands for it; not the whole chain, whose ends may have nothing in common."""
    linked = manifest.filter(pl.col("status") == "kept", pl.col("near_group").is_not_null())
    return dict(linked.select("image_id", pl.coalesce("near_duplicate_of", "image_id").alias("stands")).iter_rows())


def slice_name(params: Params, source: str, brightness: float) -> str:
    """The slice that the queue's limit counts an image by."""
    rules = params.evaluate
    limits = SliceLimits(rules.small_area_px, rules.medium_area_px, rules.dark_below, rules.bright_above)
    return f"{source}, {limits.brightness(brightness)}"


def _feedback_files() -> dict[str, str]:
    files = {}
    for path in sorted(FEEDBACK.glob("*")):
        if path.suffix not in (".csv", ".jsonl"):
            continue
        try:
            files[path.name] = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text ({error}): save it as UTF-8") from error
    return files


def _complaints(complaints: list[Complaint]) -> tuple[list[Candidate], list[Complaint]]:
    manifest = read_manifest(MANIFEST)
    kept = manifest.filter(pl.col("status") == "kept")
    paths = dict(zip(kept["image_id"], kept["path"], strict=True))
    found, lost = resolved(complaints, [pair for pair in zip(manifest["origin"], manifest["image_id"], strict=True) if pair[1] in paths])
    splits = {sample.image_id: split for split in SPLITS for sample in _samples(split)}
    return [complaint_candidate(name, paths[name], splits.get(name, "pool"), items) for name, items in sorted(found.items())], lost


def _samples(split: Split) -> list[Sample]:
    """The images of a split; none before the first `dvc repro`."""
    path = DATASET / f"{split}.jsonl"
    return read_samples(path) if path.is_file() else []


def _pool(params: Params, labeled: Sequence[Sample]) -> tuple[list[PoolImage], NDArray[np.float64], NDArray[np.float64]]:
    """The unlabeled images, their features and those of the labeled images; empty before the first `dvc repro`."""
    if not (DATASET / "pool.jsonl").is_file():
        return [], np.zeros((0, 0)), np.zeros((0, 0))
    classes = params.class_names
    values: Mapping[str, float] = read_json(THRESHOLDS)["classes"]
    if set(values) != set(classes):
        raise DataError(f"{THRESHOLDS} is for the classes {sorted(values)}, params.yaml has {list(classes)}: run `dvc repro evaluate` first")
    thresholds = np.array([float(values[name]) for name in classes])
    detections = read_detections(require_file(POOL_DETECTIONS), classes)
    rarity = class_rarity(Counter(box.class_name for sample in labeled for box in sample.boxes), classes)
    samples = read_samples(DATASET / "pool.jsonl")
    images = [
        pool_image(
            sample.image_id,
            slice_name(params, sample.source, sample.brightness),
            detections.get(sample.image_id, Detections.empty()),
            thresholds,
            rarity,
            classes,
        )
        for sample in samples
    ]
    vectors = read_features(FEATURES)
    unseen = [sample.image_id for sample in (*samples, *labeled) if sample.image_id not in vectors]
    if unseen:
        raise DataError(f"{FEATURES} knows nothing of {counted(len(unseen), 'image')} of the dataset: run `dvc repro predict`, then this again")
    width = len(next(iter(vectors.values()), ()))
    features, known = (np.array([vectors[sample.image_id] for sample in part], dtype=np.float64).reshape(-1, width) for part in (samples, labeled))
    return images, features, known
