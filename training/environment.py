"""What ultralytics may do on this machine, settled before it is imported: no network, no installs, no settings outside a folder of ours.

Imports neither torch nor ultralytics. Every owner of ultralytics calls `quiet_ultralytics` first.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import psutil

# ultralytics.utils.SettingsManager reads this file when it is imported; keys that it lacks get their defaults.
SETTINGS_VERSION = "0.0.8"
SETTINGS_FILE = Path("Ultralytics", "settings.json")
INHERITED = "DETLOOP_ULTRALYTICS"  # set once the folder below YOLO_CONFIG_DIR is ours
INTEGRATIONS = ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")
ENVIRONMENT = {
    "YOLO_AUTOINSTALL": "false",  # export and augmentations would run pip
    "YOLO_OFFLINE": "true",  # the import asks two name servers otherwise
    "YOLO_VERBOSE": "false",  # we report progress ourselves
    "ULTRALYTICS_SAFE_LOAD": "true",  # .pt files are pickles: only classes of models are rebuilt from them
    "NO_ALBUMENTATIONS_UPDATE": "1",
}
# Threads of torch that wait for each other sleep instead of spinning: as fast on a free machine, five times as fast on a busy one. OpenMP reads it
# when torch is imported.
WAIT_POLICY = ("OMP_WAIT_POLICY", "PASSIVE")


def quiet_ultralytics(folder: Path | None = None) -> None:
    """Set the environment that ultralytics reads at import; its settings live in `folder`, or in a temporary folder that goes at exit.

    Call it before the first import of ultralytics in a process; later calls, and calls after somebody else's import, change nothing.
    """
    os.environ.update(ENVIRONMENT)
    os.environ.setdefault(*WAIT_POLICY)
    os.environ.setdefault("OMP_NUM_THREADS", str(_cores()))  # else ultralytics sets 1 at import, for itself and for every child process
    inherited = os.environ.get(INHERITED)  # a process of a training on several GPUs takes its parent's folder
    if "ultralytics" in sys.modules or (inherited and Path(inherited, SETTINGS_FILE).is_file()):
        return
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="detloop-ultralytics-"))
        atexit.register(_remove, folder, os.getpid())
    settings = folder.resolve() / SETTINGS_FILE
    settings.parent.mkdir(parents=True, exist_ok=True)
    places = {f"{name}_dir": str(folder.resolve() / name) for name in ("datasets", "weights", "runs")}
    switched_off = dict.fromkeys((*INTEGRATIONS, "sync", "vscode_msg", "openvino_msg"), False)
    keys = {"settings_version": SETTINGS_VERSION, "uuid": "", "api_key": "", "openai_api_key": "", **places, **switched_off}
    settings.write_text(json.dumps(keys))
    os.environ["YOLO_CONFIG_DIR"] = os.environ[INHERITED] = str(folder.resolve())


def _cores() -> int:
    """CPU cores that this process may use, hyper-threads not counted, as torch counts by default."""
    physical = psutil.cpu_count(logical=False) or 1
    return max(1, min(physical, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical))


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
