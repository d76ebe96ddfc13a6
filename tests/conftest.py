"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.label_studio import Studio

ROOT = Path(__file__).resolve().parents[1]

# A loaded machine is no failure.
settings.register_profile("detloop", deadline=None)
settings.load_profile("detloop")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first: a worker takes whole files in this order, and the short ones fill the rest."""
    items.sort(key=lambda item: item.get_closest_marker("pipeline") is None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the checkout: real data and oracles. In CI its absence is a failure, elsewhere a skip."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        message = "needs the data folder ../shared, which is not here"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A real Label Studio on this machine, one for the session. `make test` installs it; without it CI fails, others skip."""
    program = Path(os.environ.get("LABEL_STUDIO_VENV", ROOT / ".venv-labelstudio")) / "bin/label-studio"
    if not program.is_file():
        message = f"needs Label Studio, and {program} is missing: `make test` installs it, LABEL_STUDIO_VENV names another place"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    server = Studio(program, tmp_path_factory.mktemp("label_studio"))
    yield server
    server.stop()
