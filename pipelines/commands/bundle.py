"""`detloop bundle test DIR`: does a released bundle work on this machine? `triton` and `docker` write it for other servers."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from export.bundle.docker import docker_files, docker_run
from export.bundle.golden import self_test
from export.bundle.reader import BUNDLE_FILE, Bundle, load_bundle
from export.bundle.triton import triton_files
from pipelines.core.cli import add_action, positive
from pipelines.core.errors import DataError, GateError, MissingPartError
from pipelines.core.io import write_folder

TRITON_MARKS, DOCKER_MARKS = (BUNDLE_FILE, "*/config.pbtxt"), ("Dockerfile", f"bundle/{BUNDLE_FILE}", "code/export")  # what such a folder holds
WORDS = {"pass": "ok", "fail": "FAILED", "not_run": "not run"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    test = add_action(actions, "test", "check the files, the preprocessing and every runner of this machine against the golden vectors")
    test.add_argument("folder", type=Path, metavar="DIR", help="the bundle")
    test.add_argument("--threads", type=positive, default=os.cpu_count() or 1, help="CPU threads of a runner (default: all)")
    test.set_defaults(act=_test)
    triton = add_action(actions, "triton", "write the bundle as a model repository of the Triton inference server")
    triton.set_defaults(act=_triton)
    docker = add_action(actions, "docker", "write a folder from which `docker build` makes an image that serves the bundle")
    docker.add_argument("--target", choices=("cpu", "gpu"), default="cpu", help="where the image will run (default: cpu)")
    docker.set_defaults(act=_docker)
    for action in (triton, docker):
        action.add_argument("folder", type=Path, metavar="DIR", help="the bundle")
        action.add_argument(
            "out", type=Path, metavar="OUT", help="folder to write; one that exists is replaced whole if it is such a folder, else refused"
        )


def run(args: argparse.Namespace) -> int:
    """Load the bundle and do what is asked."""
    act: Callable[[argparse.Namespace, Bundle], int] = args.act
    return act(args, load_bundle(args.folder))


def _test(args: argparse.Namespace, bundle: Bundle) -> int:
    """Print one line an answer; 0 when nothing failed and at least one runner ran.

    Raises:
        GateError: something failed.
        MissingPartError: no runner of the bundle can run here.
    """
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


def _triton(args: argparse.Namespace, bundle: Bundle) -> int:
    files = triton_files(bundle)
    _write(args.out, files, TRITON_MARKS)
    models = sorted(name.partition("/")[0] for name in files if name.endswith("config.pbtxt"))
    print(f"{args.out}: {', '.join(models)}; start with `tritonserver --model-repository={args.out}`")
    return 0


def _docker(args: argparse.Namespace, bundle: Bundle) -> int:
    _write(args.out, docker_files(bundle, args.target), DOCKER_MARKS)
    print(f"{args.out}: build with `docker build -t detector {args.out}`, run with `{docker_run(args.target)}`")
    return 0


def _write(out: Path, files: dict[str, bytes], marks: Sequence[str]) -> None:
    """Write the folder; one that is there must hold all `marks`, so that nobody loses a folder of another kind, such as the bundle itself."""
    if out.exists() and not all(any(out.glob(mark)) for mark in marks):
        raise DataError(f"{out} is there and was not written by this command: name another folder, or remove it")
    write_folder(out, files)
