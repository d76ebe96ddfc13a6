"""A worker process that times one runner, and the parent's handle on it.

    python -m export.check.timing FD        the worker; the parent starts it

Every runner has its own process, so that load time, peak memory and thread pools are its own. The two sides talk through a pipe, a call and its
answer at a time. The parent never waits without a limit, and always ends its workers.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from export.runners.detect import Detector, NmsValues, letterboxed, read_output
from pipelines.core.errors import DataError, DetloopError, MissingPartError
from pipelines.core.images import read_for

END_S = 5.0  # what a worker gets to end by itself
SETTLE_S = 0.05  # untimed before a turn: ONNX Runtime's threads keep a processor busy for 33 ms after their last image


@dataclass(frozen=True)
class Job:
    """What a worker runs: `opener` is a picklable call that gives a runner as a context manager."""

    name: str
    opener: Callable[[], AbstractContextManager[Detector]]
    nms: NmsValues


@dataclass(frozen=True)
class Loaded:
    """`load_s`: importing the runtime and opening the model in a fresh process; `first_ms`: the first image, from decoded image to boxes."""

    load_s: float
    first_ms: float


@dataclass(frozen=True)
class Turn:
    """One turn: milliseconds for each image from decoded image to boxes, those of the runner's call in them (letterboxed image to raw output), and
    the process's peak memory so far.
    """

    total_ms: tuple[float, ...]
    network_ms: tuple[float, ...]
    peak_rss_mb: float


class Worker:
    """A started worker as a context manager.

    Raises (from `load` and `turn`):
        MissingPartError: the runner's library or device is not on this machine.
        DetloopError: the runner refused its model or input, died, or gave no answer in time.
    """

    def __init__(self, job: Job, *, timeout_s: float) -> None:
        self._job, self._timeout_s = job, timeout_s
        self._connection, child = Pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        # not multiprocessing's own start: that would import the parent's main module, and count its memory as the runner's
        self._process = subprocess.Popen(
            [sys.executable, "-m", "export.check.timing", str(child.fileno())],
            pass_fds=[child.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(item or str(Path.cwd()) for item in sys.path)},
        )
        child.close()

    def load(self, image: Path) -> Loaded:
        """Open the model and run it once on `image`."""
        answer = self._ask(("load", self._job, image), "loading")
        assert isinstance(answer, Loaded)
        return answer

    def turn(self, images: Sequence[Path]) -> Turn:
        """Time one image after another; the first is run for SETTLE_S beforehand, untimed."""
        answer = self._ask(("turn", tuple(images)), "running")
        assert isinstance(answer, Turn)
        return answer

    def close(self) -> None:
        """End the process, by force if it does not end by itself."""
        self._connection.close()  # the worker reads the end of the pipe and leaves
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._process.kill()
        self.close()

    def _ask(self, message: Any, doing: str) -> Any:
        try:
            self._connection.send(message)
            if not self._connection.poll(self._timeout_s):
                raise DetloopError(f"runner {self._job.name} gave no answer in {self._timeout_s:g} s while {doing}: it hangs; {self._mend()}")
            answer = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._process.wait()
            raise DetloopError(
                f"runner {self._job.name} died with exit status {self._process.returncode} while {doing} ({self._last_words()}): {self._mend()}"
            ) from error
        if isinstance(answer, DetloopError):
            raise answer
        return answer

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = [line for line in self._stderr.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else "it said nothing"

    def _mend(self) -> str:
        return "free memory and run again, or reinstall its runtime"


def serve(connection: Connection) -> None:
    """The worker's side: answer calls until the pipe ends."""
    try:
        _, job, image = connection.recv()
        start = time.perf_counter()
        with job.opener() as runner:
            load_s = time.perf_counter() - start
            connection.send(Loaded(load_s, _time_one(runner, image, job.nms)[0]))
            while True:
                _, images = connection.recv()
                _settle(runner, images[0], job.nms)
                times = [_time_one(runner, image, job.nms) for image in images]
                connection.send(Turn(tuple(item[0] for item in times), tuple(item[1] for item in times), peak_rss_mb()))
    except (EOFError, BrokenPipeError):  # the parent is done, or gone
        return
    except (MissingPartError, DataError) as error:
        connection.send(type(error)(str(error)))
    except DetloopError as error:
        connection.send(DetloopError(str(error)))


def peak_rss_mb() -> float:
    """The most memory that this process has held, in MB (1e6 bytes).

    On Linux from VmHWM, which starts anew at exec; getrusage's figure there is inherited from the parent.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _settle(runner: Detector, image: Path, nms: NmsValues) -> None:
    """Until the last runner's threads have gone to sleep and this one's caches are warm."""
    end = time.perf_counter() + SETTLE_S
    while time.perf_counter() < end:
        _time_one(runner, image, nms)


def _time_one(runner: Detector, path: Path, nms: NmsValues) -> tuple[float, float]:
    """Milliseconds from decoded image to boxes, by the way of `detect`, and of the runner's call in them."""
    image = read_for(path, runner.contract.decode_to_wh)
    start = time.perf_counter()
    made, box = letterboxed(image, runner.contract)
    fed = time.perf_counter()
    raw = runner.infer_images([made])
    answered = time.perf_counter()
    read_output(raw[0], runner.contract, box, image.original_wh, nms)
    return (time.perf_counter() - start) * 1e3, (answered - fed) * 1e3


if __name__ == "__main__":
    import export.check.timing as module  # pickled classes must be those of the importable module, not of __main__

    module.serve(Connection(int(sys.argv[1])))
