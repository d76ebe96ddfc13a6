"""Stage label_sync: resolution, policies, states, refusals, canonical output. Expected values are worked out by hand."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.cli import run_guarded
from pipelines.core.io import read_jsonl, write_json, write_jsonl
from pipelines.core.records import read_annotations, row_from_annotation, write_manifest
from pipelines.core.tables import MANIFEST_SCHEMA
from pipelines.core.types import Annotation, Box
from pipelines.formats.labelstudio import annotation_from_boxes, read_tasks, task_from_annotations
from pipelines.formats.reading import Problem, ReadBox
from pipelines.labeling.agreement import agreement, consensus_boxes, match_boxes
from pipelines.labeling.memory import Memory
from pipelines.labeling.opinions import Opinion, Policies, Verdict, judge
from pipelines.labeling.resolve import resolve
from pipelines.labeling.sources import Sources, row_with_problems, source_from_tasks
from pipelines.labeling.sync import IMAGES, sync
from pipelines.stages.label_sync import work

ROOT = Path(__file__).resolve().parents[1]
SIZE = (100, 80)
A, B, C = "a" * 64, "b" * 64, "c" * 64
POLICIES = Policies({"bolt": "bolt", "screw": "bolt", "nut": "nut"})
BOLT = Box("bolt", (10.0, 10.0, 30.0, 30.0))
NUT = Box("nut", (50.0, 40.0, 70.0, 60.0))
PARAMS = "classes: [{name: bolt, aliases: [screw]}, {name: nut}]\n"


def _opinion(*boxes: Box, **more: Any) -> Opinion:
    reads = tuple(ReadBox(box, f"box {number}") for number, box in enumerate(boxes, start=1))
    return replace(Opinion("team", A, "labeled" if boxes else "verified_empty", reads, sizes_wh=(SIZE,)), **more)


def _verdict(*boxes: Box, day: int | None = None, who: str = "1", **more: Any) -> Verdict:
    at = None if day is None else f"2026-01-{day:02d}T00:00:00Z"
    return judge(_opinion(*boxes, annotated_at=at, annotators=(who,), annotation_ids=(f"{who}-{day}",), **more), SIZE, POLICIES)


# Policies


def test_an_opinion_without_regions_is_verified_empty():
    assert judge(_opinion(), SIZE, POLICIES).state == "verified_empty"


@pytest.mark.parametrize(
    ("xyxy", "kind", "action", "left"),
    [
        ((5, 5, 5, 9), "zero_area_box", "dropped", None),
        ((9, 5, 5, 9), "zero_area_box", "dropped", None),
        ((100, 5, 120, 9), "outside_image", "dropped", None),
        ((-3, 5, 20, 90), "past_edge", "clipped", (0, 5, 20, 80)),
        ((5, 5, 5.9, 30), "small_box", "dropped", None),
        ((0, 0, 100.05, 80), None, None, (0, 0, 100, 80)),
    ],
    ids=["no area", "turned over", "outside", "past the edge", "thin", "rounding at the edge"],
)
def test_geometry(xyxy: tuple[float, float, float, float], kind: str | None, action: str | None, left: tuple[float, ...] | None):
    verdict = judge(_opinion(BOLT, Box("nut", xyxy)), SIZE, POLICIES)
    assert [box.xyxy for box in verdict.boxes[1:]] == ([] if left is None else [left])
    assert [(item.kind, item.action) for item in verdict.issues] == ([] if kind is None else [(kind, action)])


def test_past_edge_drop():
    verdict = judge(_opinion(BOLT, Box("nut", (90, 5, 120, 30))), SIZE, replace(POLICIES, past_edge="drop"))
    assert verdict.boxes == (BOLT,)
    assert [(item.kind, item.action) for item in verdict.issues] == [("past_edge", "dropped")]


@pytest.mark.parametrize(("policy", "action", "kept"), [("drop", "dropped", ()), ("bounding_box", "bounding_box", (NUT,))])
def test_rotated_boxes(policy: str, action: str, kept: tuple[Box, ...]):
    opinion = replace(_opinion(BOLT), boxes=(ReadBox(BOLT, "r1"), ReadBox(NUT, "r2", 30)), problems=(Problem("rotated", "r2", "30"),))
    verdict = judge(opinion, SIZE, replace(POLICIES, rotated=policy))
    assert verdict.boxes == (BOLT, *kept)
    assert [(item.kind, item.action) for item in verdict.issues] == [("rotated", action)]


def test_aliases_and_equal_boxes():
    screw = replace(BOLT, class_name="screw")
    verdict = judge(_opinion(screw, BOLT), SIZE, POLICIES)
    assert (verdict.boxes, dict(verdict.alias_uses)) == ((BOLT,), {"screw": 1})
    assert [(item.kind, item.action) for item in verdict.issues] == [("duplicate_box", "dropped")]


def test_an_image_whose_boxes_were_all_dropped_is_not_empty():
    for opinion in (_opinion(Box("bolt", (5, 5, 5, 5))), _opinion(state="labeled", problems=(Problem("polygon", "r1", ""),))):
        verdict = judge(opinion, SIZE, POLICIES)
        assert (verdict.state, verdict.reason) == ("conflict", "all_boxes_dropped")
        assert verdict.issues[-1].action == "conflict"


def test_labels_of_another_size_are_not_used():
    verdict = judge(_opinion(BOLT, sizes_wh=((80, 100),)), SIZE, POLICIES)
    assert (verdict.state, verdict.reason, verdict.boxes) == ("conflict", "size_mismatch", ())


# Resolution


def test_latest_takes_the_newest_and_not_the_first():
    label = resolve([_verdict(NUT, day=3), _verdict(BOLT, day=2)], "latest", 0.5)
    assert (label.state, label.boxes, label.annotated_at) == ("labeled", (NUT,), "2026-01-03T00:00:00Z")


def test_latest_is_skipped_when_the_newest_is_a_skip():
    skip = _verdict(BOLT, day=4, state="skipped")
    assert resolve([_verdict(NUT, day=3), skip], "latest", 0.5).state == "skipped"
    assert resolve([_verdict(NUT, day=5), skip], "latest", 0.5).boxes == (NUT,)


def test_points_in_time_are_compared_and_not_texts():
    early, late = _opinion(BOLT, annotated_at="2026-01-02T01:00:00+05:00"), _opinion(NUT, annotated_at="2026-01-01T23:00:00Z")
    assert resolve([judge(early, SIZE, POLICIES), judge(late, SIZE, POLICIES)], "latest", 0.5).boxes == (NUT,)


def test_the_same_time_and_other_content_is_a_conflict():
    label = resolve([_verdict(NUT, who="1"), _verdict(BOLT, who="2")], "latest", 0.5)
    assert (label.state, label.reason, label.boxes, len(label.used)) == ("conflict", "same_time", (), 2)
    assert resolve([_verdict(NUT, who="1"), _verdict(NUT, who="2")], "latest", 0.5).boxes == (NUT,)


def test_consensus_is_the_mean_of_boxes_that_agree():
    # IoU of (10, 10, 30, 30) and (12, 10, 32, 30): 18 x 20 over 22 x 20 = 0.818
    moved = Box("bolt", (12.0, 10.0, 32.0, 30.0))
    label = resolve([_verdict(BOLT, NUT, day=1), _verdict(NUT, moved, day=2, who="2")], "consensus", 0.5)
    assert (label.state, set(label.boxes)) == ("labeled", {Box("bolt", (11.0, 10.0, 31.0, 30.0)), NUT})
    assert label.annotated_at == "2026-01-02T00:00:00Z"
    assert resolve([_verdict(BOLT), _verdict(moved, who="2")], "consensus", 0.9).reason == "disagreement"


@pytest.mark.parametrize("other", [(), (NUT,), (BOLT, NUT), (replace(BOLT, class_name="nut"),)], ids=["empty", "elsewhere", "one more", "class"])
def test_consensus_without_agreement_is_a_conflict(other: tuple[Box, ...]):
    label = resolve([_verdict(BOLT, day=1), _verdict(*other, day=2, who="2")], "consensus", 0.5)
    assert (label.state, label.reason, len(label.used)) == ("conflict", "disagreement", 2)


def test_consensus_counts_one_vote_a_person_and_none_for_a_skip():
    label = resolve([_verdict(BOLT, day=1), _verdict(NUT, day=2), _verdict(day=3, who="2", state="skipped")], "consensus", 0.5)
    assert (label.state, label.boxes) == ("labeled", (NUT,))
    assert resolve([_verdict(day=1), _verdict(day=2, who="2")], "consensus", 0.5).state == "verified_empty"
    assert resolve([_verdict(day=1, state="skipped")], "consensus", 0.5).state == "skipped"


def test_ground_truth_beats_newer_annotations_and_without_it_people_must_agree():
    marked = _verdict(BOLT, day=1, ground_truth=True)
    assert resolve([marked, _verdict(NUT, day=2, who="2")], "ground_truth", 0.5).boxes == (BOLT,)
    assert resolve([_verdict(BOLT, day=1), _verdict(NUT, day=2, who="2")], "ground_truth", 0.5).state == "conflict"
    assert resolve([_verdict(BOLT, day=1), _verdict(BOLT, day=2, who="2")], "ground_truth", 0.5).boxes == (BOLT,)


def test_between_sources_the_newest_wins_and_a_label_without_a_date_is_oldest():
    old, new, undated = _verdict(BOLT, day=1, source="x"), _verdict(NUT, day=2, source="y"), _verdict(source="z")
    assert resolve([old, new, undated], "consensus", 0.5).used == (new,)
    label = resolve([_verdict(BOLT, source="x"), _verdict(NUT, source="y")], "latest", 0.5)
    assert (label.state, label.reason, label.source) == ("conflict", "sources_disagree", "x+y")


@pytest.mark.parametrize("how", ["latest", "consensus", "ground_truth"])
def test_the_order_of_annotations_does_not_matter(how: str):
    verdicts = [_verdict(BOLT, NUT, day=1), _verdict(BOLT, day=1, who="2"), _verdict(NUT, BOLT, day=1, who="3"), _verdict(NUT, day=1, source="old")]
    lines = {repr(resolve(order, how, 0.5).annotation(A, SIZE)) for order in permutations(verdicts)}
    assert len(lines) == 1


# Agreement


def test_matching_takes_the_best_pair_first():
    a, b, c = (Box("bolt", (x, 0.0, x + 10, 10.0)) for x in (0.0, 2.0, 3.0))
    # IoU of boxes 10 wide, s apart: (10 - s) / (10 + s): a-b 8/12, a-c 7/13, b-c 9/11
    assert match_boxes([a, b], [c], 0.5, same_class=True) == [(1, 0, pytest.approx(9 / 11))]
    assert match_boxes([], [c], 0.5, same_class=True) == []


def test_three_versions_must_all_overlap():
    a, b, c = (Box("bolt", (x, 0.0, x + 10, 10.0)) for x in (0.0, 2.0, 4.0))
    # a-c is 6/14 = 0.43
    assert consensus_boxes([[b], [a], [c]], 0.5) is None
    assert consensus_boxes([[b], [a], [c]], 0.4) == (Box("bolt", (2.0, 0.0, 12.0, 10.0)),)


def test_agreement_by_hand():
    a, b = Box("bolt", (0.0, 0.0, 10.0, 10.0)), Box("nut", (2.0, 0.0, 12.0, 10.0))
    found = agreement([[a, BOLT], [b]])
    assert (found.mean_iou, found.matched, found.same_class) == (pytest.approx(8 / 12 / 2), 1, 0)
    assert agreement([[], []]).mean_iou == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40), st.integers(1, 40), st.integers(1, 40)), max_size=6), st.floats(0.01, 1))
def test_everyone_agrees_with_himself(rows: list[tuple[int, int, int, int]], min_iou: float):
    boxes = [Box("bolt", (float(x), float(y), float(x + w), float(y + h))) for x, y, w, h in rows]
    assert sorted(item.xyxy for item in consensus_boxes([boxes, boxes[::-1]], min_iou) or ()) == sorted(item.xyxy for item in boxes)
    assert agreement([boxes, boxes[::-1]]).mean_iou == pytest.approx(1)


# The stage


class Done(NamedTuple):
    returncode: int
    stderr: str
    stdout: str


class Project:
    """A folder with a manifest of three images (C was dropped) and a way to run the stage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources = folder / "sources"
        self.sources.mkdir()
        row: dict[str, Any] = dict.fromkeys(MANIFEST_SCHEMA)
        kept = {"status": "kept", "width_px": SIZE[0], "height_px": SIZE[1]}
        rows = [
            row | {"origin": "in/a.jpg", "image_id": A} | kept,
            row | {"origin": "in/a2.jpg", "image_id": A, "status": "dropped", "reason": "exact_duplicate", "duplicate_of": A},
            row | {"origin": "in/b.jpg", "image_id": B} | kept,
            row | {"origin": "in/c.jpg", "image_id": C, "status": "dropped", "reason": "too_dark"},
        ]
        write_manifest(folder / "manifest.parquet", pl.DataFrame(rows, schema=MANIFEST_SCHEMA))

    def run(self, labeling: str = "") -> Done:
        (self.folder / "params.yaml").write_text(PARAMS + (f"labeling: {{{labeling}}}\n" if labeling else ""))
        names = {"params": "params.yaml", "sources": "sources", "queue": "queue", "manifest": "manifest.parquet", "raw": "raw"}
        names |= {"predictions": "predictions", "cache": "work/tasks.jsonl", "work": "work"}
        names |= {"annotations": "out/annotations.jsonl", "issues": "out/issues.jsonl", "metrics": "out/labels.json"}
        args = argparse.Namespace(**{name: self.folder / path for name, path in names.items()})
        errors, output = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
            status = run_guarded(lambda: work(args))
        return Done(status, errors.getvalue(), output.getvalue())

    def outputs(self) -> tuple[list[Annotation], list[dict[str, Any]], dict[str, Any]]:
        out = self.folder / "out"
        return read_annotations(out / "annotations.jsonl"), read_jsonl(out / "issues.jsonl"), json.loads((out / "labels.json").read_text())

    def task(self, number: int, image_id: str | None, *annotations: dict[str, Any]) -> dict[str, Any]:
        task = task_from_annotations(number, image_id or "", f"/data/{number}.jpg", annotations)
        return task | {"data": {"image": task["data"]["image"]}} if image_id is None else task


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def _by(annotation_id: int, boxes: list[Box], day: int, who: int = 1, **more: Any) -> dict[str, Any]:
    return annotation_from_boxes(boxes, SIZE, annotation_id, who, f"2026-01-{day:02d}T00:00:00Z", **more)


def test_no_labels_at_all(project: Project):
    assert project.run().returncode == 0
    annotations, issues, metrics = project.outputs()
    assert (annotations, issues) == ([], [])
    assert (metrics["images"], metrics["unlabeled_images"]) == (2, 2)


def test_what_lies_among_the_sources_and_is_none_is_said(project: Project):
    """An export in another format, one in a folder, a label of an image that collect dropped: none of them becomes a label."""
    write_json(project.sources / "team.json", [project.task(1, A, _by(11, [BOLT], 1)), project.task(2, C, _by(12, [BOLT], 1))])
    assert project.run().stdout.endswith("1 issue; 1 label of images that are not there\n")
    (project.sources / "export.zip").write_bytes(b"PK")
    (project.sources / "deep").mkdir()
    write_json(project.sources / "deep/team.json", [])
    said = project.run().stdout
    assert said.endswith("; 1 label of images that are not there; not read: deep; export.zip (a source is a file NAME.json or NAME.jsonl)\n")


def test_a_team_and_an_import(project: Project):
    flat = Box("nut", (7.0, 7.0, 7.0, 7.0))
    over = Box("screw", (90.0, 10.0, 120.0, 30.0))
    tasks = [
        project.task(1, A, _by(11, [BOLT], 1), _by(12, [over, flat], 2, who=2)),
        project.task(2, B) | {"drafts": [{"result": []}], "predictions": [{"result": []}, {"result": []}]},
        project.task(3, C, _by(13, [BOLT], 1)),
        project.task(4, "d" * 64, _by(14, [BOLT], 1)),
        project.task(5, None, _by(15, [BOLT], 1)),
    ]
    write_json(project.sources / "team.json", tasks)
    write_jsonl(project.sources / "old.jsonl", [row_with_problems(Annotation(image_id, "labeled", *SIZE, (NUT,), "old"), ()) for image_id in (A, B)])
    (project.sources / "readme.txt").write_text("x")
    (project.sources / ".gitignore").write_text("x")
    done = project.run()
    assert done.returncode == 0, done.stderr
    annotations, issues, metrics = project.outputs()
    assert annotations == [
        Annotation(A, "labeled", *SIZE, (Box("bolt", (90.0, 10.0, 100.0, 30.0)),), "team", ("2",), ("12",), "2026-01-02T00:00:00Z"),
        Annotation(B, "labeled", *SIZE, (NUT,), "old"),
    ]
    assert {(item["source"], item["annotation_id"], item["kind"], item["action"]) for item in issues} == {
        ("team", "11", "superseded", "not_used"),
        ("team", "12", "past_edge", "clipped"),
        ("team", "12", "zero_area_box", "dropped"),
        ("team", "13", "unmatched_image", "not_used"),
        ("team", "14", "unmatched_image", "not_used"),
        ("team", "15", "no_image_id", "not_used"),
        ("old", "", "superseded", "not_used"),
    }
    assert metrics["states"] == {"labeled": 2, "verified_empty": 0, "skipped": 0, "conflict": 0}
    assert metrics["boxes_per_class"] == {"bolt": 1, "nut": 1}
    assert metrics["zero_area_boxes"] == [{"origin": "in/a.jpg", "image_id": A, "class": "nut", "source": "team"}]
    assert (metrics["dropped"], metrics["altered"], metrics["alias_uses"]) == ({"zero_area_box": 1}, {"past_edge": 1}, {"screw": 1})
    assert (metrics["unmatched"]["count"], metrics["superseded"], metrics["unlabeled_images"]) == (3, 2, 0)
    assert "too_dark" in " ".join(item["detail"] for item in metrics["unmatched"]["first"])
    assert metrics["not_labels"] == {"unlabeled_tasks": 1, "drafts": 1, "predictions": 2}
    assert metrics["annotators"] == {"1": 1, "2": 1}
    assert metrics["other_files"] == ["readme.txt"]


def test_states_are_kept_apart(project: Project):
    polygon = _by(12, [BOLT], 1)
    polygon["result"][0]["type"] = "polygonlabels"
    write_json(project.sources / "team.json", [project.task(1, A, _by(11, [], 1)), project.task(2, B, polygon)])
    assert project.run().returncode == 0
    annotations, issues, metrics = project.outputs()
    assert [(item.image_id, item.state, item.boxes) for item in annotations] == [(A, "verified_empty", ()), (B, "conflict", ())]
    assert {(item["kind"], item["action"]) for item in issues} == {
        ("polygon", "dropped"),
        ("all_boxes_dropped", "conflict"),
        ("conflict", "conflict"),
    }
    assert metrics["conflicts"] == {"all_boxes_dropped": 1}


def test_a_conflict_lists_both_versions_and_agreement_is_measured(project: Project):
    moved = Box("bolt", (12.0, 10.0, 32.0, 30.0))
    tasks = [project.task(1, A, _by(11, [BOLT], 1), _by(12, [NUT], 2, who=2)), project.task(2, B, _by(13, [BOLT], 1), _by(14, [moved], 2, who=2))]
    write_json(project.sources / "team.json", tasks)
    assert project.run("resolve: consensus").returncode == 0
    annotations, issues, metrics = project.outputs()
    assert [(item.state, item.annotation_ids) for item in annotations] == [("conflict", ("11", "12")), ("labeled", ("13", "14"))]
    (conflict,) = issues
    assert conflict["annotation_id"] == "11,12"
    assert "team:11 says labeled [bolt [10.0, 10.0, 30.0, 30.0]]" in conflict["detail"]
    assert "team:12 says labeled [nut [50.0, 40.0, 70.0, 60.0]]" in conflict["detail"]
    # image A: nothing overlaps, 0; image B: 18 x 20 over 22 x 20
    assert metrics["several_annotations"] == {"images": 2, "mean_iou": pytest.approx(18 / 22 / 2, abs=1e-6), "class_agreement": 1.0}


def test_same_content_same_bytes(project: Project):
    tasks = [project.task(1, A, _by(11, [BOLT, NUT], 1), _by(12, [NUT, BOLT], 1, who=2)), project.task(2, B, _by(13, [NUT], 1))]
    write_json(project.sources / "team.json", tasks)
    assert project.run().returncode == 0
    names = ("annotations.jsonl", "issues.jsonl", "labels.json")
    first = [(project.folder / "out" / name).read_bytes() for name in names]
    shuffled = [task | {"annotations": task["annotations"][::-1]} for task in tasks[::-1]]
    write_json(project.sources / "team.json", shuffled)
    assert project.run().returncode == 0
    assert [(project.folder / "out" / name).read_bytes() for name in names] == first


def test_the_stage_runs_as_a_module_and_starts_nothing_heavy(project: Project):
    (project.folder / "params.yaml").write_text(PARAMS)
    paths = (
        "params.yaml",
        "sources",
        "queue",
        "manifest.parquet",
        "raw",
        "predictions",
        "cache",
        "work",
        "annotations.jsonl",
        "issues.jsonl",
        "labels.json",
    )
    options = [text for path in paths for text in (f"--{path.partition('.')[0].replace('labels', 'metrics')}", str(project.folder / path))]
    command = [sys.executable, "-X", "importtime", "-m", "pipelines.stages.label_sync", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "polars" in imported  # the list is really there
    assert not {name for name in imported if name.partition(".")[0] in ("torch", "cv2", "PIL", "label_studio_sdk", "requests", "httpx")}
    assert "2 unlabeled" in done.stdout


@pytest.mark.parametrize(
    ("content", "labeling", "message"),
    [
        ([{"id": 1}], "", "team.json task 0 has no `data` or no `annotations`: export the project again"),
        ("unknown class", "", "26 labels have a class that params.yaml lacks (it has ['bolt', 'nut', 'screw']): add the class or an alias"),
        ("no ids", "", "detloop import"),
        ("bad date", "", "has the date 'yesterday', wanted ISO 8601"),
        ([], "source: label_studio", "LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY not set"),
        ([], "resolve: newest", "labeling.resolve = 'newest'"),
    ],
    ids=["other JSON", "unknown class", "no image_id", "date", "server", "params"],
)
def test_what_is_refused_leaves_the_snapshot(project: Project, monkeypatch: pytest.MonkeyPatch, content: Any, labeling: str, message: str):
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    write_json(project.sources / "team.json", [project.task(1, A, _by(11, [BOLT], 1))])
    assert project.run().returncode == 0
    before = (project.folder / "out/annotations.jsonl").read_bytes()
    tasks = {
        "unknown class": [project.task(1, A, _by(11, [Box(f"gear{number}", BOLT.xyxy) for number in range(26)], 1))],
        "no ids": [project.task(1, None, _by(11, [BOLT], 1))],
        "bad date": [project.task(1, A, _by(11, [BOLT], 1) | {"updated_at": "yesterday"})],
    }
    write_json(project.sources / "team.json", tasks[content] if isinstance(content, str) else content)
    done = project.run(labeling)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    if content == "unknown class":
        assert done.stderr.count("gear") == 20
        assert "and 6 more" in done.stderr
    assert (project.folder / "out/annotations.jsonl").read_bytes() == before


def _annotation_line(image_id: object, xyxy: list[object]) -> str:
    known = row_from_annotation(Annotation(A, "labeled", *SIZE, (BOLT,), "old"))
    return json.dumps(known | {"image_id": image_id, "boxes": [{"class": "bolt", "xyxy": xyxy}]})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "line 1 is not an annotation line"),
        ("x", "line 1 is not JSON"),
        ("\n \n{}", "line 3 is not an annotation line"),
        ('{"state": "labeled"}', "line 1 is not an annotation line"),
        (_annotation_line(7, [0, 0, 9, 9]), "line 1 is not an annotation line"),
        (_annotation_line(A, ["left", 0, 9, 9]), "line 1 is not an annotation line (TypeError('a corner that is no number')"),
        (_annotation_line(A, [float("nan"), 0, 9, 9]), "line 1 is not an annotation line (TypeError('a corner that is no number')"),
    ],
    ids=["nothing", "no JSON", "below empty lines", "a part", "another id", "a word", "NaN"],
)
def test_a_broken_line_is_named(project: Project, line: str, message: str):
    (project.sources / "old.jsonl").write_text(line + "\n")
    done = project.run()
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert message in done.stderr


def test_two_files_of_one_name_are_refused(project: Project):
    (project.sources / "old.jsonl").write_text("")
    (project.sources / "old.json").write_text("[]")
    done = project.run()
    assert done.returncode == 2
    assert "a source has one file" in done.stderr


def test_a_missing_folder_is_named(project: Project):
    project.sources.rmdir()
    done = project.run()
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "run `detloop import` or `detloop sample`" in done.stderr


# Policies for regions that are no ordinary boxes


REGIONS: dict[str, dict[str, Any]] = {
    "polygon": {"type": "polygonlabels", "value": {"points": [[10, 10], [30, 10], [20, 40]], "polygonlabels": ["bolt"]}},
    "brush": {"type": "brushlabels", "value": {"format": "rle", "rle": [0, 1], "brushlabels": ["bolt"]}},
    "keypoint": {"type": "keypointlabels", "value": {"x": 5, "y": 5, "width": 1, "keypointlabels": ["bolt"]}},
    "rotated": {"type": "rectanglelabels", "value": {"x": 50, "y": 50, "width": 10, "height": 10, "rotation": 45, "rectanglelabels": ["bolt"]}},
    "past_edge": {"type": "rectanglelabels", "value": {"x": 90, "y": 50, "width": 20, "height": 10, "rectanglelabels": ["bolt"]}},
    "zero_area": {"type": "rectanglelabels", "value": {"x": 50, "y": 50, "width": 0, "height": 10, "rectanglelabels": ["bolt"]}},
    "unknown_class": {"type": "rectanglelabels", "value": {"x": 50, "y": 50, "width": 10, "height": 10, "rectanglelabels": ["gear"]}},
    "duplicate_region_id": {
        "id": "61-1",
        "type": "rectanglelabels",
        "value": {"x": 50, "y": 50, "width": 10, "height": 10, "rectanglelabels": ["nut"]},
    },
}
DROPS = ("polygon", "brush", "keypoint", "rotated", "past_edge", "zero_area", "unknown_class")


def _with_region(project: Project, kind: str, labeling: str) -> tuple[list[Annotation], list[dict[str, Any]], dict[str, Any]]:
    """An annotation of BOLT and one region of `kind`, on an image of 100 x 80."""
    annotation = _by(61, [BOLT], 1)
    annotation["result"].append({"id": "odd", "original_width": 100, "original_height": 80, "image_rotation": 0} | REGIONS[kind])
    write_json(project.sources / "team.json", [project.task(1, A, annotation)])
    done = project.run(labeling)
    assert done.returncode == 0, done.stderr
    return project.outputs()


@pytest.mark.parametrize("kind", DROPS)
def test_a_region_that_is_dropped_is_counted_and_listed(project: Project, kind: str):
    (label,), issues, metrics = _with_region(project, kind, f"{kind}: drop")
    name = "zero_area_box" if kind == "zero_area" else kind
    assert (label.state, label.boxes) == ("labeled", (BOLT,))
    assert metrics["dropped"] == {name: 1}
    assert [(item["annotation_id"], item["kind"], "region odd" in item["detail"]) for item in issues] == [("61", name, True)]


@pytest.mark.parametrize("kind", REGIONS)
def test_a_region_can_send_the_image_back_to_people(project: Project, kind: str):
    (label,), issues, metrics = _with_region(project, kind, f"{kind}: conflict")
    name = "zero_area_box" if kind == "zero_area" else kind
    assert (label.state, label.boxes) == ("conflict", ())
    assert metrics["conflicts"] == {name: 1}
    assert {item["kind"] for item in issues} == {name, "conflict"}


@pytest.mark.parametrize(
    ("kind", "policy", "box"),
    [
        ("polygon", "bounding_box", Box("bolt", (10.0, 8.0, 30.0, 32.0))),  # of 100 x 80
        ("past_edge", "clip", Box("bolt", (90.0, 40.0, 100.0, 48.0))),
        ("duplicate_region_id", "keep", Box("nut", (50.0, 40.0, 60.0, 48.0))),
        # 10 x 8 px turned by 45 degrees about (50, 40): from 8 sin 45 to the left to (10 + 8) sin 45 below
        ("rotated", "bounding_box", Box("bolt", (44.343, 40.0, 57.071, 52.728))),
    ],
)
def test_a_region_can_be_used_all_the_same(project: Project, kind: str, policy: str, box: Box):
    (label,), issues, _ = _with_region(project, kind, f"{kind}: {policy}")
    assert set(label.boxes) == {BOLT, box}
    assert [item["kind"] for item in issues] == [kind]


def test_an_unknown_class_around_a_polygon_is_refused_as_well(project: Project):
    annotation = _by(61, [BOLT], 1)
    odd = {"id": "odd", "original_width": 100, "original_height": 80} | REGIONS["polygon"]
    annotation["result"].append(odd | {"value": odd["value"] | {"polygonlabels": ["gear"]}})
    write_json(project.sources / "team.json", [project.task(1, A, annotation)])
    assert "'gear'" in project.run("polygon: bounding_box").stderr


@pytest.mark.parametrize(
    "name", ["test_export_coco/data.json", "test_export_yolo/data.json", "test_export_doclang/data.json", "test_export_csv/csv_test.json"]
)
def test_of_real_exports_every_record_is_used_or_listed(shared: Path, tmp_path: Path, name: str):
    raw = json.loads((shared / "data/label_studio_exports/sdk_converter" / name).read_bytes())
    regions: dict[str, int] = {}
    kept: dict[str, tuple[int, int]] = {}
    for number, task in enumerate(raw):
        task["data"]["image_id"] = image_id = f"{number:064x}"
        for annotation in task["annotations"]:
            rows = [row for row in annotation["result"] if row["type"] not in ("relation", "choices", "textarea")]
            regions[str(annotation["id"])] = 0 if annotation.get("was_cancelled") else len(rows)
            sizes = [(row["original_width"], row["original_height"]) for row in rows if row.get("original_width")]
            kept[image_id] = sizes[0] if sizes else kept.get(image_id, (100, 100))
    policies = replace(POLICIES, class_of={"rectangle_label": "a", "text": "b"}, unknown_class="drop")
    images = pl.DataFrame([(f"{name}.jpg", name, "kept", None, *size) for name, size in kept.items()], schema=IMAGES, orient="row")
    sources = Sources((source_from_tasks(read_tasks(raw, name), "real", name),))
    done = sync(sources, images, ("a", "b"), policies, "latest", 0.5, Memory(tmp_path, "rules"))
    used = {number for item in done.annotations for number in item.annotation_ids}
    listed = {item.annotation_id for item in done.issues if item.kind == "superseded"}
    assert used | listed == set(regions)
    assert not used & listed
    for item in done.annotations:
        (number,) = item.annotation_ids
        lost = [issue for issue in done.issues if issue.annotation_id == number and issue.action == "dropped"]
        assert len(item.boxes) + len(lost) == regions[number]
