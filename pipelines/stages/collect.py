"""Stage `collect`: from the inbox to data/raw (images by id and the manifest)."""

from __future__ import annotations

import argparse

from pipelines.collect.collection import collect
from pipelines.collect.fates import Thresholds
from pipelines.collect.inbox import both, read_inbox
from pipelines.collect.summary import collection_metrics
from pipelines.core.cli import stage_main
from pipelines.core.errors import MissingInputError
from pipelines.core.io import require_folder, write_metrics
from pipelines.core.params import load_params
from pipelines.core.records import write_manifest

_FILL = "run `detloop sample` or `detloop import`, or put images there"


def work(args: argparse.Namespace) -> None:
    """Images first, manifest after them, metrics last: killed anywhere, the next run ends in the same state."""
    params = load_params(args.params).collect
    inbox = both(read_inbox(require_folder(args.inbox, _FILL)), read_inbox(require_folder(args.fetched, "run `dvc repro fetch`")))
    if not inbox.files:
        raise MissingInputError(f"the inbox {args.inbox} is empty: {_FILL}, or name `collect.sources` in params.yaml")
    thresholds = Thresholds(params.min_side_px, params.max_pixels, params.min_brightness, params.max_brightness, params.min_sharpness)
    collection = collect(inbox.files, args.raw, args.work, thresholds, params.near_radius_bits, params.near_max_difference)
    write_manifest(args.raw / "manifest.parquet", collection.table)
    collection.remove_strays()
    metrics = collection_metrics(collection.table, inbox, collection.thumbnails)
    write_metrics(args.metrics, metrics)
    print(f"collect: {metrics['kept']} images kept, {metrics['dropped']} files dropped, {metrics['near_duplicate_pairs']} near-duplicates linked")


if __name__ == "__main__":
    stage_main(
        "pipelines.stages.collect",
        work,
        {
            "params": "params.yaml",
            "inbox": "folder of folders with images and logs",
            "fetched": "folder that the stage fetch fills",
            "raw": "folder for images/ and manifest.parquet",
            "work": "folder for what the next run may use again",
            "metrics": "metrics file to write",
        },
    )
