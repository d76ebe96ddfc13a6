"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

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
