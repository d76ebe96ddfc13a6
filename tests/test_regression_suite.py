"""The regression suite by hand: which cases people confirm, when an item is right, what stays in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.core.errors import DataError
from pipelines.core.io import read_jsonl, write_jsonl
from pipelines.core.records import write_annotations
from pipelines.core.types import Annotation, Box, Detections
from pipelines.regression.cases import AskedCase, Case, answer, asked_cases, asked_row, label_mark, read_asked
from pipelines.regression.scoring import Scene, is_right, score_suite
from pipelines.regression.suite import SuiteItem, read_suite, with_champion, with_confirmed, write_suite
from tests.detection_sets import found, labels

IMAGE = "ab" * 32
INDEX_OF = {"bolt": 0, "nut": 1, "washer": 2}
CLASS_OF = {name: name for name in INDEX_OF}
NUT, FAR = (10.0, 10.0, 50.0, 50.0), (100.0, 100.0, 140.0, 140.0)
SHIFTED = (30.0, 10.0, 70.0, 50.0)  # IoU 1/3 with NUT
MISSED = Case(IMAGE, "missed", "nut", None, NUT, None)
WRONG_CLASS = Case(IMAGE, "class", "nut", "washer", NUT, NUT)
MISPLACED = Case(IMAGE, "location", "nut", "nut", NUT, SHIFTED)
GHOST = Case(IMAGE, "background", None, "nut", None, FAR)
TWICE = Case(IMAGE, "duplicate", "nut", "nut", NUT, (12.0, 10.0, 52.0, 50.0))
NEAR = Case(IMAGE, "both", "nut", "washer", NUT, SHIFTED)


def label(*boxes: tuple[str, tuple[float, float, float, float]], at: str = "2025-01-01T00:00:00Z", state: str | None = None) -> Annotation:
    listed = tuple(Box(name, box) for name, box in boxes)
    word = state or ("labeled" if boxes else "verified_empty")
    return Annotation(IMAGE, word, 200, 200, listed, "team", ("ana",), ("7",), at)  # type: ignore[arg-type]


BEFORE = label(("nut", NUT))
LATER = "2025-02-01T00:00:00Z"

# name: the case, the label that people give, what it says
ANSWERS: dict[str, tuple[Case, Annotation | None, str]] = {
    "not labeled again": (MISSED, BEFORE, "unanswered"),
    "no label at all": (MISSED, None, "unanswered"),
    "skipped": (MISSED, label(at=LATER, state="skipped"), "unanswered"),
    "missed, and it is there": (MISSED, label(("nut", NUT), at=LATER), "confirmed"),
    "missed, drawn anew a pixel off": (MISSED, label(("nut", (11.0, 10.0, 50.0, 51.0)), at=LATER), "confirmed"),
    "missed, and nothing is there": (MISSED, label(at=LATER), "label_fault"),
    "missed, and it is a washer": (MISSED, label(("washer", NUT), at=LATER), "label_fault"),
    "class, and the label holds": (WRONG_CLASS, label(("nut", NUT), at=LATER), "confirmed"),
    "class, and the model was right": (WRONG_CLASS, label(("washer", NUT), at=LATER), "label_fault"),
    "place, and the label holds": (MISPLACED, label(("nut", NUT), at=LATER), "confirmed"),
    "place, and the box is moved": (MISPLACED, label(("nut", SHIFTED), at=LATER), "label_fault"),
    "background, and nothing is there": (GHOST, label(("nut", NUT), at=LATER), "confirmed"),
    "background, and the image is empty": (GHOST, label(at=LATER), "confirmed"),
    "background, and the object was not labeled": (GHOST, label(("nut", FAR), at=LATER), "label_fault"),
    "background, and another class is there": (GHOST, label(("bolt", FAR), at=LATER), "confirmed"),
    "duplicate": (TWICE, label(("nut", NUT), at=LATER), "confirmed"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_people_answer(name: str) -> None:
    case, now, expected = ANSWERS[name]
    assert answer(AskedCase(case, 1, label_mark(BEFORE)), now, CLASS_OF) == expected


def test_a_class_that_was_renamed_is_the_same() -> None:
    """A nut is called hex nut now; the cases speak of nuts."""
    now = label(("hex nut", NUT), at=LATER)
    class_of = {"bolt": "bolt", "hex nut": "hex nut", "nut": "hex nut", "washer": "washer"}
    assert answer(AskedCase(MISSED, 1, label_mark(BEFORE)), now, class_of) == "confirmed"
    assert answer(AskedCase(GHOST, 1, label_mark(BEFORE)), label(("hex nut", FAR), at=LATER), class_of) == "label_fault"
    for case in (MISSED, GHOST):
        shown = found((NUT, 0.9, 1), (FAR, 0.9, 1))
        assert is_right(case, labels((NUT, 1)), shown, {"bolt": 0, "hex nut": 1, "nut": 1, "washer": 2}) is (case is MISSED)


# name: the case, labels, shown detections, whether the model is right about it
RIGHT: dict[str, tuple[Case, list[tuple[tuple[float, ...], int]], list[tuple[tuple[float, ...], float, int]], bool | None]] = {
    "missed still": (MISSED, [(NUT, 1)], [], False),
    "missed, found": (MISSED, [(NUT, 1)], [(NUT, 0.9, 1)], True),
    "missed, found as something else": (MISSED, [(NUT, 1)], [(NUT, 0.9, 2)], False),
    "class wrong still": (WRONG_CLASS, [(NUT, 1)], [(NUT, 0.9, 2)], False),
    "class right": (WRONG_CLASS, [(NUT, 1)], [(NUT, 0.9, 1)], True),
    "class right, and the wrong one too": (WRONG_CLASS, [(NUT, 1)], [(NUT, 0.9, 1), (NUT, 0.8, 2)], False),
    "class wrong no more, but now missed": (WRONG_CLASS, [(NUT, 1)], [], False),
    "misplaced still": (MISPLACED, [(NUT, 1)], [(SHIFTED, 0.9, 1)], False),
    "well placed": (MISPLACED, [(NUT, 1)], [(NUT, 0.9, 1)], True),
    "ghost still": (GHOST, [(NUT, 1)], [(FAR, 0.9, 1)], False),
    "ghost gone": (GHOST, [(NUT, 1)], [(NUT, 0.9, 1)], True),
    "ghost of another class": (GHOST, [(NUT, 1)], [(FAR, 0.9, 0)], True),
    "ghost that is labeled now": (GHOST, [(FAR, 1)], [(FAR, 0.9, 1)], None),
    "twice still": (TWICE, [(NUT, 1)], [(NUT, 0.9, 1), ((12.0, 10.0, 52.0, 50.0), 0.5, 1)], False),
    "once": (TWICE, [(NUT, 1)], [(NUT, 0.9, 1)], True),
    "near it still": (NEAR, [(NUT, 1)], [(NUT, 0.9, 1), (SHIFTED, 0.5, 2)], False),
    "near it no more": (NEAR, [(NUT, 1)], [(NUT, 0.9, 1)], True),
    "the label is gone": (MISSED, [(FAR, 1)], [(NUT, 0.9, 1)], None),
    "no labels and no detections": (MISSED, [], [], None),
}


@pytest.mark.parametrize("name", RIGHT)
def test_when_a_model_is_right_about_a_case(name: str) -> None:
    case, truth, shown, expected = RIGHT[name]
    assert is_right(case, labels(*truth), found(*shown), INDEX_OF) is expected


def test_states_follow_the_champion_and_the_history() -> None:
    truth, right, wrong = labels((NUT, 1)), found((NUT, 0.9, 1)), Detections.empty()

    def state(candidate: Detections, champion: Detections | None, *history: tuple[int, bool]) -> str:
        return score_suite([SuiteItem(MISSED, 1, history)], {IMAGE: Scene(truth, candidate, champion)}, INDEX_OF)[0].state

    assert state(right, wrong) == state(right, right) == state(right, None) == "fixed"
    assert state(wrong, wrong) == state(wrong, None) == state(wrong, wrong, (1, False)) == "still_bad"
    assert state(wrong, right) == state(wrong, wrong, (1, True), (2, False)) == "regressed"
    assert score_suite([SuiteItem(MISSED, 1)], {}, INDEX_OF)[0].state == "not_judged"


def test_the_suite_only_grows_and_keeps_its_history(tmp_path: Path) -> None:
    asked = [AskedCase(case, 1, "x") for case in (MISSED, GHOST)]
    items = with_confirmed([], asked)
    items = with_champion(items, 1, {MISSED.id: False})
    items = with_confirmed(items, [*asked, AskedCase(WRONG_CLASS, 2, "x")])
    items = with_champion(items, 2, {MISSED.id: True, WRONG_CLASS.id: False})
    items = with_champion(items, 2, {MISSED.id: True, WRONG_CLASS.id: False})  # a promotion that was cut off and run again
    write_suite(tmp_path / "suite.jsonl", items)
    back = read_suite(tmp_path / "suite.jsonl")
    assert {item.case.id: (item.round, item.history) for item in back} == {
        MISSED.id: (1, ((1, False), (2, True))),
        GHOST.id: (1, ()),
        WRONG_CLASS.id: (2, ((2, False),)),
    }
    first = (tmp_path / "suite.jsonl").read_bytes()
    write_suite(tmp_path / "suite.jsonl", back[::-1])
    assert (tmp_path / "suite.jsonl").read_bytes() == first


def test_files_of_another_form_are_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "bad.jsonl", [{"id": "1"}])
    for read in (read_suite, read_asked):
        with pytest.raises(DataError, match=r"bad\.jsonl has a line of another form"):
            read(tmp_path / "bad.jsonl")


def test_from_a_round_to_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("classes: [{name: bolt}, {name: nut}, {name: washer}]\n")
    badcase = {"image_id": IMAGE, "kind": "missed", "class": "nut", "predicted_class": None, "truth_box": list(NUT), "box": None, "score": None}
    rows = [badcase, {**badcase, "kind": "class", "predicted_class": "washer", "box": list(NUT)}, {**badcase, "image_id": "cd" * 32}]
    asked = asked_cases(rows, {IMAGE}, {IMAGE: BEFORE}, 3)
    assert {item.case for item in asked} == {MISSED, WRONG_CLASS}
    write_jsonl(Path("data/queue/cases-003.jsonl"), [asked_row(item) for item in asked])
    write_suite(Path("data/badcases/suite.jsonl"), [])
    write_annotations(Path("data/labels/annotations.jsonl"), [BEFORE])
    assert main(["suite", "confirm"]) == 0
    assert "0 new items, 0 in all" in (text := capsys.readouterr().out)
    assert "2 have no new label" in text
    write_annotations(Path("data/labels/annotations.jsonl"), [label(("nut", NUT), at=LATER)])
    for again in (False, True):
        assert main(["suite", "confirm"]) == 0
        assert ("0 new items, 2 in all" if again else "2 new items (class 1, missed 1), 2 in all") in capsys.readouterr().out
    assert {row["round"] for row in read_jsonl(Path("data/badcases/suite.jsonl"))} == {3}
    write_jsonl(Path("data/challenge/suite.jsonl"), [{"id": MISSED.id, "state": "fixed"}])
    assert main(["suite", "show"]) == 0
    shown = capsys.readouterr().out
    assert "nut as washer" in shown
    assert "2 items: fixed 1" in shown
