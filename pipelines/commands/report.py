"""`detloop report`: say where the report lies, and open it if asked."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from pipelines.core.errors import MissingPartError
from pipelines.core.io import require_file

REPORT = Path("data/report/index.html")  # as dvc.yaml has it
GRAPH = "dvc.yaml"  # lies in a project's folder


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `detloop report`."""
    parser.add_argument("--open", action="store_true", help="open it in the browser too")


def run(args: argparse.Namespace) -> int:
    """Print the report's path, from anywhere inside the project.

    Raises:
        MissingInputError: there is no report here.
        MissingPartError: asked to open it where there is no browser.
    """
    here = Path.cwd()
    project = next((folder for folder in (here, *here.parents) if (folder / GRAPH).is_file()), here)
    path = require_file(project / REPORT, "run `dvc repro` in the project's folder").resolve()
    print(path)
    if args.open and not webbrowser.open(path.as_uri()):
        raise MissingPartError(f"no browser could be started here: open {path} on a machine that has one")
    return 0
