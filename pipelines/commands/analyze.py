"""`detloop analyze`: what is wrong with any model's detections: COCO and TIDE figures, and one row for every wrong box, each with its worth in AP.

Reads COCO files, needs no project. `analysis.json` holds the figures, `badcases.jsonl` the rows (`pipelines.mining.badcases` says what they hold).
"""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.core.columns import DetectionColumns
from pipelines.core.errors import DataError, listed
from pipelines.core.io import json_text, require_file, rounded, write_folder
from pipelines.core.slices import SliceLimits
from pipelines.evaluation.coco import MEDIUM_AREA_PX, SMALL_AREA_PX, CocoMetrics, coco_metrics_from_columns
from pipelines.formats.coco_columns import CocoTruth, read_results, read_truth
from pipelines.mining.badcases import CLASS_OF_ROW, Analysis, analyse, count_by
from pipelines.mining.tide import MAX_DETECTIONS, Kind, capped

# The names that the TIDE tool uses.
TIDE_NAMES: dict[Kind, str] = {"class": "Cls", "location": "Loc", "both": "Both", "duplicate": "Dupe", "background": "Bkg", "missed": "Miss"}
FILES = ("analysis.json", "badcases.jsonl")
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1  # TIDE's t_f and t_b
LIMITS = SliceLimits(SMALL_AREA_PX, MEDIUM_AREA_PX, dark_below=0, bright_above=255)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--gt", type=Path, required=True, help="COCO truth file")
    parser.add_argument("--dt", type=Path, required=True, help="COCO result file")
    parser.add_argument("--out", type=Path, required=True, help="folder to write: analysis.json and badcases.jsonl, and nothing else in it")


def run(args: argparse.Namespace) -> int:
    """Read, analyse, write, say the counts."""
    out = require_own_folder(args.out)
    truth = read_truth(require_file(args.gt, "name a COCO truth file").read_bytes(), str(args.gt))
    found = read_results(require_file(args.dt, "name a COCO result file").read_bytes(), truth, str(args.dt))
    summary, analysis = analyse_boxes(truth, found)
    write_analysis(out, summary, analysis)
    counts = ", ".join(f"{kind} {count}" for kind, count in analysis.counts.items())
    ap50 = "unknown (no labels)" if summary["coco"]["AP50"] is None else f"{summary['coco']['AP50']:.4f}"
    print(f"wrote {args.out}{os.sep}: AP50 {ap50}, {len(analysis.rows)} wrong boxes ({counts})")
    left_out = {name: count for name, count in summary["left_out"].items() if count}
    if left_out:
        print(f"left out: {', '.join(f'{count} {name}' for name, count in left_out.items())}")
    return 0


def analyse_boxes(truth: CocoTruth, everything: DetectionColumns) -> tuple[dict[str, Any], Analysis]:
    """The content of analysis.json, and the rows."""
    within = capped(everything)
    found = everything.where(within)
    coco = coco_metrics_from_columns(truth.boxes, everything, truth.images.height, truth.classes)
    analysis = analyse(truth.boxes, found, truth.classes, truth.images, LIMITS, foreground_iou=FOREGROUND_IOU, background_iou=BACKGROUND_IOU)
    left_out = {"crowd_regions": truth.crowd_regions, f"beyond_{MAX_DETECTIONS}_of_a_class_on_an_image": int((~within).sum())}
    return _summary(truth, found, coco, analysis) | {"left_out": left_out}, analysis


def require_own_folder(out: Path) -> Path:
    """The folder to write, in full; one that is there is replaced whole, so it may hold nothing but an earlier analysis.

    Raises:
        DataError: it does, or it is a file.
    """
    if out.is_file():
        raise DataError(f"--out {out} is a file: name a folder")
    strange = sorted(item.name for item in out.iterdir() if item.name not in FILES) if out.exists() else []
    if strange:
        raise DataError(f"--out {out} holds more than an analysis ({listed(strange, 3)}), which would be lost: name another folder")
    return out.resolve()


def write_analysis(out: Path, summary: dict[str, Any], analysis: Analysis) -> None:
    """Write the folder of both files."""
    rows = io.BytesIO()
    analysis.rows.write_ndjson(rows)
    write_folder(out, dict(zip(FILES, (json_text(rounded(summary)).encode(), rows.getvalue()), strict=True)))


def _summary(truth: CocoTruth, found: DetectionColumns, coco: CocoMetrics, analysis: Analysis) -> dict[str, Any]:
    cost = analysis.gains
    return {
        "images": truth.images.height,
        "labels": len(truth.boxes),
        "detections": len(found),
        "right": int((analysis.errors.matched >= 0).sum()),
        "coco": {
            "AP": coco.ap,
            "AP50": coco.ap50,
            "AP75": coco.ap75,
            "AR100": coco.ar100,
            **{f"AP_{name}": size.ap for name, size in coco.sizes.items()},
            "per_class": {name: {"AP": item.ap, "AP50": item.ap50, "labels": item.boxes} for name, item in coco.per_class.items()},
        },
        "tide": {
            "AP50": cost.ap50,
            "dAP": {
                **{TIDE_NAMES[kind]: gain for kind, gain in cost.by_kind.items()},
                "FalsePos": cost.false_positives,
                "FalseNeg": cost.false_negatives,
            },
            "counts": {TIDE_NAMES[kind]: count for kind, count in analysis.counts.items()},
        },
        "by_class": count_by(analysis.rows, CLASS_OF_ROW),
        "by_size": count_by(analysis.rows, pl.col("slice").struct.field("size")),
    }
