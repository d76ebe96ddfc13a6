"""One source after the other into its own folder: the pictures, and a log that says of each where it came from and to which group it belongs.

The log has the form that the inbox knows, so that `collect` needs to know nothing of sources. What cannot be had stands in it with its reason. Files
that are there already are not fetched again; what a source no longer offers is removed.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.core.collect_params import DownloadParams, FilesSource, LogSource, Source, StoreSource, UrlsSource, VideoSource
from pipelines.core.errors import DetloopError
from pipelines.core.io import read_json, require_file, write_bytes, write_json, write_jsonl
from pipelines.fetch.http import Limits, download
from pipelines.fetch.local import copy_if_changed, local_files
from pipelines.fetch.wanted import REASON_UNREACHABLE, FetchRefusedError, Wanted, address_name, safe_name

LOG_NAME = "log.jsonl"
_NO_VIDEO = "no_video"

Get = Callable[[Wanted, Path], None]  # brings one picture to a path, or raises FetchRefusedError


@dataclass(frozen=True)
class Places:
    """`project`: what relative paths in params.yaml start from. `fetched`: the folder to fill. `work`: what the next run may use again."""

    project: Path
    fetched: Path
    work: Path


def fetch_all(sources: Sequence[Source], wishes: DownloadParams, places: Places) -> dict[str, dict[str, Any]]:
    """Fetch every source and remove the folders of others. Returns counts by source: offered, ready, and refused by reason."""
    limits = Limits(int(wishes.max_mb * 1e6), wishes.timeout_s, wishes.allow_private_addresses)
    counts: dict[str, dict[str, Any]] = {}
    for source in sources:
        folder = places.fetched / source.name
        wanted, get = _opened(source, limits, places)
        rows = _fetched(wanted, get, folder, wishes.parallel)
        _remove_others(folder, {item.name for item in rows if item.refused is None})
        write_jsonl(folder / LOG_NAME, [_log_row(item, source) for item in rows])
        refused = Counter(item.refused for item in rows if item.refused is not None)
        counts[source.name] = {"offered": len(rows), "ready": len(rows) - refused.total(), "refused": dict(sorted(refused.items()))}
    for other in places.fetched.iterdir() if places.fetched.exists() else ():
        if other.name not in counts:
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    return counts


def _opened(source: Source, limits: Limits, places: Places) -> tuple[list[Wanted], Get]:
    """What a source offers, and how to get one of it."""
    if isinstance(source, FilesSource):
        found = local_files(source.path, places.project)
        paths = {item.uri: path for item, path in found}
        return [replace(item, group=source.group) for item, _ in found], lambda item, target: copy_if_changed(paths[item.uri], target)
    if isinstance(source, VideoSource):
        return _opened_video(source, places)
    if isinstance(source, StoreSource):
        return _opened_store(source, limits, places)
    if isinstance(source, UrlsSource):
        lines = require_file(places.project / source.path, "correct collect.sources").read_text(encoding="utf-8").splitlines()
        addresses = dict.fromkeys(line.strip() for line in lines if line.strip() and not line.startswith("#"))
        return [Wanted(uri, address_name(uri)) for uri in addresses], _once(_by_http(limits, places.work))
    return _opened_log(source, limits, places)


def _opened_log(source: LogSource, limits: Limits, places: Places) -> tuple[list[Wanted], Get]:
    from pipelines.fetch.querylog import query

    path = places.project / source.path
    columns = {"image": source.image, "group": source.group, "captured_at": source.captured_at, "split": source.split}
    root = places.project / source.root if source.root else path.parent
    wanted: dict[str, Wanted] = {}
    for row in query(path, source.where, columns, source.name):
        uri = str(row["image"])
        name = address_name(uri) if "://" in uri else safe_name(uri, uri)
        wanted.setdefault(uri, Wanted(uri, name, row["group"], row["captured_at"], row["split"]))  # asked for again and again: the first time counts
    by_http, stores = _by_http(limits, places.work), _Stores(source.options, limits)

    def get(item: Wanted, target: Path) -> None:
        if item.uri.startswith(("http://", "https://")):
            by_http(item, target)
        elif "://" in item.uri:
            stores(item, target)
        else:
            _copy_below(root, item.uri, target)

    return list(wanted.values()), lambda item, target: get(item, target) if "://" not in item.uri or not target.exists() else None


def _opened_store(source: StoreSource, limits: Limits, places: Places) -> tuple[list[Wanted], Get]:
    """Objects whose version changed are fetched again."""
    from pipelines.fetch.stores import Store

    store = Store(source.url, source.options)
    listing = store.listing(source.url)
    state_path = places.work / f"{source.name}.json"
    before, now = _state(state_path), {item.name: version for item, version in listing}
    for item, version in listing:
        target = places.fetched / source.name / item.name
        if before.get(item.name, version) != version:
            target.unlink(missing_ok=True)
    write_json(state_path, now)
    return [item for item, _ in listing], _once(lambda item, target: store.get(item.uri, target, limits))


def _opened_video(source: VideoSource, places: Places) -> tuple[list[Wanted], Get]:
    """Frames are written while the clip is read; clips that did not change, under the same settings, are not read again."""
    from pipelines.fetch.video import SUFFIXES, choose_frames

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
        now[clip.name] = frames
        wanted += [Wanted(f"{clip.uri}#t={seconds}", name, group=clip.name) for name, seconds in frames["frames"]]
    write_json(state_path, now)
    return wanted, _written_already


class _Stores:
    """Object stores by scheme, opened when the first object of one is wanted."""

    def __init__(self, options: dict[str, Any], limits: Limits) -> None:
        self._options, self._limits = options, limits
        self._open: dict[str, Any] = {}

    def __call__(self, item: Wanted, target: Path) -> None:
        from pipelines.fetch.stores import Store

        scheme = item.uri.partition("://")[0]
        if scheme not in self._open:
            self._open[scheme] = Store(item.uri, self._options)
        self._open[scheme].get(item.uri, target, self._limits)


def _fetched(wanted: Sequence[Wanted], get: Get, folder: Path, parallel: int) -> list[Wanted]:
    """`wanted` sorted by name, with what could not be had marked as refused."""

    def one(item: Wanted) -> Wanted:
        if item.refused is not None:
            return item
        try:
            get(item, folder / item.name)
        except FetchRefusedError as error:
            (folder / item.name).unlink(missing_ok=True)
            return replace(item, refused=error.reason)
        return item

    with ThreadPoolExecutor(parallel) as pool:
        return sorted(pool.map(one, wanted), key=lambda item: (item.name, item.uri))


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
    if not path.resolve().is_relative_to(root.resolve()):
        raise FetchRefusedError("path_outside")
    if not path.is_file():
        raise FetchRefusedError(REASON_UNREACHABLE)
    copy_if_changed(path, target)


def _log_row(item: Wanted, source: Source) -> dict[str, Any]:
    uri = os.fsencode(item.uri).decode("utf-8", "backslashreplace")
    row = {"file": item.name, "uri": uri, "source": source.name, "group": item.group, "captured_at": item.captured_at, "split": item.split}
    return {key: value for key, value in {**row, "refused": item.refused}.items() if value is not None}


def _remove_others(folder: Path, names: set[str]) -> None:
    for inside, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(inside, name)
            if path.relative_to(folder).as_posix() not in {*names, LOG_NAME}:
                path.unlink()
        if not os.listdir(inside) and Path(inside) != folder:  # noqa: PTH208
            Path(inside).rmdir()


def _state(path: Path) -> dict[str, Any]:
    try:
        state = read_json(path)
    except DetloopError:
        return {}
    return state if isinstance(state, dict) else {}
