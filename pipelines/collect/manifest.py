"""The manifest and the metrics of a collection, from what screening found. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from pipelines.collect.inbox import Inbox
from pipelines.collect.measure import THUMBNAIL_PX
from pipelines.collect.near import NearPair, components, near_pairs
from pipelines.collect.screening import REASON_EXACT_DUPLICATE, Screened, mark_exact_duplicates, raw_path
from pipelines.core.errors import MAX_LISTED
from pipelines.core.tables import MANIFEST_SCHEMA

_SIDES = (None, "train", "val", "test")  # the higher one is the better: test is frozen
MAX_PAIRS_LISTED = 200  # near-duplicate pairs named in the metrics; the count is always whole


@dataclass(frozen=True)
class Collection:
    """The manifest's rows and the near-duplicate pairs among its kept images, `a` and `b` by origin."""

    manifest: pl.DataFrame
    pairs: tuple[tuple[str, str, NearPair], ...]


def build_collection(screened: Sequence[Screened], near_radius_bits: int, near_max_difference: float) -> Collection:
    """Manifest rows of all files, exact duplicates marked and near-duplicates linked."""
    marked = mark_exact_duplicates(screened)
    kept = sorted((item for item, twin in marked if item.reason is None and twin is None), key=lambda item: str(item.image_id))
    measurements = [item.measurement for item in kept if item.measurement is not None]
    thumbnails = np.frombuffer(b"".join(item.thumbnail for item in measurements), dtype=np.uint8).reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX)
    pairs = near_pairs(np.array([item.phash for item in measurements], dtype=np.uint64), thumbnails, near_radius_bits, near_max_difference)
    root = components(len(kept), [(pair.a, pair.b) for pair in pairs])
    size = Counter(root)
    near_group = {item.image_id: kept[root[index]].image_id for index, item in enumerate(kept) if size[root[index]] > 1}
    best = {kept[first].image_id: _best([kept[index] for index in members]) for first, members in _clusters(root).items()}
    rows = [_row(item, twin, near_group.get(item.image_id) if item.reason is None and twin is None else None, best) for item, twin in marked]
    origins = [item.file.origin for item in kept]
    named = [(min(origins[pair.a], origins[pair.b]), max(origins[pair.a], origins[pair.b]), pair) for pair in pairs]
    return Collection(pl.DataFrame(rows, schema=MANIFEST_SCHEMA), tuple(sorted(named, key=lambda entry: entry[:2])))


def collection_metrics(collection: Collection, inbox: Inbox) -> dict[str, Any]:
    """Counts that add up (seen = kept + all dropped), and the names behind them."""
    manifest = collection.manifest
    kept, dropped = manifest.filter(pl.col("status") == "kept"), manifest.filter(pl.col("status") == "dropped")
    by_reason = {
        reason: sorted(dropped.filter(pl.col("reason") == reason)["origin"].to_list()) for reason in sorted(dropped["reason"].unique().to_list())
    }
    group_of = {row["origin"]: (row["source"], row["group"]) for row in kept.iter_rows(named=True)}
    same_group = [bool(group_of[a][1]) and group_of[a] == group_of[b] for a, b, _ in collection.pairs]
    ordered = sorted(zip(same_group, collection.pairs, strict=True), key=lambda entry: entry[0])  # pairs that no group holds together come first
    origin_by_id = dict(zip(kept["image_id"], kept["origin"], strict=True))
    duplicates = dropped.filter(pl.col("reason") == REASON_EXACT_DUPLICATE).sort("origin")
    return {
        "seen": len(manifest),
        "kept": len(kept),
        "dropped": len(dropped),
        "dropped_by_reason": {reason: _listing(origins) for reason, origins in by_reason.items()},
        "exact_duplicates": [
            {"origin": row["origin"], "duplicate_of": origin_by_id[row["duplicate_of"]]} for row in duplicates.head(MAX_LISTED).iter_rows(named=True)
        ],
        "near_duplicates": [
            {"a": a, "b": b, "distance_bits": pair.distance_bits, "difference": pair.difference} for _, (a, b, pair) in ordered[:MAX_PAIRS_LISTED]
        ],
        "near_duplicate_pairs": len(collection.pairs),
        "near_duplicate_pairs_within_groups": sum(same_group),
        "near_duplicate_groups": kept["near_group"].n_unique() - int(kept["near_group"].has_nulls()),
        "by_source": _by_source(manifest),
        "bytes_kept": int(kept["bytes"].sum()),
        "log_lines_missing": _listing(inbox.missing),
        "log_columns_ignored": dict(inbox.ignored_columns),
    }


def _clusters(root: Sequence[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for index, first in enumerate(root):
        found.setdefault(first, []).append(index)
    return found


def _best(cluster: Sequence[Screened]) -> str | None:
    """The image that stands for its near-duplicates: of the highest given split, then with the most pixels, the most bytes, the first by origin.

    At equal size more bytes mean more detail or less compression; the sharpness of a reduced decode would take block edges for detail.
    """

    def rank(item: Screened) -> tuple[int, int, int, str]:
        found = item.measurement
        return (-_SIDES.index(item.file.given_split), -(found.width_px * found.height_px) if found else 0, -(item.bytes or 0), item.file.origin)

    return min(cluster, key=rank).image_id


def _row(item: Screened, twin: str | None, near_group: str | None, best: Mapping[str | None, str | None]) -> dict[str, Any]:
    reason = item.reason or (REASON_EXACT_DUPLICATE if twin else None)
    found = item.measurement
    return {
        "origin": item.file.origin,
        "image_id": item.image_id,
        "path": raw_path(item.image_id, found.extension) if reason is None and item.image_id and found else None,
        "status": "kept" if reason is None else "dropped",
        "reason": reason,
        "duplicate_of": twin,
        "near_group": near_group,
        "near_duplicate_of": best[near_group] if near_group is not None and best[near_group] != item.image_id else None,
        "bytes": item.bytes,
        "width_px": found.width_px if found else None,
        "height_px": found.height_px if found else None,
        "source": item.file.source,
        "group": item.file.group,
        "captured_at": item.file.captured_at,
        "given_split": item.file.given_split,
        "phash": found.phash if found else None,
        "brightness": found.brightness if found else None,
        "contrast": found.contrast if found else None,
        "sharpness": found.sharpness if found else None,
        "uri": None,
        "predicted_classes": None,
        "uncertainty": None,
    }


def _listing(names: Sequence[str]) -> dict[str, Any]:
    return {"count": len(names), "first": list(names[:MAX_LISTED])}


def _by_source(manifest: pl.DataFrame) -> dict[str, Any]:
    table = manifest.group_by("source").agg(pl.len().alias("seen"), (pl.col("status") == "kept").sum().alias("kept")).sort("source")
    return {row["source"]: {"seen": row["seen"], "kept": row["kept"]} for row in table.iter_rows(named=True)}
