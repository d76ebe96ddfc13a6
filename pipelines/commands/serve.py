"""`detloop serve --bundle DIR`: a released bundle over HTTP."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

from pipelines.core.cli import positive
from pipelines.core.errors import MissingPartError
from pipelines.core.io import require_folder


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="the released bundle (data/release)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on, 0 for a free one (default: 8080)")
    parser.add_argument("--runner", metavar="NAME", help="one of the bundle's runners (default: the fastest that runs here)")
    parser.add_argument("--threads", type=positive, default=os.cpu_count() or 1, help="threads that decode and compute (default: all)")
    parser.add_argument("--queue", type=positive, default=64, metavar="N", help="images that may wait; beyond that 429 is answered (default: 64)")
    parser.add_argument("--max-batch", type=positive, metavar="N", help="images of one call of the network (default: 1 on a CPU, else 8)")
    parser.add_argument(
        "--max-wait-ms", type=_from_zero, default=0.0, metavar="MS", help="how long an image may wait for its batch to fill (default: 0)"
    )
    parser.add_argument("--max-image-mb", type=_above_zero, default=10.0, metavar="MB", help="largest image file in MB (default: 10)")
    parser.add_argument(
        "--max-pixels",
        type=positive,
        default=25_000_000,
        metavar="N",
        help="most pixels of an image, told before it is decoded (default: 25 million)",
    )
    parser.add_argument(
        "--max-images", type=positive, default=16, metavar="N", help="most images of a request, and never more than --queue (default: 16)"
    )
    parser.add_argument(
        "--max-held-mb",
        type=_above_zero,
        default=500.0,
        metavar="MB",
        help="most MB of all requests that are open; beyond that 429 is answered (default: 500)",
    )
    parser.add_argument("--max-read-s", type=_above_zero, default=30.0, metavar="S", help="how long a request may take to come (default: 30)")
    parser.add_argument("--project", type=Path, metavar="DIR", help="project whose data/inbox and data/feedback get complaints and sampled requests")
    parser.add_argument(
        "--sample", type=_from_zero, default=20, metavar="N", help="requests an hour that are kept, the least confident ones (default: 20)"
    )


def run(args: argparse.Namespace) -> int:
    """Load, listen, answer until SIGTERM, SIGINT or SIGHUP.

    Raises:
        MissingPartError: the serving libraries are not installed.
        DetloopError: the bundle cannot be served, or the address cannot be had.
    """
    try:
        from export.serve.app import Service, build_app
        from export.serve.server import listen, serve
    except ImportError as error:
        raise MissingPartError(f"serving needs more libraries ({error}): pip install 'detloop[serve]'") from error
    from export.serve.detector import open_detector
    from export.serve.feedback import FeedbackFolders, Sample
    from export.serve.uploads import Limits

    folders = None
    if args.project is not None:
        data = require_folder(args.project / "data", "name a project folder, or make one with `detloop new`")
        folders = FeedbackFolders(data / "inbox", data / "feedback")
    listening = listen(args.host, args.port)
    detector = open_detector(
        args.bundle, args.runner, threads=args.threads, waiting=args.queue, batch=args.max_batch, wait_s=args.max_wait_ms / 1e3, say=_say
    )
    service = Service(
        detector,
        Limits(int(args.max_image_mb * 1e6), args.max_pixels, min(args.max_images, args.queue), args.max_read_s, int(args.max_held_mb * 1e6)),
        requests_at_once=args.queue + args.threads,
        folders=folders,
        sample=Sample(int(args.sample)),
        window_s=3600.0,
    )
    host, port = listening.getsockname()[:2]
    _say(f"serving {args.bundle} with {detector.name} at http://{host}:{port}")
    serve(build_app(service), listening, read_s=args.max_read_s)
    return 0


def _from_zero(text: str) -> float:
    return _number(text, "a number from 0 up", lambda value: value >= 0)


def _above_zero(text: str) -> float:
    return _number(text, "a number above 0", lambda value: value > 0)


def _number(text: str, wanted: str, fits: Callable[[float], bool]) -> float:
    value = float(text)
    if not (math.isfinite(value) and fits(value)):
        raise argparse.ArgumentTypeError(f"{text} is not {wanted}")
    return value


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
