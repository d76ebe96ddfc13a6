"""One line of what `detloop doctor` answers, and how it asks about libraries that are heavy or may be broken: in a Python of their own, so that a
crash there is a line here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["found", "missing", "broken"]
PROBE_TIMEOUT_S = 90.0  # a cold import of torch from a slow disk takes half a minute
_PRELUDE = "import json, sys\ndef say(**found): print('\\n' + json.dumps(found))\n"


@dataclass(frozen=True)
class Finding:
    """One line of the answer: what was looked for, whether it is there, what exactly, and what its lack or limit costs (empty: nothing)."""

    name: str
    status: Status
    detail: str
    cost: str = ""


def probe(code: str) -> dict[str, Any]:
    """Run `code` in a Python of its own; what it says, or `{"error": one line, "missing": whether the module is simply not installed}`."""
    try:
        done = subprocess.run([sys.executable, "-c", _PRELUDE + code], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"its import took longer than {PROBE_TIMEOUT_S:.0f} s", "missing": False}
    if done.returncode == 0:
        try:
            found = json.loads(done.stdout.strip().splitlines()[-1])
        except (IndexError, json.JSONDecodeError):
            return {"error": "its import ended without an answer", "missing": False}
        return found if isinstance(found, dict) else {"error": "its import gave no readable answer", "missing": False}
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    error = lines[-1].strip() if lines else f"its import ended with status {done.returncode}"
    wanted = code.removeprefix("import ").split(";")[0].strip()
    return {"error": error, "missing": error == f"ModuleNotFoundError: No module named '{wanted}'"}
