"""One source after the other into its own folder: the pictures, and a log that says of each where it came from and to which group it belongs.

The log has the form that the inbox knows, so that `collect` needs to know nothing of sources. What cannot be had stands in it with its reason. Files
that are there already are not fetched again; what a source no longer offers is removed. A source that offers nothing at all any more is taken for one
that is away, not for one that is empty.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.core.collect_params import DownloadParams, FilesSource, LogSource, Source, StoreSource, UrlsSource, VideoSource
from pipelines.core.errors import DataError, DetloopError, MissingInputError, ParamsError, counted, listed
from pipelines.core.io import is_dvc_object, read_json, read_jsonl, read_text, require_folder, write_bytes, write_json, write_jsonl
from pipelines.fetch.beside import with_logs
from pipelines.fetch.http import Limits, download
from pipelines.fetch.local import copy_if_changed, local_files
from pipelines.fetch.wanted import (
    REASON_BAD_ADDRESS,
    REASON_PART_OF_CLIP,
    REASON_UNREACHABLE,
    WITHOUT_IT,
    FetchRefusedError,
    Wanted,
    address_name,
    safe_name,
)

LOG_NAME = "log.jsonl"
_VERSIONS_NAME = ".versions.json"  # of a store's objects; hidden, so that the inbox skips it, and beside them, so that it goes where they go
_NO_VIDEO = "no_video"
_LOOK_S = 0.2  # how often it is looked whether it was interrupted

Get = Callable[[Wanted, Path], None]  # brings one picture to a path, or raises FetchRefusedError


@dataclass(frozen=True)
class Places:
    """`project`: what relative paths in params.yaml start from. `fetched`: the folder to fill. `work`: what the next run may use again."""

    project: Path
    fetched: Path
    work: Path


@dataclass(frozen=True)
class Fetched:
    """What a source offers, with what could not be had marked as refused, and what else is to be told of it."""

    items: list[Wanted]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Opened:
    """What a source offers, how to get one of it, and what else is to be told of it."""

    wanted: list[Wanted]
    get: Get
    notes: tuple[str, ...] = ()


def fetch_all(sources: Sequence[Source], wishes: DownloadParams, places: Places) -> dict[str, Fetched]:
    """Fetch every source and remove the folders of others. Returns each by its name.

    Raises:
        MissingInputError: a source that gave files before gives none at all.
    """
    limits = Limits(int(wishes.max_mb * 1e6), wishes.timeout_s, wishes.allow_private_addresses)
    fetched: dict[str, Fetched] = {}
    for source in sources:
        folder = places.fetched / source.name
        opened = _opened(source, limits, places)
        _require_some(opened.wanted, source, folder)
        ready = {item.name for item in opened.wanted if item.refused is None}
        _remove_others(folder, ready)  # first: what was a file may be a folder now
        rows = _fetched(opened.wanted, opened.get, folder, wishes.parallel, limits.stopped)
        _require_some(rows, source, folder)
        for name in ready - {item.name for item in rows if item.refused is None}:
            (folder / name).unlink(missing_ok=True)
        write_jsonl(folder / LOG_NAME, [_log_row(item, source) for item in rows])
        fetched[source.name] = Fetched(rows, opened.notes)
    for other in places.fetched.iterdir() if places.fetched.exists() else ():
        if other.name not in fetched:
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    return fetched


def _opened(source: Source, limits: Limits, places: Places) -> Opened:
    if isinstance(source, FilesSource):
        found = _outside(local_files(source.path, places.project), source, places)
        described = with_logs(found, source.name)
        paths = {item.uri: path for item, path in described.files}
        wanted = [replace(item, group=source.group or item.group) for item, _ in described.files]
        return Opened(wanted, lambda item, target: copy_if_changed(paths[item.uri], target), described.notes)
    if isinstance(source, VideoSource):
        return _opened_video(source, places)
    if isinstance(source, StoreSource):
        return _opened_store(source, limits, places)
    if isinstance(source, UrlsSource):
        lines = [line.strip() for line in read_text(places.project / source.path, f"correct collect.sources: {source.name}").splitlines()]
        addresses = dict.fromkeys(line for line in lines if line and not line.startswith("#"))
        return Opened([Wanted(uri, address_name(uri)) for uri in addresses], _once(_by_http(limits, places.work)))
    return _opened_log(source, limits, places)


def _opened_log(source: LogSource, limits: Limits, places: Places) -> Opened:
    from pipelines.fetch.querylog import query

    path = places.project / source.path
    columns = {"image": source.image, "group": source.group, "captured_at": source.captured_at, "split": source.split}
    root = path.parent
    if source.root:
        root = require_folder(places.project / source.root, f"mount it, or correct collect.sources: {source.name}; {WITHOUT_IT}")
    wanted: dict[str, Wanted] = {}
    on_two_sides: list[str] = []
    for row in query(path, source.where, columns, source.name):
        uri = str(row["image"])
        item = Wanted(uri, address_name(uri) if "://" in uri else safe_name(uri, uri), row["group"], row["captured_at"], row["split"])
        first = wanted.setdefault(uri, item)
        if first is not item:  # asked for again and again
            if None not in (first.split, item.split) and first.split != item.split:
                on_two_sides.append(f"{uri} ({first.split} and {item.split})")
            wanted[uri] = _merged(first, item)
    if on_two_sides:
        raise DataError(
            f"{path} gives {counted(len(on_two_sides), 'image')} two sides: {listed(on_two_sides)}; mend it, or leave rows out by `where`"
        )
    by_http, stores = _by_http(limits, places.work), _Stores(source.options, limits)

    def get(item: Wanted, target: Path) -> None:
        if item.uri.startswith(("http://", "https://")):
            by_http(item, target)
        elif "://" in item.uri:
            stores(item, target)
        else:
            _copy_below(root, item.uri, target)

    return Opened(list(wanted.values()), lambda item, target: get(item, target) if "://" not in item.uri or not target.exists() else None)


def _merged(first: Wanted, again: Wanted) -> Wanted:
    """What an image's rows say together: of each the first one that says something counts."""
    others = {*first.other_groups, again.group} - {None, first.group} if first.group is not None else set()
    return replace(
        first,
        group=first.group or again.group,
        captured_at=first.captured_at or again.captured_at,
        split=first.split or again.split,
        other_groups=tuple(sorted(str(name) for name in others)),
    )


def _opened_store(source: StoreSource, limits: Limits, places: Places) -> Opened:
    """Objects whose version changed are fetched again."""
    from pipelines.fetch.stores import Store

    store = Store(source.url, source.options)
    listing = store.listing(source.url)
    state_path = places.fetched / source.name / _VERSIONS_NAME
    before, now = _state(state_path), {item.name: version for item, version in listing}
    for item, version in listing:
        target = places.fetched / source.name / item.name
        if before.get(item.name, version) != version:
            target.unlink(missing_ok=True)
    write_json(state_path, now)
    return Opened([item for item, _ in listing], _once(lambda item, target: store.get(item.uri, target, limits)))


def _opened_video(source: VideoSource, places: Places) -> Opened:
    """Frames are written while the clip is read; clips that did not change, under the same settings, are not read again."""
    from pipelines.fetch.video import SUFFIXES, ClipCutShortError, choose_frames

    state_path = places.work / f"{source.name}.json"
    before, now = _state(state_path), {}
    wanted: list[Wanted] = []
    for clip, path in local_files(source.path, places.project):
        if clip.refused is not None or path.suffix.lower() not in SUFFIXES:
            wanted.append(replace(clip, refused=clip.refused or _NO_VIDEO))
            continue
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, source.min_gap_s, source.min_change]
        frames = before.get(clip.name, {})
        folder = places.fetched / source.name
        if frames.get("stamp") != stamp or not all((folder / name).exists() for name, _ in frames["frames"]):
            frames = {"stamp": stamp, "frames": []}
            try:
                for frame in choose_frames(path, source.min_gap_s, source.min_change):
                    name = f"{clip.name}/{frame.index:06d}.jpg"
                    write_bytes(folder / name, frame.content)
                    frames["frames"].append([name, round(frame.seconds, 3)])
            except DetloopError:
                frames = {"stamp": None, "frames": []}
                wanted.append(replace(clip, refused=_NO_VIDEO))
            except ClipCutShortError as error:
                frames["cut_short"] = str(error)
        if frames.get("cut_short"):
            wanted.append(replace(clip, refused=REASON_PART_OF_CLIP, why=frames["cut_short"]))
        now[clip.name] = frames
        wanted += [Wanted(f"{clip.uri}#t={seconds}", name, group=clip.name) for name, seconds in frames["frames"]]
    write_json(state_path, now)
    return Opened(wanted, _written_already)


class _Stores:
    """Object stores by scheme, opened when the first object of one is wanted."""

    def __init__(self, options: dict[str, Any], limits: Limits) -> None:
        self._options, self._limits = options, limits
        self._open: dict[str, Any] = {}

    def __call__(self, item: Wanted, target: Path) -> None:
        from pipelines.fetch.stores import Store, is_store

        scheme = item.uri.partition("://")[0]
        if scheme not in self._open:
            if not is_store(scheme):  # in a log one bad row among many
                raise FetchRefusedError(REASON_BAD_ADDRESS) from ValueError(f"{scheme}:// is no web address and no object store")
            self._open[scheme] = Store(item.uri, self._options)
        self._open[scheme].get(item.uri, target, self._limits)


def _fetched(wanted: Sequence[Wanted], get: Get, folder: Path, parallel: int, stopped: threading.Event) -> list[Wanted]:
    """`wanted` sorted by name, with what could not be had marked as refused. `stopped` is set when it is interrupted."""

    def one(item: Wanted) -> Wanted:
        if item.refused is not None:
            return item
        try:
            get(item, folder / item.name)
        except FetchRefusedError as error:
            cause = error.__cause__
            return replace(item, refused=error.reason, why=f"{type(cause).__name__}: {cause}" if cause else None)
        return item

    pool = ThreadPoolExecutor(parallel)
    try:
        futures = [pool.submit(one, item) for item in wanted]
        return sorted(map(_result_of, futures), key=lambda item: (item.name, item.uri))
    except BaseException:
        stopped.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _result_of(future: Future[Wanted]) -> Wanted:
    """Waits in short turns: once polars is imported, its handler of signals lets a long wait go on after Ctrl-C."""
    while not wait([future], _LOOK_S).done:
        pass
    return future.result()


def _once(get: Get) -> Get:
    return lambda item, target: None if target.exists() else get(item, target)


def _written_already(item: Wanted, target: Path) -> None:
    assert target.exists(), item


def _by_http(limits: Limits, work: Path) -> Get:
    work.mkdir(parents=True, exist_ok=True)
    return lambda item, target: download(item.uri, target, work / f"{item.name}.part", limits)


def _copy_below(root: Path, name: str, target: Path) -> None:
    """Copy a file that a log names; it must lie below `root`."""
    path = root / name
    try:
        found, there = path.resolve(), path.is_file()
    except (OSError, ValueError) as error:  # no name that a file can have
        raise FetchRefusedError(REASON_UNREACHABLE) from error
    by_name = not Path(name).is_absolute() and ".." not in Path(name).parts
    if not found.is_relative_to(root.resolve()) and not (by_name and is_dvc_object(found)):
        raise FetchRefusedError("path_outside")
    if not there:
        raise FetchRefusedError(REASON_UNREACHABLE)
    copy_if_changed(path, target)


def _outside(found: list[tuple[Wanted, Path]], source: FilesSource, places: Places) -> list[tuple[Wanted, Path]]:
    """`found`, none of it of what fetch wrote itself: that would grow with each run."""
    own = os.path.join(os.path.abspath(places.fetched), "")  # noqa: PTH100, PTH118  as text: this runs once a file
    if any(os.path.abspath(path).startswith(own) for _, path in found):  # noqa: PTH100
        raise ParamsError(f"collect.sources: {source.name}: {source.path} holds {places.fetched}, which this stage fills: name a folder beside it")
    return found


def _require_some(items: Sequence[Wanted], source: Source, folder: Path) -> None:
    """Stop before the files that the last run had are removed, when none can be had now. A list or a log may well name none."""
    if not items and isinstance(source, UrlsSource | LogSource):
        return
    if any(item.refused is None for item in items) or not (folder / LOG_NAME).exists():
        return
    had = sum("refused" not in row for row in read_jsonl(folder / LOG_NAME))
    if not had:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(Counter(str(item.refused) for item in items).items()))
    raise MissingInputError(
        f"collect.sources: {source.name} gave {had} files in the last run and none now ({reasons or 'nothing is there'}): mount or correct it;"
        f" {WITHOUT_IT}; if they are to leave the data set, take the source out of params.yaml"
    )


def _log_row(item: Wanted, source: Source) -> dict[str, Any]:
    uri = os.fsencode(item.uri).decode("utf-8", "backslashreplace")
    row = {
        "file": item.name,
        "uri": uri,
        "source": item.source or source.name,
        "group": item.group,
        "captured_at": item.captured_at,
        "split": item.split,
    }
    return {key: value for key, value in {**row, "refused": item.refused}.items() if value is not None}


def _remove_others(folder: Path, names: set[str]) -> None:
    for inside, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(inside, name)
            if path.relative_to(folder).as_posix() not in {*names, LOG_NAME, _VERSIONS_NAME}:
                path.unlink()
        if not os.listdir(inside) and Path(inside) != folder:  # noqa: PTH208
            Path(inside).rmdir()


def _state(path: Path) -> dict[str, Any]:
    try:
        state = read_json(path)
    except DetloopError:
        return {}
    return state if isinstance(state, dict) else {}
