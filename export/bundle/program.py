"""The program that travels in the bundle: `detloop.pyz`, one file that Python runs, with just the modules that its commands import.

So the receiver needs no detloop, only numpy, OpenCV and one runtime, and the code that reads the model is the code that passed the gate with it.
"""

from __future__ import annotations

import ast
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

PROGRAM_FILE = "detloop.pyz"
_ROOT = Path(__file__).resolve().parents[2]
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's zero date: equal sources give equal bytes
_MAIN = "__main__.py"
_OLDEST = (3, 11)
# in words that every Python reads, so that an old one says what it lacks
_START = """import sys

if sys.version_info < {oldest!r}:
    sys.stderr.write("error: this program needs Python {words} or newer, this is %d.%d: start it with another one\\n" % sys.version_info[:2])
    sys.exit(2)
from {entry} import main

sys.exit(main(commands={commands!r}))
"""


def program(modules: Sequence[str], licence: Path | None = None) -> bytes:
    """A Python zip application of these modules, the first of them with a `main` that takes the `commands` that the others are, and the licence's
    text.
    """
    entry, *others = modules
    commands = tuple(name.rpartition(".")[2] for name in others)
    files = {_MAIN: _START.format(oldest=_OLDEST, words=".".join(map(str, _OLDEST)), entry=entry, commands=commands).encode()}
    files.update({str(path.relative_to(_ROOT)): path.read_bytes() for path in imported_modules(modules)})
    if licence is not None:
        files[licence.name] = licence.read_bytes()
    buffer = io.BytesIO()
    buffer.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), files[name], compress_type=zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def imported_modules(names: Sequence[str]) -> list[Path]:
    """The files of these modules, of all modules of this project that they import, anywhere in their code, and of the packages around them."""
    found: set[Path] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        path = _file_of(name)
        if path is None or path in found:
            continue
        found.add(path)
        if "." in name:
            todo.append(name.rpartition(".")[0])
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                todo.extend([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
            elif isinstance(node, ast.Import):
                todo.extend(alias.name for alias in node.names)
    return sorted(found)


def _file_of(module: str) -> Path | None:
    """The module's file in this project, None for everybody else's."""
    base = _ROOT.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None
