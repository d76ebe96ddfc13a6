"""The start and stop of a Label Studio of one's own, with a small server in its place that answers /health alone."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from pipelines.core.errors import ServerError
from pipelines.labeling.server import local

PROGRAM = f"""#!{sys.executable}
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Health).serve_forever()
"""


def program(folder: Path, text: str = PROGRAM) -> Path:
    path = folder / "label-studio"
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_second_start_finds_the_first_and_what_gives_access_is_for_its_owner(tmp_path: Path) -> None:
    data = tmp_path / "server"
    first = local.start(program(tmp_path), data)
    try:
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        assert stat.S_IMODE((data / "server.json").stat().st_mode) == 0o600
        assert local.start(tmp_path / "not there", data) == first
    finally:
        assert local.stop(data)
    assert not first.running()
    assert not local.stop(data)
    again = local.start(program(tmp_path), data)
    assert local.stop(data)
    assert (again.user, again.password, again.secret_key) == (first.user, first.password, first.secret_key)


def test_a_program_that_ends_is_told_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"ended right after its start: .*server\.log says why"):
        local.start(program(tmp_path, "#!/bin/sh\nexit 3\n"), tmp_path / "server")


def test_no_token_of_a_server_that_is_gone(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{local.free_port()}"
    with pytest.raises(ServerError, match=f"{url} cannot be reached"):
        local.new_token(url, "a@example.invalid", "b")
