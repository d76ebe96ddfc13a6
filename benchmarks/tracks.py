"""Track faults planted in a real clip: gaps, class flips and one-frame boxes, and how many of them are found.

Usage: python benchmarks/tracks.py [--seeds 20]

The clip is one person at a time before a fixed camera; no detector is at hand for it, so that boxes come from background subtraction, which has
oddities of its own: it loses slow people and splits them. Those count as false alarms; how many there are without anything planted is told beside the
figures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.core.types import Detections
from pipelines.mining.tracks import track_faults

CLIP = Path(__file__).resolve().parents[2] / "shared" / "data" / "video" / "one-by-one-person-detection.mp4"
RESULT = Path(__file__).parent / "results" / "tracks.json"
MIN_AREA_FRACTION = 0.01  # of the picture; a person here has a tenth
PLANTED = 10  # of each kind
KINDS = ("gap", "flip", "single")


def moving_boxes(clip: Path) -> list[Detections]:
    """One box for each large moving thing of each frame, class 0."""
    capture = cv2.VideoCapture(str(clip))
    subtractor = cv2.createBackgroundSubtractorMOG2(history=300, varThreshold=32, detectShadows=True)
    frames = []
    while True:
        more, picture = capture.read()
        if not more:
            break
        mask = (subtractor.apply(picture) > 200).astype(np.uint8)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
        mask = cv2.dilate(mask, np.ones((25, 25), np.uint8))
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        rectangles = [cv2.boundingRect(outline) for outline in outlines]
        large = [(x, y, x + w, y + h) for x, y, w, h in rectangles if w * h >= MIN_AREA_FRACTION * mask.size]
        frames.append(_detections(large, [0] * len(large)))
    capture.release()
    return frames


def planted(frames: list[Detections], seed: int) -> tuple[list[Detections], set[tuple[str, int]]]:
    """Faults inside stretches of frames with one box each, in the two frames before and after too; kind and frame of each."""
    rng = np.random.default_rng(seed)
    result = list(frames)
    height_px, width_px = 432, 768
    quiet = [n for n in range(5, len(frames) - 5) if all(len(frames[n + step]) == 1 for step in range(-4, 5))]
    empty = [n for n in range(5, len(frames) - 5) if all(len(frames[n + step]) == 0 for step in range(-4, 5))]
    used: set[int] = set()
    faults: set[tuple[str, int]] = set()
    for kind in KINDS:
        places = quiet if kind != "single" else quiet + empty
        count = 0
        for place in rng.permutation(places).tolist():
            if count == PLANTED:
                break
            if any(abs(place - other) < 8 for other in used):
                continue
            used.add(place)
            count += 1
            faults.add((kind, place))
            boxes = [tuple(float(value) for value in box) for box in frames[place].xyxy]
            if kind == "gap":
                result[place] = Detections.empty()
            elif kind == "flip":
                result[place] = _detections(boxes, [1])
            else:
                x, y = rng.uniform(0, width_px - 60), rng.uniform(0, height_px - 60)
                result[place] = _detections([*boxes, (x, y, x + 60, y + 60)], [0] * (len(boxes) + 1))
    return result, faults


def main() -> None:
    """Measure, print one JSON object, write it to results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    frames = moving_boxes(CLIP)
    own = {(fault.kind, fault.frame) for fault in track_faults(frames) or []}
    hits: dict[str, list[int]] = {kind: [0, 0, 0] for kind in KINDS}  # planted and found, planted, told
    for seed in range(args.seeds):
        changed, faults = planted(frames, seed)
        told = {(fault.kind, fault.frame) for fault in track_faults(changed) or []}
        for kind in KINDS:
            mine = {item for item in faults if item[0] == kind}
            counted = {item for item in told if item[0] == kind}
            for place, value in enumerate((len(mine & counted), len(mine), len(counted - own))):
                hits[kind][place] += value
    result: dict[str, Any] = {
        "frames": len(frames),
        "frames_with_boxes": sum(len(item) > 0 for item in frames),
        "seeds": args.seeds,
        "told_without_planting": {kind: sum(item[0] == kind for item in own) for kind in KINDS},
        "recall": {kind: round(hits[kind][0] / max(hits[kind][1], 1), 4) for kind in KINDS},
        "precision_among_new": {kind: round(hits[kind][0] / max(hits[kind][2], 1), 4) for kind in KINDS},
    }
    result["ratios"] = {f"recall_{kind}": result["recall"][kind] for kind in KINDS}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def _detections(boxes: list[tuple[float, ...]], classes: list[int]) -> Detections:
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), 0.9, np.float32), np.array(classes, dtype=np.int64))


if __name__ == "__main__":
    main()
