"""From JPEG file to boxes: the released bundle against ultralytics' own predict in its exported formats, and against bare decoding and network.

Usage: python benchmarks/predict.py PROJECT [--images 72] [--copies 14] [--rounds 5] [--threads 2] [--name NAME]
(PROJECT: a folder with a finished round; NAME: what the figures are kept under in the result file, beside those of other machines and settings)

Every contestant has its own process and all take turns on the same test images, so that a slow minute slows them all. `single`: one image after
another, p50 of each image's time; with all threads and with one, since on two virtual cores the second may not help one image (the better counts,
for the bundle and for the bare network). `folder`: images a second over a folder that holds `copies` of each, so that starting counts little.
Competing is the fastest of ultralytics' formats whose AP is within `verify.max_relative_drop.int8` of its `.pt`, as ours must be; AP is measured
here, on the same images, from score 0.001 up. ultralytics' own INT8 export is not among them: by its makers' figures it loses 11 to 14 % of AP.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from export.bundle.in_order import in_order, portion_for, portions  # noqa: E402
from export.bundle.reader import detect_shown, load_bundle, open_fastest  # noqa: E402
from export.runners.detect import detect  # noqa: E402
from pipelines.core.images import REDUCED_FLAGS, Decoded, read_for, reduction_for, use_one_thread_a_call  # noqa: E402
from pipelines.core.params import load_params  # noqa: E402
from pipelines.core.records import read_samples  # noqa: E402
from pipelines.core.types import Detections, GroundTruth, Sample  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "predict.json"
LOWEST = 0.001  # score from which AP is measured
# name: arguments of ultralytics' export, and the batch that its predict takes over a folder
FORMATS: dict[str, tuple[dict[str, Any], int]] = {
    "onnx": ({"format": "onnx"}, 1),
    "openvino": ({"format": "openvino"}, 1),
    "openvino_half": ({"format": "openvino", "half": True}, 1),
    "openvino_dynamic_batch_8": ({"format": "openvino", "dynamic": True}, 8),
}
Timed = tuple[list[float], float]  # seconds for each image, and for all of them together


class Ours:
    """The bundle's fastest runner: one stream for single images, a stream a thread for a folder of `many`."""

    def __init__(self, bundle: Path, single_threads: int, threads: int, many: int) -> None:
        self._bundle = load_bundle(bundle)
        self.name, self._single = open_fastest(self._bundle, None, threads=single_threads, say=print)
        portion = portion_for(many)
        self._many = open_fastest(self._bundle, self.name, threads=threads, streams=threads, portion=portion, say=print)[1]
        self._threads = threads

    def single(self, files: Sequence[Path]) -> list[float]:
        """Seconds of each image."""
        return [_seconds(lambda file=file: detect_shown(self._single, [self._read(file)], self._bundle)) for file in files]

    def folder(self, files: Sequence[Path]) -> float:
        """Seconds for all of them, which are the only files in their folder."""
        use_one_thread_a_call()
        some = portions(files, workers=self._threads, most=self._many.max_batch)
        work = in_order(lambda files: detect_shown(self._many, map(self._read, files), self._bundle), some, workers=self._threads)
        return _seconds(lambda: list(work))

    def detections(self, files: Sequence[Path]) -> Iterator[Detections]:
        """All from LOWEST up."""
        for file in files:
            yield detect(self._single, self._read(file), self._bundle.nms)

    def _read(self, file: Path) -> Decoded:
        return read_for(file, self._bundle.contract.decode_to_wh)


class Bare:
    """Nothing but OpenCV's decoding of the file's bytes, at the size that the bundle decodes, and the runtime on one unchanging tensor, set up as the
    bundle's runner is.
    """

    def __init__(self, bundle: Path, single_threads: int, threads: int, many: int) -> None:  # noqa: ARG002  as Ours
        content = load_bundle(bundle)
        self._contract = content.contract
        artifact = content.artifacts[content.order[0]]
        width, height = content.contract.input_wh
        tensor = np.full((1, 3, height, width), 0.5, np.float32)
        self._network: Callable[[], Any]
        if artifact.runner == "openvino":
            import openvino

            from export.runners.openvino import arithmetic_hint

            core = openvino.Core()
            model = core.read_model(str(bundle / artifact.file))
            model.reshape([1, 3, height, width])
            hint = arithmetic_hint(artifact.precision, core)
            settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": single_threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
            request = core.compile_model(model, "CPU", settings).create_infer_request()
            self._network = lambda: request.infer([tensor], share_inputs=True)
        else:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = single_threads
            session = onnxruntime.InferenceSession(bundle / artifact.file, options, providers=["CPUExecutionProvider"])
            self._network = lambda: session.run(None, {content.contract.input_name: tensor})

    def single(self, files: Sequence[Path]) -> list[float]:
        """Seconds of each image."""
        flags = [self._flag(file) for file in files]
        return [
            _seconds(lambda file=file, flag=flag: (cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), flag), self._network()))
            for file, flag in zip(files, flags, strict=True)
        ]

    def _flag(self, file: Path) -> int:
        """OpenCV's, of a JPEG."""
        factor = 1 if self._contract.decode_to_wh is None else reduction_for(read_for(file, None).original_wh, self._contract.decode_to_wh)
        return REDUCED_FLAGS[factor]


class Theirs:
    """ultralytics' predict on one exported model, or on the checkpoint."""

    def __init__(self, model: Path, batch: int, imgsz: list[int], lowest_score: float) -> None:
        from ultralytics import YOLO

        self._model = YOLO(model, task="detect")
        self._batch = batch
        self._options = {"imgsz": imgsz, "device": "cpu", "verbose": False, "iou": 0.7, "max_det": 300}
        self._conf = lowest_score

    def single(self, files: Sequence[Path]) -> list[float]:
        """Seconds of each image."""
        return [_seconds(lambda file=file: self._model.predict(str(file), conf=self._conf, **self._options)) for file in files]

    def folder(self, files: Sequence[Path]) -> float:
        """Seconds for all of them, which are the only files in their folder."""
        source = str(files[0].parent)  # a list of files would all be decoded before the first is looked at
        return _seconds(lambda: [None for _ in self._model.predict(source, conf=self._conf, stream=True, batch=self._batch, **self._options)])

    def detections(self, files: Sequence[Path]) -> Iterator[Detections]:
        """All from LOWEST up."""
        for file in files:
            boxes = self._model.predict(str(file), conf=LOWEST, **self._options)[0].boxes
            yield Detections(boxes.xyxy.numpy(), boxes.conf.numpy(), boxes.cls.numpy().astype(np.int64))


class Contestant:
    """A process that answers one question at a time: {"do": "single" | "folder" | "detections", "files": […]}."""

    def __init__(self, name: str, job: dict[str, Any]) -> None:
        self.name = name
        command = [sys.executable, __file__, "--contestant", json.dumps(job)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment())

    def ask(self, do: str, files: Sequence[Path]) -> Any:
        """The answer; ends the run when the process died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"do": do, "files": [*map(str, files)]}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"contestant {self.name} ended with status {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def contestant(job: dict[str, Any]) -> None:
    """The process's side. Answers go to the original stdout; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    kinds: dict[str, type[Any]] = {"ours": Ours, "bare": Bare, "theirs": Theirs}
    arguments = {key: Path(value) if key in {"bundle", "model"} else value for key, value in job["arguments"].items()}
    runner = kinds[job["kind"]](**arguments)
    for line in sys.stdin:
        question = json.loads(line)
        files = [Path(file) for file in question["files"]]
        answer = getattr(runner, question["do"])(files)
        if question["do"] == "detections":
            answer = [[found.xyxy.tolist(), found.score.tolist(), found.class_index.tolist()] for found in answer]
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Measure, print one JSON object, write it to results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path, nargs="?")
    for name, value in (("images", 72), ("copies", 14), ("rounds", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--name", default="this machine")
    parser.add_argument("--contestant", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        contestant(args.contestant)
        return
    if args.project is None:
        parser.error("name the PROJECT")
    result = measure(args)
    RESULT.parent.mkdir(exist_ok=True)
    others = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.write_text(json.dumps({**others, args.name: result}, indent=2) + "\n")
    print(json.dumps(result))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Export, open all contestants, let them take turns, compare."""
    data = args.project / "data"
    params = load_params(args.project / "params.yaml")
    samples = read_samples(data / "dataset" / "test.jsonl")[: args.images]
    bundle = load_bundle(data / "release")
    lowest = json.loads((data / "release" / "bundle.json").read_text())["artifacts"][bundle.order[0]].get("thresholds")
    lowest_score = min((lowest or json.loads((data / "release" / "bundle.json").read_text())["thresholds"]).values())
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "images").mkdir()
        files = [Path(shutil.copy(data / "raw" / sample.path, Path(folder) / "images")) for sample in samples]
        many = [_copied(file, Path(folder) / "many", number) for number in range(args.copies) for file in files]
        common = {"bundle": str(data / "release"), "threads": args.threads, "many": len(many)}
        jobs: dict[str, dict[str, Any]] = {
            f"{kind}{name}": {"kind": kind, "arguments": {**common, "single_threads": threads}}
            for kind in ("ours", "bare")
            for name, threads in (("", args.threads), ("_one_thread", 1))
        }
        imgsz = [*reversed(bundle.contract.input_wh)]
        for name, (model, batch) in exported(data / "models" / "model.pt", Path(folder), imgsz).items():
            arguments = {"model": str(model), "batch": batch, "imgsz": imgsz, "lowest_score": lowest_score}
            jobs[name] = {"kind": "theirs", "arguments": arguments}
        contestants = {name: Contestant(name, job) for name, job in jobs.items()}
        ap = {name: average_precision(item, samples, files, params.class_names) for name, item in contestants.items() if not name.startswith("bare")}
        single: dict[str, list[float]] = {name: [] for name in contestants}
        folder_s: dict[str, list[float]] = {name: [] for name in ap if name != "ours_one_thread"}
        for number in range(args.rounds):
            for name in _rotated([*contestants], number):
                contestants[name].ask("single", files[:20])  # the last one's threads go to sleep meanwhile, and this one's caches get warm
                single[name].extend(contestants[name].ask("single", files))
                if name in folder_s:
                    folder_s[name].append(contestants[name].ask("folder", many))
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
        for item in contestants.values():
            item.close()
    drop = params.verify.max_relative_drop["int8"]
    fair = [name for name in FORMATS if ap[name] >= ap["pt"] * (1 - drop)]
    p50 = {name: statistics.median(times) * 1e3 for name, times in single.items()}
    rate = {name: len(many) / statistics.median(times) for name, times in folder_s.items()}
    ours, bare = (min((kind, f"{kind}_one_thread"), key=p50.__getitem__) for kind in ("ours", "bare"))
    soonest, most = min(fair, key=p50.__getitem__), max(fair, key=rate.__getitem__)
    return {
        "cpu": cpu_units(),
        "runner": bundle.order[0],
        "images": len(files),
        "images_in_folder": len(many),
        "rounds": args.rounds,
        "threads": args.threads,
        "input_wh": list(bundle.contract.input_wh),
        "single_p50_ms": _rounded(p50),
        "single_p95_ms": _rounded({name: float(np.percentile(times, 95)) * 1e3 for name, times in single.items()}),
        "folder_images_per_s": _rounded(rate),
        "AP": _rounded(ap, 4),
        "AP_relative_to_pt": _rounded({name: value / ap["pt"] for name, value in ap.items()}, 4),
        "wanted_AP_relative_to_pt": 1 - drop,
        "competing": {"single": [ours, bare, soonest], "folder": ["ours", most]},
        "ratios": _rounded(
            {
                "vs_ultralytics": p50[ours] / p50[soonest],
                "vs_bare": p50[ours] / p50[bare],
                "throughput_vs_ultralytics": rate["ours"] / rate[most],
            },
            4,
        ),
    }


def cpu_units() -> list[str]:
    """What the CPU has for 8 and 16 bits, as Linux calls it: which file is the fastest hangs on it."""
    known = {"amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni", "asimddp", "bf16"}
    return sorted(known.intersection(Path("/proc/cpuinfo").read_text().split()))


def exported(checkpoint: Path, folder: Path, imgsz: list[int]) -> dict[str, tuple[Path, int]]:
    """The checkpoint and ultralytics' exports of it at our input's height and width, each with the batch that its predict takes over a folder."""
    found = {"pt": (checkpoint, 8)}
    for name, (options, batch) in FORMATS.items():
        own = folder / name
        own.mkdir()
        copy = Path(shutil.copy(checkpoint, own / "model.pt"))
        code = f"from ultralytics import YOLO; YOLO({str(copy)!r}).export(imgsz={imgsz}, device='cpu', **{options!r})"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=_environment())
        (model,) = [path for path in own.iterdir() if path.suffix == ".onnx" or path.is_dir()]
        found[name] = (model, batch)
    return found


def average_precision(item: Contestant, samples: Sequence[Sample], files: Sequence[Path], classes: Sequence[str]) -> float:
    """AP50-95 of everything that a contestant finds from score 0.001 up."""
    from pipelines.evaluation.coco import coco_metrics

    truth = [GroundTruth(sample.xyxy(), np.array([[*classes].index(box.class_name) for box in sample.boxes], np.int64)) for sample in samples]
    answers = item.ask("detections", files)
    found = [
        Detections(np.array(xyxy, np.float32).reshape(-1, 4), np.array(score, np.float32), np.array(index, np.int64))
        for xyxy, score, index in answers
    ]
    return coco_metrics(truth, found, classes).ap or 0.0


def _copied(file: Path, folder: Path, number: int) -> Path:
    folder.mkdir(exist_ok=True)
    return Path(shutil.copy(file, folder / f"{number}_{file.name}"))


def _environment() -> dict[str, str]:
    """ultralytics as it comes, but off the network and installing nothing."""
    return {**os.environ, "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _rotated(names: list[str], by: int) -> list[str]:
    start = by % len(names)
    return names[start:] + names[:start]


def _rounded(values: dict[str, float], digits: int = 2) -> dict[str, float]:
    return {name: round(value, digits) for name, value in values.items()}


if __name__ == "__main__":
    main()
