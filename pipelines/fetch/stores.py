"""Object stores and other file systems that fsspec knows (s3://, gs://, az://, sftp://, memory://). Owner of fsspec."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from pipelines.core.errors import MissingInputError, MissingPartError, ParamsError
from pipelines.core.io import is_disk_fault
from pipelines.fetch.http import Limits
from pipelines.fetch.wanted import REASON_TOO_MANY_BYTES, REASON_UNREACHABLE, WITHOUT_IT, FetchRefusedError, Wanted, address_name

_LOOK_S = 0.2  # how often it is looked whether a download was stopped
_NOT_HERE = ("http", "https", "ftp", "file", "local")  # the web goes through `http`, with its limits; files are a source of their own


def is_store(scheme: str) -> bool:
    """Whether fsspec knows stores of this scheme, installed or not."""
    import fsspec

    return scheme not in _NOT_HERE and scheme in fsspec.available_protocols()


class Store:
    """One file system, opened for the addresses of one scheme."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.scheme = url.partition("://")[0]
        if self.scheme in _NOT_HERE:
            raise ParamsError(f"collect.sources: {url} is no object store: use a source of type `urls` or `files`")
        import fsspec

        try:
            self._fs: Any = fsspec.filesystem(self.scheme, **options)
        except (ImportError, ValueError) as error:
            raise MissingPartError(
                f'collect.sources: {url}: fsspec cannot open {self.scheme}:// here ({error}): `pip install "detloop[s3]"`'
            ) from error

    def listing(self, url: str) -> list[tuple[Wanted, str]]:
        """Every object below `url` (a prefix or a glob), sorted, with a version that changes when its content does.

        Raises:
            MissingInputError: the store does not answer, or nothing is there.
        """
        try:
            found = self._fs.glob(url, detail=True) if any(sign in url for sign in "*?[") else self._fs.find(url, detail=True)
        except Exception as error:  # each store has exceptions of its own
            raise MissingInputError(
                f"collect.sources: {url} cannot be listed ({type(error).__name__}: {error}): check address and credentials; {WITHOUT_IT}"
            ) from error
        objects = [(key, info) for key, info in sorted(found.items()) if info.get("type") != "directory"]
        if not objects:
            raise MissingInputError(f"collect.sources: nothing lies at {url}: correct the address")
        return [(Wanted(f"{self.scheme}://{key.lstrip('/')}", address_name(key)), _version(info)) for key, info in objects]

    def get(self, uri: str, target: Path, limits: Limits) -> None:
        """Fetch one object to `target`.

        Raises:
            FetchRefusedError: not there, or too large; or it was stopped.
            OSError: the disk here is full or read-only.
        """
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            if int(_unless(limits.stopped, lambda: self._fs.info(uri)).get("size") or 0) > limits.max_bytes:
                raise FetchRefusedError(REASON_TOO_MANY_BYTES)
            target.parent.mkdir(parents=True, exist_ok=True)
            _unless(limits.stopped, lambda: self._fs.get_file(uri, str(temporary)))
        except FetchRefusedError:
            raise
        except Exception as error:  # each store has exceptions of its own
            temporary.unlink(missing_ok=True)
            if is_disk_fault(error):
                raise
            raise FetchRefusedError(REASON_UNREACHABLE) from error
        temporary.replace(target)


def _unless(stopped: threading.Event, call: Callable[[], Any]) -> Any:
    """The result of `call`, which is not waited for any longer once `stopped` is set: no store can be told to break off.

    Raises:
        InterruptedError: it was.
    """
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001  whoever waits for the result raises it
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # a pool would wait for it when the interpreter ends
    while not stopped.is_set():
        if wait([result], _LOOK_S).done:
            return result.result()
    raise InterruptedError("the fetch was stopped")


def _version(info: dict[str, Any]) -> str:
    return str(next((info[key] for key in ("ETag", "etag", "md5", "crc32c") if info.get(key)), (info.get("size"), str(info.get("created")))))
