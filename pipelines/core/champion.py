"""The champions: data/models/champion.json in git says which they were, data/models/champions/NNN (kept by DVC) holds each one's model.

The record lies outside the graph, as the queue does: `detloop promote` writes it, people commit it, and the stages read it. A project without a
champion has a record that says so. Entries are only ever added, and a champion's folder never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.core.contract import require_appended
from pipelines.core.errors import DataError
from pipelines.core.io import json_text, read_json, require_file, rounded, sha256_file, write_text

MODEL_FILE = "model.pt"
TRAIN_FILE = "train.jsonl"  # the dataset's lines that the champion was trained on
RECORD_HINT = "restore it from git (a project without a champion has a record that says so)"
STORE_HINT = "fetch it with `dvc pull data/models/champions.dvc`"


@dataclass(frozen=True)
class Champion:
    """One champion as it was when it was promoted.

    `thresholds` by class; `test` and `train` are the figures of then (AP, AP50, images, boxes, per_class); `suite` counts the regression suite's
    items by state; `verdict` is the gate's word or `first`.
    """

    number: int
    model_sha256: str
    classes: tuple[str, ...]
    thresholds: Mapping[str, float]
    test: Mapping[str, Any]
    train: Mapping[str, Any]
    suite: Mapping[str, int]
    verdict: str
    reasons: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Name of its folder in the store."""
        return f"{self.number:03d}"


@dataclass(frozen=True)
class ChampionRecord:
    """All champions, oldest first, and the figures of trainings that differ by their seed alone (part, metric, value; empty: not measured)."""

    champions: tuple[Champion, ...] = ()
    seed_noise: tuple[Mapping[str, Any], ...] = ()

    @property
    def current(self) -> Champion | None:
        """The champion; None where there is none yet."""
        return self.champions[-1] if self.champions else None

    def champion(self, number: int, where: Path) -> Champion:
        """The champion with this number.

        Raises:
            DataError: there is none.
        """
        for item in self.champions:
            if item.number == number:
                return item
        known = ", ".join(str(item.number) for item in self.champions) or "none"
        raise DataError(f"{where} has no champion {number} (it has {known}): set train.from_champion to one of them, or to null")


def read_champions(path: Path, hint: str = RECORD_HINT) -> ChampionRecord:
    """Read data/models/champion.json, or another record of its form, which `hint` says how to restore.

    Raises:
        MissingInputError: no such file.
        DataError: of another form.
    """
    content = read_json(path, hint)
    try:
        champions = tuple(Champion(**{**row, "classes": tuple(row["classes"]), "reasons": tuple(row["reasons"])}) for row in content["champions"])
        return ChampionRecord(champions, tuple(content["seed_noise"]))
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is of another form ({error!r}): {hint}") from error


def record_text(record: ChampionRecord) -> str:
    """The record as its file holds it."""
    current = record.current
    return json_text(
        {
            "champion": None if current is None else current.number,
            "champions": [rounded(asdict(item)) for item in record.champions],
            "seed_noise": rounded(list(record.seed_noise)),
        }
    )


def write_champions(path: Path, record: ChampionRecord) -> None:
    """Write the record atomically."""
    write_text(path, record_text(record))


def names_today(champion: Champion, class_of: Mapping[str, str]) -> list[str]:
    """The champion's classes by their names in params.yaml, `class_of`.

    Raises:
        ClassContractError: a class that is not there any more, or at another place.
    """
    require_appended(champion.classes, class_of, f"champion {champion.number}")
    return [class_of[name] for name in champion.classes]


def thresholds_today(champion: Champion, class_of: Mapping[str, str]) -> dict[str, float]:
    """The champion's thresholds by the names of its classes in params.yaml; of classes that became one the lowest.

    Raises:
        ClassContractError: see `names_today`.
    """
    found: dict[str, float] = {}
    for before, name in zip(champion.classes, names_today(champion, class_of), strict=True):
        found[name] = min(found.get(name, 1.0), float(champion.thresholds[before]))
    return found


def stored_train(store: Path, champion: Champion) -> Path:
    """The dataset's lines that the champion was trained on.

    Raises:
        MissingInputError: they are not on this machine.
    """
    return require_file(store / champion.folder / TRAIN_FILE, STORE_HINT)


def stored_model(store: Path, champion: Champion) -> Path:
    """The champion's model file, held against its hash.

    Raises:
        MissingInputError: it is not on this machine.
        DataError: it is another file.
    """
    path = require_file(store / champion.folder / MODEL_FILE, STORE_HINT)
    found = sha256_file(path)
    if found != champion.model_sha256:
        raise DataError(f"{path} has sha256 {found[:12]}, champion {champion.number} has {champion.model_sha256[:12]}: {STORE_HINT}")
    return path
