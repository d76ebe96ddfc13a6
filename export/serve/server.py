"""Running the application: one process, an event loop and the detector's threads. Owner of uvicorn."""

from __future__ import annotations

import asyncio
import signal
import socket

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pipelines.core.errors import DetloopError

GRACE_S = 30  # what open requests get to end after SIGTERM
KEEP_ALIVE_S = 15  # how long a connection may wait for its next request


def listen(host: str, port: int) -> socket.socket:
    """A socket on an address that takes connections; port 0 takes a free one.

    Raises:
        DetloopError: the address cannot be had.
    """
    try:
        return socket.create_server((host, port), backlog=2048)
    except (OSError, OverflowError) as error:
        raise DetloopError(f"cannot listen on {host}:{port} ({error}): choose another --host or --port, or stop what listens there") from error


def serve(app: FastAPI, listening: socket.socket, *, read_s: float) -> None:
    """Answer until SIGTERM, SIGINT or SIGHUP; then take nothing new, end what is open, and return. Who sends no whole head of a request within
    `read_s` seconds is let go.
    """
    config = uvicorn.Config(
        app, http=_protocol(read_s), access_log=False, log_level="warning", timeout_graceful_shutdown=GRACE_S, timeout_keep_alive=KEEP_ALIVE_S
    )
    server = uvicorn.Server(config)
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))  # the terminal was closed
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the signal once more when it is done, which would end the process as if by force
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listening])
    if not server.started:
        raise DetloopError("the server did not start: see the lines above")


def _protocol(read_s: float) -> type[asyncio.Protocol]:
    """uvicorn's, which waits for the head of a request for ever: connections that say nothing, or a byte now and then, would use up all there are."""

    class Protocol(HttpToolsProtocol):
        _head: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait_for_head()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._wait_for_head()

        def on_headers_complete(self) -> None:
            self._have_head()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._have_head()
            super().connection_lost(exc)

        def _wait_for_head(self) -> None:
            self._have_head()
            self._head = self.loop.call_later(read_s, self.transport.close)

        def _have_head(self) -> None:
            if self._head is not None:
                self._head.cancel()

    return Protocol
