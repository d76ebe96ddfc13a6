"""`detloop doctor`: what this machine has, and what each lack costs. Looks only: installs, starts and changes nothing."""

from __future__ import annotations

import argparse
import http.client
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import textwrap
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from pipelines.commands.doctor_finding import Finding, probe
from pipelines.commands.doctor_project import data_folder, disk, dvc_folder, dvc_lock, git

HEALTH_TIMEOUT_S = 3.0
MIN_MEMORY_GB = 8.0
LINE_WIDTH, INDENT = 110, 24

# What a fresh Python is asked about each library: print one JSON object with at least a version.
PROBES: dict[str, str] = {
    "torch": "import torch;"
    "m = torch.backends.mps.is_available();"
    "say(version=torch.__version__, cuda=torch.version.cuda, mps=m, gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())])",
    "opencv": "import cv2; say(version=cv2.__version__)",
    "onnxruntime": "import onnxruntime; say(version=onnxruntime.__version__, providers=onnxruntime.get_available_providers())",
    "openvino": "import openvino; say(version=openvino.__version__.split('-')[0], devices=openvino.Core().available_devices)",
    "tensorrt": "import tensorrt; say(version=tensorrt.__version__, builder=tensorrt.Builder.__name__)",
    "tensorrt_rtx": "import tensorrt_rtx; say(version=tensorrt_rtx.__version__, builder=tensorrt_rtx.Builder.__name__)",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `detloop doctor`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")


def run(args: argparse.Namespace) -> int:
    """Look, print, and return 0: a lack is an answer, not an error."""
    findings = examine(Path.cwd(), os.environ)
    print(as_json(findings) if args.json else as_lines(findings))
    return 0


def as_json(findings: Sequence[Finding]) -> str:
    """One JSON object: `findings`, and `counts` by status."""
    return json.dumps({"findings": [asdict(item) for item in findings], "counts": _counts(findings)}, indent=2)


def as_lines(findings: Sequence[Finding]) -> str:
    """A line a finding, its cost below it, the counts last."""
    lines = []
    for item in findings:
        lines.append(f"{item.status:<8} {item.name:<14} {item.detail}")
        if item.cost:
            lines.append(textwrap.fill(item.cost, LINE_WIDTH, initial_indent=" " * INDENT, subsequent_indent=" " * INDENT))
    return "\n".join([*lines, ", ".join(f"{count} {status}" for status, count in _counts(findings).items())])


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    return {status: sum(item.status == status for item in findings) for status in ("found", "missing", "broken")}


def examine(project: Path, environment: Mapping[str, str]) -> list[Finding]:
    """Everything about this machine and the project in `project`, in the order in which it is shown."""
    with ThreadPoolExecutor(max_workers=len(PROBES) + 1) as pool:
        url, token = environment.get("LABEL_STUDIO_URL", ""), environment.get("LABEL_STUDIO_API_KEY", "")
        label_studio_later = pool.submit(label_studio, url, has_token=bool(token))
        probed = dict(zip(PROBES, pool.map(probe, PROBES.values()), strict=True))
        gpus = nvidia_smi()
    return [
        python(),
        Finding("system", "found", f"{platform.system()} {platform.release()} on {platform.machine()}"),
        *processor(),
        memory(),
        gpu(gpus, probed["torch"]),
        torch(probed["torch"]),
        tensorrt(probed["tensorrt"], probed["tensorrt_rtx"]),
        library("OpenVINO", probed["openvino"], "devices", "the OpenVINO runner is neither verified nor measured, nor can it ship"),
        library(
            "ONNX Runtime", probed["onnxruntime"], "providers", "no ONNX model can be quantized, verified or run: the round stops after training"
        ),
        library("OpenCV", probed["opencv"], None, "no image can be decoded: nothing runs"),
        package("ultralytics", ("ultralytics-opencv-headless", "ultralytics"), "no training, no export of a checkpoint"),
        package("albumentations", ("albumentations",), "train.augmentations in params.yaml must stay empty"),
        package("DVC", ("dvc",), "no `dvc repro`: each stage has to be called by hand"),
        git(project),
        dvc_folder(project),
        *dvc_lock(project),
        label_studio_later.result(),
        disk(project),
        data_folder(project),
    ]


def python() -> Finding:
    """The Python that runs, held against what the pins support."""
    cost = "" if (3, 11) <= sys.version_info[:2] < (3, 13) else "the pinned libraries are tested with Python 3.11 and 3.12 only"
    return Finding("Python", "found", platform.python_version(), cost)


def processor() -> list[Finding]:
    """Cores, and the two instruction sets that the fast CPU paths use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags = cpu_flags()
    found = [Finding("CPU", "found", f"{cores} core{'s' if cores != 1 else ''}", "" if cores > 1 else "training takes about twice as long as on two")]
    if flags is None:
        return [*found, Finding("CPU bf16, int8", "missing", "cannot be told on this system", "speed on this CPU is known only from the benchmark")]
    bf16 = "avx512_bf16" in flags or "amx_bf16" in flags or "bf16" in flags
    int8 = "avx512_vnni" in flags or "avx_vnni" in flags or "asimddp" in flags
    names = {"avx512_bf16", "amx_bf16", "bf16"} & flags, {"avx512_vnni", "avx_vnni", "asimddp"} & flags
    return [
        *found,
        Finding("CPU bf16", "found", ", ".join(sorted(names[0])))
        if bf16
        else Finding("CPU bf16", "missing", "no AVX512-BF16", "training on the CPU stays in f32 and takes about 1.5 times as long"),
        Finding("CPU int8", "found", ", ".join(sorted(names[1])))
        if int8
        else Finding("CPU int8", "missing", "no VNNI", "int8 models run correctly on the CPU, but may be no faster than fp32"),
    ]


def cpu_flags() -> set[str] | None:
    """The first core's flags as Linux names them; None where there is no /proc/cpuinfo to read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((set(line.partition(":")[2].split()) for line in lines if line.lower().startswith(("flags", "features"))), None)


def memory() -> Finding:
    """Main memory."""
    total_gb = psutil.virtual_memory().total / 1e9
    cost = "" if total_gb >= MIN_MEMORY_GB else f"below {MIN_MEMORY_GB:.0f} GB training may be killed: lower train.batch or train.imgsz"
    return Finding("memory", "found", f"{total_gb:.1f} GB", cost)


def nvidia_smi() -> list[str] | str:
    """`name, driver …, memory` of each GPU; or one line that says why there is no answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "no nvidia-smi"
    query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "nvidia-smi gave no answer"
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0:
        return f"nvidia-smi failed: {(lines or ['no message'])[0]}"
    return [f"{name}, driver {driver}, {size}" for name, driver, size in (line.split(", ", 2) for line in lines if line.count(", ") >= 2)]


def gpu(smi: list[str] | str, torch_found: Mapping[str, Any]) -> Finding:
    """GPU and driver, as nvidia-smi and torch see them."""
    seen = [str(name) for name in torch_found.get("gpus", [])]
    cost = (
        "engines are built but not run, so nothing calls them verified or measures them, and they do not ship; "
        "training on the CPU takes seconds per epoch on a few hundred images at 320 px, minutes at 640 px"
    )
    if isinstance(smi, list) and smi:
        blind = "torch sees no CUDA device: training runs on the CPU until a torch that fits the driver is installed"
        return Finding("GPU", "found", "; ".join(smi), "" if seen else blind)
    if seen:
        return Finding("GPU", "found", f"{'; '.join(seen)} (driver unknown: {smi if isinstance(smi, str) else 'nvidia-smi lists none'})")
    if torch_found.get("mps"):
        return Finding(
            "GPU", "found", "Apple GPU (MPS)", "training can use it (train.device: mps); TensorRT engines cannot be run here, so none is verified"
        )
    if isinstance(smi, str) and smi != "no nvidia-smi":
        return Finding("GPU", "broken", smi, f"until the driver works, {cost}")
    return Finding("GPU", "missing", "none seen by nvidia-smi or torch", cost)


def torch(found: Mapping[str, Any]) -> Finding:
    """The torch version and the CUDA it was built for."""
    cuda = f"built for CUDA {found['cuda']}" if found.get("cuda") else "built without CUDA"
    finding = library("torch", found, None, "no training, no prediction with the checkpoint")
    return finding if finding.status != "found" else Finding("torch", "found", f"{finding.detail}, {cuda}")


def tensorrt(plain: Mapping[str, Any], rtx: Mapping[str, Any]) -> Finding:
    """TensorRT or TensorRT-RTX, whichever answers; the plain one is preferred, as in the export."""
    cost = "no engine can be built: the release ships ONNX only"
    for name, found in (("TensorRT", plain), ("TensorRT-RTX", rtx)):
        if "error" not in found:
            return Finding("TensorRT", "found", f"{name} {found['version']}")
    broken = [f"{name}: {found['error']}" for name, found in (("tensorrt", plain), ("tensorrt-rtx", rtx)) if not found["missing"]]
    if broken:
        return Finding("TensorRT", "broken", "; ".join(broken), cost)
    return Finding("TensorRT", "missing", "neither tensorrt nor tensorrt-rtx is installed", f"{cost} (pip install tensorrt-rtx, on x86-64 Linux)")


def library(name: str, found: Mapping[str, Any], extra: str | None, cost: str) -> Finding:
    """A line from a probe; `extra` names a list in its answer that is worth showing."""
    if "error" in found:
        return Finding(name, "missing" if found["missing"] else "broken", "not installed" if found["missing"] else str(found["error"]), cost)
    more = f" ({', '.join(str(item) for item in found[extra])})" if extra and found.get(extra) else ""
    return Finding(name, "found", f"{found['version']}{more}")


def package(name: str, distributions: tuple[str, ...], cost: str) -> Finding:
    """A line from the installed packages' metadata, without importing anything."""
    for distribution in distributions:
        try:
            return Finding(name, "found", f"{importlib.metadata.version(distribution)}{'' if len(distributions) == 1 else f' ({distribution})'}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Finding(name, "missing", "not installed", cost)


def label_studio(url: str, *, has_token: bool, timeout_s: float = HEALTH_TIMEOUT_S) -> Finding:
    """Ask the server for its health. The token is neither sent nor shown; of the address only scheme, host and port are."""
    name = "Label Studio"
    cost = "labels come from files until it answers (labeling.source: files); nothing else is lost"
    if not url:
        return Finding(name, "missing", "LABEL_STUDIO_URL is not set", cost)
    try:
        parts = urllib.parse.urlsplit(url)
        place = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        parts, place = urllib.parse.urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return Finding(name, "broken", "LABEL_STUDIO_URL is not an address such as http://localhost:8080", cost)
    request = urllib.request.Request(f"{place}{parts.path.rstrip('/')}/health", headers={"Accept": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            body = response.read(65536)
    except urllib.error.HTTPError as error:
        return Finding(name, "broken", f"{place} answers /health with status {error.code}", cost)
    except TimeoutError:
        return Finding(name, "broken", f"{place} gave no answer within {timeout_s:g} s", cost)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        silent = isinstance(reason, TimeoutError)
        return Finding(name, "broken", f"{place} gave no answer within {timeout_s:g} s" if silent else f"{place} cannot be reached ({reason})", cost)
    try:
        healthy = json.loads(body).get("status") == "UP"
    except (ValueError, AttributeError):
        healthy = False
    if not healthy:
        return Finding(name, "broken", f"{place} answers /health, but not as Label Studio does", cost)
    token = "a token is set" if has_token else "no token is set"
    return Finding(
        name, "found", f"{place} is up; {token} (LABEL_STUDIO_API_KEY)", "" if has_token else "without a token no label can be read from it"
    )
