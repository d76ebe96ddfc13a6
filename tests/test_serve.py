"""`detloop serve` as a process: what it answers, what it refuses, how it ends."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.cli import main
from pipelines.collect.inbox import read_inbox
from pipelines.core.io import read_jsonl, sha256_bytes
from tests.conftest import ROOT
from tests.serving import HOSTILE, START_S, Running, encoded, running, wait_for
from tests.test_bundle import BLOCKED, NOT_NEEDED, tamper_expected
from tests.test_release import run_release
from tests.tiny_detector import CLASSES, make_project


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = make_project(tmp_path_factory.mktemp("serve") / "p")
    assert run_release(project)["verdict"] == "released"
    return project.root / "release"


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Running]:
    with running(bundle, "--max-image-mb", "1", "--max-images", "6") as started:
        yield started


@pytest.fixture(scope="module")
def golden(bundle: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((bundle / "golden").glob("*.png"))]


def test_answers_are_those_of_detloop_predict(server: Running, bundle: Path, golden: list[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--bundle", str(bundle), str(bundle / "golden")]) == 0
    expected = json.loads(capsys.readouterr().out)
    answer = server.predict(*golden)
    assert answer.status_code == 200
    assert answer.json()["runner"] == expected["runner"]
    found = [{key: row[key] for key in ("width", "height", "detections")} for row in answer.json()["images"]]
    assert found == [{key: row[key] for key in ("width", "height", "detections")} for row in expected["images"]]
    assert [row["file"] for row in answer.json()["images"]] == ["0.img", "1.img", "2.img", "3.img"]
    alone = server.client.post("/predict", content=golden[2], headers={"Content-Type": "image/png"})
    assert alone.json()["images"][0]["detections"] == expected["images"][2]["detections"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_uploads_are_refused(server: Running, name: str) -> None:
    content, status = HOSTILE[name]
    for answer in (server.predict(content), server.client.post("/predict", content=content, headers={"Content-Type": "image/jpeg"})):
        assert answer.status_code == status, answer.text
        assert isinstance(answer.json()["detail"], str)


def test_memory_stays_flat_under_hostile_uploads(server: Running, golden: list[bytes]) -> None:
    for content, _ in HOSTILE.values():
        server.predict(content)
    before = server.rss_mb()
    for content, _ in list(HOSTILE.values()) * 8:
        assert 400 <= server.predict(content).status_code < 500
    assert server.rss_mb() - before < 20  # one decoded bomb would be 10,800 MB
    assert server.predict(golden[0]).status_code == 200


def endless() -> Iterator[bytes]:
    """A chunked body that states no length."""
    for _ in range(10_000):
        yield bytes(100_000)


BAD_REQUESTS = {
    "no form, no image": ({}, 400),
    "a form without images": ({"files": {"other": b"x"}}, 400),
    "a text in place of an image": ({"data": {"images": "x"}, "files": {"y": b"x"}}, 400),
    "a form without a boundary": ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400),
    "a form that is none": ({"content": b"x" * 100, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400),
    "too many images": ({"files": [("images", encoded(".png"))] * 7}, 400),
    "a body without end": ({"content": endless()}, 413),
    "a form without end": ({"content": endless(), "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_requests_are_refused(server: Running, golden: list[bytes], name: str) -> None:
    request, status = BAD_REQUESTS[name]
    try:
        assert server.client.post("/predict", **request).status_code == status  # type: ignore[arg-type]
    except httpx.WriteError:  # the server closed on a sender that does not stop
        assert "without end" in name
    assert server.predict(golden[0]).status_code == 200


def test_of_several_images_only_the_bad_one_is_refused(server: Running, golden: list[bytes]) -> None:
    answer = server.predict(golden[0], b"no image", golden[1])
    assert answer.status_code == 200
    rows = answer.json()["images"]
    assert "not_an_image" in rows[1]["error"]
    assert [rows[0]["detections"], rows[2]["detections"]] == [server.predict(golden[number]).json()["images"][0]["detections"] for number in (0, 1)]


def test_metrics_count_what_happened(server: Running, golden: list[bytes]) -> None:
    def figures() -> dict[tuple[str, ...], float]:
        page = server.client.get("/metrics")
        assert page.headers["content-type"].startswith("text/plain")
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(page.text)
            for sample in family.samples
        }

    before = figures()
    boxes = sum(len(row["detections"]) for row in server.predict(golden[0], golden[1]).json()["images"])
    server.predict(b"no image")
    after = figures()
    grown = {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0) and not key[0].endswith("_created")}
    assert grown["detloop_requests_total", "/predict", "200"] == 1
    assert grown["detloop_requests_total", "/predict", "415"] == 1
    assert grown["detloop_images_total", "detected"] == 2
    assert grown["detloop_images_total", "refused_415"] == 1
    assert sum(grown.get(("detloop_detections_total", name), 0) for name in CLASSES) == boxes > 0
    assert after[("detloop_waiting_images",)] == 0


def test_the_api_is_described(server: Running) -> None:
    api = server.client.get("/openapi.json").json()
    assert set(api["paths"]) == {"/predict", "/feedback", "/health", "/ready", "/metrics"}
    assert set(api["paths"]["/predict"]["post"]["requestBody"]["content"]) == {"multipart/form-data", "image/*"}
    assert {"413", "415", "422", "429"} <= set(api["paths"]["/predict"]["post"]["responses"])
    assert server.client.get("/health").json() == {"status": "ok"}
    assert server.client.get("/ready").json()["classes"] == list(CLASSES)
    assert server.client.get("/").headers["content-type"].startswith("text/html")


def test_a_full_queue_answers_429_and_goes_on(bundle: Path, golden: list[bytes]) -> None:
    slow = encoded(".png", (2000, 2000))  # 4 million pixels to decode
    with running(bundle, "--queue", "2") as server:
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: httpx.post(f"{server.url}/predict", files={"images": slow}, timeout=60), range(24)))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429}
        assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 429)
        assert server.predict(golden[0]).status_code == 200
        too_many = server.predict(golden[0], golden[1], golden[2])  # more than the queue ever holds: to wait would not help
        assert (too_many.status_code, "Maximum number of files is 2" in too_many.text) == (400, True)


def test_sigterm_ends_after_the_open_requests(bundle: Path) -> None:
    slow = encoded(".png", (2000, 2000))
    with running(bundle) as server:
        answers: list[int] = []
        sender = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{server.url}/predict", files=[("images", slow)] * 8, timeout=60).status_code)
        )
        sender.start()
        wait_for(lambda: "detloop_waiting_images 0.0" not in server.client.get("/metrics").text)
        status, said = server.stop()
        sender.join()
    assert (status, answers) == (0, [200])
    assert "Traceback" not in said


def test_a_closed_terminal_ends_it_as_sigterm_does(bundle: Path, golden: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with running(bundle, "--project", str(tmp_path)) as server:
        assert server.predict(golden[0]).status_code == 200
        server.process.send_signal(signal.SIGHUP)
        assert server.process.wait(60) == 0
    assert len(list((tmp_path / "data" / "feedback" / "requests").glob("*.jsonl"))) == 1


def test_senders_that_never_finish_are_let_go(bundle: Path, golden: list[bytes]) -> None:
    """Nothing at all, half a head, half a body, and a form for each route: each connection ends, though a byte comes now and then."""
    form = b"Host: x\r\nContent-Type: multipart/form-data; boundary=B\r\nContent-Length: 100000\r\n\r\n--B\r\n"
    begun = {
        "nothing": b"",
        "half a head": b"POST /predict HTTP/1.1\r\nX-",
        "half a second head": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea",
        "half a body": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\nab",
        "half a form": b"POST /predict HTTP/1.1\r\n" + form,
        "half a complaint": b"POST /feedback HTTP/1.1\r\n" + form,
    }
    with running(bundle, "--max-read-s", "1") as server:
        address = (urlsplit(server.url).hostname or "", urlsplit(server.url).port or 0)
        for name, start in begun.items():
            with socket.create_connection(address, timeout=START_S) as connection:
                connection.settimeout(0.2)
                connection.sendall(start)
                said, open_ = b"", True
                for _ in range(300):  # tries, not seconds: a machine that stands still meanwhile is not the server's fault
                    try:
                        if name != "nothing":
                            connection.sendall(b"a")
                        part = connection.recv(65536)
                        said, open_ = said + part, bool(part)
                    except TimeoutError:
                        continue
                    except OSError:
                        open_ = False
                    if not open_:
                        break
                assert not open_, name
                assert (b" 408 " in said) == ("body" in name or "form" in name or "complaint" in name), (name, said)
        assert server.predict(golden[0]).status_code == 200


def test_what_open_requests_hold_together_is_bounded(bundle: Path, golden: list[bytes]) -> None:
    """One that has come for the most part leaves room for small ones alone; when it goes away there is room again."""
    large = b"x" * 500_000
    with running(bundle, "--max-held-mb", "1") as server:
        address = (urlsplit(server.url).hostname or "", urlsplit(server.url).port or 0)
        with socket.create_connection(address, timeout=START_S) as connection:
            head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 900000\r\n\r\n"
            connection.sendall(head + b"x" * 800_000)
            wait_for(lambda: httpx.post(f"{server.url}/predict", content=large).status_code == 429)
            refused = httpx.post(f"{server.url}/predict", content=large)
            assert (refused.headers["retry-after"], "as many bytes of requests as it may" in refused.text) == ("1", True)
            assert httpx.post(f"{server.url}/predict", files={"images": large}).status_code == 429
            assert server.predict(golden[0]).status_code == 200
        wait_for(lambda: httpx.post(f"{server.url}/predict", content=large).status_code == 415)
        assert httpx.post(f"{server.url}/predict", content=b"x" * 1_000_001).status_code == 413  # alone too much: to wait would not help


def test_a_sample_that_cannot_be_kept_is_told(bundle: Path, golden: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "data" / "inbox").mkdir(parents=True)
    (tmp_path / "data" / "inbox" / "served").write_text("a file where the folder should be")
    with running(bundle, "--project", str(tmp_path)) as server:
        assert server.predict(golden[0]).status_code == 200
        status, said = server.stop()
    assert status == 0
    assert said.startswith("error: a sample of 1 request cannot be kept (")
    assert said.count("\n") == 1


def test_images_as_thin_as_a_line_are_answered(server: Running, golden: list[bytes]) -> None:
    rows = server.predict(golden[0], encoded(".png", (20_000, 10)), encoded(".png", (1, 3_000))).json()["images"]
    assert [(row["width"], row["height"]) for row in rows] == [(96, 64), (20_000, 10), (1, 3_000)]
    assert rows[0]["detections"]


def test_a_form_in_capitals_is_one(server: Running, golden: list[bytes]) -> None:
    form = httpx.Request("POST", server.url, files={"images": golden[0]})
    kind = form.headers["content-type"].replace("multipart/form-data", "Multipart/Form-Data")
    assert server.client.post("/predict", content=form.read(), headers={"Content-Type": kind}).status_code == 200


@pytest.mark.parametrize(
    ("option", "value"),
    [("--max-image-mb", "0"), ("--max-image-mb", "nan"), ("--max-wait-ms", "-1"), ("--sample", "-1"), ("--max-held-mb", "0"), ("--max-read-s", "0")],
)
def test_numbers_that_make_no_sense_are_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--bundle", "b", option, value])
    assert ended.value.code == 2
    assert f"argument {option}: {value} is not a number" in capsys.readouterr().err


def test_complaints_reach_the_project(bundle: Path, golden: list[bytes], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with running(bundle, "--project", str(tmp_path), "--max-image-mb", "1") as server:

        def complain(image: bytes, **fields: str) -> httpx.Response:
            return server.client.post("/feedback", files={"image": ("a.png", image)}, data=fields)

        assert complain(golden[0], complaint="missed", **{"class": "red", "box": "1,2,30.5,40"}).status_code == 201
        assert complain(golden[0], complaint="other").json() == {"image_id": sha256_bytes(golden[0])}
        for fields, message in [
            ({"complaint": "bad"}, "missed"),
            ({}, "required"),
            ({"complaint": "missed", "class": "violet"}, "class 'violet' is unknown"),
            ({"complaint": "missed", "box": "1,2,3"}, "four numbers"),
            ({"complaint": "missed", "box": "1,2,nan,9"}, "does not lie"),
            ({"complaint": "missed", "box": "5,2,97,9"}, "does not lie in the 96x64 image"),
            ({"complaint": "missed", "box": "9,2,9,9"}, "does not lie"),
        ]:
            refused = complain(golden[1], **fields)
            assert refused.status_code == 422
            assert message in refused.text
        for content, status in HOSTILE.values():
            assert complain(content, complaint="other").status_code == status
    rows = [row for path in sorted((data / "feedback").glob("*.jsonl")) for row in read_jsonl(path)]
    name = f"feedback/{sha256_bytes(golden[0])}.png"
    assert len(rows) == 2
    rows.sort(key=lambda row: row["complaint"])
    assert {**rows[0], "time": ""} == {
        "image": name,
        "image_id": sha256_bytes(golden[0]),
        "complaint": "missed",
        "class": "red",
        "box": [1, 2, 30.5, 40],
        "runner": "onnxruntime_fp16",
        "time": "",
    }
    assert rows[1]["complaint"] == "other"
    assert read_inbox(data / "inbox").seen.select("origin", "source").rows() == [(name, "feedback")]
    assert (data / "inbox" / name).read_bytes() == golden[0]


def test_the_least_confident_requests_reach_the_project(bundle: Path, golden: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    empty = encoded(".png")
    with running(bundle, "--project", str(tmp_path), "--sample", "3") as server:
        answers = {sha256_bytes(content): server.predict(content).json()["images"][0]["detections"] for content in (empty, *golden, golden[0])}
        assert server.stop()[0] == 0
    lowest = {image_id: min((row["score"] for row in rows), default=1.0) for image_id, rows in answers.items()}
    (log,) = (tmp_path / "data" / "feedback" / "requests").glob("*.jsonl")
    rows = read_jsonl(log)
    assert [row["confidence"] for row in rows] == sorted(lowest.values())[:3]
    assert all((row["confidence"], row["detections"]) == (lowest[row["image_id"]], answers[row["image_id"]]) for row in rows)
    seen = read_inbox(tmp_path / "data" / "inbox").seen
    assert set(seen["origin"]) == {row["image"] for row in rows}
    assert set(seen["source"]) == {"served"}
    assert all(seen["captured_at"])
    kept = [tmp_path / "data" / "inbox" / row["image"] for row in rows]
    assert [sha256_bytes(path.read_bytes()) for path in kept] == [path.stem for path in kept]


def test_without_a_project_nothing_is_kept(server: Running, golden: list[bytes]) -> None:
    refused = server.client.post("/feedback", files={"image": golden[0]}, data={"complaint": "other"})
    assert refused.status_code == 404
    assert "--project" in refused.json()["detail"]


def test_serving_needs_no_training_libraries(bundle: Path, golden: list[bytes]) -> None:
    blocked = {*NOT_NEEDED, "openvino", "tensorrt", "tensorrt_rtx"} - {"pydantic"}  # FastAPI's own
    with running(bundle, command=[sys.executable, "-c", BLOCKED.format(blocked=blocked), "serve"]) as server:
        assert server.predict(golden[0]).status_code == 200


def test_a_runner_that_fails_the_golden_vectors_is_not_served(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoilt = Path(shutil.copytree(bundle, tmp_path / "spoilt"))
    tamper_expected(lambda rows: rows.pop(0))(spoilt)
    assert main(["serve", "--bundle", str(spoilt), "--port", "0", "--runner", "openvino_fp32"]) == 2
    error = capsys.readouterr().err
    assert "does not pass the golden image here" in error
    assert "1 extra" in error


@pytest.mark.parametrize("missing", ["fastapi", "fastapi_offline", "uvicorn", "prometheus_client"])
def test_a_missing_library_is_one_line(bundle: Path, missing: str) -> None:
    command = [sys.executable, "-c", BLOCKED.format(blocked={missing}), "serve", "--bundle", str(bundle)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "pip install 'detloop[serve]'" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bundle", "{bundle}", "--port", "{taken}"], "cannot listen on 127.0.0.1:"),
        (["--bundle", "{bundle}", "--port", "70000"], "cannot listen on 127.0.0.1:70000"),
        (["--bundle", "{bundle}", "--port", "0", "--runner", "x"], "has no runner 'x'"),
        (["--bundle", "{nowhere}", "--port", "0"], "is missing"),
        (["--bundle", "{bundle}", "--port", "0", "--project", "{nowhere}"], "is missing"),
    ],
    ids=["port taken", "no such port", "runner", "bundle", "project"],
)
def test_what_cannot_be_served_is_one_line(
    bundle: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        filled = [item.format(bundle=bundle, nowhere=tmp_path / "x", taken=taken.getsockname()[1]) for item in arguments]
        assert main(["serve", *filled]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
