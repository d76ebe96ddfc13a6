"""What a push plans, what counts as loss, and the labeling configuration: pure parts of the Label Studio sync."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.errors import DataError
from pipelines.core.types import Annotation, Box
from pipelines.formats.labelstudio_config import colour, config_from_classes, differences, read_config
from pipelines.labeling.loss import require_few_lost
from pipelines.labeling.server.push_plan import ServerTask, plan_push
from pipelines.labeling.server.questions import AskedImage, Question, open_questions

IMAGE = AskedImage("images/a.jpg", (100, 80))
CLASS_OF = {"bolt": "bolt", "screw": "bolt", "nut": "nut"}


def _question(image_id: str, **data: Any) -> Question:
    return Question(image_id, IMAGE, {"image_id": image_id, "ask": "why", "kinds": "", **data})


def _task(task_id: int, image_id: str, *versions: str, worked_on: bool = False, **data: Any) -> ServerTask:
    predictions = tuple((task_id * 10 + number, version) for number, version in enumerate(versions))
    return ServerTask(task_id, image_id, {"image": "x", **_question(image_id).data, **data}, worked_on, predictions)


def test_an_empty_server_gets_every_question_in_order():
    plan = plan_push([_question("b"), _question("a")], [], "m")
    assert [item.image_id for item in plan.create] == ["b", "a"]
    assert plan_push([], [], "m").done


def test_the_older_twin_stays_and_work_stays_always():
    assert plan_push([_question("a")], [_task(7, "a", "m"), _task(3, "a", "m")], "m").delete == (7,)
    assert plan_push([_question("a")], [_task(3, "a", "m"), _task(7, "a", "m", worked_on=True)], "m").delete == (3,)
    both = plan_push([], [_task(3, "a", worked_on=True), _task(5, "a"), _task(7, "a", worked_on=True)], "m")
    assert (both.delete, both.worked_twice) == ((5,), ((3, 7),))


@pytest.mark.parametrize(
    ("versions", "relabel", "extra"),
    [((), [3], ()), (("old",), [3], ()), (("old", "m"), [3], ()), (("m",), [], ()), (("m", "m", "m"), [], (31, 32))],
    ids=["none", "old", "both", "current", "thrice"],
)
def test_pre_labels_are_those_of_the_model_once(versions: tuple[str, ...], relabel: list[int], extra: tuple[int, ...]):
    plan = plan_push([_question("a")], [_task(3, "a", *versions)], "m")
    assert ([task_id for task_id, _ in plan.relabel], plan.extra_predictions) == (relabel, extra)
    assert plan_push([_question("a")], [_task(3, "a", *versions)], None).done
    worked = plan_push([_question("a")], [_task(3, "a", *versions, worked_on=True)], "m")
    assert (worked.done, worked.left_alone) == (True, 1)


def test_a_new_reason_is_told_but_not_to_a_finished_task_unless_it_is_a_conflict():
    assert [task.task_id for task, _ in plan_push([_question("a", ask="new")], [_task(3, "a", "m")], "m").retell] == [3]
    assert plan_push([_question("a", ask="new")], [_task(3, "a", "m", worked_on=True)], "m").done
    assert not plan_push([_question("a", ask="new", kinds="conflict")], [_task(3, "a", "m", worked_on=True)], "m").done
    assert not plan_push([_question("a")], [_task(3, "a", "m", worked_on=True, ask="old", kinds="conflict")], "m").done


def test_a_settled_conflict_that_no_round_asks_about_is_no_longer_told():
    task = _task(3, "a", "m", worked_on=True, ask="Conflict: decide between annotations 7, 9", kinds="conflict", score=None, round=0, rank=0)
    ((told, data),) = plan_push([], [task, _task(4, "b", "m", kinds="missed 1", ask="Round 1: look")], "m").retell
    assert (told.task_id, data["ask"], data["kinds"]) == (3, "", "")
    assert plan_push([], [ServerTask(3, "a", {**task.data, **data}, True, task.predictions)], "m").done


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ((), "its labels from files disagree or cannot be used"),
        (("7",), "annotation 7 cannot be used"),
        (("7", "9"), "decide between annotations 7, 9"),
    ],
    ids=["files", "one", "two"],
)
def test_a_conflict_says_what_is_to_be_done(ids: tuple[str, ...], said: str):
    label = Annotation("a", "conflict", 100, 80, (), "team", ("1",), ids)
    assert f"Conflict: {said}" in open_questions([], [label], {"a": IMAGE}).items[0].data["ask"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.lists(st.sampled_from(["m", "old"]), max_size=3)), max_size=8))
def test_what_a_plan_leaves_needs_no_second_plan(rows: list[tuple[str, bool, list[str]]]):
    questions = [_question(image_id) for image_id in "abc"]
    tasks = [_task(number, image_id, *versions, worked_on=worked) for number, (image_id, worked, versions) in enumerate(rows, start=1)]
    plan = plan_push(questions, tasks, "m")
    relabeled = {task_id for task_id, _ in plan.relabel}
    after = [
        ServerTask(
            task.task_id,
            task.image_id,
            task.data,
            task.worked_on,
            ((999, "m"),) if task.task_id in relabeled else tuple(item for item in task.predictions if item[0] not in plan.extra_predictions),
        )
        for task in tasks
        if task.task_id not in plan.delete
    ]
    after += [_task(100 + number, item.image_id, "m") for number, item in enumerate(plan.create)]
    assert plan_push(questions, after, "m").done
    assert {task.image_id for task in after} == set("abc")
    assert {task.task_id for task in tasks if task.worked_on} <= {task.task_id for task in after}


def _row(image_id: str, number: int, rank: int) -> dict[str, Any]:
    return {"round": number, "rank": rank, "image_id": image_id, "actions": ["look"], "reasons": ["1 missed"], "kinds": {"missed": 1}, "score": 0.5}


def _label(image_id: str, state: Any, boxes: int = 0) -> Annotation:
    return Annotation(image_id, state, 100, 80, tuple(Box("bolt", (0.0, 0.0, 10.0 + n, 10.0)) for n in range(boxes)), "team", ("1", "2"), ("7", "9"))


def test_questions_conflicts_first_then_the_newest_round():
    rows = [_row("a", 1, 1), _row("b", 1, 2), _row("b", 2, 1), _row("gone", 2, 2), _row("c", 1, 3)]
    found = open_questions(rows, [_label("c", "conflict"), _label("a", "labeled", 1)], dict.fromkeys("abc", IMAGE))
    assert [item.image_id for item in found.items] == ["c", "b", "a"]
    assert found.not_kept == ("gone",)
    conflict, fresh = found.items[0].data, found.items[1].data
    assert conflict["ask"] == "Conflict: decide between annotations 7, 9. Round 1: look (missed 1; score 0.500)"
    assert (conflict["kinds"], fresh["kinds"], fresh["round"]) == ("conflict, missed 1", "missed 1", 2)


def test_loss_counts_boxes_and_empty_images_and_no_gain_makes_up_for_it():
    before = [_label("a", "labeled", 8), _label("b", "verified_empty"), _label("c", "labeled", 1), _label("d", "conflict")]
    require_few_lost(before, before, 0.0)
    require_few_lost([], [], 0.0)
    after = [_label("a", "labeled", 7), _label("b", "labeled", 9), _label("c", "labeled", 1)]
    require_few_lost(before, after, 0.1)
    with pytest.raises(DataError, match=r"1 of 10 labels would vanish on 1 images.*--accept-loss.*a loses 1"):
        require_few_lost(before, after, 0.09)
    with pytest.raises(DataError, match="8 of 10 labels"):
        require_few_lost(before, [_label("a", "conflict"), *before[1:]], 0.5)


def test_the_configuration_is_that_of_the_contract_and_stays_when_a_class_is_added():
    old, new = (ET.fromstring(config_from_classes(names)) for names in (["bolt", "nut & co"], ["bolt", "nut & co", "washer"]))
    first, second = ([dict(item.attrib) for item in root.iter("Label")] for root in (old, new))
    assert second[:2] == first
    assert [item["value"] for item in second] == ["bolt", "nut & co", "washer"]
    assert [item["hotkey"] for item in second] == ["1", "2", "3"]
    assert len({colour(number) for number in range(100)}) == 100
    config = read_config(config_from_classes(["bolt", "nut"]), "here")
    assert (config.from_name, config.to_name, config.labels, differences(config, ["bolt", "nut"], CLASS_OF)) == (
        "label",
        "image",
        ("bolt", "nut"),
        (),
    )


@pytest.mark.parametrize(
    ("labels", "image", "said"),
    [
        ("bolt nut", "image", ()),
        ("screw nut", "image", ()),
        ("bolt", "image", ("it lacks the label nut",)),
        ("nut bolt gear", "image", ("its label gear is no class",)),
        ("bolt nut", "url", ("it shows the image $url, wanted $image",)),
    ],
)
def test_differences(labels: str, image: str, said: tuple[str, ...]):
    buttons = "".join(f'<Label value="{label}"/>' for label in labels.split())
    xml = f'<View><Image name="i" value="${image}"/><RectangleLabels name="l" toName="i">{buttons}</RectangleLabels></View>'
    assert differences(read_config(xml, "here"), ["bolt", "nut"], CLASS_OF) == said


def test_an_alias_stands_for_its_class_only_where_the_name_is_missing():
    xml = '<View><Image name="i" value="$image"/><RectangleLabels name="l" toName="i">{}</RectangleLabels></View>'
    both = read_config(xml.format('<Label value="screw"/><Label value="bolt"/>'), "here")
    assert both.label_of(CLASS_OF) == {"bolt": "bolt"}
    assert read_config(xml.format('<Label value="screw"/>'), "here").label_of(CLASS_OF) == {"bolt": "screw"}


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<View", "is not XML"),
        ("<View></View>", "0 RectangleLabels"),
        ('<View><Text name="t" value="$t"/><RectangleLabels name="l" toName="t"/></View>', "is no Image"),
    ],
)
def test_configurations_that_cannot_be_used(xml: str, message: str):
    with pytest.raises(DataError, match=message):
        read_config(xml, "here")
