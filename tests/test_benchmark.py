"""Timing workers: figures by hand, runners in turns, and workers that are missing, die or hang."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from export.check.benchmark import figures, measure
from export.check.timing import Job, Loaded, Worker
from export.runners import open_runner
from export.runners.detect import Detector
from export.runners.openvino import OpenVinoRunner
from pipelines.core.errors import DataError, DetloopError, MissingPartError
from tests.tiny_detector import NMS, make_project, model_bytes


def open_missing() -> AbstractContextManager[Detector]:
    raise MissingPartError("no such device here: buy one")


def open_dying() -> AbstractContextManager[Detector]:
    os.write(2, b"out of memory\n")
    os._exit(137)


def open_hanging() -> AbstractContextManager[Detector]:
    time.sleep(60)
    raise AssertionError


class PixelsOnly(OpenVinoRunner):
    """A runner with the way that ships and no other."""

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        raise DataError(f"timed through the float tensor {batch.shape}")


def job(kind: str, path: Path) -> Job:
    return Job(f"{kind}_fp32", partial(open_runner, kind, path, threads=1), NMS)


def images_of(root: Path) -> list[Path]:
    return sorted((make_project(root, images=3).raw / "images").rglob("*.png"))


def test_percentiles_by_hand() -> None:
    item = figures([10.0, 20.0, 30.0, 40.0], [1.0, 2.0, 9.0], Loaded(0.5, 70.0), 123.0)
    assert item["p50_ms"] == 25.0
    assert item["p95_ms"] == pytest.approx(38.5)  # linear between 30 and 40: position 0.95 * 3 = 2.85
    assert item["p99_ms"] == pytest.approx(39.7)
    assert item["throughput_ips"] == 40.0
    assert (item["network_p50_ms"], item["load_s"], item["first_ms"], item["peak_rss_mb"], item["samples"]) == (2.0, 0.5, 70.0, 123.0, 4)


def test_runners_are_measured_in_turns_and_their_workers_end(tmp_path: Path) -> None:
    images = images_of(tmp_path / "p")
    jobs = [job("onnxruntime", tmp_path / "p" / "export" / "model.onnx"), Job("gone", open_missing, NMS)]
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    before = psutil.Process().children()
    result = measure([*jobs, job("openvino", broken)], images, warmup=1, rounds=2, timeout_s=60)
    assert list(result) == ["onnxruntime_fp32", "gone", "openvino_fp32"]
    item = result["onnxruntime_fp32"]
    assert (item["status"], item["samples"]) == ("measured", 2 * len(images))
    assert 0 < item["network_p50_ms"] <= item["p50_ms"] <= item["p95_ms"] <= item["p99_ms"]
    assert 20 < item["peak_rss_mb"] < 2000
    assert item["load_s"] > 0
    assert result["gone"] == {"status": "not_run", "reason": "no such device here: buy one"}
    assert result["openvino_fp32"]["status"] == "fail"
    assert psutil.Process().children() == before


def test_what_is_timed_is_the_way_that_ships(tmp_path: Path) -> None:
    images = images_of(tmp_path / "p")
    model = tmp_path / "p" / "export" / "model.onnx"
    result = measure([Job("pixels", partial(PixelsOnly, model, threads=1), NMS)], images, warmup=0, rounds=1, timeout_s=60)
    assert result["pixels"]["status"] == "measured", result


def test_a_workers_memory_is_its_own(tmp_path: Path) -> None:
    ballast = bytearray(os.urandom(1 << 20) * 400)  # the parent's 400 MB must not count
    model = tmp_path / "model.onnx"
    model.write_bytes(model_bytes())
    images = images_of(tmp_path / "p")
    with Worker(job("onnxruntime", model), timeout_s=60) as worker:
        worker.load(images[0])
        assert worker.turn(images).peak_rss_mb < 350
    assert len(ballast) > 0


@pytest.mark.parametrize(
    ("opener", "timeout_s", "message"),
    [
        (open_dying, 60, r"runner x died with exit status 137 while loading \(out of memory\)"),
        (open_hanging, 1, r"runner x gave no answer in 1 s while loading: it hangs"),
    ],
    ids=["dies", "hangs"],
)
def test_a_worker_that_fails_is_one_clear_error(opener: object, timeout_s: float, message: str, tmp_path: Path) -> None:
    images = images_of(tmp_path / "p")
    before = psutil.Process().children()
    with pytest.raises(DetloopError, match=message):
        measure([Job("x", opener, NMS)], images, warmup=0, rounds=1, timeout_s=timeout_s)  # type: ignore[arg-type]
    assert psutil.Process().children() == before


def test_a_broken_image_is_not_blamed_on_a_runner(tmp_path: Path) -> None:
    image = tmp_path / "broken.png"
    image.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png is not a readable image"):
        measure([Job("x", open_missing, NMS)], [image], warmup=0, rounds=1)
