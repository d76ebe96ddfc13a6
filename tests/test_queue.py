"""`detloop queue`: a round is drawn once from a list, asks about no image twice, and says what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.core.io import write_jsonl, write_text


def ranked_row(image_id: str, score: float, split: str = "val", **kinds: int) -> dict[str, Any]:
    return {"image_id": image_id, "path": f"images/{image_id}.jpg", "split": split, "score": score, "kinds": kinds, "reasons": [f"why {image_id}"]}


LIST = [
    ranked_row("w", 4.0, missed=2, duplicate=1),
    ranked_row("x", 3.0, duplicate=3),
    ranked_row("y", 2.0, split="pool", unsure=4),
    ranked_row("z", 1.0, split="test", background=1, location=1),
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("classes: [{name: a}]\nqueue: {budget: 2}\n")
    write_jsonl(tmp_path / "data/badcases/ranked.jsonl", LIST)
    return tmp_path


def rows(project: Path, number: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project / f"data/queue/round-{number:03d}.jsonl").read_text().splitlines()]


def test_accept_writes_the_worst_within_the_budget(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "accept"]) == 0
    first, second = rows(project, 1)
    assert (first["image_id"], first["rank"], first["round"], first["score"]) == ("w", 1, 1, 4.0)
    assert first["actions"] == ["confirm the label that the model missed"]  # a duplicate asks nothing of people
    assert second["image_id"] == "y"
    assert second["actions"] == ["label the image, starting from its pre-labels"]
    said = capsys.readouterr().out
    assert "2 images (unsure 4, missed 2, duplicate 1); left out: 0 asked in an earlier round, 1 with duplicate boxes only, 0 near-" in said
    assert "1 over the budget" in said
    assert "git add data/queue/round-001.jsonl" in said
    assert "dvc repro" in said


def test_same_list_twice_adds_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["queue", "accept"])
    before = (project / "data/queue/round-001.jsonl").read_bytes()
    assert main(["queue", "accept", "--budget", "9"]) == 0
    assert "nothing added: round 001 was already drawn from this list" in capsys.readouterr().out
    assert [path.name for path in (project / "data/queue").iterdir()] == ["round-001.jsonl"]
    assert (project / "data/queue/round-001.jsonl").read_bytes() == before


def test_next_round_asks_only_about_new_images(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["queue", "accept"])
    write_jsonl(project / "data/badcases/ranked.jsonl", [ranked_row("new", 9.0, **{"class": 1, "both": 1}), *LIST])
    assert main(["queue", "accept", "--budget", "5"]) == 0
    assert [row["image_id"] for row in rows(project, 2)] == ["new", "z"]
    assert rows(project, 2)[0]["actions"] == ["check the class", "check the class and the box"]
    said = capsys.readouterr().out
    assert "2 asked in an earlier round, 1 with duplicate boxes only, 0 near-duplicates of a labeled or asked image, 0 over the budget" in said
    assert "1 of them are test images" in said
    write_jsonl(project / "data/badcases/ranked.jsonl", LIST[:3])
    assert main(["queue", "accept"]) == 0
    assert "nothing to ask: 3 images ranked; left out: 2 asked in an earlier round, 1 with duplicate boxes only" in capsys.readouterr().out
    assert not (project / "data/queue/round-003.jsonl").exists()


def test_number_follows_the_highest(project: Path) -> None:
    write_jsonl(project / "data/queue/round-007.jsonl", [])
    (project / "data/queue/round-notes.jsonl").write_text("not a round")
    assert main(["queue", "accept"]) == 0
    assert len(rows(project, 8)) == 2


def test_same_input_same_bytes(project: Path) -> None:
    main(["queue", "accept", "--queue", "q1"])
    main(["queue", "accept", "--queue", "q2"])
    assert (project / "q1/round-001.jsonl").read_bytes() == (project / "q2/round-001.jsonl").read_bytes()


def test_show(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "show"]) == 0
    assert "no round yet in data/queue: run `detloop queue accept`" in capsys.readouterr().out
    main(["queue", "accept"])
    capsys.readouterr()
    assert main(["queue", "show"]) == 0
    assert capsys.readouterr().out == "round 001: 2 images (unsure 4, missed 2, duplicate 1)\n"
    assert main(["queue", "show", "--round", "1"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["w", "y"]


BAD = {
    "no list": (["queue", "accept", "--ranked", "none.jsonl"], "file none.jsonl is missing: run `dvc repro`"),
    "no budget": (["queue", "accept", "--budget", "0"], "--budget 0: a round asks about at least 1 image"),
    "no such round": (["queue", "show", "--round", "3"], "there is no round 3 in data/queue: it has none"),
    "another file": (
        ["queue", "accept", "--ranked", "other.jsonl"],
        "line 1: lacks path, score; line 2: unknown kinds ['odd']): run `dvc repro mine`",
    ),
    "a broken round": (["queue", "show", "--queue", "broken"], "round-001.jsonl line 3 lacks round, rank"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_input_is_one_line(project: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    write_jsonl(project / "other.jsonl", [{"image_id": "x", "split": "val", "kinds": {}, "reasons": []}, ranked_row("y", 1.0, odd=1)])
    write_text(project / "broken/round-001.jsonl", '\n\n{"image_id": "x"}\n')
    arguments, message = BAD[case]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
