"""`detloop new DIR`: a fresh project folder with this checkout's code, its own params and an empty inbox."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

from pipelines.core.champion import ChampionRecord, write_champions
from pipelines.core.errors import DataError, MissingInputError, MissingPartError
from pipelines.core.io import require_file, write_text
from pipelines.core.params import load_params

CHECKOUT = Path(__file__).resolve().parents[2]
NOT_COPIED = ("tests", "benchmarks", "examples", ".ci")  # what serves detloop's own development

RECORD, SUITE = Path("data/models/champion.json"), Path("data/badcases/suite.jsonl")  # a new project says that it has no champion and no suite

IDENTITY = ("-c", "user.name=detloop", "-c", "user.email=detloop@example.invalid")  # the first commit is the tool's own


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", type=Path, help="the new project's folder; it must not exist or be empty")
    parser.add_argument("--params", type=Path, help="the new project's params.yaml (default: this checkout's)")


def run(args: argparse.Namespace) -> int:
    """Copy the checkout's files, take over params, start a git repository.

    Raises:
        DataError: the folder holds something already.
        MissingInputError: this is not a git checkout, or the params file is missing.
    """
    folder: Path = args.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is a file, or a folder that is not empty: name a new one")
    if args.params is not None:
        load_params(args.params)
    for relative in _project_files():
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CHECKOUT / relative, target)
    if args.params is not None:
        shutil.copyfile(require_file(args.params, "name another file"), folder / "params.yaml")
    write_champions(folder / RECORD, ChampionRecord())
    write_text(folder / SUITE, "")
    _git(folder, "init", "--quiet")
    _git(folder, "add", "--all")
    _git(folder, *IDENTITY, "commit", "--quiet", "--message", "A new detloop project")
    print(f"new project in {folder}: set the classes in params.yaml, fill data/inbox (or `detloop import`), then `dvc repro`")
    return 0


def _project_files() -> list[Path]:
    if not (CHECKOUT / "dvc.yaml").is_file():
        raise MissingInputError(f"{CHECKOUT} is not a detloop checkout: run `detloop new` from an environment that `make setup` made")
    listing = _git(CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    paths = [Path(name) for name in listing.split("\0") if name]
    return [path for path in paths if path.parts[0] not in NOT_COPIED and (CHECKOUT / path).is_file()]


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise MissingPartError("git is not installed: install it with the system's package manager") from error
    except subprocess.CalledProcessError as error:
        raise MissingInputError(f"git {' '.join(arguments)} failed in {folder} ({error.stderr.strip()}): run it from a git checkout") from error
    return done.stdout
