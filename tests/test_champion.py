"""The champion from its record to the next round: the challenge stage, promoting, and what is refused."""

from __future__ import annotations

import json
import subprocess
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.commands import noise
from pipelines.core.champion import Champion, ChampionRecord, read_champions, stored_model, thresholds_today, write_champions
from pipelines.core.errors import ClassContractError, DataError, MissingInputError
from pipelines.core.io import read_json, read_jsonl, sha256_bytes, write_bytes, write_json, write_text
from pipelines.core.records import read_detections, read_samples, write_detections, write_samples
from pipelines.core.types import LABELED_SPLITS, Sample
from pipelines.regression.cases import Case
from pipelines.regression.suite import SuiteItem, read_suite, write_suite
from pipelines.stages import challenge
from tests.simulated_models import CLASSES, detector, made_test_set
from training.stages import predict_champion

MODEL, OTHER = b"a model", b"another model"
RECORD, SUITE, METRICS = Path("data/models/champion.json"), Path("data/badcases/suite.jsonl"), Path("data/metrics/challenge.json")
CHAMPION = Champion(
    1, sha256_bytes(OTHER), CLASSES, dict.fromkeys(CLASSES, 0.3), {"AP": 0.5, "AP50": 0.7}, {"images": 9, "boxes": 40}, {}, "first", ("r",)
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project after `predict_champion`, with no champion; working folder is there."""
    monkeypatch.chdir(tmp_path)
    for git in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "config", "core.analytics", "false"]):
        subprocess.run(git, check=True)
    write_text(Path("params.yaml"), "classes: [{name: bolt}, {name: nut}, {name: washer}]\nchampion: {resamples: 200}\n")
    write_candidate(quality=0.8, model=MODEL)
    write_champions(RECORD, ChampionRecord())
    write_suite(SUITE, [])
    return tmp_path


def write_candidate(quality: float, model: bytes, broken: dict[int, float] | None = None) -> None:
    """Dataset, detections, evaluation and metrics of a model of this quality."""
    write_bytes(Path("data/models/model.pt"), model)
    for number, split in enumerate(LABELED_SPLITS):
        samples, truth = made_test_set(80 if split == "test" else 10, seed=number)
        samples = [replace(sample, image_id=f"{number}{sample.image_id[1:]}", group=f"{split}{sample.group}") for sample in samples]
        write_samples(Path(f"data/dataset/{split}.jsonl"), samples)
        found = detector(truth, quality, 3, broken)
        write_detections(Path(f"data/predictions/{split}.parquet"), {s.image_id: item for s, item in zip(samples, found, strict=True)}, CLASSES)
    write_json(Path("data/evaluation/thresholds.json"), {"classes": dict.fromkeys(CLASSES, 0.3)})
    test = {"AP": 0.5, "AP50": 0.7, "images": 80, "boxes": 400, "per_class": {name: {"AP": 0.5, "AP50": 0.7} for name in CLASSES}}
    write_json(Path("data/metrics/evaluate.json"), {"test": test})
    write_json(Path("data/metrics/train.json"), {"images": {"train": 10}, "boxes": {"train": 50}})
    if not Path("data/champion").exists():
        for name in ("test", "suite"):
            write_detections(Path(f"data/champion/{name}.parquet"), {}, CLASSES)


def challenged() -> dict[str, Any]:
    """Run the stage; its metrics."""
    data = Path("data")
    challenge.work(
        Namespace(
            params=Path("params.yaml"),
            record=RECORD,
            suite=SUITE,
            model=data / "models/model.pt",
            dataset=data / "dataset",
            predictions=data / "predictions",
            evaluation=data / "evaluation",
            champion=data / "champion",
            suite_results=data / "challenge/suite.jsonl",
            metrics=METRICS,
        )
    )
    metrics: dict[str, Any] = read_json(METRICS)
    return metrics


def take_candidate_as_champions_detections() -> None:
    found = read_detections(Path("data/predictions/test.parquet"), CLASSES)
    write_detections(Path("data/champion/test.parquet"), found, CLASSES)


@pytest.mark.usefixtures("project")
def test_the_first_round_has_no_champion_and_says_so() -> None:
    metrics = challenged()
    assert (metrics["verdict"], metrics["champion"]) == ("first", None)
    assert "no champion yet" in metrics["reasons"][0]
    assert main(["promote"]) == 0
    record = read_champions(RECORD)
    assert [item.number for item in record.champions] == [1]
    assert stored_model(Path("data/models/champions"), record.champions[0]).read_bytes() == MODEL
    assert Path("data/models/champions.dvc").is_file(), "DVC keeps the models"
    assert read_samples(Path("data/models/champions/001/train.jsonl")) == read_samples(Path("data/dataset/train.jsonl"))
    before = RECORD.read_bytes()
    assert main(["promote"]) == 0, "again: nothing to do"
    assert RECORD.read_bytes() == before


@pytest.mark.usefixtures("project")
def test_rounds_of_champions(capsys: pytest.CaptureFixture[str]) -> None:
    challenged()
    main(["promote"])
    take_candidate_as_champions_detections()
    itself = challenged()
    assert (itself["verdict"], itself["reasons"]) == ("inconclusive", ["the candidate is the champion itself"])
    assert itself["all"]["change"] == {"AP": 0.0, "AP50": 0.0}

    write_candidate(0.8, OTHER, broken={2: 0.2})
    broken = challenged()
    assert broken["verdict"] == "reject"
    assert [reason for reason in broken["reasons"] if "class" in reason] == [next(r for r in broken["reasons"] if r.startswith("class washer lost"))]
    assert broken["forgetting"]["mean_lost_AP50"] == pytest.approx(-broken["classes"]["washer"]["change"]["AP50"] / 3, abs=0.02)
    capsys.readouterr()
    assert main(["promote"]) == 2
    assert "the gate says reject" in capsys.readouterr().err
    assert main(["promote", "--because", "washers are gone"]) == 0
    assert read_champions(RECORD).champions[-1].reasons[-1] == "promoted because washers are gone"

    write_candidate(0.9, b"a third")
    stale = main(["promote"])
    assert (stale, "judges another model" in capsys.readouterr().err) == (2, True)
    better = challenged()
    assert (better["verdict"], better["champion"]) == ("promote", 2)
    assert "the noise between seeds was not measured" in better["notes"][0]
    assert main(["promote"]) == 0
    assert [item.verdict for item in read_champions(RECORD).champions] == ["first", "reject", "promote"]
    assert sorted(path.name for path in Path("data/models/champions").iterdir()) == ["001", "002", "003"]


@pytest.mark.usefixtures("project")
def test_the_suite_is_scored_and_its_history_kept() -> None:
    test = read_samples(Path("data/dataset/test.jsonl"))
    train = read_samples(Path("data/dataset/train.jsonl"))

    def missed(sample: Sample) -> Case:
        return Case(sample.image_id, "missed", sample.boxes[0].class_name, None, sample.boxes[0].xyxy, None)

    write_suite(
        SUITE, [SuiteItem(missed(sample), 1) for sample in [*test[:12], train[0]]] + [SuiteItem(replace(missed(test[0]), image_id="f" * 64), 1)]
    )
    suite = challenged()["suite"]
    assert suite["items"] == 14
    assert suite["not_judged"] == 1, "an image that is not in the dataset"
    assert suite["fixed"] + suite["still_bad"] == 13
    assert suite["fixed"] > suite["still_bad"] > 0
    assert suite["newly_fixed"] == suite["newly_broken"] == suite["regressed"] == 0
    main(["promote"])
    states = {row["id"]: row["candidate"] for row in read_jsonl(Path("data/challenge/suite.jsonl"))}
    assert {item.case.id: item.history for item in read_suite(SUITE)} == {
        key: () if right is None else ((1, right),) for key, right in states.items()
    }
    for name in ("test", "suite"):
        source = "test" if name == "test" else "train"
        write_detections(Path(f"data/champion/{name}.parquet"), read_detections(Path(f"data/predictions/{source}.parquet"), CLASSES), CLASSES)
    write_candidate(0.0, OTHER)
    worse = challenged()
    assert worse["suite"]["regressed"] == worse["suite"]["newly_broken"] == suite["fixed"]
    assert any(reason.startswith(f"{suite['fixed']} items of the regression suite broke") for reason in worse["reasons"])


@pytest.mark.usefixtures("project")
def test_a_renamed_class_keeps_its_thresholds_and_its_cases() -> None:
    """Nut becomes hex nut: what the champion shows of it, and what the suite asks about it, stay the same."""
    test = read_samples(Path("data/dataset/test.jsonl"))
    cases = [Case(sample.image_id, "missed", box.class_name, None, box.xyxy, None) for sample in test for box in sample.boxes[:1]]
    write_suite(SUITE, [SuiteItem(case, 1) for case in cases])
    challenged()
    main(["promote"])
    record = read_champions(RECORD)
    write_champions(RECORD, replace(record, champions=(replace(record.champions[0], thresholds=dict.fromkeys(CLASSES, 0.8)),)))
    take_candidate_as_champions_detections()
    before = challenged()["suite"]
    assert before["not_judged"] == 0
    assert before["newly_fixed"] > 0, "the candidate shows more of the same detections"
    write_text(Path("params.yaml"), Path("params.yaml").read_text().replace("{name: nut}", "{name: hex nut, aliases: [nut]}"))
    renamed = ("bolt", "hex nut", "washer")
    for path in (*Path("data/predictions").iterdir(), *Path("data/champion").iterdir()):
        write_detections(path, read_detections(path, CLASSES), renamed)
    for split in LABELED_SPLITS:
        path = Path(f"data/dataset/{split}.jsonl")
        write_text(path, path.read_text().replace('"class":"nut"', '"class":"hex nut"'))
    write_json(Path("data/evaluation/thresholds.json"), {"classes": dict.fromkeys(renamed, 0.3)})
    assert challenged()["suite"] == before


def test_of_classes_that_became_one_the_lowest_threshold_counts() -> None:
    champion = replace(CHAMPION, thresholds={"bolt": 0.4, "nut": 0.3, "washer": 0.6})
    assert thresholds_today(champion, {"bolt": "bolt", "nut": "bolt", "washer": "disc"}) == {"bolt": 0.3, "disc": 0.6}


def test_classes_in_another_order_than_the_champions_are_refused() -> None:
    with pytest.raises(ClassContractError, match="champion 1 has the classes .*append-only"):
        thresholds_today(CHAMPION, {"nut": "nut", "bolt": "bolt", "washer": "washer"})


@pytest.mark.usefixtures("project")
def test_a_promotion_during_the_trainings_is_kept() -> None:
    """The trainings' place is taken by programs that promote a model, and leave detections."""
    write_bytes(Path("data/start/train.jsonl"), Path("data/dataset/train.jsonl").read_bytes())
    write_champions(Path("promoted.json"), ChampionRecord((CHAMPION,)))
    copy = "import shutil, sys\nfrom pathlib import Path\n"
    write_text(Path("training/stages/train.py"), f"{copy}shutil.copy('promoted.json', {str(RECORD)!r})\n")
    out = "out = Path(sys.argv[sys.argv.index('--predictions') + 1])\nout.mkdir(parents=True, exist_ok=True)\n"
    write_text(Path("training/stages/predict.py"), f"{copy}{out}shutil.copy('data/predictions/test.parquet', out)\n")
    for package in ("training", "training/stages"):
        write_text(Path(package, "__init__.py"), "")
    inputs = [Path(name).read_bytes() for name in ("params.yaml", "data/start/train.jsonl", "data/dataset/test.jsonl")]
    half_removed = noise.WORK / sha256_bytes(b"\n".join(inputs))[:12] / str(noise.FIRST_SEED) / "predictions"
    half_removed.mkdir(parents=True)  # by a run that was killed when it had ended
    write_bytes(noise.WORK / "0123456789ab/1001/model.pt", b"of other inputs, never finished")
    write_bytes(noise.WORK / "notes/today.txt", b"of people")
    assert main(["noise"]) == 0
    record = read_champions(RECORD)
    assert (record.champions, len(record.seed_noise)) == ((CHAMPION,), 3)
    assert [path.relative_to(noise.WORK).as_posix() for path in noise.WORK.rglob("*")] == ["notes", "notes/today.txt"]


@pytest.mark.usefixtures("project")
def test_the_noise_between_seeds_is_recorded_and_used(capsys: pytest.CaptureFixture[str]) -> None:
    challenged()
    main(["promote"])
    take_candidate_as_champions_detections()
    write_bytes(Path("data/start/train.jsonl"), Path("data/dataset/train.jsonl").read_bytes())
    assert main(["noise", "--trainings", "2"]) == 2
    assert "needs at least 3" in capsys.readouterr().err
    assert main(["noise"]) == 2, "nothing to train on here"
    assert "python -m training.stages.train ended with 2" in capsys.readouterr().err
    (work,) = noise.WORK.iterdir()
    _, truth = made_test_set(80, seed=2)
    ids = [sample.image_id for sample in read_samples(Path("data/dataset/test.jsonl"))]
    for number in range(3):  # as an interrupted run leaves them
        found = dict(zip(ids, detector(truth, 0.8, 50 + number), strict=True))
        write_detections(work / str(noise.FIRST_SEED + number) / "predictions" / "test.parquet", found, CLASSES)
    assert main(["noise"]) == 0
    record = read_champions(RECORD)
    assert len(record.seed_noise) == 3
    assert len({training["all"]["AP"] for training in record.seed_noise}) == 3
    assert record.champions, "the champion stays"
    assert not work.exists()
    write_candidate(0.8, OTHER)
    metrics = challenged()
    assert metrics["seeds"] == 3
    assert not any("noise between seeds" in note for note in metrics["notes"])


@pytest.mark.usefixtures("project")
def test_the_same_inputs_give_the_same_bytes() -> None:
    challenged()
    main(["promote"])
    write_candidate(0.85, OTHER)
    take_candidate_as_champions_detections()
    challenged()
    first = METRICS.read_bytes()
    challenged()
    assert METRICS.read_bytes() == first


def test_without_a_champion_predict_champion_writes_empty_files(project: Path) -> None:
    write_bytes(project / "data/raw/images/.keep", b"")
    run_predict_champion()
    assert {name: read_detections(Path(f"data/champion/{name}.parquet"), CLASSES) for name in ("test", "suite")} == {"test": {}, "suite": {}}


@pytest.mark.parametrize("fault", ["no record", "no model", "another model", "a class is gone"])
def test_what_is_wrong_with_a_champion_is_named(project: Path, fault: str) -> None:
    write_bytes(project / "data/raw/images/.keep", b"")
    write_champions(RECORD, ChampionRecord((CHAMPION,)))
    if fault == "no record":
        RECORD.unlink()
        with pytest.raises(MissingInputError, match=r"champion\.json is missing: restore it from git"):
            run_predict_champion()
    elif fault == "no model":
        with pytest.raises(MissingInputError, match=r"dvc pull data/models/champions\.dvc"):
            run_predict_champion()
    elif fault == "another model":
        write_bytes(Path("data/models/champions/001/model.pt"), MODEL)
        with pytest.raises(DataError, match="champion 1 has"):
            run_predict_champion()
    else:
        write_text(Path("params.yaml"), "classes: [{name: bolt}, {name: nut}]\n")
        with pytest.raises(DataError, match=r"champion 1 knows \['washer'\]"):
            run_predict_champion()


def run_predict_champion() -> None:
    data = Path("data")
    predict_champion.work(
        Namespace(
            params=Path("params.yaml"),
            record=RECORD,
            store=data / "models/champions",
            suite=SUITE,
            dataset=data / "dataset",
            raw=data / "raw",
            predictions=data / "champion",
        )
    )


def test_the_record_survives_a_round_trip(tmp_path: Path) -> None:
    record = ChampionRecord((CHAMPION, replace(CHAMPION, number=2)), ({"all": {"AP": 0.5}},))
    write_champions(tmp_path / "champion.json", record)
    assert read_champions(tmp_path / "champion.json") == record
    assert json.loads((tmp_path / "champion.json").read_text())["champion"] == 2
    with pytest.raises(DataError, match="has no champion 3"):
        record.champion(3, tmp_path)
