"""The model file and what the predict stage makes of it, against ultralytics' own loading, letterbox, NMS and predict."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipelines.core.contract import PAD_VALUE, ModelContract
from pipelines.core.errors import ClassContractError, DataError, MissingInputError
from pipelines.core.images import apply_letterbox, letterbox_for, read_image
from pipelines.core.params import PredictParams
from pipelines.core.postprocess import nms
from pipelines.core.records import read_features, read_samples, write_features
from tests.training_data import CLASSES, write_dataset
from training.checkpoint import layout_of, load_detector, model_bytes
from training.models import build_network
from training.predictor import TorchRunner, predict_samples, predict_with_features

IMGSZ = 96
MODELS = ("yolo11n.yaml", "yolo26n.yaml")
PARAMS = PredictParams(score_floor=0.02, batch=3)


def lively_weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Random weights whose scores and boxes differ from place to place, which untrained ones hardly do."""
    generator = torch.Generator().manual_seed(3)
    weights = network.state_dict()
    for name, value in weights.items():
        if re.search(r"(cv2|cv3)\.\d+\.2\.weight$", name):
            weights[name] = torch.randn(value.shape, generator=generator) * 0.5
        elif re.search(r"cv3\.\d+\.2\.bias$", name):
            weights[name] = torch.full_like(value, -2.0)
        elif name.endswith("running_var"):
            weights[name] = torch.rand(value.shape, generator=generator) * 0.5 + 0.01
    return weights


def make_model(path: Path, name: str) -> Path:
    torch.manual_seed(0)
    network = build_network(name, CLASSES)
    contract = ModelContract(classes=CLASSES, input_wh=(IMGSZ, IMGSZ), layout=layout_of(network))
    path.write_bytes(model_bytes(network, lively_weights(network), contract, name))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make_model(folder / f"{name}.pt", name) for name in MODELS}


@pytest.mark.parametrize("name", MODELS)
def test_same_model_same_bytes(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    assert make_model(tmp_path / "elsewhere.pt", name).read_bytes() == models[name].read_bytes()


@pytest.mark.parametrize("name", MODELS)
def test_model_file_names_no_place_or_time(models: dict[str, Path], name: str) -> None:
    content = models[name].read_bytes()
    for word in (str(Path(__file__).parents[1]), str(models[name].parent), "site-packages", "date"):
        assert word.encode() not in content


@pytest.mark.parametrize(("name", "layout", "shape"), [(MODELS[0], "cxcywh_scores", (2, 7, 189)), (MODELS[1], "xyxy_score_class", (2, 189, 6))])
def test_contract_and_raw_output(models: dict[str, Path], name: str, layout: str, shape: tuple[int, ...]) -> None:
    batch = np.random.default_rng(0).random((2, 3, IMGSZ, IMGSZ), dtype=np.float32)
    with TorchRunner(models[name], CLASSES) as runner:
        assert (runner.contract.layout, runner.contract.classes, runner.contract.input_wh) == (layout, CLASSES, (IMGSZ, IMGSZ))
        output = runner.infer(batch)
        assert (output.shape, output.dtype) == (shape, np.float32)
        np.testing.assert_array_equal(output, runner.infer(batch))
        for wrong in (batch[:, :2], batch[..., :64], batch.astype(np.float64), batch[0]):
            with pytest.raises(DataError, match=r"takes float32 \(N, 3, 96, 96\)"):
                runner.infer(wrong)


@pytest.mark.parametrize("name", MODELS)
def test_equals_ultralytics_predict(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    from ultralytics import YOLO

    folder = write_dataset(tmp_path, {"test": 8}, seed=5)
    samples = read_samples(folder / "dataset" / "test.jsonl")
    with TorchRunner(models[name], CLASSES) as runner:
        mine = predict_samples(runner, samples, folder / "raw", PARAMS, "test")
    reference = YOLO(str(models[name]))
    assert reference.names == dict(enumerate(CLASSES))
    found = 0
    for sample in samples:
        image = read_image(folder / "raw" / sample.path)
        no_nms = {} if name == MODELS[0] else {"nms": False}
        options = {"conf": PARAMS.score_floor, "iou": PARAMS.iou_threshold, "max_det": PARAMS.max_detections, "imgsz": IMGSZ, **no_nms}
        theirs = reference.predict(image, rect=False, agnostic_nms=False, device="cpu", verbose=False, **options)[0].boxes
        a = mine[sample.image_id]
        assert len(a) == len(theirs)
        order = np.lexsort((a.xyxy[:, 0].round(1), -a.score.round(3)))
        other = np.lexsort((theirs.xyxy[:, 0].numpy().round(1), -theirs.conf.numpy().round(3)))
        np.testing.assert_allclose(a.score[order], theirs.conf.numpy()[other], rtol=0, atol=1e-3)
        np.testing.assert_allclose(a.xyxy[order], theirs.xyxy.numpy()[other], rtol=0, atol=0.1)
        np.testing.assert_array_equal(a.class_index[order], theirs.cls.numpy()[other].astype(int))
        found += len(a)
    assert found > 100


def test_another_class_contract_is_refused(models: dict[str, Path]) -> None:
    with pytest.raises(ClassContractError, match=r"made for classes \['red', 'green', 'blue'\]"):
        load_detector(models[MODELS[0]], ("red", "blue", "green"))


def test_strange_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with pytest.raises(MissingInputError, match="dvc repro train"):
        load_detector(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is not a model that detloop trained"):
        load_detector(path)
    torch.save({"model": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(DataError, match="is not a model that detloop trained"):
        load_detector(path)


class Evil:
    """A pickle that runs a command when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.target,)  # type: ignore[return-value]


def test_a_model_file_is_not_executed(tmp_path: Path) -> None:
    torch.save({"model": Evil(tmp_path / "executed")}, tmp_path / "model.pt")
    with pytest.raises(DataError, match="is not a model that detloop trained"):
        load_detector(tmp_path / "model.pt")
    assert not (tmp_path / "executed").exists()


def torchvision_nms(boxes: np.ndarray, score: np.ndarray, threshold: float) -> np.ndarray:
    import torchvision

    kept: np.ndarray = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(score), threshold).numpy()
    return kept


@pytest.mark.parametrize("other", [(0, 0, 6, 6), (0, 0, 0, 0)], ids=["tie_at_the_threshold", "no_area"])
def test_nms_equals_torchvision_where_rounding_decides(other: tuple[int, ...]) -> None:
    """6x6 in 20x6 has IoU 36/120, in float32 a little above 0.3."""
    for first in ((0, 0, 20, 6), other):
        boxes, score = np.array([first, other], np.float32), np.array([1, 0.5], np.float32)
        np.testing.assert_array_equal(nms(boxes, score, 0.3), torchvision_nms(boxes, score, 0.3))


@settings(max_examples=150, deadline=None)
@given(
    corners=hnp.arrays(np.float32, st.tuples(st.integers(0, 40), st.just(2)), elements=st.integers(0, 60)),
    sides=st.data(),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
)
def test_nms_equals_torchvision(corners: np.ndarray, sides: st.DataObject, threshold: float) -> None:
    count = len(corners)
    extents = sides.draw(hnp.arrays(np.float32, (count, 2), elements=st.integers(1, 30)))
    score = sides.draw(hnp.arrays(np.float32, count, elements=st.floats(0, 1, width=32), unique=True))
    boxes = np.concatenate([corners, corners + extents], axis=1).astype(np.float32)
    np.testing.assert_array_equal(nms(boxes, score, threshold), torchvision_nms(boxes, score, threshold))


@settings(max_examples=100, deadline=None)
@given(width=st.integers(1, 700), height=st.integers(1, 700), side=st.sampled_from([64, 96, 320]))
def test_letterbox_equals_ultralytics(width: int, height: int, side: int) -> None:
    from ultralytics.data.augment import LetterBox

    image = np.random.default_rng(width * 1000 + height).integers(0, 255, (height, width, 3), dtype=np.uint8)
    scale = min(side / width, side / height)
    if min(round(width * scale), round(height * scale)) < 1:
        return  # too thin for either
    mine = apply_letterbox(image, letterbox_for((width, height), (side, side)), PAD_VALUE)
    theirs = LetterBox(new_shape=(side, side), auto=False, center=True)(image=image)
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", MODELS)
def test_features_are_of_the_image_alone(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    """One vector an image, of unit length, the same in whatever batch it stands; and the detections are those without features."""
    folder = write_dataset(tmp_path, {"test": 5}, seed=5)
    samples = read_samples(folder / "dataset" / "test.jsonl")
    with TorchRunner(models[name], CLASSES) as runner:
        detections, features = predict_with_features(runner, samples, folder / "raw", PARAMS, "test")
        _, alone = predict_with_features(runner, samples[3:4], folder / "raw", PARAMS, "test")
        plain = predict_samples(runner, samples, folder / "raw", PARAMS, "test")
    assert set(features) == {sample.image_id for sample in samples}
    assert {len(vector) for vector in features.values()} == {256 if name == MODELS[0] else len(alone[samples[3].image_id])}
    for vector in features.values():
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(features[samples[3].image_id], alone[samples[3].image_id], atol=1e-5)
    assert np.abs(features[samples[0].image_id] - features[samples[3].image_id]).max() > 1e-4
    write_features(tmp_path / "features.parquet", features)
    for image_id, vector in read_features(tmp_path / "features.parquet").items():
        np.testing.assert_array_equal(vector, features[image_id])
    assert {image_id: item.score.tolist() for image_id, item in detections.items()} == {
        image_id: item.score.tolist() for image_id, item in plain.items()
    }
