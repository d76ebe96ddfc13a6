"""Stage label_sync: read all label sources (files, and a Label Studio when params say so), resolve each image to one label, write the canonical
snapshot, its issues and the figures.

With `labeling.source: label_studio` the open queue goes to the server first. Its pre-labels come from the predictions that the last round left; they
are no dependency, since the graph has no cycles.
"""

from __future__ import annotations

import argparse

from pipelines.core.cli import stage_main
from pipelines.core.params import Params, load_params
from pipelines.labeling.memory import Memory
from pipelines.labeling.snapshot import SyncPaths, conflicts, last_snapshot, memory_of, resolved, write_snapshot
from pipelines.labeling.sources import Sources, read_sources, with_source

PATHS = {
    "sources": "folder of label sources (NAME.json, NAME.jsonl)",
    "queue": "folder of the rounds that people are asked about",
    "manifest": "manifest of raw images",
    "raw": "folder that the manifest's paths start from",
    "predictions": "folder of the last round's detections; may be missing",
    "cache": "what the server had at the last pull; may be deleted",
    "work": "folder for what the next sync may use again",
    "annotations": "the snapshot to write",
    "issues": "one line for each record that was dropped, altered or not used",
    "metrics": "labels.json",
}


def work(args: argparse.Namespace) -> None:
    """See the module; on any error the last snapshot stays as it is."""
    params = load_params(args.params)
    paths = SyncPaths(**{name: getattr(args, name) for name in PATHS})
    known = memory_of(params, paths)
    sources = read_sources(paths.sources, known)
    if params.labeling.source == "files":
        print(f"labels: {write_snapshot(resolved(sources, params, paths, known), params.labeling, paths)}")
    else:
        _sync_with_server(params, paths, sources, known)


def _sync_with_server(params: Params, paths: SyncPaths, sources: Sources, known: Memory) -> None:
    from pipelines.labeling.server.client import connect  # here: most syncs need no server
    from pipelines.labeling.server.project import no_bar, open_project
    from pipelines.labeling.server.round import pull_source, push_queue, snapshot_stays

    with snapshot_stays(), connect() as client:
        project = open_project(client, params.labeling.project, params.class_names, params.class_of)
        print(f"pushed to {project.page}: {push_queue(project, params, paths, no_bar)}")
        sources = with_source(sources, pull_source(project, paths, lambda text: print(f"pulled: {text}"), no_bar))
        before = conflicts(last_snapshot(paths))
        synced = resolved(sources, params, paths, known)
        print(f"labels: {write_snapshot(synced, params.labeling, paths)}")
        if conflicts(synced.annotations) != before:  # what is in dispute now goes back to people at once
            print(f"pushed to {project.page}: {push_queue(project, params, paths, no_bar)}")


if __name__ == "__main__":
    stage_main("pipelines.stages.label_sync", work, {"params": "params.yaml", **PATHS})
