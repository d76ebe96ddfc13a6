"""The two directions of one sync with a server: the open queue to it, its annotations back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.core.errors import ServerError
from pipelines.core.io import read_jsonl
from pipelines.core.params import Params
from pipelines.core.records import read_manifest
from pipelines.formats.labelstudio import read_task
from pipelines.labeling.server.prelabels import read_prelabels
from pipelines.labeling.server.project import Bar, Project
from pipelines.labeling.server.pull import pull, pulled_tasks
from pipelines.labeling.server.push import PushReport, push
from pipelines.labeling.server.questions import AskedImage, Questions, open_questions
from pipelines.labeling.snapshot import SyncPaths, last_snapshot
from pipelines.labeling.sources import Source, source_from_tasks


def read_questions(paths: SyncPaths) -> Questions:
    """The open questions: every round of the queue and the conflicts of the last snapshot."""
    rows = [row for path in sorted(paths.queue.glob("round-*.jsonl")) for row in read_jsonl(path, "restore it from git")]
    manifest = read_manifest(paths.manifest)
    kept = manifest.filter(manifest["status"] == "kept").select("image_id", "path", "width_px", "height_px")
    images = {image_id: AskedImage(path, (width, height)) for image_id, path, width, height in kept.iter_rows()}
    return open_questions(rows, last_snapshot(paths), images)


def push_queue(project: Project, params: Params, paths: SyncPaths, bar: Bar, dry_run: bool = False) -> PushReport:
    """Bring the open questions to the server, with the pre-labels of the current model."""
    questions = read_questions(paths)
    ids = {item.image_id for item in questions.items}
    prelabels = read_prelabels(paths.predictions, ids, params.labeling.prelabel_score, params.class_of)
    return push(project, questions, prelabels, paths.raw, params.labeling.images, bar, dry_run)


@contextmanager
def snapshot_stays() -> Iterator[None]:
    """Add to a server's failure what it means for the labels: nothing."""
    try:
        yield
    except ServerError as error:
        raise ServerError(f"{error}. The last snapshot stays as it is; `dvc repro --downstream dataset` goes on with it") from error


def pull_source(project: Project, paths: SyncPaths, note: Callable[[str], None], bar: Bar) -> Source:
    """The server's annotations as a label source, named after the project."""
    cache = pull(project, paths.cache, note, bar)
    tasks = (read_task(row, f"{project.page}?task={row['id']}") for row in pulled_tasks(cache))
    return source_from_tasks(tasks, project.title, project.page)
