"""Stage label_sync: read all label sources, resolve each image to one label, write the canonical snapshot, its issues and the figures."""

from __future__ import annotations

import argparse

from pipelines.core.cli import stage_main
from pipelines.core.errors import MissingPartError
from pipelines.core.io import write_jsonl, write_metrics
from pipelines.core.params import load_params
from pipelines.core.records import read_manifest, write_annotations
from pipelines.labeling.opinions import Policies
from pipelines.labeling.sources import read_sources
from pipelines.labeling.sync import KnownImage, sync


def work(args: argparse.Namespace) -> None:
    """See the module; on any error the last snapshot stays as it is."""
    params = load_params(args.params)
    rules = params.labeling
    if rules.source != "files":
        raise MissingPartError(
            f"labeling.source = {rules.source!r}: this version reads no server: set `labeling.source: files` and put JSON exports into {args.sources}"
        )
    sources = read_sources(args.sources)
    manifest = read_manifest(args.manifest).select("origin", "image_id", "status", "reason", "width_px", "height_px")
    kept = {image_id: KnownImage(origin, (width, height)) for origin, image_id, status, _, width, height in manifest.iter_rows() if status == "kept"}
    dropped = {image_id: reason or "dropped" for _, image_id, status, reason, _, _ in manifest.iter_rows() if status != "kept" and image_id}
    policies = Policies(params.class_of, rules.past_edge, rules.rotated, rules.min_box_side_px)
    synced = sync(sources, kept, dropped, params.class_names, policies, rules.resolve, rules.consensus_iou)
    write_jsonl(args.issues, [item.to_json() for item in synced.issues])
    write_metrics(args.metrics, synced.metrics)
    write_annotations(args.annotations, synced.annotations)
    states = synced.metrics["states"]
    print(
        f"labels: {states['labeled']} labeled, {states['verified_empty']} verified empty, {states['skipped']} skipped, "
        f"{states['conflict']} in conflict, {synced.metrics['unlabeled_images']} unlabeled; "
        f"{synced.metrics['boxes']} boxes, {len(synced.issues)} issues"
    )


if __name__ == "__main__":
    stage_main(
        "pipelines.stages.label_sync",
        work,
        {
            "params": "params.yaml",
            "sources": "folder of label sources (NAME.json, NAME.jsonl)",
            "manifest": "manifest of raw images",
            "annotations": "the snapshot to write",
            "issues": "one line for each record that was dropped, altered or not used",
            "metrics": "labels.json",
        },
    )
