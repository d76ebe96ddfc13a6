"""The files of a sync: where they lie, and the snapshot written from all sources under the rules of params.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipelines.core import boxes, records, types
from pipelines.core.errors import counted, listed
from pipelines.core.io import code_key, sha256_bytes, write_metrics
from pipelines.core.params import LabelingParams, Params
from pipelines.core.records import read_annotations, read_manifest
from pipelines.core.tables import write_jsonl_table, write_lines
from pipelines.core.types import Annotation
from pipelines.formats import labelstudio, reading
from pipelines.labeling import agreement, memory, opinions, people, prelabel_accounts, resolve, summary
from pipelines.labeling import sources as sources_
from pipelines.labeling import sync as sync_
from pipelines.labeling.loss import require_few_lost
from pipelines.labeling.memory import Memory
from pipelines.labeling.opinions import Policies
from pipelines.labeling.sources import Sources
from pipelines.labeling.sync import IMAGES, Synced, sync


@dataclass(frozen=True)
class SyncPaths:
    """Where a sync finds and leaves its files; dvc.yaml says the same."""

    sources: Path
    queue: Path
    manifest: Path
    raw: Path
    predictions: Path
    cache: Path
    work: Path
    annotations: Path
    issues: Path
    metrics: Path


def last_snapshot(paths: SyncPaths) -> list[Annotation]:
    """The snapshot before this sync; empty before the first."""
    return read_annotations(paths.annotations) if paths.annotations.is_file() else []


def conflicts(annotations: Sequence[Annotation]) -> dict[str, tuple[str, ...]]:
    """The images in conflict, with the annotations that disagree."""
    return {item.image_id: item.annotation_ids for item in annotations if item.state == "conflict"}


def policies_of(params: Params) -> Policies:
    """The policies of params.yaml."""
    rules = params.labeling
    return Policies(
        class_of=params.class_of,
        past_edge=rules.past_edge,
        rotated=rules.rotated,
        polygon=rules.polygon,
        brush=rules.brush,
        keypoint=rules.keypoint,
        unknown_class=rules.unknown_class,
        zero_area=rules.zero_area,
        duplicate_region_id=rules.duplicate_region_id,
        min_box_side_px=rules.min_box_side_px,
    )


def memory_of(params: Params, paths: SyncPaths) -> Memory:
    """What earlier syncs found out under the rules of params.yaml, by the same code."""
    rules = params.labeling
    code = code_key(
        [labelstudio, reading, agreement, memory, opinions, people, prelabel_accounts, resolve, sources_, summary, sync_, boxes, records, types],
        [pl.__version__, np.__version__],
    )
    return Memory(paths.work, sha256_bytes(f"{code} {policies_of(params)} {rules.resolve} {rules.consensus_iou}".encode())[:16])


def resolved(sources: Sources, params: Params, paths: SyncPaths, known: Memory) -> Synced:
    """One label an image from all sources, under the policies of params.yaml."""
    rules = params.labeling
    images = read_manifest(paths.manifest, IMAGES)
    return sync(sources, images, params.class_names, policies_of(params), rules.resolve, rules.consensus_iou, known)


def write_snapshot(synced: Synced, rules: LabelingParams, paths: SyncPaths, accept_loss: bool = False) -> str:
    """Write snapshot, issues and figures; what was written, in words.

    Raises:
        DataError: a server's pull lost more labels than allowed and `accept_loss` is not set; nothing is written.
    """
    if rules.source == "label_studio" and not accept_loss:
        require_few_lost(last_snapshot(paths), synced.annotations, rules.max_loss_fraction)
    with ThreadPoolExecutor() as pool:  # polars sorts and writes without Python's lock
        written = pool.submit(lambda: write_lines(paths.annotations, synced.lines))
        write_jsonl_table(paths.issues, synced.issue_table)
        write_metrics(paths.metrics, synced.metrics)
        written.result()
    states = synced.metrics["states"]
    return (
        f"{states['labeled']} labeled, {states['verified_empty']} verified empty, {states['skipped']} skipped, "
        f"{states['conflict']} in conflict, {synced.metrics['unlabeled_images']} unlabeled; "
        f"{synced.metrics['boxes']} boxes, {counted(len(synced.issue_table), 'issue')}{_unused(synced.metrics)}"
    )


def _unused(metrics: Mapping[str, Any]) -> str:
    """What lies among the sources, or in them, and became no label, in words; empty where there is nothing such."""
    unmatched, others = metrics["unmatched"]["count"], metrics["other_files"]
    words = [f"{counted(unmatched, 'label')} of images that are not there"] if unmatched else []
    words += [f"not read: {listed(others)} (a source is a file NAME.json or NAME.jsonl)"] if others else []
    return "".join(f"; {word}" for word in words)
