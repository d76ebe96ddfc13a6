"""Beyond one machine: a round pushed to a DVC remote on S3 (moto's server), cloned and pulled elsewhere, has nothing to do."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workspace import Workspace, new_workspace

INPUTS = ("data/inbox", "data/label_sources")
LAST_STAGE = "dataset"  # the stages above it keep every kind of output: cached, in git, kept from run to run
IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.invalid")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server on this machine, with a bucket `team`, and credentials in the environment."""
    import boto3
    from moto.server import ThreadedMotoServer

    for name, value in {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="team")
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def do(workspace: Workspace, *command: str) -> str:
    done = workspace.run(*command)
    assert done.status == 0, (command, done.stderr)
    return done.stdout


def ran(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("Running stage")]


def test_a_clone_pulls_the_round_from_s3_and_has_nothing_to_do(tmp_path: Path, s3: str) -> None:
    """The commands of the README."""
    here, there = new_workspace(tmp_path / "here", images=24), Workspace(tmp_path / "there")
    do(here, "git", "rm", "-r", "--cached", "--quiet", *INPUTS)
    do(here, "dvc", "add", *INPUTS)
    do(here, "dvc", "remote", "add", "--default", "team", "s3://team/screws")
    do(here, "dvc", "remote", "modify", "team", "endpointurl", s3)
    assert "Running stage 'dataset':" in ran(do(here, "dvc", "repro", LAST_STAGE))
    do(here, "git", "add", "--all")
    do(here, "git", *IDENTITY, "commit", "--quiet", "--message", "round")
    assert "pushed" in do(here, "dvc", "push")

    subprocess.run(["git", "clone", "--quiet", str(here.folder), str(there.folder)], check=True)
    do(there, "dvc", "pull", LAST_STAGE, "--with-deps")
    # the two that look outside each time find nothing new
    assert ran(do(there, "dvc", "repro", LAST_STAGE)) == ["Running stage 'fetch':", "Running stage 'label_sync':"]
    assert do(there, "git", "status", "--porcelain") == ""
    outputs = [out["path"] for stage in here.lock().values() for out in stage["outs"]]
    hashes = [
        {path: value for path, value in place.hashes().items() if path.startswith((*outputs, *INPUTS)) and not path.endswith(".gitkeep")}
        for place in (here, there)
    ]
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) > 30
