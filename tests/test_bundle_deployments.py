"""A bundle as a Triton model repository and as a container's build context: read by protobuf, and run as the image would."""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from export.bundle.reader import load_bundle, open_artifact, sealed
from export.engine_records import engine_record
from pipelines.cli import main
from pipelines.core.errors import DataError
from pipelines.core.io import sha256_file
from tests.serving import running
from tests.test_bundle import BLOCKED, NOT_NEEDED
from tests.test_release import run_release
from tests.tiny_detector import CLASSES, SIDE, make_project

# The fields of Triton's model_config.proto that the configuration uses, with their types there.
_FIELD = descriptor_pb2.FieldDescriptorProto
_TENSOR = {"name": _FIELD.TYPE_STRING, "data_type": "DataType", "dims": [_FIELD.TYPE_INT64]}
_MESSAGES: dict[str, dict[str, Any]] = {  # a name: an enum or message; a list: repeated
    "ModelInput": _TENSOR,
    "ModelOutput": _TENSOR,
    "ModelDynamicBatching": {"max_queue_delay_microseconds": _FIELD.TYPE_UINT64},
    "ModelParameter": {"string_value": _FIELD.TYPE_STRING},
    "Entry": {"key": _FIELD.TYPE_STRING, "value": "ModelParameter"},
    "ModelConfig": {
        "name": _FIELD.TYPE_STRING,
        "backend": _FIELD.TYPE_STRING,
        "max_batch_size": _FIELD.TYPE_INT32,
        "input": ["ModelInput"],
        "output": ["ModelOutput"],
        "dynamic_batching": "ModelDynamicBatching",
        "parameters": ["Entry"],
    },
}


def model_config() -> Any:
    """An empty ModelConfig message."""
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for number, name in enumerate(("TYPE_INVALID", "TYPE_FP32")):
        kinds.value.add(name=name, number=number)
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for number, (name, kind) in enumerate(fields.items(), start=1):
            field = described.field.add(name=name, number=number, label=_FIELD.LABEL_REPEATED if isinstance(kind, list) else _FIELD.LABEL_OPTIONAL)
            kind = kind[0] if isinstance(kind, list) else kind
            if isinstance(kind, str):
                field.type_name = f".inference.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = make_project(tmp_path_factory.mktemp("deployments") / "p")
    assert run_release(project)["verdict"] == "released"
    return project.root / "release"


def test_triton_gets_models_that_fit_their_configuration(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "triton"
    assert main(["bundle", "triton", str(bundle), str(out)]) == 0
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"detector_fp32", "detector_fp16", "detector_int8"}
    for folder, source in (("detector_fp32", "model.onnx"), ("detector_int8", "model_int8.onnx")):
        config = text_format.Parse((out / folder / "config.pbtxt").read_text(), model_config())
        model = out / folder / "1" / "model.onnx"
        assert model.read_bytes() == (bundle / source).read_bytes()
        graph = onnx.load(model).graph
        assert (config.name, config.backend) == (folder, "onnxruntime")
        assert graph.input[0].type.tensor_type.shape.dim[0].dim_param  # the batch is free, as max_batch_size needs
        assert config.max_batch_size > 1
        assert [config.input[0].name, config.output[0].name] == [graph.input[0].name, graph.output[0].name]
        assert [*config.input[0].dims] == [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim[1:]] == [3, SIDE, SIDE]
        # what the file states must stand there: the ONNX backend compares (CompareDimsSupported in onnxruntime_utils.cc), and -1 equals -1 only
        assert [*config.output[0].dims] == [dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim[1:]] == [4 + len(CLASSES), 64]
        about = json.loads(config.parameters[0].value.string_value)
        assert (about["contract"]["classes"], about["sha256"]) == ([*CLASSES], sha256_file(model))


def test_the_build_context_serves_by_itself(bundle: Path, tmp_path: Path) -> None:
    """The image's command, in the context, with nothing importable but what its requirements bring."""
    out = tmp_path / "image"
    assert main(["bundle", "docker", str(bundle), str(out)]) == 0
    dockerfile = (out / "Dockerfile").read_text()
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", dockerfile, re.MULTILINE)[1])  # type: ignore[index]
    assert entry[:4] == ["python", "-m", "pipelines.cli", "serve"]
    runner = entry[entry.index("--runner") + 1]
    for source in re.findall(r"^COPY (\S+)", dockerfile, re.MULTILINE):
        assert (out / source).exists()
    pinned = dict(line.split("==") for line in (out / "requirements.txt").read_text().split())
    assert pinned["onnxruntime"] == version("onnxruntime")
    assert "torch" not in " ".join(pinned)
    assert not (out / "code" / "training").exists()
    blocked = {*NOT_NEEDED, "openvino", "tensorrt", "tensorrt_rtx", "training", "httpx"} - {"pydantic"}
    code = f"import sys; sys.path.insert(0, {str(out / 'code')!r})\n"
    command = [sys.executable, "-c", code + BLOCKED.format(blocked=blocked), "serve", "--runner", runner]
    with running(out / "bundle", command=command) as server:
        answer = server.predict((bundle / "golden" / "00.png").read_bytes())
    assert answer.status_code == 200
    assert answer.json()["images"][0]["detections"]


@pytest.mark.parametrize("action", ["triton", "docker"])
def test_what_cannot_be_written_is_refused(bundle: Path, tmp_path: Path, action: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    assert main(["bundle", action, str(bundle), str(out)]) == 2
    assert "was not written by this command" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    spoilt = Path(shutil.copytree(bundle, tmp_path / "spoilt"))
    (spoilt / "model_fp16.onnx").write_bytes(b"x")
    assert main(["bundle", action, str(spoilt), str(tmp_path / "new")]) == 2
    assert "is not the file that passed the gate" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_no_folder_of_another_kind_is_replaced(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bundle itself, by a slip of the hand, and a project that has a Dockerfile of its own."""
    mine, project = Path(shutil.copytree(bundle, tmp_path / "bundle")), tmp_path / "project"
    project.mkdir()
    (project / "Dockerfile").write_text("FROM scratch\n")
    for action, out in (("triton", mine), ("docker", mine), ("docker", project)):
        before = sorted(path.name for path in out.iterdir())
        assert main(["bundle", action, str(mine), str(out)]) == 2
        assert "is there and was not written by this command" in capsys.readouterr().err
        assert sorted(path.name for path in out.iterdir()) == before


def test_writing_twice_replaces(bundle: Path, tmp_path: Path) -> None:
    for action in ("triton", "docker"):
        out = tmp_path / action
        assert main(["bundle", action, str(bundle), str(out)]) == 0
        (out / "old").write_text("from an older bundle")
        assert main(["bundle", action, str(bundle), str(out)]) == 0
        assert not (out / "old").exists()


def test_a_gpu_image_needs_an_engine_that_passed(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "docker", str(bundle), str(tmp_path / "gpu"), "--target", "gpu"]) == 2
    assert "has no artifact for a GPU" in capsys.readouterr().err


def with_engine(bundle: Path, folder: Path, library: str) -> Path:
    """A copy of the bundle in which an engine of `library` has shipped; its bytes are not an engine's, which only a GPU would notice."""
    copy = Path(shutil.copytree(bundle, folder))
    about = json.loads((copy / "bundle.json").read_text())
    (copy / "engines").mkdir()
    onnx_sha256 = sha256_file(copy / "model.onnx")
    (copy / "engines" / "fp32.engine").write_bytes(f"engine detloop-{onnx_sha256}".encode())  # as the builder marks it
    sha256 = sha256_file(copy / "engines" / "fp32.engine")
    entry = {"file": "fp32.engine", "library": library, "library_version": "11.0", "max_batch": 4, "sha256": sha256, "onnx_sha256": onnx_sha256}
    (copy / "engines" / "engines.json").write_text(json.dumps({"contract": about["contract"], "engines": {"fp32": entry}}))
    first = about["artifacts"]["onnxruntime_fp32"]
    about["artifacts"]["tensorrt_fp32"] = {**first, "runner": "tensorrt", "file": "engines/fp32.engine", "sha256": sha256}
    about["order"].insert(0, "tensorrt_fp32")
    for name in ("engines/fp32.engine", "engines/engines.json"):
        about["files"][name] = sha256_file(copy / name)
    (copy / "bundle.json").write_text(json.dumps(sealed(about)))
    return copy


def test_a_changed_record_of_a_released_engine_is_refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says how large a batch the engine takes and on which GPU it was built."""
    shipped = with_engine(bundle, tmp_path / "shipped", "tensorrt")
    record = shipped / "engines" / "engines.json"
    record.write_text(record.read_text().replace('"max_batch": 4', '"max_batch": 64'))
    with pytest.raises(DataError, match=r"engines\.json is not the file that passed the gate"):
        open_artifact(load_bundle(shipped), "tensorrt_fp32", threads=1)
    for action in ("triton", "docker"):
        assert main(["bundle", action, str(shipped), str(tmp_path / action)]) == 2
        assert "engines.json is not the file that passed the gate" in capsys.readouterr().err


def test_a_gpu_image_runs_the_engine_with_the_library_that_built_it(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the version that built it, whichever is installed here: another one refuses the engine when the container starts."""
    shipped = with_engine(bundle, tmp_path / "rtx", "tensorrt_rtx")
    assert main(["bundle", "docker", str(shipped), str(tmp_path / "gpu"), "--target", "gpu"]) == 0
    assert "docker run --gpus all --stop-timeout 40 -p 8080:8080" in capsys.readouterr().out
    assert "tensorrt-rtx==11.0" in (tmp_path / "gpu" / "requirements.txt").read_text().split()
    dockerfile = (tmp_path / "gpu" / "Dockerfile").read_text()
    assert dockerfile.startswith("FROM nvidia/cuda:")
    assert '"--runner", "tensorrt_fp32"' in dockerfile


def test_a_gpu_image_takes_an_engine_that_was_built_here(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    about = json.loads((copy / "bundle.json").read_text())
    onnx_sha256, engine = about["artifacts"]["onnxruntime_fp32"]["sha256"], copy / "local" / "fp32.engine"
    engine.parent.mkdir()
    engine.write_bytes(f"engine detloop-{onnx_sha256}".encode())
    entry = {"file": engine.name, "library": "tensorrt_rtx", "library_version": "1.0", "max_batch": 4, "sha256": sha256_file(engine)}
    entry |= {"onnx": "model.onnx", "onnx_sha256": onnx_sha256, "thresholds": about["artifacts"]["onnxruntime_fp32"]["thresholds"]}
    entry |= {"golden": "pass", "checked_as": "onnxruntime_fp32"}
    (copy / "local" / "engines.json").write_text(json.dumps({"contract": about["contract"], "engines": {"fp32": entry}}))
    assert main(["bundle", "docker", str(copy), str(tmp_path / "gpu"), "--target", "gpu"]) == 0
    assert '"--runner", "tensorrt_fp32"' in (tmp_path / "gpu" / "Dockerfile").read_text()
    inside = load_bundle(tmp_path / "gpu" / "bundle")
    assert engine_record(inside.require_unchanged(inside.artifacts["tensorrt_fp32"].file)).library == "tensorrt_rtx"


def test_triton_gets_engines_of_plain_tensorrt_only(bundle: Path, tmp_path: Path) -> None:
    for library, expected in (("tensorrt", True), ("tensorrt_rtx", False)):
        out = tmp_path / f"triton-{library}"
        assert main(["bundle", "triton", str(with_engine(bundle, tmp_path / library, library)), str(out)]) == 0
        assert (out / "detector_fp32_tensorrt").exists() == expected
    config = text_format.Parse((tmp_path / "triton-tensorrt" / "detector_fp32_tensorrt" / "config.pbtxt").read_text(), model_config())
    assert (config.backend, config.max_batch_size) == ("tensorrt", 4)
    assert (tmp_path / "triton-tensorrt" / "detector_fp32_tensorrt" / "1" / "model.plan").read_bytes().startswith(b"engine")
