"""Running the fetch stage in tests, and a web server that it may ask."""

from __future__ import annotations

import argparse
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipelines.stages.fetch import work


def fetch(folder: Path, *sources: dict[str, Any], **download: Any) -> dict[str, list[dict[str, Any]]]:
    """Run the stage; the log of each source by its name."""
    settings = {"classes": [{"name": "bolt"}], "collect": {"sources": list(sources), "download": {"allow_private_addresses": True, **download}}}
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(settings, file)
    work(argparse.Namespace(params=folder / "params.yaml", fetched=folder / "fetched", work=folder / "work"))
    logs = {path.parent.name: path.read_text() for path in sorted((folder / "fetched").glob("*/log.jsonl"))}
    return {name: [json.loads(line) for line in text.splitlines()] for name, text in logs.items()}


def content_of(folder: Path) -> dict[str, str]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


class Site:
    """A web server whose answers a test sets; `asked` notes each request's path and Range."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.drips: set[str] = set()  # paths whose headers never end
        self.breaks_at: dict[str, int] = {}
        self.asked: list[tuple[str, str | None]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                site.asked.append((self.path, wanted))
                if self.path in site.drips:
                    with suppress(OSError):
                        for number in range(1000):
                            self.wfile.write(b"HTTP/1.1 200 OK\r\n" if number == 0 else b"X: y\r\n")
                            time.sleep(0.1)
                    self.close_connection = True
                    return
                if self.path in site.redirects:
                    self.send_response(302)
                    self.send_header("Location", site.redirects[self.path])
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                page = site.pages.get(self.path)
                if page is None:
                    self.send_error(404)
                    return
                etag = f'"{hashlib.sha256(page).hexdigest()[:8]}"'
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.headers.get("If-Range") == etag else 0
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(page) - start))
                self.send_header("ETag", etag)
                self.end_headers()
                stop = site.breaks_at.pop(self.path, None)
                self.wfile.write(page[start:stop])
                if stop is not None:
                    self.close_connection = True

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def serving() -> Iterator[Site]:
    """A server on loopback, while the block runs."""
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever)
    thread.start()
    try:
        yield site
    finally:
        site.server.shutdown()
        thread.join()
        site.server.server_close()
