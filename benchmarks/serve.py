"""`detloop serve` against two plain FastAPI services around ultralytics, on one machine: throughput, overload, hostile uploads, memory.

Usage: python benchmarks/serve.py PROJECT [--seconds 60] [--clients 32] [--rounds 1]     (PROJECT: a folder with a finished round)

The plain services are what a tutorial shows: one route that decodes an upload and calls `YOLO.predict`, on the checkpoint (`pt`) and on ultralytics'
own OpenVINO export (`openvino`), at the bundle's input size and lowest threshold. All run under the same uvicorn. The load comes from one process
that shares the machine's cores with the server under load; the other services idle meanwhile. Each service in turn gets the same requests (a
multipart form with one test image, connections kept open). Then `detloop serve` alone: ten times the clients, and 200 hostile uploads.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402
import psutil  # noqa: E402

from export.bundle.reader import load_bundle  # noqa: E402
from pipelines.core.records import read_samples  # noqa: E402
from tests.serving import HOSTILE, png_of  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "serve.json"
HOSTILE_UPLOADS = 200
PLAIN_SERVICE = """
import sys
import cv2, numpy, uvicorn
from fastapi import FastAPI, UploadFile
from ultralytics import YOLO

path, imgsz, conf, port = sys.argv[1], [*map(int, sys.argv[2].split("x"))], float(sys.argv[3]), int(sys.argv[4])
model = YOLO(path, task="detect")
app = FastAPI()

@app.get("/ready")
def ready():
    return {"status": "ready"}

@app.post("/predict")
def predict(images: UploadFile):
    image = cv2.imdecode(numpy.frombuffer(images.file.read(), numpy.uint8), cv2.IMREAD_COLOR)
    boxes = model.predict(image, imgsz=imgsz, conf=conf, iou=0.7, device="cpu", verbose=False)[0].boxes
    rows = zip(boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist())
    return {"detections": [{"class": model.names[int(index)], "score": score, "xyxy": xyxy} for xyxy, score, index in rows]}

uvicorn.run(app, port=port, access_log=False, log_level="warning")
"""


@dataclass
class Load:
    """What came of one phase: seconds of each answered request, statuses (0: the connection broke), and how long the phase was."""

    seconds: float
    latency_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def rate(self) -> float:
        """Answers with status 200 a second."""
        return self.statuses[200] / self.seconds

    def summary(self) -> dict[str, Any]:
        """The figures for the result."""
        ordered = sorted(self.latency_s) or [0.0]
        place = {f"p{share}_ms": round(ordered[min(len(ordered) - 1, len(ordered) * share // 100)] * 1e3, 1) for share in (50, 99)}
        return {"answers_200_per_s": round(self.rate(), 1), "statuses": {str(key): value for key, value in sorted(self.statuses.items())}, **place}


async def load(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
    """`clients` connections that send one request after another until the time is over."""
    result = Load(seconds)
    end = time.perf_counter() + seconds
    turn = itertools.cycle(requests)

    async def client() -> None:
        reader = writer = None
        while time.perf_counter() < end:
            start = time.perf_counter()
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                assert reader is not None
                writer.write(next(turn))
                status = await answer(reader)
            except (OSError, asyncio.IncompleteReadError):
                status, writer = 0, None
            result.statuses[status] += 1
            result.latency_s.append(time.perf_counter() - start)
            if status == 429:
                await asyncio.sleep(0.1)  # a tenth of what Retry-After asks for
        if writer is not None:
            writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return result


async def answer(reader: asyncio.StreamReader) -> int:
    """Read one HTTP answer to its end; its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    (length,) = (int(line.partition(":")[2]) for line in head.split("\r\n") if line.startswith("content-length:"))
    await reader.readexactly(length)
    return int(head.split()[1])


def request_of(image: bytes) -> bytes:
    """A whole POST /predict with one image in a form."""
    part = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = part + image + b"\r\n--b--\r\n"
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextmanager
def service(command: Callable[[int], list[str]]) -> Iterator[tuple[int, psutil.Process]]:
    """A started service that answers /ready: its port and process; ended with the block."""
    port = free_port()
    process = subprocess.Popen(command(port), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment())
    try:
        for _ in range(600):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        else:
            sys.exit(f"{command(port)[:4]} does not get ready")
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def hostile(port: int) -> Counter[int]:
    """Statuses of HOSTILE_UPLOADS uploads that no server should take; each bomb claims another size."""
    uploads = [content for content, _ in HOSTILE.values()]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        statuses: Counter[int] = Counter()
        for number in range(HOSTILE_UPLOADS):
            content = png_of(20_000 + number, 20_000) if number % 10 == 0 else uploads[number % len(uploads)]
            statuses[client.post("/predict", files={"images": content}).status_code] += 1
    return statuses


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Start the services, load them in turn, then overload and annoy ours."""
    data = args.project / "data"
    bundle = load_bundle(data / "release")
    about = json.loads((data / "release" / "bundle.json").read_text())
    lowest = min(about["artifacts"][bundle.order[0]].get("thresholds", about.get("thresholds")).values())
    requests = [request_of((data / "raw" / sample.path).read_bytes()) for sample in read_samples(data / "dataset" / "test.jsonl")]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(shutil.copy(data / "models" / "model.pt", folder))
        imgsz = [*reversed(bundle.contract.input_wh)]
        code = f"from ultralytics import YOLO; YOLO({str(checkpoint)!r}).export(format='openvino', imgsz={imgsz}, device='cpu')"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=_environment())
        exported = next(path for path in Path(folder).iterdir() if path.is_dir())

        def plain(model: Path) -> Callable[[int], list[str]]:
            return lambda port: [sys.executable, "-c", PLAIN_SERVICE, str(model), "x".join(map(str, imgsz)), str(lowest), str(port)]

        serve = [sys.executable, "-m", "pipelines.cli", "serve", "--bundle", str((data / "release").resolve()), "--max-image-mb", "1", "--port"]
        with (
            service(lambda port: [*serve, str(port)]) as (ours, process),
            service(plain(checkpoint)) as (pt, _),
            service(plain(exported)) as (openvino, _),
        ):
            ports = {"detloop": ours, "pt": pt, "openvino": openvino}
            loads: dict[str, list[Load]] = {name: [] for name in ports}
            for port in ports.values():
                asyncio.run(load(port, requests, 4, 1.0))  # warm-up
            for _ in range(args.rounds):
                for name, port in ports.items():
                    loads[name].append(asyncio.run(load(port, requests, args.clients, args.seconds)))
                    print(name, loads[name][-1].summary(), file=sys.stderr, flush=True)
            memory = {"after_load_mb": process.memory_info().rss / 1e6}
            overload = asyncio.run(load(ours, requests, 10 * args.clients, args.overload_seconds))
            memory["after_overload_mb"] = process.memory_info().rss / 1e6
            refused = hostile(ours)
            memory["after_hostile_mb"] = process.memory_info().rss / 1e6
            alive = httpx.get(f"http://127.0.0.1:{ours}/ready", timeout=30).status_code == 200 and process.is_running()
            afterwards = asyncio.run(load(ours, requests, args.clients, 3.0))
    rate = {name: statistics.median(item.rate() for item in items) for name, items in loads.items()}
    return {
        "runner": bundle.order[0],
        "clients": args.clients,
        "seconds": args.seconds,
        "rounds": args.rounds,
        "cores_shared_with_the_load": os.cpu_count(),
        "services": {name: [item.summary() for item in items] for name, items in loads.items()},
        "errors": {name: sum(sum(item.statuses.values()) - item.statuses[200] for item in items) for name, items in loads.items()},
        "overload": {"clients": 10 * args.clients, "seconds": args.overload_seconds, **overload.summary()},
        "hostile": {str(status): count for status, count in sorted(refused.items())},
        "alive_afterwards": alive and afterwards.rate() > 0,
        "afterwards": afterwards.summary(),
        "memory": {name: round(value, 1) for name, value in memory.items()},
        "ratios": {
            "throughput_vs_pt": round(rate["detloop"] / rate["pt"], 4),
            "throughput_vs_openvino": round(rate["detloop"] / rate["openvino"], 4),
        },
    }


def main() -> None:
    """Measure, print one JSON object, write it to results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--overload-seconds", type=float, default=15.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    result = measure(parser.parse_args())
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def _environment() -> dict[str, str]:
    """ultralytics as it comes, but off the network and installing nothing."""
    return {**os.environ, "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}


if __name__ == "__main__":
    main()
