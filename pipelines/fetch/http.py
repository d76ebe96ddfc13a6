"""Downloads over http and https that reach only what they may: public addresses, a size limit, a time limit, few redirects.

The address that was checked is the one that is connected to, so a name cannot answer differently the second time. Each redirect is checked anew.
A download that broke off is taken up where it stopped when the server still has the same version. What comes must begin as a picture does: a login
page that is answered with 200 is refused, and asked for again in the next run.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from pipelines.core.containers import HEAD_BYTES, REASON_EMPTY, REASON_NOT_AN_IMAGE, RefusedError, sniff
from pipelines.core.io import is_disk_fault
from pipelines.fetch.wanted import REASON_BAD_ADDRESS, REASON_PRIVATE_ADDRESS, REASON_TOO_MANY_BYTES, REASON_UNREACHABLE, FetchRefusedError

_MAX_REDIRECTS = 5
_TRIES = 3
_PAUSE_S = 0.5
_BLOCK_BYTES = 1 << 16
_LOOK_S = 0.2  # how often a connection's watcher looks at the clock
_NOT_QUOTED = "!#$%&'()*+,/:;=?@[]~"  # reserved in addresses, or the sign that something is quoted already (RFC 3986)


@dataclass(frozen=True)
class Limits:
    """What one download may cost, and whether addresses that are not public may be asked. Once `stopped` is set, downloads under way break off."""

    max_bytes: int
    timeout_s: float
    allow_private: bool
    stopped: threading.Event = field(default_factory=threading.Event)


def download(url: str, target: Path, partial: Path, limits: Limits) -> None:
    """Fetch `url` to `target`. What has come lies in `partial` (and its version in `partial`.etag) until it is whole.

    Raises:
        FetchRefusedError: it cannot be had; the reason says why.
        OSError: the disk here is full or read-only.
    """
    deadline = time.monotonic() + limits.timeout_s
    for attempt in range(_TRIES):
        try:
            _fetch(url, partial, limits, deadline)
            _require_picture(partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(target)
            _etag_file(partial).unlink(missing_ok=True)
            return
        except (OSError, http.client.HTTPException) as error:
            if is_disk_fault(error):
                raise
            if attempt == _TRIES - 1 or time.monotonic() + _PAUSE_S > deadline or limits.stopped.is_set():
                raise FetchRefusedError(REASON_UNREACHABLE) from error
            time.sleep(_PAUSE_S * (attempt + 1))


def _fetch(url: str, partial: Path, limits: Limits, deadline: float) -> None:
    for _ in range(_MAX_REDIRECTS + 1):
        parts = _parts(url)
        connection = _connect(str(parts.hostname), parts.port, parts.scheme == "https", limits, deadline)
        with _watched(connection, deadline, limits.stopped):
            have, headers = _resume(partial)
            path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_NOT_QUOTED)
            connection.request("GET", path, headers={"User-Agent": "detloop", "Accept-Encoding": "identity", **headers})
            answer = connection.getresponse()
            if answer.status in (301, 302, 303, 307, 308) and answer.headers.get("Location"):
                url = _joined(url, answer.headers["Location"])
                continue
            if answer.status == 416:  # what we have is not the beginning of what is there
                partial.unlink(missing_ok=True)
                raise http.client.HTTPException("the partial download is out of date")
            if answer.status >= 500:
                raise http.client.HTTPException(f"status {answer.status}")
            if answer.status not in (200, 206):
                raise FetchRefusedError(f"http_{answer.status}")
            _receive(answer, partial, have if answer.status == 206 else 0, limits, deadline)
            return
    raise FetchRefusedError(REASON_UNREACHABLE)


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise FetchRefusedError(REASON_BAD_ADDRESS) from error
    if not good:
        raise FetchRefusedError(REASON_BAD_ADDRESS)
    return parts


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise FetchRefusedError(REASON_BAD_ADDRESS) from error


@contextmanager
def _watched(connection: http.client.HTTPConnection, deadline: float, stopped: threading.Event) -> Iterator[None]:
    """Close the connection in the end, and cut it when it is stopped or late: a server that sends a byte now and then is in no time limit's way."""
    raw: socket.socket = connection.sock
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK_S):
            if stopped.is_set() or time.monotonic() > deadline:
                with suppress(OSError):  # it is closed already
                    socket.socket.shutdown(raw, socket.SHUT_RDWR)  # that of TLS would take the session from under the reader
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        connection.close()


def _require_picture(partial: Path) -> None:
    """Kinds of pictures that are not taken are for collect to judge; what is none is no answer to keep."""
    with partial.open("rb") as file:
        head = file.read(HEAD_BYTES)
    try:
        sniff(head)
    except RefusedError as error:
        if error.reason in (REASON_EMPTY, REASON_NOT_AN_IMAGE):
            partial.unlink()
            _etag_file(partial).unlink(missing_ok=True)
            raise FetchRefusedError(error.reason) from None


def _receive(answer: http.client.HTTPResponse, partial: Path, have: int, limits: Limits, deadline: float) -> None:
    if have + (answer.length or 0) > limits.max_bytes:
        raise FetchRefusedError(REASON_TOO_MANY_BYTES)
    _etag_file(partial).write_text(answer.headers.get("ETag", ""))
    with partial.open("ab" if have else "wb") as file:
        while block := answer.read1(_BLOCK_BYTES):
            have += len(block)
            if have > limits.max_bytes:
                raise FetchRefusedError(REASON_TOO_MANY_BYTES)
            if time.monotonic() > deadline:
                raise TimeoutError("it took too long")
            file.write(block)
    if time.monotonic() > deadline or limits.stopped.is_set():  # it was cut, which looks like its end where no length was told
        raise TimeoutError("it took too long")
    if answer.length:  # bytes that are still to come: the connection closed early
        raise http.client.IncompleteRead(b"")


def _resume(partial: Path) -> tuple[int, dict[str, str]]:
    """Bytes at hand and the headers that ask for the rest, given that the server can tell versions apart."""
    try:
        etag, have = _etag_file(partial).read_text(), partial.stat().st_size
    except FileNotFoundError:
        return 0, {}
    return (have, {"Range": f"bytes={have}-", "If-Range": etag}) if etag and not etag.startswith("W/") and have else (0, {})


def _etag_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.etag")


def _connect(host: str, port: int | None, secure: bool, limits: Limits, deadline: float) -> http.client.HTTPConnection:
    timeout = max(0.1, min(limits.timeout_s, deadline - time.monotonic()))
    port = port or (443 if secure else 80)
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchRefusedError(REASON_UNREACHABLE) from error
    addresses = [str(answer[4][0]) for answer in answers]
    if not limits.allow_private and not all(is_public(address) for address in addresses):
        raise FetchRefusedError(REASON_PRIVATE_ADDRESS)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    raw = socket.create_connection((addresses[0], port), timeout=timeout)
    connection.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=host) if secure else raw
    return connection


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, also when an IPv4 address hides in it."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None:
            return is_public(str(inner))
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # NAT64 (RFC 6052): the last 32 bits are an IPv4 address
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip not in ipaddress.ip_network("2000::/3"):  # all that is given out as global unicast (RFC 4291, IANA)
            return False
    return ip.is_global and not ip.is_multicast
