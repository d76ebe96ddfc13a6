"""A released bundle as the build context of a container image that serves it: bundle, code, pinned requirements, Dockerfile. Needs no Docker.

The image holds one runtime, no torch and no training code.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import export
import pipelines
from export.bundle.reader import BUNDLE_FILE, LOCAL_FOLDER, Bundle, BundleArtifact
from export.engine_records import ENGINES_FILE, engine_record
from pipelines.core.errors import MissingPartError

PYTHON = "3.11"
PORT = 8080
STOP_S = 40  # longer than the server lets open requests end; Docker would kill it after 10 s
_SERVING = ("fastapi", "fastapi-offline", "numpy", "opencv-python-headless", "prometheus-client", "python-multipart", "uvicorn[standard]")
_BASES = {"cpu": f"python:{PYTHON}-slim", "gpu": "nvidia/cuda:13.0.0-runtime-ubuntu24.04"}


def docker_files(bundle: Bundle, target: str) -> dict[str, bytes]:
    """File name relative to the context, content; `target` is cpu or gpu.

    Raises:
        MissingPartError: no artifact of the bundle runs on the target, or a library to be pinned is not installed here.
        DetloopError: a file of the bundle is gone or changed.
    """
    wanted = {"cpu": ("onnxruntime", "openvino"), "gpu": ("tensorrt",)}[target]
    names = [name for name in bundle.order if bundle.artifacts[name].runner in wanted]
    if not names:
        raise MissingPartError(
            f"bundle {bundle.folder} has no artifact for a {target.upper()} ({', '.join(bundle.order)}): release one on a machine that can run it"
        )
    artifact = bundle.artifacts[names[0]]
    files = {f"bundle/{name}": bundle.require_unchanged(name).read_bytes() for name in bundle.files}
    files[f"bundle/{BUNDLE_FILE}"] = (bundle.folder / BUNDLE_FILE).read_bytes()
    if any(name.startswith(f"{LOCAL_FOLDER}/") for name in bundle.files):  # engines that were built here count only with their record
        record = f"{LOCAL_FOLDER}/{ENGINES_FILE}"
        files[f"bundle/{record}"] = (bundle.folder / record).read_bytes()
    files |= _code()
    pinned = sorted([*(f"{name}=={_version(name)}" for name in _SERVING), _runtime(bundle, artifact)])
    files["requirements.txt"] = "".join(f"{line}\n" for line in pinned).encode()
    files["Dockerfile"] = _dockerfile(target, names[0]).encode()
    files[".dockerignore"] = b"**/__pycache__\n"
    return files


def docker_run(target: str) -> str:
    """The command that starts the image."""
    return f"docker run {'--gpus all ' if target == 'gpu' else ''}--stop-timeout {STOP_S} -p {PORT}:{PORT} detector"


def _runtime(bundle: Bundle, artifact: BundleArtifact) -> str:
    """The package that runs the artifact, pinned: to what is installed here, or for an engine to what built it, since nothing else loads it."""
    if artifact.runner != "tensorrt":
        return f"{artifact.runner}=={_version(artifact.runner)}"
    record = engine_record(bundle.require_model(artifact))
    return f"{record.library.replace('_', '-')}=={record.library_version}"


def _version(name: str) -> str:
    plain = name.partition("[")[0]
    try:
        return importlib.metadata.version(plain)
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingPartError(
            f"{plain} is not installed here, so its version cannot be pinned: install it (pip install 'detloop[serve]' for the server's)"
        ) from error


def _code() -> dict[str, bytes]:
    """The two packages that serving imports from."""
    files = {}
    for package in (pipelines, export):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                files[f"code/{root.name}/{path.relative_to(root)}"] = path.read_bytes()
    return files


def _dockerfile(target: str, artifact: str) -> str:
    python = (
        ""
        if target == "cpu"
        else "RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/* \\\n"
        " && python3 -m venv /srv/venv\nENV PATH=/srv/venv/bin:$PATH\n"
    )
    return f"""FROM {_BASES[target]}
{python}WORKDIR /srv
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY code code
COPY bundle bundle
ENV PYTHONPATH=/srv/code PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65534:65534
EXPOSE {PORT}
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{PORT}/ready', timeout=5)"]
ENTRYPOINT ["python", "-m", "pipelines.cli", "serve", "--bundle", "bundle", "--runner", "{artifact}", "--host", "0.0.0.0", "--port", "{PORT}"]
"""
