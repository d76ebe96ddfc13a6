"""The files of a sync: where they lie, and the snapshot written from all sources under the rules of params.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.errors import counted
from pipelines.core.io import write_jsonl, write_metrics
from pipelines.core.params import LabelingParams, Params
from pipelines.core.records import read_annotations, read_manifest, write_annotations
from pipelines.core.types import Annotation
from pipelines.labeling.loss import require_few_lost
from pipelines.labeling.opinions import Policies
from pipelines.labeling.sources import Sources
from pipelines.labeling.sync import KnownImage, Synced, sync


@dataclass(frozen=True)
class SyncPaths:
    """Where a sync finds and leaves its files; dvc.yaml says the same."""

    sources: Path
    queue: Path
    manifest: Path
    raw: Path
    predictions: Path
    cache: Path
    annotations: Path
    issues: Path
    metrics: Path


def last_snapshot(paths: SyncPaths) -> list[Annotation]:
    """The snapshot before this sync; empty before the first."""
    return read_annotations(paths.annotations) if paths.annotations.is_file() else []


def conflicts(annotations: Sequence[Annotation]) -> dict[str, tuple[str, ...]]:
    """The images in conflict, with the annotations that disagree."""
    return {item.image_id: item.annotation_ids for item in annotations if item.state == "conflict"}


def resolved(sources: Sources, params: Params, paths: SyncPaths) -> Synced:
    """One label an image from all sources, under the policies of params.yaml."""
    rules = params.labeling
    manifest = read_manifest(paths.manifest).select("origin", "image_id", "status", "reason", "width_px", "height_px")
    kept = {image_id: KnownImage(origin, (width, height)) for origin, image_id, status, _, width, height in manifest.iter_rows() if status == "kept"}
    dropped = {image_id: reason or "dropped" for _, image_id, status, reason, _, _ in manifest.iter_rows() if status != "kept" and image_id}
    policies = Policies(
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
    return sync(sources, kept, dropped, params.class_names, policies, rules.resolve, rules.consensus_iou)


def write_snapshot(synced: Synced, rules: LabelingParams, paths: SyncPaths, accept_loss: bool = False) -> str:
    """Write snapshot, issues and figures; what was written, in words.

    Raises:
        DataError: a server's pull lost more labels than allowed and `accept_loss` is not set; nothing is written.
    """
    if rules.source == "label_studio" and not accept_loss:
        require_few_lost(last_snapshot(paths), synced.annotations, rules.max_loss_fraction)
    write_jsonl(paths.issues, [item.to_json() for item in synced.issues])
    write_metrics(paths.metrics, synced.metrics)
    write_annotations(paths.annotations, synced.annotations)
    states = synced.metrics["states"]
    return (
        f"{states['labeled']} labeled, {states['verified_empty']} verified empty, {states['skipped']} skipped, "
        f"{states['conflict']} in conflict, {synced.metrics['unlabeled_images']} unlabeled; "
        f"{synced.metrics['boxes']} boxes, {counted(len(synced.issues), 'issue')}"
    )
