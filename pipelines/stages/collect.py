"""Stage `collect`: from the inbox to data/raw (images by id and the manifest)."""

from __future__ import annotations

import argparse

from pipelines.collect.cache import cache_path, read_cache, write_cache
from pipelines.collect.inbox import read_inbox
from pipelines.collect.manifest import build_collection, collection_metrics
from pipelines.collect.screening import IMAGES_FOLDER, Thresholds, remove_strays, screen
from pipelines.core.cli import stage_main
from pipelines.core.errors import MissingInputError
from pipelines.core.io import require_folder, write_metrics
from pipelines.core.params import load_params
from pipelines.core.records import write_manifest

_FILL = "run `detloop sample` or `detloop import`, or put images there"


def work(args: argparse.Namespace) -> None:
    """Images first, manifest after them, metrics last: killed anywhere, the next run ends in the same state."""
    params = load_params(args.params).collect
    inbox = read_inbox(require_folder(args.inbox, _FILL))
    if not inbox.files:
        raise MissingInputError(f"the inbox {args.inbox} is empty: {_FILL}")
    thresholds = Thresholds(params.min_side_px, params.max_pixels, params.min_brightness, params.max_brightness, params.min_sharpness)
    cache = cache_path(args.raw)
    (args.raw / IMAGES_FOLDER).mkdir(parents=True, exist_ok=True)
    screened = list(screen(inbox.files, args.raw, thresholds, read_cache(cache)))
    write_cache(cache, {item.image_id: item.measurement for item in screened if item.image_id and item.measurement})
    collection = build_collection(screened, params.near_radius_bits, params.near_max_difference)
    write_manifest(args.raw / "manifest.parquet", collection.manifest)
    remove_strays(args.raw, set(collection.manifest["path"].drop_nulls()))
    metrics = collection_metrics(collection, inbox)
    write_metrics(args.metrics, metrics)
    print(f"collect: {metrics['kept']} images kept, {metrics['dropped']} files dropped, {metrics['near_duplicate_pairs']} near-duplicate pairs")


if __name__ == "__main__":
    stage_main(
        "pipelines.stages.collect",
        work,
        {
            "params": "params.yaml",
            "inbox": "folder of folders with images and logs",
            "raw": "folder for images/ and manifest.parquet",
            "metrics": "metrics file to write",
        },
    )
