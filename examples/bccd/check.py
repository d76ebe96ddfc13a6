"""The figures that the blood-cell round must reach; prints them and exits with 1 when one is missed.

Usage: python examples/bccd/check.py PROJECT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MEAN_AP50, CLASS_AP50 = 0.82, 0.75
CLASSES = ("RBC", "WBC", "Platelets")
ZERO_AREA = ("BloodImage_00338", "BloodImage_00343")
NEAR_DUPLICATES = ("BloodImage_00037", "BloodImage_00038")
LEAKS = (*NEAR_DUPLICATES, "BloodImage_00386", "BloodImage_00391")


def main(project: Path) -> int:
    """Check every figure; the number of those missed becomes the exit status (0 or 1)."""

    def metrics(name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((project / f"data/metrics/{name}.json").read_text())
        return content

    test = metrics("evaluate")["test"]
    labels, collect, dataset = (json.dumps(metrics(name)) for name in ("labels", "collect", "dataset"))
    release = metrics("release")
    artifacts = metrics("verify")["artifacts"]
    checks = {
        f"mean test AP50 {test['AP50']:.3f}, at least {MEAN_AP50}": test["AP50"] >= MEAN_AP50,
        **{
            f"{name} test AP50 {test['per_class'][name]['AP50']:.3f}, at least {CLASS_AP50}": test["per_class"][name]["AP50"] >= CLASS_AP50
            for name in CLASSES
        },
        **{f"zero-area box of {name} named in labels.json": name in labels for name in ZERO_AREA},
        "the near-duplicate pair named in collect.json": all(name in collect for name in NEAR_DUPLICATES),
        "the two pairs across the split named in dataset.json": all(name in dataset for name in LEAKS),
        **{
            f"{name}: {artifact['status']}, AP {artifact['AP']}, relative drop {artifact['relative_drop']}": artifact["status"] == "pass"
            or name.endswith("int8")
            for name, artifact in artifacts.items()
            if artifact["status"] != "not_run" and artifact["precision"] != "int8"  # int8 ships only when the gate lets it
        },
        f"release verdict {release['verdict']}, wanted released": release["verdict"] == "released",
    }
    for text, holds in checks.items():
        print(f"{'ok    ' if holds else 'MISSED'}  {text}")
    missed = sum(not holds for holds in checks.values())
    print(f"{len(checks) - missed} passed, {missed} failed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
