"""Running the application: one process, an event loop and the detector's threads. Owner of uvicorn."""

from __future__ import annotations

import signal
import socket

import uvicorn
from fastapi import FastAPI

from pipelines.core.errors import DetloopError

GRACE_S = 30  # what open requests get to end after SIGTERM


def listen(host: str, port: int) -> socket.socket:
    """A socket on an address that takes connections; port 0 takes a free one.

    Raises:
        DetloopError: the address cannot be had.
    """
    try:
        return socket.create_server((host, port), backlog=2048)
    except (OSError, OverflowError) as error:
        raise DetloopError(f"cannot listen on {host}:{port} ({error}): choose another --host or --port, or stop what listens there") from error


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Answer until SIGTERM or SIGINT; then take nothing new, end what is open, and return."""
    server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning", timeout_graceful_shutdown=GRACE_S, timeout_keep_alive=15))
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the signal once more when it is done, which would end the process as if by force
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listening])
    if not server.started:
        raise DetloopError("the server did not start: see the lines above")
