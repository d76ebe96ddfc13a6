"""Promotion and collect: a new champion makes collect run again where it screens new images, and only there. With the real DVC."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.core.champion import Champion, ChampionRecord, read_champions, write_champions
from tests.images import jpeg
from tests.workspace import ROOT, Workspace

CHAMPION = Champion(1, "0" * 64, ("bolt", "nut", "washer"), {}, {}, {}, {}, "first", ())
SECOND = replace(CHAMPION, number=2, model_sha256="1" * 64)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Its collect has run, without a champion."""
    workspace = Workspace(tmp_path_factory.mktemp("screener") / "project")
    assert Workspace(ROOT).detloop("new", str(workspace.folder)).status == 0
    (workspace.folder / "data/inbox/one.jpg").write_bytes(jpeg(1, (64, 64)))
    run(workspace, "dvc", "repro", "collect")
    return workspace


def run(workspace: Workspace, *command: str) -> str:
    done = workspace.run(*command)
    assert done.status == 0, done.stderr
    return done.stdout


def promote(workspace: Workspace, *champions: Champion) -> None:
    write_champions(workspace.folder / "data/models/champion.json", ChampionRecord(champions))


def screen_with(workspace: Workspace, use: str) -> None:
    params = workspace.folder / "params.yaml"
    params.write_text(params.read_text().replace("use: none", f"use: {use}").replace("use: champion", f"use: {use}"))


def test_without_screening_a_promotion_does_not_touch_collect(project: Workspace) -> None:
    promote(project, CHAMPION)
    ran = {line for line in run(project, "dvc", "repro", "collect").splitlines() if line.startswith("Running stage")}
    assert ran == {"Running stage 'fetch':", "Running stage 'screener':"}
    assert read_champions(project.folder / "data/screener.json") == ChampionRecord()


def test_with_screening_a_promotion_makes_collect_run(project: Workspace) -> None:
    """What was collected is declared to be what the first champion wanted, since these champions have no models."""
    promote(project, CHAMPION)
    screen_with(project, "champion")
    run(project, "dvc", "repro", "screener")
    run(project, "dvc", "commit", "--force", "collect")
    assert "up to date" in run(project, "dvc", "status", "collect")
    promote(project, CHAMPION, SECOND)
    run(project, "dvc", "repro", "screener")
    assert read_champions(project.folder / "data/screener.json") == ChampionRecord((SECOND,))
    assert run(project, "dvc", "status", "collect").split() == ["collect:", "changed", "deps:", "modified:", "data/screener.json"]


def test_collect_without_its_screener_says_what_to_run(project: Workspace) -> None:
    (project.folder / "data/screener.json").unlink()
    done = project.stage("collect")
    assert (done.status, done.error_lines) == (2, ["error: file data/screener.json is missing: run `dvc repro screener`"])
