"""Tools that benchmarks compare with, which detloop itself does not need: put into a folder of their own on first use.

tidecv and seaborn come without what they ask for: tidecv asks for the desktop OpenCV, which would replace the headless one that everything here runs
with.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "build" / "peers"
WITHOUT_NEEDS = ("tidecv==1.0.1", "seaborn==0.13.2", "cleanlab==2.9.0", "termcolor==3.3.0", "scikit-learn==1.9.1")
NEEDS = ("pandas", "joblib", "threadpoolctl", "scipy", "narwhals")


def add_peers() -> None:
    """Install them if they are not there, and let `import` find them, after everything that the environment has."""
    if not (FOLDER / "complete").is_file():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(FOLDER), "--upgrade"]
        subprocess.run([*pip, "--no-deps", *WITHOUT_NEEDS], check=True)
        missing = [name for name in NEEDS if subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, check=False).returncode]
        if missing:
            subprocess.run([*pip, "--no-deps", *missing], check=True)
        (FOLDER / "complete").touch()
    sys.path.append(str(FOLDER))
