"""Pages in a real browser: a page's own script plays, and leaves what it found out in `<pre id="answer">`."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

LEAVE_ANSWER = """
const output = document.createElement("pre");
output.id = "answer";
output.textContent = JSON.stringify(answer);
document.body.append(output);
"""


def answer_of(address: str, tmp_path: Path, *options: str) -> dict[str, Any]:
    """What the page's script found out; `tmp_path` takes the browser's profile."""
    command = [str(CHROMIUM), *FLAGS.split(), *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="answer">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return dict(json.loads(html.unescape(found[1])))
