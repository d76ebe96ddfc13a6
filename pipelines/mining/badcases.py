"""From labels and detections to one row a wrong box. The one engine behind stage mine and `detloop analyze`.

A row, all keys always there, null where there is nothing:

    image_id, image  the image's id and path (`analyze`: the COCO id and file name); stage mine adds `split`
    kind             class, location, both, duplicate, background, missed: see `pipelines.mining.tide`
    class            of the label that it is about; null for background
    predicted_class  of the detection; null for missed
    score            of the detection
    iou              of detection and label; for background the highest with any label
    box, truth_box   [x1, y1, x2, y2] in pixels
    detection_index  place among the image's stored detections, best first
    truth_index      place among the image's labels, in the order (class, box)
    slice            size: small, medium or large by the label's area, else the detection's; stage mine adds source and brightness
    ap50_gain        what mending this error alone would add to AP50: see `pipelines.mining.worth`; null where nothing is labeled
    mistakenness     how probable it is that the label is the wrong one: see `pipelines.mining.mistakenness`; class and location errors only
    rank_score       0 to 1, how sure the model was of the wrong answer: the score; for a missed label 1 minus the best score that any detection of
                     its class at that place has, shown or not
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipelines.core.boxes import area
from pipelines.core.columns import DetectionColumns, Floats, Ints, TruthColumns
from pipelines.core.slices import SIZES, SliceLimits
from pipelines.mining.mistakenness import class_mistakenness, location_mistakenness
from pipelines.mining.tide import BACKGROUND, CLASS, KINDS, LOCATION, Kind, Pairs, TypedErrors, overlaps, typed_errors
from pipelines.mining.worth import Gains, gains

SCORE_DIGITS = 6
BOX_DIGITS = 2
GAIN_DIGITS = 9  # one error among many is worth little

# The class that an error counts for: the label's, or the detection's where there is no label.
CLASS_OF_ROW = pl.coalesce("class", "predicted_class")


@dataclass(frozen=True)
class Analysis:
    """What is wrong with a set of detections, and what it costs; `rows` has the columns that the module names."""

    errors: TypedErrors
    gains: Gains
    rows: pl.DataFrame

    @property
    def counts(self) -> dict[Kind, int]:
        """Errors of each kind, all kinds stand, 0 too."""
        return counts_of(self.errors)


def analyse(
    truth: TruthColumns,
    found: DetectionColumns,
    classes: Sequence[str],
    images: pl.DataFrame,
    limits: SliceLimits,
    *,
    foreground_iou: float,
    background_iou: float,
    hidden: DetectionColumns | None = None,
) -> Analysis:
    """Type all errors of `found` and say what each costs. `images`, one row an image: `image_id`, `image` and what else belongs in every row.

    A column `slice` of `images` (a struct) goes into the rows' slice. `hidden`: detections too unsure to count, which still tell of missed labels.
    """
    pairs = overlaps(truth, found)
    errors = typed_errors(truth, found, foreground_iou, background_iou, pairs)
    cost = gains(truth, found, errors, len(classes))
    evidence = _best_evidence(truth, found, foreground_iou, pairs)
    if hidden is not None:
        evidence = np.maximum(evidence, _best_evidence(truth, hidden, foreground_iou, overlaps(truth, hidden)))
    return Analysis(errors, cost, _rows(truth, found, errors, cost.each, evidence, classes, images, limits))


def counts_of(errors: TypedErrors) -> dict[Kind, int]:
    """Errors of each kind, all kinds stand, 0 too."""
    return {kind: int(count) for kind, count in zip(KINDS, np.bincount(errors.kind, minlength=len(KINDS)), strict=True)}


def _best_evidence(truth: TruthColumns, found: DetectionColumns, iou: float, pairs: Pairs) -> Floats:
    """For each label the best score of a detection of its class that overlaps it by `iou` or more, (labels,); 0 where there is none."""
    row, label, overlap = pairs
    there = (overlap >= iou) & (found.class_index[row] == truth.class_index[label])
    best = np.zeros(len(truth))
    np.maximum.at(best, label[there], found.score[row[there]])
    return best


def count_by(rows: pl.DataFrame, key: pl.Expr) -> dict[str, dict[str, int]]:
    """Errors of each kind (all kinds stand, 0 too) for each value of `key`."""
    counts: dict[str, dict[str, int]] = {}
    for value, kind, count in rows.group_by(key.alias("value"), "kind").len().sort("value").iter_rows():
        counts.setdefault(str(value), dict.fromkeys(KINDS, 0))[kind] = count
    return counts


def _rows(
    truth: TruthColumns,
    found: DetectionColumns,
    errors: TypedErrors,
    gain: Floats,
    evidence: Floats,
    classes: Sequence[str],
    images: pl.DataFrame,
    limits: SliceLimits,
) -> pl.DataFrame:
    detection = _rows_or_null(errors.detection)
    label = _rows_or_null(np.where(errors.kind == BACKGROUND, -1, errors.truth))
    score = pl.Series(found.score).gather(detection)
    box, truth_box = (pl.Series(np.round(item.xyxy, BOX_DIGITS)).gather(rows) for item, rows in ((found, detection), (truth, label)))
    area = pl.Series(_areas(truth.xyxy)).gather(label).fill_null(pl.Series(_areas(found.xyxy)).gather(detection))
    image = pl.Series(truth.image).gather(label).fill_null(pl.Series(found.image).gather(detection))
    about = images[image]
    slices = about["slice"].struct.unnest().get_columns() if "slice" in about.columns else []
    rank_score = score.fill_null(pl.Series(1.0 - evidence).gather(label))
    columns = {
        "kind": _names(KINDS, errors.kind),
        "class": _names(classes, pl.Series(truth.class_index).gather(label)),
        "predicted_class": _names(classes, pl.Series(found.class_index).gather(detection)),
        "score": score.round(SCORE_DIGITS),
        "iou": pl.Series(errors.iou, nan_to_null=True).round(SCORE_DIGITS),
        "box": box,
        "truth_box": truth_box,
        "detection_index": pl.Series(found.position).gather(detection),
        "truth_index": pl.Series(truth.position).gather(label),
        "slice": pl.select(pl.struct(*slices, _names(SIZES, limits.size_index(area.to_numpy())).alias("size"))).to_series(),
        "ap50_gain": pl.Series(gain, nan_to_null=True).round(GAIN_DIGITS),
        "mistakenness": pl.Series(_mistakenness(errors, score.to_numpy()), nan_to_null=True).round(SCORE_DIGITS),
        "rank_score": rank_score.round(SCORE_DIGITS),
    }
    result = about.drop("slice", strict=False).with_columns(**columns)
    return result.select(sorted(result.columns))


def _names(names: Sequence[str], index: pl.Series | Ints) -> pl.Series:
    return pl.Series(list(names), dtype=pl.String).gather(pl.Series(index))


def _rows_or_null(rows: Ints) -> pl.Series:
    """Row numbers for `Series.gather`, which gives null where a number is null."""
    return pl.select(pl.when(pl.Series(rows) >= 0).then(pl.Series(rows))).to_series()


def _areas(xyxy: Floats) -> Floats:
    result: Floats = np.asarray(area(xyxy), dtype=np.float64)
    return result


def _mistakenness(errors: TypedErrors, score: Floats) -> Floats:
    result = np.full(len(errors.kind), np.nan)
    of_class, of_place = errors.kind == CLASS, errors.kind == LOCATION
    result[of_class] = class_mistakenness(score[of_class], np.zeros(of_class.sum(), dtype=bool))
    result[of_place] = location_mistakenness(score[of_place], np.maximum(errors.iou[of_place], 0.5))  # defined from IoU 0.5
    return result
