"""Stage challenge: the candidate against the champion on the frozen test set and on the regression suite, and the gate's verdict.

Without a champion the verdict is `first`, and the suite is scored all the same.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core.champion import Champion, read_champions, thresholds_today
from pipelines.core.cli import stage_main
from pipelines.core.io import jsonl_text, read_json, rounded, sha256_file, write_metrics, write_text
from pipelines.core.params import ChampionParams, Params, load_params
from pipelines.core.records import ground_truth, read_detections, read_samples
from pipelines.core.slices import SliceLimits
from pipelines.core.types import LABELED_SPLITS, Detections, Sample
from pipelines.evaluation.differences import METRICS, WHOLE, Difference, Resampling, differences
from pipelines.evaluation.seeds import CLASS, spread_of
from pipelines.evaluation.thresholds import DEFAULT_THRESHOLD, shown_detections
from pipelines.evaluation.verdict import SuiteChange, Verdict, decide
from pipelines.regression.scoring import STATES, Scene, Scored, score_suite
from pipelines.regression.suite import read_suite

Found = Mapping[str, Detections]
FIRST = "first"
NO_CHAMPION = "there is no champion yet: `detloop promote` makes this model the first"


def work(args: argparse.Namespace) -> None:
    """Compare, decide, write the suite's results and the metrics."""
    params = load_params(args.params)
    classes, settings = params.class_names, params.champion
    limits = SliceLimits(params.evaluate.small_area_px, params.evaluate.medium_area_px, params.evaluate.dark_below, params.evaluate.bright_above)
    record = read_champions(args.record)
    champion, model_sha256 = record.current, sha256_file(args.model)
    samples = {split: sorted(read_samples(args.dataset / f"{split}.jsonl"), key=lambda item: item.image_id) for split in LABELED_SPLITS}
    candidate = {split: read_detections(args.predictions / f"{split}.parquet", classes) for split in LABELED_SPLITS}
    reference = {name: read_detections(args.champion / f"{name}.parquet", classes) for name in ("test", "suite")}
    thresholds = read_json(args.evaluation / "thresholds.json")["classes"]
    images = [item for split in LABELED_SPLITS for item in samples[split]]
    everything = {image_id: item for found in candidate.values() for image_id, item in found.items()}
    scored = _scored(args.suite, images, everything, reference["suite"] | reference["test"], params, thresholds, champion)
    metrics: dict[str, Any] = {
        "champion": None if champion is None else champion.number,
        "model_sha256": model_sha256,
        "same_model": champion is not None and champion.model_sha256 == model_sha256,
        "metric": settings.metric,
        "confidence": settings.confidence,
        "tolerance": settings.tolerance,
        "seeds": len(record.seed_noise),
        "suite": _suite_counts(scored),
    }
    if champion is None:
        metrics |= {"verdict": FIRST, "reasons": [NO_CHAMPION], "notes": []}
    else:
        spread = spread_of(record.seed_noise)
        found = _differences(samples["test"], candidate["test"], reference["test"], classes, limits, settings, spread)
        change = SuiteChange(metrics["suite"]["newly_fixed"], metrics["suite"]["newly_broken"])
        verdict = decide(
            found,
            settings.metric,
            settings.tolerance,
            settings.confidence,
            change,
            seeds_measured=spread is not None,
            same_model=metrics["same_model"],
        )
        metrics |= _compared(found, verdict, [params.class_of[name] for name in champion.classes])
    write_text(args.suite_results, jsonl_text(rounded(_suite_row(item)) for item in scored))
    write_metrics(args.metrics, metrics)
    print(f"challenge: {metrics['verdict']}: {'; '.join(metrics['reasons'])}")


def _differences(
    samples: Sequence[Sample],
    candidate: Found,
    champion: Found,
    classes: Sequence[str],
    limits: SliceLimits,
    settings: ChampionParams,
    spread: Any,
) -> list[Difference]:
    truth = [ground_truth(sample, classes) for sample in samples]
    old, new = ([found.get(sample.image_id, Detections.empty()) for sample in samples] for found in (champion, candidate))
    resampling = Resampling(settings.confidence, settings.resamples, settings.seed)
    return differences(samples, truth, old, new, classes, limits, resampling, spread)


def _scored(
    suite: Path,
    images: Sequence[Sample],
    candidate: Found,
    champion_found: Found,
    params: Params,
    thresholds: Mapping[str, float],
    champion: Champion | None,
) -> list[Scored]:
    items, classes = read_suite(suite), params.class_names
    wanted = {item.case.image_id for item in items}
    own = _values(thresholds, classes)
    theirs = None if champion is None else _values(thresholds_today(champion, params.class_of), classes)
    scenes = {
        sample.image_id: Scene(
            ground_truth(sample, classes),
            shown_detections(candidate.get(sample.image_id, Detections.empty()), own),
            None if theirs is None else shown_detections(champion_found.get(sample.image_id, Detections.empty()), theirs),
        )
        for sample in images
        if sample.image_id in wanted
    }
    return score_suite(items, scenes, {name: classes.index(today) for name, today in params.class_of.items()})


def _values(thresholds: Mapping[str, float], classes: Sequence[str]) -> NDArray[np.float64]:
    """Thresholds in class order; a class that a model did not know has no detections, so its value does not matter."""
    return np.array([float(thresholds.get(name, DEFAULT_THRESHOLD)) for name in classes])


def _suite_counts(scored: Sequence[Scored]) -> dict[str, int]:
    states = Counter(item.state for item in scored)
    return {
        "items": len(scored),
        **{state: states[state] for state in STATES},
        "newly_fixed": sum(item.candidate is True and item.champion is False for item in scored),
        "newly_broken": sum(item.candidate is False and item.champion is True for item in scored),
    }


def _suite_row(item: Scored) -> dict[str, Any]:
    row = {"id": item.item.case.id, "image_id": item.item.case.image_id, "kind": item.item.case.kind, "round": item.item.round}
    return {**row, "state": item.state, "candidate": item.candidate, "champion": item.champion}


def _compared(found: Sequence[Difference], verdict: Verdict, old_classes: Sequence[str]) -> dict[str, Any]:
    rows = {item.name: _row(item) for item in found}
    old = {name: rows[CLASS + name] for name in old_classes}
    lost = [max(0.0, -row["change"]["AP50"]) for row in old.values() if row["change"]["AP50"] is not None]
    return {
        "verdict": verdict.word,
        "reasons": list(verdict.reasons),
        "notes": list(verdict.notes),
        WHOLE: rows[WHOLE],
        "classes": {name.removeprefix(CLASS): row for name, row in rows.items() if name.startswith(CLASS)},
        "slices": {name: row for name, row in rows.items() if name != WHOLE and not name.startswith(CLASS)},
        "forgetting": {"old_classes": list(old_classes), "mean_lost_AP50": float(np.mean(lost)) if lost else None},
    }


def _row(item: Difference) -> dict[str, Any]:
    return {
        "champion": dict(item.champion),
        "candidate": dict(item.candidate),
        "change": {metric: item.change(metric) for metric in METRICS},
        "low": dict(item.low),
        "high": dict(item.high),
        "boxes": item.boxes,
        "groups": item.groups,
        "judged": item.judged,
    }


if __name__ == "__main__":
    stage_main(
        "pipelines.stages.challenge",
        work,
        {
            "params": "params.yaml",
            "record": "champion.json",
            "suite": "the regression suite",
            "model": "the candidate's model file, for its hash",
            "dataset": "folder of the dataset",
            "predictions": "folder of the candidate's detections",
            "evaluation": "folder of the candidate's evaluation, for its thresholds",
            "champion": "folder of the champion's detections",
            "suite-results": "file to write: one line an item of the suite",
            "metrics": "metrics file to write",
        },
    )
