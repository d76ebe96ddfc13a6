"""`detloop bundle test DIR`: does a released bundle work on this machine?"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from export.bundle.golden import self_test
from export.bundle.reader import load_bundle
from pipelines.core.errors import GateError, MissingPartError

WORDS = {"pass": "ok", "fail": "FAILED", "not_run": "not run"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "check the files, the preprocessing and every runner of this machine against the golden vectors"
    test = actions.add_parser("test", help=text, description=text, allow_abbrev=False)
    test.add_argument("folder", type=Path, metavar="DIR", help="the bundle")
    test.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads of a runner (default: all)")


def run(args: argparse.Namespace) -> int:
    """Print one line an answer; 0 when nothing failed and at least one runner ran.

    Raises:
        GateError: something failed.
        MissingPartError: no runner of the bundle can run here.
    """
    bundle = load_bundle(args.folder)
    answers = []
    for answer in self_test(bundle, threads=args.threads):
        print(f"{WORDS[answer.status]:8}{answer.name:20} {answer.detail}", flush=True)
        answers.append(answer)
    failed = [answer.name for answer in answers if answer.status == "fail"]
    if failed:
        raise GateError(f"bundle {args.folder} fails its self-test here ({', '.join(failed)}): do not use it on this machine")
    if not any(answer.status == "pass" for answer in answers if answer.name in bundle.artifacts):
        raise MissingPartError(f"no runner of bundle {args.folder} can run here, so it is not tested: install one of {', '.join(bundle.order)}")
    return 0
