"""`detloop doctor`: a fake Label Studio that is a real server on loopback, libraries that break on import, folders without DVC."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.commands import doctor
from pipelines.commands.doctor_finding import Finding, probe
from pipelines.commands.doctor_project import data_folder, dvc_folder, dvc_lock

TOKEN = "s3cret-0123456789abcdef"
SECRET_URL_PARTS = "person:pa55word@"


@contextmanager
def server(status: int, body: bytes) -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """A real HTTP server that answers everything alike; gives its address and the requests that it saw."""
    seen: list[tuple[str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, dict(self.headers)))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{httpd.server_port}", seen
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_a_healthy_label_studio_is_found_and_gets_no_token() -> None:
    with server(200, b'{"status": "UP"}') as (place, seen):
        finding = doctor.label_studio(f"http://{place}/", has_token=True)
    assert (finding.status, finding.cost) == ("found", "")
    assert [path for path, _ in seen] == ["/health"]
    assert not any("Authorization" in headers for _, headers in seen)


def test_a_server_without_a_token_says_what_that_costs() -> None:
    with server(200, b'{"status": "UP"}') as (place, _):
        finding = doctor.label_studio(f"http://{place}", has_token=False)
    assert finding.status == "found"
    assert "no token is set" in finding.detail
    assert "token" in finding.cost


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (500, b"oops", "status 500"),
        (404, b"", "status 404"),
        (200, b"<html>hello</html>", "not as Label Studio"),
        (200, b'["UP"]', "not as Label Studio"),
        (200, b"\xff\xfe", "not as Label Studio"),
        (200, b'{"status": "DOWN"}', "not as Label Studio"),
    ],
    ids=["500", "404", "html", "list", "not-utf8", "down"],
)
def test_a_server_that_is_no_healthy_label_studio_is_broken(status: int, body: bytes, said: str) -> None:
    with server(status, body) as (place, _):
        finding = doctor.label_studio(f"http://{place}", has_token=False)
    assert finding.status == "broken"
    assert said in finding.detail


def test_a_server_that_hangs_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:  # accepts (the kernel does), never answers
        finding = doctor.label_studio(f"http://127.0.0.1:{listening.getsockname()[1]}", has_token=False, timeout_s=0.2)
    assert finding.status == "broken"
    assert "no answer within 0.2 s" in finding.detail


def test_a_server_that_speaks_no_http_and_a_closed_port_are_broken() -> None:
    def answer(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        connection.recv(4096)
        connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        port = listening.getsockname()[1]
        assert doctor.label_studio(f"http://127.0.0.1:{port}", has_token=False).status == "broken"
        thread.join()
    assert "cannot be reached" in doctor.label_studio(f"http://127.0.0.1:{port}", has_token=False).detail


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host", "http://", "http://[::1", "http://host:port", "%"])
def test_an_address_that_is_none_is_broken_and_not_repeated(url: str) -> None:
    finding = doctor.label_studio(url, has_token=False)
    assert finding.status == "broken"
    assert "LABEL_STUDIO_URL" in finding.detail


def test_the_whole_answer_and_no_secret_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").touch()
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    with server(500, TOKEN.encode()) as (place, _):
        monkeypatch.setenv("LABEL_STUDIO_URL", f"http://{SECRET_URL_PARTS}{place}/?token={TOKEN}")
        assert main(["doctor", "--json"]) == 0
    out, err = capfd.readouterr()
    for secret in (TOKEN, "pa55word", "person"):
        assert secret not in out + err
    answer = json.loads(out)
    found = {item["name"]: item for item in answer["findings"]}
    wanted = {
        "Python",
        "CPU",
        "memory",
        "GPU",
        "torch",
        "TensorRT",
        "OpenVINO",
        "ONNX Runtime",
        "ultralytics",
        "albumentations",
        "DVC",
        "git",
        ".dvc",
    }
    assert wanted | {"Label Studio", "disk", "data folder"} <= set(found)
    assert found["Label Studio"]["detail"] == f"http://{place} answers /health with status 500"
    assert found["Python"]["detail"] == ".".join(map(str, sys.version_info[:3]))
    assert found[".dvc"]["status"] == found["data folder"]["status"] == found["torch"]["status"] == "found"
    assert sum(answer["counts"].values()) == len(answer["findings"])
    assert all(item["cost"] for item in answer["findings"] if item["status"] != "found"), "each lack names its cost"
    assert list((tmp_path / "data").iterdir()) == []


def test_lines_for_people() -> None:
    findings = [Finding("Python", "found", "3.11.7"), Finding("GPU", "missing", "none seen", "training " * 20)]
    lines = doctor.as_lines(findings).splitlines()
    assert lines[0] == "found    Python         3.11.7"
    assert lines[1] == "missing  GPU            none seen"
    assert lines[2].startswith(" " * 24 + "training")
    assert max(len(line) for line in lines) <= 110
    assert lines[-1] == "1 found, 1 missing, 0 broken"


def test_an_unset_address_is_said() -> None:
    assert doctor.label_studio("", has_token=False).detail == "LABEL_STUDIO_URL is not set"


def test_outside_a_project_dvc_and_data_are_missing(tmp_path: Path) -> None:
    assert dvc_folder(tmp_path).status == "missing"
    assert data_folder(tmp_path).status == "missing"


@pytest.fixture
def round_done(tmp_path: Path) -> Path:
    """A project of two stages that ran; nothing is committed."""
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  a: {cmd: echo 1 > a.txt, outs: [a.txt]}\n  b: {cmd: cp a.txt b.txt, deps: [a.txt], outs: [b.txt]}\n"
    )
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "repro", "-q"]):
        shell(tmp_path, *command)
    return tmp_path


def shell(folder: Path, *command: str, ends_with: bool = True) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is ends_with, done.stdout + done.stderr


@pytest.mark.parametrize(("commit", "mend"), [(True, "git restore dvc.lock"), (False, "rm dvc.lock")], ids=["committed", "not committed"])
def test_half_a_lock_is_named_with_what_mends_it(commit: bool, mend: str, round_done: Path) -> None:
    lock = round_done / "dvc.lock"
    (whole,) = dvc_lock(round_done)
    assert (whole.status, whole.cost) == ("found", "")
    if commit:
        shell(round_done, "git", "add", "dvc.lock")
        shell(round_done, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "round 1")
    lock.write_bytes(lock.read_bytes()[:60])
    shell(round_done, "dvc", "repro", ends_with=False)
    (finding,) = dvc_lock(round_done)
    assert finding.status == "broken"
    assert finding.cost.startswith(f"{mend}, then `dvc repro`")
    shell(round_done, *mend.split())
    shell(round_done, "dvc", "repro")
    assert dvc_lock(round_done) == [whole]


def test_an_empty_lock_is_broken_and_none_is_no_line(round_done: Path) -> None:
    (round_done / "dvc.lock").write_bytes(b"")
    assert [item.status for item in dvc_lock(round_done)] == ["broken"]
    (round_done / "dvc.lock").unlink()
    assert dvc_lock(round_done) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_data_folder_is_broken(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o555)
    assert data_folder(tmp_path).status == "broken"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ("import no_such_module_of_ours", "broken"),
        ("raise OSError('libGL.so.1: cannot open shared object file')", "broken"),
        ("import os; os.abort()", "broken"),
        ("import os; os._exit(0)", "broken"),
        ("print('noise'); __version__ = '1.2'", "found"),
        (None, "missing"),
    ],
    ids=["needs-another", "libgl", "crash", "silent-exit", "noisy", "not-installed"],
)
def test_a_library_that_breaks_on_import_is_a_line_not_a_crash(
    content: str | None, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "fancylib.py").write_text(content)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = doctor.library("fancylib", probe("import fancylib; say(version=fancylib.__version__)"), None, "much")
    assert finding.status == status
    assert finding.cost == ("" if status == "found" else "much")
    if content and "libGL" in content:
        assert "libGL.so.1" in finding.detail


def test_a_tensorrt_stub_without_a_builder_does_not_count() -> None:
    missing = {"error": "ModuleNotFoundError: No module named 'x'", "missing": True}
    stub = {"error": "AttributeError: module 'tensorrt' has no attribute 'Builder'", "missing": False}
    rtx = {"version": "1.7", "builder": "Builder"}
    assert doctor.tensorrt(stub, rtx).detail == "TensorRT-RTX 1.7"
    assert doctor.tensorrt(stub, missing).status == "broken"
    assert doctor.tensorrt(missing, missing).status == "missing"


def test_gpu_without_a_torch_that_sees_it_says_so() -> None:
    card = ["NVIDIA H100, driver 580.65, 81559 MiB"]
    assert doctor.gpu(card, {"version": "2", "gpus": ["NVIDIA H100"]}).cost == ""
    assert "torch sees no CUDA device" in doctor.gpu(card, {"version": "2", "gpus": []}).cost
    assert doctor.gpu("no nvidia-smi", {"version": "2", "gpus": ["NVIDIA H100"]}).status == "found"
    assert doctor.gpu("nvidia-smi failed: driver/library version mismatch", {"error": "x", "missing": True}).status == "broken"
    assert doctor.gpu("no nvidia-smi", {"version": "2", "gpus": [], "mps": False}).status == "missing"


def test_nvidia_smi_is_read_as_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 580.65.06, 143771 MiB'\n")
    tool.chmod(0o755)
    assert doctor.nvidia_smi() == ["NVIDIA H200, driver 580.65.06, 143771 MiB"]
    tool.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    assert doctor.nvidia_smi() == "nvidia-smi failed: Failed to initialize NVML: Driver/library version mismatch"


def test_configure_declares_json() -> None:
    parser = argparse.ArgumentParser()
    doctor.configure(parser)
    assert parser.parse_args([]).json is False
    assert parser.parse_args(["--json"]).json is True
