"""`detloop promote`: the model of this round becomes the champion, which every later one is held against."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.core.champion import MODEL_FILE, TRAIN_FILE, Champion, read_champions, write_champions
from pipelines.core.errors import DataError, GateError, MissingPartError
from pipelines.core.io import new_folder, read_json, read_jsonl, require_file, sha256_file
from pipelines.core.params import load_params
from pipelines.regression.scoring import STATES
from pipelines.regression.suite import read_suite, with_champion, write_suite

DATA = Path("data")  # as dvc.yaml has it
PARAMS = Path("params.yaml")
RECORD = DATA / "models" / "champion.json"
STORE = DATA / "models" / "champions"
SUITE = DATA / "badcases" / "suite.jsonl"
FREE_TO_PROMOTE = ("promote", "first")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--because", metavar="TEXT", help="promote without the gate's word, for this reason, which the record keeps")


def run(args: argparse.Namespace) -> int:
    """Keep the model, write the suite's history and, last, the record; 0, also when the model is the champion already.

    Raises:
        GateError: the gate did not say promote and no reason was given.
        DataError: the verdict is about another model than the one that lies here.
    """
    classes = load_params(PARAMS).class_names
    record = read_champions(RECORD)
    model = require_file(DATA / "models" / MODEL_FILE)
    challenge = read_json(DATA / "metrics" / "challenge.json")
    model_sha256 = sha256_file(model)
    if challenge.get("model_sha256") != model_sha256:
        raise DataError(f"data/metrics/challenge.json judges another model than {model}: run `dvc repro`")
    if record.current is not None and record.current.model_sha256 == model_sha256:
        print(f"nothing to do: this model is champion {record.current.number} already")
        return 0
    judged_against = None if record.current is None else record.current.number
    if challenge.get("champion") != judged_against:
        raise DataError(f"the verdict is about champion {challenge.get('champion')}, the champion is {judged_against}: run `dvc repro`")
    verdict, reasons = str(challenge["verdict"]), [str(reason) for reason in challenge["reasons"]]
    if verdict not in FREE_TO_PROMOTE and not args.because:
        raise GateError(f"the gate says {verdict} ({'; '.join(reasons)}): give `--because TEXT` to promote it all the same")
    champion = _champion(
        classes, (judged_against or 0) + 1, model_sha256, challenge, [*reasons, *([f"promoted because {args.because}"] if args.because else [])]
    )
    with new_folder(STORE / champion.folder) as folder:
        shutil.copyfile(model, folder / MODEL_FILE)
        shutil.copyfile(require_file(DATA / "dataset" / "train.jsonl"), folder / TRAIN_FILE)
    _keep(STORE)
    right = {row["id"]: row["candidate"] for row in read_jsonl(DATA / "challenge" / "suite.jsonl") if row["candidate"] is not None}
    write_suite(SUITE, with_champion(read_suite(SUITE), champion.number, right))
    write_champions(RECORD, replace(record, champions=(*record.champions, champion)))
    print(f"champion {champion.number}: test AP {_percent(champion.test['AP'])}, AP50 {_percent(champion.test['AP50'])} ({verdict})")
    print(f"next: commit {RECORD}, {STORE}.dvc and {SUITE}, and `dvc push` the model; `dvc repro` then holds the next model against it")
    return 0


def _champion(classes: tuple[str, ...], number: int, model_sha256: str, challenge: dict[str, Any], reasons: list[str]) -> Champion:
    evaluate, train = read_json(DATA / "metrics" / "evaluate.json"), read_json(DATA / "metrics" / "train.json")
    test = evaluate["test"]
    return Champion(
        number=number,
        model_sha256=model_sha256,
        classes=classes,
        thresholds=read_json(DATA / "evaluation" / "thresholds.json")["classes"],
        test={
            **{key: test[key] for key in ("AP", "AP50", "images", "boxes")},
            "per_class": {name: {key: part[key] for key in ("AP", "AP50")} for name, part in test["per_class"].items()},
        },
        train={"images": train["images"]["train"], "boxes": train["boxes"]["train"]},
        suite={state: int(challenge["suite"][state]) for state in STATES},
        verdict=str(challenge["verdict"]),
        reasons=tuple(reasons),
    )


def _keep(store: Path) -> None:
    """Put the folder into DVC's cache.

    Raises:
        MissingPartError: dvc refuses or is not there.
    """
    try:
        subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", str(store)], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise MissingPartError(
            f"`dvc add {store}` failed ({' '.join(error.stderr.split())[:300]}): mend it, then run the same command again"
        ) from error


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value * 100:.1f} %"
