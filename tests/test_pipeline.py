"""The whole graph on real parts: two project folders give the same bytes, one of them killed in every stage; then what a finished round shows.

A round that was pushed to S3 (moto's server), cloned and pulled elsewhere has nothing to do.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.s3 import CREDENTIALS, s3_server
from tests.workspace import TIMED, Repro, Workspace, new_workspace, stage_commands

pytestmark = pytest.mark.pipeline

KILL_SEED = 20261124
INPUTS = ("data/inbox", "data/label_sources", "data/feedback")
IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.invalid")
LOOK_OUTSIDE = ["Running stage 'fetch':", "Running stage 'label_sync':"]  # run each time, since the world may have changed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def durations_s() -> dict[str, float]:
    return {}


@pytest.fixture(scope="module")
def round_one(folder: Path, durations_s: dict[str, float]) -> Workspace:
    """A finished, undisturbed round."""
    workspace = new_workspace(folder / "undisturbed")
    repro = Repro(workspace)
    durations_s.update(repro.durations_s())
    assert repro.process.returncode == 0, (workspace.folder / "repro.log").read_text()
    return workspace


def test_every_stage_leaves_its_outputs(round_one: Workspace, durations_s: dict[str, float]) -> None:
    assert set(durations_s) == set(stage_commands(round_one.folder)) == set(round_one.lock())
    for stage in round_one.lock().values():
        for out in stage["outs"]:
            assert (round_one.folder / out["path"]).exists(), out["path"]
    for name in ("collect", "labels", "dataset", "train", "evaluate", "suspects", "mine", "verify", "benchmark", "release"):
        assert json.loads((round_one.folder / f"data/metrics/{name}.json").read_text())
    assert not (round_one.folder / "data/work/train").exists(), "a finished training leaves nothing to resume"


def test_killed_in_every_stage_it_completes_with_the_same_bytes(round_one: Workspace, folder: Path, durations_s: dict[str, float]) -> None:
    workspace = new_workspace(folder / "killed")
    chance = random.Random(KILL_SEED)
    left = set(stage_commands(workspace.folder))
    killed: list[str] = []
    repro = Repro(workspace)
    while not repro.finished():
        name = repro.running_stage()
        if name not in left:
            time.sleep(0.02)
            continue
        left.remove(name)
        time.sleep(chance.uniform(0.05, 0.5) * durations_s[name])
        if not repro.finished() and repro.kill_in(name):
            killed.append(name)
            repro = Repro(workspace)
    log = (workspace.folder / "repro.log").read_text()
    assert repro.process.returncode == 0, log
    ended_before = set(stage_commands(workspace.folder)) - set(killed)  # on a machine that has become faster meanwhile
    assert len(ended_before) <= len(killed) / 3, ended_before
    ours, theirs = round_one.lock(), workspace.lock()
    assert set(ours) == set(theirs)
    differing = [name for name in ours if name not in TIMED and ours[name] != theirs[name]]
    assert not differing
    engines = [
        {path: digest for path, digest in w.hashes("data/engines").items() if path.endswith(("fp32.engine", "fp16.engine"))}
        for w in (round_one, workspace)
    ]
    assert engines[0] == engines[1]
    raw = [{path: digest for path, digest in w.hashes("data/raw").items() if ".cache-" not in path} for w in (round_one, workspace)]
    assert raw[0] == raw[1], "all but the cache, which holds the files' times"
    assert not list(workspace.folder.glob("data/**/*.tmp")), "no half-written file is left"


def test_a_second_repro_runs_nothing_but_the_label_check(round_one: Workspace) -> None:
    # label files are first known by their stamps when they are old enough, which may come between the two
    before = files_but_stamps(round_one)
    assert ran(do(round_one, "dvc", "repro")) == LOOK_OUTSIDE
    assert files_but_stamps(round_one) == before


def files_but_stamps(workspace: Workspace) -> dict[str, str]:
    return {path: digest for path, digest in workspace.hashes().items() if not path.endswith("/stamps.json")}


def do(workspace: Workspace, *command: str) -> str:
    done = workspace.run(*command)
    assert done.status == 0, (command, done.stderr)
    return done.stdout


def ran(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("Running stage")]


def test_a_clone_pulls_the_round_from_s3_and_has_nothing_to_do(round_one: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the README, from the inbox to the report; then the champion of that round, for whoever trains the next model against it."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    here, there = Workspace(tmp_path / "here"), Workspace(tmp_path / "there")
    shutil.copytree(round_one.folder, here.folder, symlinks=True)
    with s3_server("team") as address:
        (here.folder / "data/feedback/app.jsonl").write_text('{"image": "cam1/0001.jpg", "complaint": "nothing found"}\n')
        do(here, "git", "rm", "-r", "--cached", "--quiet", *INPUTS)
        do(here, "dvc", "add", *INPUTS)
        do(here, "dvc", "remote", "add", "--default", "team", "s3://team/screws")
        do(here, "dvc", "remote", "modify", "team", "endpointurl", address)
        do(here, "git", "add", "--all")
        do(here, "git", *IDENTITY, "commit", "--quiet", "--message", "round")
        assert "pushed" in do(here, "dvc", "push")
        subprocess.run(["git", "clone", "--quiet", str(here.folder), str(there.folder)], check=True)
        do(there, "dvc", "pull")
        assert ran(do(there, "dvc", "repro")) == LOOK_OUTSIDE
        assert do(there, "git", "status", "--porcelain") == ""
        assert here.detloop("promote", "--because", "the first").status == 0
        do(here, "git", "add", "--all")
        do(here, "git", *IDENTITY, "commit", "--quiet", "--message", "champion")
        do(here, "dvc", "push")
        do(there, "git", "pull", "--quiet")
        do(there, "dvc", "pull")
    stores = [{path: value for path, value in place.hashes().items() if path.startswith("data/models/champions")} for place in (here, there)]
    assert "data/models/champions/001/model.pt" in stores[0]
    assert stores[0] == stores[1]
    outputs = [out["path"] for stage in here.lock().values() for out in stage["outs"]]
    hashes = [
        {path: value for path, value in place.hashes().items() if path.startswith((*outputs, *INPUTS)) and not path.endswith(".gitkeep")}
        for place in (here, there)
    ]
    assert hashes[0] == hashes[1]
    assert {path for path in outputs if not any(found.startswith(path) for found in hashes[1])} == set(), "every output has travelled"


@pytest.mark.parametrize("command", [("metrics", "show"), ("plots", "show"), ("exp", "show", "--csv"), ("dag",)], ids=lambda command: command[0])
def test_dvc_understands_what_the_stages_wrote(round_one: Workspace, command: tuple[str, ...]) -> None:
    subprocess.run(["git", "add", "--all"], cwd=round_one.folder, check=True)
    subprocess.run(["git", *IDENTITY, "commit", "--quiet", "--allow-empty", "--message", "round"], cwd=round_one.folder, check=True)
    done = round_one.run("dvc", *command)
    assert done.status == 0, done.stderr
    if command[0] in {"metrics", "exp"}:
        assert "AP50" in done.stdout
    if command[0] == "plots":
        page = (round_one.folder / "dvc_plots/index.html").read_text()
        assert "training" in page
        shutil.rmtree(round_one.folder / "dvc_plots")


def test_the_queue_is_made_once(round_one: Workspace) -> None:
    first = round_one.detloop("queue", "accept")
    assert first.status == 0, first.stderr
    rows = [json.loads(line) for line in (round_one.folder / "data/queue/round-001.jsonl").read_text().splitlines()]
    assert rows
    assert all(row["reasons"] and row["actions"] for row in rows)
    assert len({row["image_id"] for row in rows}) == len(rows)


def test_the_report_holds_the_figures(round_one: Workspace) -> None:
    page = (round_one.folder / "data/report/index.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    for word in ("Data", "Labels", "Training", "Metrics", "Bad cases", "Artifacts", "Gate"):
        assert word in page


def test_the_bundle_predicts_and_tests_itself(round_one: Workspace) -> None:
    images = sorted((round_one.folder / "data/raw/images").rglob("*.jpg"))[:2]
    done = round_one.detloop("predict", "--bundle", "data/release", *map(str, images))
    assert done.status == 0, done.stderr
    assert len(json.loads(done.stdout)["images"]) == 2
    assert round_one.detloop("bundle", "test", "data/release").status == 0


# ---- bad input and a machine that fails: one line, exit status 2, earlier outputs intact


@pytest.fixture
def tight_disk(round_one: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """The finished round on a small file system of its own, which a test may fill or make read-only."""
    project = tmp_path / "project"
    project.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(project)], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a file system: {mounted.stderr.strip()}")
    try:
        shutil.copytree(round_one.folder, project, dirs_exist_ok=True, ignore=shutil.ignore_patterns("cache"), symlinks=True)
        yield Workspace(project)
    finally:
        subprocess.run(["umount", "-l", str(project)], check=True)


def fill(folder: Path) -> None:
    """Use up the last byte of a file system."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 65536):
                pass
        except OSError:
            pass
    with (folder / "filler2").open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 512):
                pass
        except OSError:
            pass


def test_a_full_disk_is_one_line_and_loses_nothing(tight_disk: Workspace) -> None:
    before = {path: digest for path, digest in tight_disk.hashes().items() if not path.startswith("data/work/")}
    fill(tight_disk.folder)
    for name in stage_commands(tight_disk.folder):
        done = tight_disk.stage(name)
        if name == "fetch":  # names no sources here, and has nothing to write
            assert done.status == 0, done.stderr[-2000:]
            continue
        assert done.status == 2, (name, done.status, done.stderr[-2000:])
        assert len(done.error_lines) == 1, (name, done.stderr[-2000:])
        assert "disk is full" in done.error_lines[0], name
        after = {path: digest for path, digest in tight_disk.hashes().items() if not path.startswith("data/work/")}
        assert after == before, name


def test_a_read_only_data_folder_is_one_line_and_loses_nothing(tight_disk: Workspace) -> None:
    before = tight_disk.hashes()
    subprocess.run(["mount", "-o", "remount,ro", str(tight_disk.folder)], check=True)
    for name in ("collect", "label_sync", "dataset", "evaluate", "mine", "quantize@fp16", "report"):
        done = tight_disk.stage(name)
        assert (done.status, len(done.error_lines)) == (2, 1), (name, done.stderr[-2000:])
        assert "read-only" in done.error_lines[0]
        assert tight_disk.hashes() == before, name


def copy_of(workspace: Workspace, target: Path) -> Workspace:
    shutil.copytree(workspace.folder, target, ignore=shutil.ignore_patterns("cache"), symlinks=True)
    return Workspace(target)


def test_a_corrupt_image_is_counted_and_the_round_goes_on(round_one: Workspace, tmp_path: Path) -> None:
    copy = copy_of(round_one, tmp_path / "copy")
    (copy.folder / "data/inbox/late.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    assert copy.stage("collect").status == 0
    before, after = (json.loads((w.folder / "data/metrics/collect.json").read_text()) for w in (round_one, copy))
    assert after["seen"] == before["seen"] + 1
    assert after["kept"] == before["kept"]
    assert "late.jpg" in json.dumps(after)


def test_an_unknown_class_is_refused_and_the_snapshot_stays(round_one: Workspace, tmp_path: Path) -> None:
    copy = copy_of(round_one, tmp_path / "copy")
    before = copy.hashes("data/labels")
    source = copy.folder / "data/label_sources/sample.json"
    source.write_text(source.read_text().replace('"nut"', '"gear"'))
    done = copy.stage("label_sync")
    assert (done.status, len(done.error_lines)) == (2, 1), done.stderr
    assert "gear" in done.error_lines[0]
    assert copy.hashes("data/labels") == before


def test_a_params_typo_stops_every_stage_with_the_key(round_one: Workspace, tmp_path: Path) -> None:
    copy = copy_of(round_one, tmp_path / "copy")
    params = copy.folder / "params.yaml"
    params.write_text(params.read_text().replace("score_floor:", "score_flor:"))
    before = copy.hashes()
    for name in stage_commands(copy.folder):
        done = copy.stage(name)
        assert (done.status, len(done.error_lines)) == (2, 1), (name, done.stderr)
        assert "predict.score_flor is unknown" in done.error_lines[0]
    assert copy.hashes() == before


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("collect", "data/inbox"),
        ("collect", "data/fetched"),
        ("label_sync", "data/raw/manifest.parquet"),
        ("dataset", "data/labels/annotations.jsonl"),
        ("start", "data/dataset"),
        ("train", "data/start"),
        ("predict", "data/models/model.pt"),
        ("evaluate", "data/predictions"),
        ("mine", "data/evaluation"),
        ("export_onnx", "data/models/model.pt"),
        ("quantize@int8", "data/export/model.onnx"),
        ("build_engine", "data/export/model_int8.onnx"),
        ("verify", "data/predictions"),
        ("benchmark", "data/export/model.onnx"),
        ("release", "data/metrics/verify.json"),
    ],
)
def test_a_missing_input_is_named(round_one: Workspace, tmp_path: Path, name: str, missing: str) -> None:
    copy = copy_of(round_one, tmp_path / "copy")
    gone = copy.folder / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    done = copy.stage(name)
    assert (done.status, len(done.error_lines)) == (2, 1), done.stderr
    assert Path(missing).name in done.error_lines[0]
