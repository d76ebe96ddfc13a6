"""collect and predict on a Ray cluster of two workers on this machine: the same rows as without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.cluster import map_on_ray
from pipelines.core.params import PredictParams
from pipelines.core.types import Sample
from tests.collect_runs import PARAMS, collect, snapshot
from tests.images import bad_files, jpeg
from tests.small_yolos import CLASSES, checkpoint, pictures
from training.predictor import TorchRunner, predict_on_ray, predict_with_features


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False, object_store_memory=600 * 2**20)
    yield
    ray.shutdown()


def test_results_come_in_order_from_other_processes() -> None:
    def process_of(number: int) -> tuple[int, int]:
        return number, os.getpid()

    results = list(map_on_ray(process_of, range(40)))
    assert [number for number, _ in results] == list(range(40))
    assert os.getpid() not in {process for _, process in results}
    assert list(map_on_ray(process_of, [])) == []


def test_an_error_of_the_work_is_not_lost() -> None:
    with pytest.raises(Exception, match="ZeroDivisionError"):
        list(map_on_ray((1).__truediv__, [1, 0]))


def test_collect_gives_the_same_files(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for number in range(100):
        (inbox / f"{number:03d}.jpg").write_bytes(jpeg(number % 90))
    for name, (content, _) in bad_files().items():
        (inbox / name).write_bytes(content)
    (inbox / os.fsdecode(b"no\xfftext.jpg")).write_bytes(jpeg(200))
    for executor in ("local", "ray"):
        (tmp_path / executor).mkdir()
        (tmp_path / executor / "params.yaml").write_text(PARAMS.replace("collect: {", f"collect: {{executor: {executor}, "))
        collect(tmp_path / executor, inbox)
    assert snapshot(tmp_path / "ray/raw") == snapshot(tmp_path / "local/raw")
    assert (tmp_path / "ray/collect.json").read_bytes() == (tmp_path / "local/collect.json").read_bytes()


def test_predict_gives_the_same_detections(tmp_path: Path) -> None:
    samples: list[Sample] = pictures(tmp_path, split="test", count=21, seed=0)
    model, params = checkpoint(tmp_path, "yolo11n.yaml"), PredictParams(batch=2, score_floor=0.3)
    with TorchRunner(model, CLASSES) as runner:
        local, features = predict_with_features(runner, samples, tmp_path / "raw", params, "local")
    found, seen = predict_on_ray(model, CLASSES, samples, tmp_path / "raw", params)
    assert list(found) == list(local)
    assert sum(len(item) for item in local.values()) > 20
    for image_id, item in local.items():
        assert np.array_equal(found[image_id].class_index, item.class_index)
        assert np.allclose(found[image_id].xyxy, item.xyxy, atol=1e-3)
        assert np.allclose(found[image_id].score, item.score, atol=1e-5)
        assert np.allclose(seen[image_id], features[image_id], atol=1e-5)
