"""A Label Studio of one's own: started on 127.0.0.1 with SQLite in a folder of its own, told to call nobody, with a user and an access token.

`server.json` in that folder (readable for its owner alone) remembers process, address, user, password and key: a second start finds the first.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from pipelines.core.errors import MissingPartError, ServerError
from pipelines.core.io import read_json, write_json

HOST = "127.0.0.1"
READY_S = 600.0  # half a minute on a free machine
_RECORD, _LOG = "server.json", "server.log"
_PASSWORD_BYTES, _KEY_BYTES = 12, 48
# Usage data, error reports and the look for newer versions are switched off.
_QUIET = {"COLLECT_ANALYTICS": "0", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "LATEST_VERSION_CHECK": "0"}


@dataclass(frozen=True)
class LocalServer:
    """A started server. `started_at` tells its process from a later one with the same number.

    `secret_key` signs its tokens. Left to itself, Label Studio makes one of its own, and cannot read it back where it begins with a dollar sign: then
    a new start makes all tokens invalid. Empty for a server of before.
    """

    pid: int
    started_at: float
    url: str
    user: str
    password: str
    secret_key: str = ""

    def running(self) -> bool:
        """True while its process lives."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started_at) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def start(program: Path, data: Path, port: int | None = None) -> LocalServer:
    """Start `program` (label-studio) on `data`, or return the one that runs there already; ready when this returns.

    Raises:
        MissingPartError: no such program.
        ServerError: it ends, or is not ready in time; the message names its log.
    """
    before = _recorded(data)
    if before is not None and before.running():
        _wait(before, data)
        return before
    if not program.is_file():
        raise MissingPartError(f"{program} is missing: `make labelstudio` installs Label Studio in a virtual environment of its own")
    user = before.user if before else "detloop@example.invalid"
    password = before.password if before else secrets.token_urlsafe(_PASSWORD_BYTES)
    secret_key = before.secret_key if before else secrets.token_urlsafe(_KEY_BYTES)
    port = port or free_port()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)  # its database and server.json hold what gives access
    environment = {**os.environ, **_QUIET, "LABEL_STUDIO_BASE_DATA_DIR": str(data.resolve())}
    environment |= {"LABEL_STUDIO_USERNAME": user, "LABEL_STUDIO_PASSWORD": password}  # not as arguments, which everyone on the machine can read
    if secret_key:
        environment["SECRET_KEY"] = secret_key
    for name in ("PYTHONPATH", "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        environment.pop(name, None)
    command = [str(program), "start", "--no-browser", "--internal-host", HOST, "--port", str(port)]
    with (data / _LOG).open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=data)
    server = LocalServer(process.pid, psutil.Process(process.pid).create_time(), f"http://{HOST}:{port}", user, password, secret_key)
    write_json(data / _RECORD, asdict(server))
    (data / _RECORD).chmod(0o600)
    _wait(server, data)
    return server


def stop(data: Path, with_signal: signal.Signals = signal.SIGTERM) -> bool:
    """Stop the server of `data`; False when none runs."""
    server = _recorded(data)
    if server is None or not server.running():
        return False
    with suppress(psutil.NoSuchProcess):  # it ends by itself meanwhile
        process = psutil.Process(server.pid)
        process.send_signal(with_signal)
        try:
            process.wait(timeout=20)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(timeout=20)
    return True


def new_token(url: str, user: str, password: str) -> str:
    """A personal access token of `user`, in place of any older one.

    Raises:
        ServerError: the server cannot be reached, refuses the log-in or answers otherwise.
    """
    import httpx

    try:
        return _new_token(url, user, password)
    except httpx.RequestError as error:
        raise ServerError(f"{url} cannot be reached ({error}): run `detloop labels serve` again, its log says why") from None


def _new_token(url: str, user: str, password: str) -> str:
    import httpx

    with httpx.Client(base_url=url, timeout=60.0) as http:
        http.get("/user/login/")
        form = {"email": user, "password": password, "csrfmiddlewaretoken": http.cookies.get("csrftoken") or ""}
        if http.post("/user/login/", data=form, headers={"Referer": url}).status_code != 302:
            raise ServerError(f"{url} refuses the log-in of {user}: remove its folder to start anew, or set LABEL_STUDIO_API_KEY by hand")
        headers = {"Referer": url, "X-CSRFToken": http.cookies.get("csrftoken") or ""}
        answer = http.post("/api/token/", headers=headers)
        if answer.status_code == httpx.codes.CONFLICT:
            for row in http.get("/api/token/").json():
                http.post("/api/token/blacklist/", json={"refresh": row["token"]}, headers=headers)
            answer = http.post("/api/token/", headers=headers)
        if answer.status_code != httpx.codes.CREATED:
            raise ServerError(f"{url} makes no token for {user} ({answer.status_code}): this needs Label Studio 1.23")
        return str(answer.json()["token"])


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _recorded(data: Path) -> LocalServer | None:
    record = data / _RECORD
    return LocalServer(**read_json(record)) if record.is_file() else None


def _wait(server: LocalServer, data: Path) -> None:
    import httpx

    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        if not server.running():
            raise ServerError(f"Label Studio ended right after its start: {data / _LOG} says why")
        try:
            if httpx.get(f"{server.url}/health", timeout=5.0).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    raise ServerError(f"Label Studio was not ready after {READY_S:.0f} s: {data / _LOG} says why")
