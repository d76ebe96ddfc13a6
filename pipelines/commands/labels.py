"""`detloop labels`: the parts of the Label Studio sync by hand, and a server of one's own (`make labelstudio` installs and starts it)."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipelines.core.cli import add_action
from pipelines.core.errors import counted
from pipelines.core.params import Params, load_params
from pipelines.core.section import replaced
from pipelines.formats.labelstudio_config import config_from_classes
from pipelines.labeling.server import local
from pipelines.labeling.server.client import TOKEN_VARIABLE, URL_VARIABLE, Client, connect
from pipelines.labeling.server.progress import progress_of, progress_text
from pipelines.labeling.server.project import find_project, open_project
from pipelines.labeling.server.round import pull_source, push_queue, snapshot_stays
from pipelines.labeling.snapshot import SyncPaths, last_snapshot, memory_of, resolved, write_snapshot
from pipelines.labeling.sources import read_sources, with_source

PARAMS = Path("params.yaml")
PATHS = SyncPaths(
    sources=Path("data/label_sources"),
    queue=Path("data/queue"),
    manifest=Path("data/raw/manifest.parquet"),
    raw=Path("data/raw"),
    predictions=Path("data/predictions"),
    cache=Path("data/work/labels/tasks.jsonl"),
    work=Path("data/work/labels"),
    annotations=Path("data/labels/annotations.jsonl"),
    issues=Path("data/labels/issues.jsonl"),
    metrics=Path("data/metrics/labels.json"),
)
SERVER = Path("data/work/labelstudio")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add_action(actions, "status", "server, project, what a push and a pull would do")
    push = add_action(actions, "push", "bring the open queue and the model's pre-labels to the server")
    pull = add_action(actions, "pull", "fetch annotations, resolve them, write the snapshot")
    pull.add_argument("--accept-loss", action="store_true", help="write the snapshot although many labels are gone")
    add_action(actions, "progress", "how far each round and each person is")
    for action in (push, pull):
        action.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")
    serve = add_action(actions, "serve", "start a Label Studio on this machine, or find the one that runs")
    serve.add_argument("--program", type=Path, required=True, help="label-studio, in a virtual environment of its own")
    serve.add_argument("--port", type=int, help="default: a free one")
    stop = add_action(actions, "stop", "stop the Label Studio that `serve` started")
    for action in (serve, stop):
        action.add_argument("--server", type=Path, default=SERVER, help="folder of its database and log (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Do the asked action."""
    if args.action == "serve":
        return _serve(args)
    if args.action == "stop":
        print("stopped" if local.stop(args.server) else f"no server of {args.server} runs")
        return 0
    params = load_params(PARAMS)
    with connect() as client:
        if args.action == "status":
            return _status(client, params)
        if args.action == "push":
            return _push(client, params, args.dry_run)
        if args.action == "pull":
            return _pull(client, params, args.dry_run, args.accept_loss)
        project = find_project(client, params.labeling.project, params.class_names, params.class_of)
        print(_missing(client, params) if project is None else progress_text(progress_of(project.tasks())))
        return 0


def _status(client: Client, params: Params) -> int:
    print(f"server: {client.url}, Label Studio {client.release()}")
    try:
        project = find_project(client, params.labeling.project, params.class_names, params.class_of)
    finally:
        print(f"a labeling interface that fits:\n{config_from_classes(params.class_names)}")
    if project is None:
        print(_missing(client, params))
        return 0
    counters, version = project.state()
    state = f"{counted(counters.tasks, 'task')}, {counted(counters.annotations, 'annotation')}, model {version or 'none'}"
    print(f"project: {project.title!r} at {project.page}: {state}")
    report = push_queue(project, params, PATHS, _bar, dry_run=True)
    print(f"a push: {report}")
    snapshot = last_snapshot(PATHS)
    print(f"the last snapshot: {counted(len(snapshot), 'image')}, {sum(item.state == 'conflict' for item in snapshot)} in conflict")
    return 0


def _push(client: Client, params: Params, dry_run: bool) -> int:
    rules = params.labeling
    if dry_run:
        project = find_project(client, rules.project, params.class_names, params.class_of)
        if project is None:
            print(_missing(client, params))
            return 0
    else:
        project = open_project(client, rules.project, params.class_names, params.class_of)
    report = push_queue(project, params, PATHS, _bar, dry_run)
    print(("dry run, nothing changed; a push would begin with: " if dry_run else "") + f"{project.page}: {report}")
    return 0


def _pull(client: Client, params: Params, dry_run: bool, accept_loss: bool) -> int:
    project = find_project(client, params.labeling.project, params.class_names, params.class_of)
    if project is None:
        print(_missing(client, params))
        return 0
    with snapshot_stays():
        source = pull_source(project, PATHS, print, _bar)
    known = memory_of(params, PATHS)
    synced = resolved(with_source(read_sources(PATHS.sources, known), source), params, PATHS, known)
    if dry_run:
        before = {item.image_id: item for item in last_snapshot(PATHS)}
        changed = sum(before.get(item.image_id) != item for item in synced.annotations)
        gone = len(before.keys() - {item.image_id for item in synced.annotations})
        print(f"dry run, no snapshot written: {counted(changed, 'image')} new or changed, {gone} gone, {counted(len(synced.issues), 'issue')}")
        return 0
    print(write_snapshot(synced, replaced(params.labeling, source="label_studio"), PATHS, accept_loss))
    if params.labeling.source == "files":
        print("note: labeling.source is files, so the next `dvc repro` drops what is on the server alone: set it to label_studio to keep it")
    return 0


def _serve(args: argparse.Namespace) -> int:
    params = load_params(PARAMS)
    server = local.start(args.program, args.server, args.port)
    token = local.new_token(server.url, server.user, server.password)
    print(f"export {URL_VARIABLE}={server.url}\nexport {TOKEN_VARIABLE}={token}")
    with Client(server.url, token) as client:
        project = open_project(client, params.labeling.project, params.class_names, params.class_of)
    print(f"# project: {project.page}   user: {server.user}   password: {server.password}")
    return 0


def _missing(client: Client, params: Params) -> str:
    return f"{client.url} has no project {params.labeling.project!r} yet: `detloop labels push` makes it"


def _bar(items: Iterable[Any], text: str) -> Iterable[Any]:
    return tqdm(items, desc=text, disable=None, leave=False)
