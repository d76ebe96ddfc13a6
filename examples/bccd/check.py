"""The figures that the blood-cell round must reach; prints them and exits with 1 when one is missed.

Usage: python examples/bccd/check.py PROJECT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MEAN_AP50, CLASS_AP50 = 0.82, 0.75
AP_PARITY = 0.001  # fp32 on any CPU runner against PyTorch
INT8_DROP = 0.01  # relative
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
    artifacts, reference = metrics("verify")["artifacts"], metrics("verify")["reference"]
    p50 = {name: item["p50_ms"] for name, item in metrics("benchmark")["runners"].items() if item["status"] == "measured"}
    speed, runner = max((p50[f"{kind}_fp32"] / p50[f"{kind}_int8"], kind) for kind in ("onnxruntime", "openvino"))
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
            for name, artifact in artifacts.items()
            if artifact["status"] != "not_run"
        },
        **{
            f"{name} against PyTorch: AP {artifact['AP'] - reference['AP']:+.5f} (at most {AP_PARITY}), "
            f"{artifact['missed']} missed, {artifact['extra']} extra, {artifact['class_flips']} flipped": abs(artifact["AP"] - reference["AP"])
            <= AP_PARITY
            and not artifact["missed"] + artifact["extra"] + artifact["class_flips"]
            for name, artifact in artifacts.items()
            if artifact["status"] != "not_run" and artifact["precision"] == "fp32"
        },
        **{
            f"{name} loses {artifact['relative_drop']:.2%} of AP, at most {INT8_DROP:.0%}": artifact["relative_drop"] <= INT8_DROP
            for name, artifact in artifacts.items()
            if artifact["status"] != "not_run" and artifact["precision"] == "int8"
        },
        "engines of all precisions were built": all(artifacts[f"tensorrt_{name}"]["file"] for name in ("fp32", "fp16", "int8")),
        f"release verdict {release['verdict']}, wanted released": release["verdict"] == "released",
    }
    for text, holds in checks.items():
        print(f"{'ok    ' if holds else 'MISSED'}  {text}")
    print(f"        int8 is {speed:.2f} times as fast as fp32 on {runner} (a busy machine changes it, so it is no check)")
    missed = sum(not holds for holds in checks.values())
    print(f"{len(checks) - missed} passed, {missed} failed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
