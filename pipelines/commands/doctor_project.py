"""What `detloop doctor` says of the project's folder: git, DVC's files, disk, data."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from pipelines.commands.doctor_finding import Finding, probe

MIN_DISK_GB = 5.0  # cache, checkpoints and exports of a round on a few thousand images
# Reads the lock as `dvc repro` does.
_READ_LOCK = """import dvc.dvcfile, dvc.exceptions, dvc.repo, os
os.chdir({folder!r})
try:
    dvc.dvcfile.Lockfile(dvc.repo.Repo(), "dvc.lock").load()
    say(whole=True)
except dvc.exceptions.DvcException:
    say(whole=False)
"""


def git(project: Path) -> Finding:
    """The git command, and whether the project stands in a repository."""
    tool = shutil.which("git")
    if tool is None:
        return Finding("git", "missing", "no git command", "neither the queue nor the metrics can be committed, so rounds have no history")
    done = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False)
    inside = any((folder / ".git").exists() for folder in (project, *project.parents))
    cost = "" if inside else "the project is in no git repository, so rounds have no history: git init"
    return Finding("git", "found", done.stdout.strip().removeprefix("git version "), cost)


def dvc_folder(project: Path) -> Finding:
    """The `.dvc` folder, here or above."""
    root = _dvc_root(project)
    if root is None:
        return Finding(".dvc", "missing", f"none in {project} or above", "`dvc repro` refuses to run here: change into the project, or run dvc init")
    return Finding(".dvc", "found", str(root / ".dvc"))


def dvc_lock(project: Path) -> list[Finding]:
    """Whether DVC can read dvc.lock: it writes the file in place, so a killed DVC may leave a part. Empty where there is none yet."""
    root = _dvc_root(project)
    if root is None or not (root / "dvc.lock").is_file():
        return []
    answer = probe(_READ_LOCK.format(folder=str(root)))
    if "error" in answer:
        return [Finding("dvc.lock", "broken", f"nothing here can read it ({answer['error']})", "no `dvc repro` until DVC works")]
    if answer["whole"]:
        return [Finding("dvc.lock", "found", "whole")]
    detail = "DVC cannot read it: cut off while it was written, or edited"
    if _committed(root):
        mend = "git restore dvc.lock, then `dvc repro`: what the last commit does not know is looked up in DVC's run cache, or runs again"
    else:
        mend = "rm dvc.lock, then `dvc repro`: what DVC's run cache does not hold runs again (commit dvc.lock, and the next time less does)"
    return [Finding("dvc.lock", "broken", detail, mend)]


def _dvc_root(project: Path) -> Path | None:
    return next((folder for folder in (project, *project.parents) if (folder / ".dvc" / "config").is_file()), None)


def _committed(root: Path) -> bool:
    tool = shutil.which("git")
    command = [str(tool), "-C", str(root), "cat-file", "-e", "HEAD:./dvc.lock"]
    return tool is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


def disk(project: Path) -> Finding:
    """Free space where the project lies."""
    free_gb = shutil.disk_usage(project).free / 1e9
    cost = "" if free_gb >= MIN_DISK_GB else f"below {MIN_DISK_GB:.0f} GB a round may stop in the middle (earlier outputs stay whole)"
    return Finding("disk", "found", f"{free_gb:.1f} GB free", cost)


def data_folder(project: Path) -> Finding:
    """Whether `data` can be written, by writing and removing an empty file."""
    folder = project / "data"
    if not folder.is_dir():
        return Finding("data folder", "missing", f"{folder} is not there", "nothing can be stored: change into the project's folder")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding("data folder", "broken", f"{folder} cannot be written ({error.strerror})", "no stage can store its outputs")
    return Finding("data folder", "found", f"{folder} is writable")
