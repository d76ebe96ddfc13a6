"""The server's pages in a real browser: a picture gives boxes, a chosen box a complaint, the API is shown; nothing foreign is requested.

Skipped without Chromium.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import Response
from fastapi.responses import HTMLResponse

from export.serve.app import Service, build_app
from export.serve.detector import open_detector
from export.serve.feedback import FeedbackFolders, Sample
from export.serve.server import listen
from export.serve.uploads import Limits
from pipelines.core.io import read_jsonl
from tests.browser import LEAVE_ANSWER, answer_of, needs_chromium
from tests.serving import wait_for
from tests.test_release import run_release
from tests.tiny_detector import make_project

BUDGET = "--virtual-time-budget=30000"
PLAY = """<script>
window.problems = [];
addEventListener("error", (event) => problems.push(String(event.message)));
addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
const until = async (holds) => { for (let turn = 0; turn < 400 && !holds(); turn++) await new Promise((done) => setTimeout(done, 25)); };
addEventListener("load", async () => {
  const answer = {};
  await until(() => state.classes.length);
  answer.about = document.getElementById("about").textContent;
  await detect(new File([await (await fetch("golden.png")).blob()], "golden.png"));
  answer.status = document.getElementById("status").textContent;
  answer.boxes = document.querySelectorAll("#boxes rect").length;
  answer.rows = [...document.querySelectorAll("#rows tr")].map((row) => row.cells[0].textContent);
  document.querySelectorAll("#rows tr")[1].click();
  answer.chosen = document.querySelectorAll("#rows tr.chosen").length;
  document.getElementById("complain").requestSubmit();
  await until(() => document.getElementById("sent").textContent);
  answer.sent = document.getElementById("sent").textContent;
  await detect(new File(["no image"], "<img src=x onerror=alert(1)>.png"));
  answer.refused = document.getElementById("status").textContent;
  const own = (name) => name.startsWith(location.origin) || /^(data|blob):/.test(name);
  answer.requests = performance.getEntriesByType("resource").map((entry) => entry.name).filter((name) => !own(name));
  answer.problems = problems;
ANSWER});
</script>""".replace("ANSWER", LEAVE_ANSWER)

READ_DOCS = """<!doctype html><iframe src="docs"></iframe>
<script>
const frame = document.querySelector("iframe");
const operations = () => [...frame.contentDocument.querySelectorAll(".opblock-summary-path")].map((node) => node.dataset.path);
const until = async (holds) => { for (let turn = 0; turn < 400 && !holds(); turn++) await new Promise((done) => setTimeout(done, 25)); };
addEventListener("load", async () => {
  await until(() => operations().length);
  const requests = frame.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name);
  const linked = [...frame.contentDocument.querySelectorAll("[src], link[href]")].map((node) => node.src ?? node.href);
  const answer = { origin: location.origin, operations: operations(), requests: [...requests, ...linked] };
ANSWER});
</script>""".replace("ANSWER", LEAVE_ANSWER)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server with two more pages, which play, and the project that it keeps complaints in."""
    project = make_project(tmp_path / "p")
    assert run_release(project)["verdict"] == "released"
    bundle = project.root / "release"
    detector = open_detector(bundle, None, threads=1, waiting=8, batch=None, wait_s=0, say=print)
    folders = FeedbackFolders(tmp_path / "inbox", tmp_path / "feedback")
    app = build_app(Service(detector, Limits(10**6, 10**6, 4), 8, folders, Sample(0), 3600))
    page = (Path(__file__).parents[1] / "export" / "serve" / "page.html").read_text()

    @app.get("/play")
    async def play() -> Response:
        return HTMLResponse(page.replace("<script>", PLAY + "<script>", 1))

    @app.get("/read_docs")
    async def read_docs() -> Response:
        return HTMLResponse(READ_DOCS)

    @app.get("/golden.png")
    async def golden() -> Response:
        return Response((bundle / "golden" / "00.png").read_bytes(), media_type="image/png")

    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", tmp_path
    finally:
        server.should_exit = True
        thread.join()


@needs_chromium
def test_the_page_draws_boxes_and_takes_a_complaint(served: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = served
    answer = answer_of(f"{url}/play", tmp_path, BUDGET)
    assert answer["about"] == "onnxruntime_fp16, 64 x 64: red, green, blue"
    assert re.fullmatch(r"4 boxes in \d+ ms, 96 x 64 pixels", answer["status"])
    assert answer["boxes"] == len(answer["rows"]) == 4
    assert set(answer["rows"]) <= {"red", "green", "blue"}
    assert (answer["chosen"], answer["sent"]) == (1, "kept, thank you")
    assert "not_an_image" in answer["refused"]
    assert (answer["requests"], answer["problems"]) == ([], [])
    (row,) = (row for path in (folder / "feedback").glob("*.jsonl") for row in read_jsonl(path))
    assert (row["complaint"], len(row["box"])) == ("false_alarm", 4)


@needs_chromium
def test_the_api_page_needs_no_other_host(served: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = served
    answer = answer_of(f"{url}/read_docs", tmp_path, BUDGET)
    assert {"/predict", "/feedback", "/health", "/ready", "/metrics"} <= set(answer["operations"])
    assert any(name.endswith("swagger-ui-bundle.js") for name in answer["requests"])
    assert [name for name in answer["requests"] if not name.startswith((answer["origin"], "data:"))] == []
