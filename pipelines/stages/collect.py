"""Stage `collect`: from the inbox and the sources to data/raw (images by id and the manifest)."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor

from pipelines.collect.collection import View, Wishes, collect
from pipelines.collect.fates import Thresholds
from pipelines.collect.inbox import Inbox, both, read_inbox
from pipelines.collect.listing import listing_beside
from pipelines.collect.screening import look_at_all, look_at_all_on_ray
from pipelines.collect.selection import Interest, Lists, contradicted, lines_of, unmatched
from pipelines.collect.store import IMAGES_FOLDER, ImageStore
from pipelines.collect.summary import collection_metrics
from pipelines.core.champion import read_champions
from pipelines.core.cli import stage_main
from pipelines.core.errors import MissingInputError, counted, listed
from pipelines.core.io import read_text, require_folder, write_metrics
from pipelines.core.params import Params, load_params
from pipelines.core.records import read_manifest, write_manifest

_FILL = "run `detloop sample` or `detloop import`, or put images there"
_LISTS = "restore it from git (an empty list is an empty file)"


def work(args: argparse.Namespace) -> None:
    """Images first, manifest after them, metrics last: killed anywhere, the next run ends in the same state."""
    params = load_params(args.params)
    with listing_beside(str(args.raw), IMAGES_FOLDER) as there:
        inbox = _inbox(args)
        store = ImageStore(args.raw, there())
    if not len(inbox.seen):
        raise MissingInputError(f"the inbox {args.inbox} is empty: {_FILL}, or name `collect.sources` in params.yaml")
    lists = Lists(*(lines_of(read_text(args.lists / name, _LISTS)) for name in ("pick.txt", "reject.txt")))
    manifest = args.raw / "manifest.parquet"
    earlier = set(read_manifest(manifest).filter(status="kept")["image_id"]) if params.collect.sample.budget and manifest.exists() else set()
    view = _view(params, args)
    look = look_at_all_on_ray if params.collect.executor == "ray" else look_at_all
    collection = collect(inbox, store, args.work, _wishes(params, lists, screened=view is not None), earlier, look, view)
    with ThreadPoolExecutor() as pool:  # polars writes without Python's lock
        written = pool.submit(write_manifest, manifest, collection.table)
        metrics = collection_metrics(collection.table, inbox, collection.thumbnails)
        written.result()
    collection.remove_strays()
    metrics["list_lines_unmatched"] = {name: unmatched(collection.table, lines) for name, lines in (("pick", lists.pick), ("reject", lists.reject))}
    metrics["picked_and_rejected"] = contradicted(collection.table, lists)
    write_metrics(args.metrics, metrics)
    collection.forget_others()
    kept, dropped, linked = (
        counted(metrics["kept"], "image"),
        counted(metrics["dropped"], "file"),
        counted(metrics["near_duplicate_pairs"], "near-duplicate"),
    )
    print(f"collect: {kept} kept, {dropped} dropped, {linked} linked")
    budget = params.collect.sample.budget
    if budget is not None and metrics["kept"] > budget:
        print(f"collect: that is over the budget of {budget}: what is picked, has a given split or was kept by an earlier run stays")
    for name, lines in metrics["list_lines_unmatched"].items():
        if lines:
            print(f"collect: {counted(len(lines), 'line')} of {args.lists}/{name}.txt without a file: {listed(lines)}")
    if both_lists := metrics["picked_and_rejected"]:
        print(f"collect: {counted(len(both_lists), 'file')} on both lists, and so rejected: {listed(both_lists)}")


def _inbox(args: argparse.Namespace) -> Inbox:
    return both(read_inbox(require_folder(args.inbox, _FILL)), read_inbox(require_folder(args.fetched, "run `dvc repro fetch`")))


def _wishes(params: Params, lists: Lists, *, screened: bool) -> Wishes:
    rules = params.collect
    return Wishes(
        Thresholds(rules.min_side_px, rules.max_pixels, rules.min_brightness, rules.max_brightness, rules.min_sharpness),
        rules.near_radius_bits,
        rules.near_max_difference,
        lists,
        Interest(rules.screen.score, rules.screen.uncertainty) if screened else None,
        rules.sample.budget,
        tuple(rules.sample.by),
    )


def _view(params: Params, args: argparse.Namespace) -> View | None:
    """The view of the champion that screens; None where there is none."""
    champion = read_champions(args.screener, "run `dvc repro screener`").current
    if champion is None:
        return None
    from training.screening import champion_view

    return lambda images: champion_view(images, champion, args.store, args.raw, args.work, params)


if __name__ == "__main__":
    stage_main(
        "pipelines.stages.collect",
        work,
        {
            "params": "params.yaml",
            "inbox": "folder of folders with images and logs",
            "fetched": "folder that the stage fetch fills",
            "lists": "folder with pick.txt and reject.txt",
            "screener": "record of the champion that screens",
            "store": "folder of the champions' models",
            "raw": "folder for images/ and manifest.parquet",
            "work": "folder for what the next run may use again",
            "metrics": "metrics file to write",
        },
    )
