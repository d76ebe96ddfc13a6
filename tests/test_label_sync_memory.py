"""What label_sync remembers changes nothing: a sync after any edits gives the bytes of one that knows nothing."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.core.cli import run_guarded
from pipelines.core.errors import DataError
from pipelines.core.growing import MAX_PARTS
from pipelines.core.io import write_json, write_jsonl
from pipelines.core.records import write_manifest
from pipelines.core.tables import MANIFEST_SCHEMA
from pipelines.core.types import Annotation, Box
from pipelines.formats.labelstudio import annotation_from_boxes, prediction_from_boxes, task_from_annotations
from pipelines.formats.reading import Problem
from pipelines.labeling import memory as memory_module
from pipelines.labeling.memory import ISSUES_SCHEMA, OUTCOMES_SCHEMA, Memory
from pipelines.labeling.sources import read_sources, row_with_problems
from pipelines.stages.label_sync import work

IDS = [f"{number:064x}" for number in range(12)]
SIZE = (100, 80)
CLASSES = ("bolt", "screw", "nut")  # a screw is a bolt
NEVER_NS = 10**15
OUTPUTS = ("annotations.jsonl", "issues.jsonl", "labels.json")


class World:
    """A folder of sources that changes at random."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        (folder / "sources").mkdir(parents=True)
        (folder / "queue").mkdir()
        self.params: dict[str, str] = {}
        for change in (self.lines, self.lines, self.export, self.manifest):
            change()

    def boxes(self) -> list[Box]:
        """Up to three boxes, some past the edge, without area, or twice."""
        rng = self.rng
        found = []
        for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
            x, y = rng.choice([-3, 1, 10, 40]), rng.choice([1, 10, 20])
            found.append(Box(rng.choice(CLASSES), (x, y, x + rng.choice([0, 20, 20, 20.5, 90]), y + rng.choice([20, 20, 70]))))
        return found

    def day(self) -> str:
        return f"2026-01-{self.rng.randrange(1, 6):02d}T00:00:00Z"

    def lines(self) -> None:
        """A file of lines written anew, or one line more in it."""
        rng = self.rng
        path = self.folder / "sources" / f"import{rng.randrange(3)}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() and rng.random() < 0.5 else []
        for image_id in rng.sample(IDS, rng.randrange(1, 5)):
            boxes = self.boxes()
            problems = (Problem("polygon", "line 3", "no box"),) if rng.random() < 0.2 else ()
            state = "labeled" if boxes or problems else rng.choice(["verified_empty", "skipped", "conflict"])
            size = SIZE if rng.random() < 0.9 else (80, 100)
            label = Annotation(image_id, state, *size, tuple(boxes), "old", ("ann",), (str(rng.randrange(99)),), rng.choice([None, self.day()]))  # type: ignore[arg-type]
            rows.append(row_with_problems(label, problems))
        write_jsonl(path, rows)

    def export(self) -> None:
        """A Label Studio export: several people, times, pre-labels, drafts, tasks without an image."""
        rng = self.rng
        tasks = []
        for number, image_id in enumerate(rng.sample(IDS, 6)):
            annotations = []
            for who in rng.sample([1, 2, 10], rng.randrange(3)):
                row = annotation_from_boxes(self.boxes(), SIZE, rng.randrange(1000), who, self.day(), rng.random() < 0.1, rng.random() < 0.3)
                if rng.random() < 0.6:
                    row |= {"lead_time": rng.randrange(900) / 10}
                if rng.random() < 0.5:
                    row |= {"prediction": prediction_from_boxes([(box, 0.9, box.class_name) for box in self.boxes()], SIZE, rng.choice(["v1", "v2"]))}
                if row["result"] and rng.random() < 0.2:
                    row["result"][0]["value"]["rotation"] = 30
                annotations.append(row)
            task = task_from_annotations(number, image_id, "a.jpg", annotations) | {"drafts": [{}] * rng.randrange(2)}
            tasks.append(task if number == 0 or rng.random() < 0.9 else task | {"data": {"image": "a.jpg"}})
        write_json(self.folder / "sources" / f"team{rng.randrange(2)}.json", tasks)

    def remove(self) -> None:
        """One source less."""
        path = self.rng.choice(sorted((self.folder / "sources").iterdir()))
        if path.suffix == ".jsonl":
            path.unlink()

    def manifest(self) -> None:
        """Other images kept, some of another size, some dropped."""
        rng = self.rng
        rows = []
        for image_id in rng.sample(IDS, rng.randrange(6, 12)):
            row = {**dict.fromkeys(MANIFEST_SCHEMA), "image_id": image_id, "origin": f"in/{image_id[-3:]}.jpg", "source": "in"}
            kept = {"status": "kept", "path": "images/x.jpg", "width_px": 100 if rng.random() < 0.9 else 120, "height_px": 80, "bytes": 1}
            rows.append(row | (kept if rng.random() < 0.8 else {"status": "dropped", "reason": rng.choice(["blurred", "too_dark"])}))
        write_manifest(self.folder / "manifest.parquet", pl.DataFrame(rows, schema=MANIFEST_SCHEMA))

    def rules(self) -> None:
        """Another policy."""
        choices = {
            "resolve": ["latest", "consensus", "ground_truth"],
            "past_edge": ["clip", "drop"],
            "rotated": ["drop", "bounding_box"],
            "min_box_side_px": ["1", "30"],
        }
        name = self.rng.choice(list(choices))
        self.params[name] = self.rng.choice(choices[name])

    def sync(self, memory: str) -> dict[str, bytes]:
        """The files that a sync writes with what the folder `memory` holds."""
        labeling = ", ".join(f"{name}: {value}" for name, value in self.params.items())
        text = f"classes: [{{name: bolt, aliases: [screw]}}, {{name: nut}}]\nlabeling: {{{labeling}}}\n"
        (self.folder / "params.yaml").write_text(text)
        names = {"params": "params.yaml", "sources": "sources", "queue": "queue", "manifest": "manifest.parquet", "raw": "raw"}
        names |= {"predictions": "predictions", "cache": f"{memory}/tasks.jsonl", "work": memory}
        names |= {name.partition(".")[0]: f"out/{name}" for name in OUTPUTS[:2]} | {"metrics": "out/labels.json"}
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            status = run_guarded(lambda: work(argparse.Namespace(**{name: self.folder / path for name, path in names.items()})))
        assert (status, errors.getvalue()) == (0, "")
        return {name: (self.folder / "out" / name).read_bytes() for name in OUTPUTS}


@pytest.mark.parametrize("seed", range(12))
def test_after_any_edits_a_sync_is_as_one_that_knows_nothing(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed % 2:
        monkeypatch.setattr(memory_module, "TRUSTED_AGE_NS", -NEVER_NS)  # sources are known by their stamps at once
    world = World(tmp_path, seed)
    changes: list[Callable[[], None]] = [world.lines, world.lines, world.export, world.remove, world.manifest, world.rules, lambda: None]
    seen = set()
    for step in range(10):
        found = world.sync("work")
        shutil.rmtree(tmp_path / "nothing", ignore_errors=True)
        assert found == world.sync("nothing"), f"step {step}"
        seen.add(found["labels.json"])
        world.rng.choice(changes)()
    assert len(seen) > 3, "the edits changed something"


def test_a_lost_or_torn_memory_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "TRUSTED_AGE_NS", -NEVER_NS)
    world = World(tmp_path, 0)
    before = world.sync("work")
    (folder,) = (path for path in (tmp_path / "work").iterdir() if path.is_dir())
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(whole) == 2 * len(list((tmp_path / "sources").iterdir())) + 2
    for name, content in whole.items():
        for left in (None, content[: len(content) // 2]):
            (folder / name).unlink() if left is None else (folder / name).write_bytes(left)
            assert world.sync("work") == before, name
            assert {path.name for path in folder.iterdir()} >= set(whole), "it is whole again"


def test_a_source_is_read_again_only_where_it_may_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where size, times and inode are those of before; an edit in place that keeps size and time of change is seen all the same."""
    world = World(tmp_path, 0)
    world.sync("work")
    assert not list((tmp_path / "work").glob("*/stamps.json"))  # the sources are too new to be known by their stamps
    monkeypatch.setattr(memory_module, "TRUSTED_AGE_NS", -NEVER_NS)
    row = json.loads(world.sync("work")["annotations.jsonl"].splitlines()[0])
    box = Box("nut", (1, 1, 30, 40))
    label = Annotation(row["image_id"], "labeled", row["width_px"], row["height_px"], (box,), "new", annotated_at="2027-01-01T00:00:00Z")
    source = tmp_path / "sources/later.jsonl"
    write_jsonl(source, [row_with_problems(label, ())])
    before = world.sync("work")
    stat = source.stat()
    reads: list[Path] = []
    whole = Path.read_bytes
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: (reads.append(path), whole(path))[1])
        assert world.sync("work") == before
    assert source not in reads
    lines = source.read_text()
    source.write_text(lines.replace("40", "41"))
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (source.stat().st_size, source.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert json.loads(world.sync("work")["annotations.jsonl"].splitlines()[0])["boxes"][0]["xyxy"] == [1, 1, 30, 41]


def test_what_was_judged_is_not_judged_again(tmp_path: Path) -> None:
    """The memory of the first sync is edited; the second tells so, and so does the one after an addition, of the old images alone."""
    world = World(tmp_path, 0)
    world.sync("work")
    (path,) = (tmp_path / "work").glob("*/outcomes-00000.arrow")
    pl.read_ipc(path).with_columns(pl.col("line").str.replace('"source":"[^"]*"', '"source":"remembered"')).write_ipc(path)
    rows = [json.loads(line) for line in world.sync("work")["annotations.jsonl"].splitlines()]
    assert {row["source"] for row in rows} == {"remembered"}
    label = Annotation(
        rows[0]["image_id"], "verified_empty", rows[0]["width_px"], rows[0]["height_px"], (), "new", annotated_at="2027-01-01T00:00:00Z"
    )
    write_jsonl(tmp_path / "sources/later.jsonl", [row_with_problems(label, ())])
    again = [json.loads(line) for line in world.sync("work")["annotations.jsonl"].splitlines()]
    assert [row["source"] for row in again] == ["later", *["remembered"] * (len(rows) - 1)]


def outcomes_of(keys: list[str]) -> pl.DataFrame:
    """An issue of the first one."""
    issue = {**dict.fromkeys(ISSUES_SCHEMA), "kind": "odd", "image_id": keys[0]}
    rows: list[dict[str, Any]] = [{"key": key, "image_id": key, "issues": [issue] if key == keys[0] else []} for key in keys]
    return pl.DataFrame(rows, schema=OUTCOMES_SCHEMA)


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """Outcomes that nobody asks for any more go when they are the most; the others stay."""
    memory = Memory(tmp_path, "rules")
    for part in range(3):
        keys = [f"{part}-{number}" for number in range(3000)]
        memory.add(outcomes_of(keys))
    memory.forget_others(pl.Series([f"2-{number}" for number in range(1000)]))
    for found in (memory, Memory(tmp_path, "rules")):
        assert set(found.outcomes["key"]) == {f"2-{number}" for number in range(1000)}
        assert found.issues["key"].to_list() == ["2-0"]
    assert not Memory(tmp_path, "other rules").outcomes.height


def test_many_small_syncs_are_put_together_now_and_then(tmp_path: Path) -> None:
    """Not at each sync: that would write everything again."""
    keys: list[str] = []
    segments = []
    for number in range(2 * MAX_PARTS + 10):
        memory = Memory(tmp_path, "rules")
        keys.append(f"image {number:04d}")
        memory.add(outcomes_of(keys[-1:]))
        memory.forget_others(pl.Series(keys))
        segments.append(len(list((tmp_path / "judged-rules").glob("outcomes-*.arrow"))))
    assert max(segments) == MAX_PARTS - 1
    assert segments.count(1) == 3  # the first, and two that put all together
    assert sorted(Memory(tmp_path, "rules").outcomes["key"]) == keys


def label_file(kind: str, class_name: str) -> bytes:
    """A label file of one image with one box."""
    box = Box(class_name, (1.0, 2.0, 30.0, 40.0))
    if kind == "json":
        task = task_from_annotations(1, IDS[0], "a.jpg", [annotation_from_boxes([box], SIZE, 1, 1, "2026-01-01T00:00:00Z")])
        return json.dumps([task]).encode()
    return json.dumps(row_with_problems(Annotation(IDS[0], "labeled", *SIZE, (box,), "old"), ())).encode() + b"\n"


class Replaced(Memory):
    """A memory beside which a label file is replaced, once its key was found."""

    def __init__(self, work: Path, path: Path, content: bytes) -> None:
        super().__init__(work, "rules")
        self._path, self._content = path, content

    def source(self, key: str) -> tuple[pl.DataFrame, dict[str, Any]] | None:
        known = super().source(key)
        self._path.write_bytes(self._content)
        return known


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_a_label_file_that_is_replaced_while_it_is_read_is_what_its_key_says(kind: str, tmp_path: Path) -> None:
    """Of an export the new content was remembered under the key of the old one, and came back with the old one, for good."""
    path = tmp_path / f"sources/team.{kind}"
    path.parent.mkdir()

    def classes(memory: Memory) -> list[str]:
        (source,) = read_sources(path.parent, memory).sources
        return [read.box.class_name for opinion in source.opinions([0]) for read in opinion.boxes]

    old, new = label_file(kind, "bolt"), label_file(kind, "nut")
    path.write_bytes(old)
    assert classes(Replaced(tmp_path / "work", path, new)) == ["bolt"]
    assert classes(Memory(tmp_path / "work", "rules")) == ["nut"]
    path.write_bytes(old)
    assert classes(Memory(tmp_path / "work", "rules")) == ["bolt"]
    keys: list[str] = []

    class ByStamp(Replaced):
        """One that knows the file by its stamp."""

        def key_of(self, path: Path, find: Callable[[], str]) -> str:
            if not keys:
                keys.append(super().key_of(path, find))
            return keys[0]

    assert classes(ByStamp(tmp_path / "work", path, old)) == ["bolt"]
    with pytest.raises(DataError, match="changed while it was read"):
        classes(ByStamp(tmp_path / "work", path, new))


def test_what_was_read_is_remembered_under_its_own_key(tmp_path: Path) -> None:
    """Not under one that the file's stamp stands for, which it may have lost since."""
    path = tmp_path / "sources/team.jsonl"
    path.parent.mkdir()
    path.write_bytes(label_file("jsonl", "nut"))
    of_stamp = "0" * 32

    class Known(Memory):
        """One that knows the file by its stamp, and has lost what it held."""

        def key_of(self, path: Path, find: Callable[[], str]) -> str:  # noqa: ARG002
            return of_stamp

    read_sources(path.parent, Known(tmp_path / "work", "rules"))
    assert Memory(tmp_path / "work", "rules").source(of_stamp) is None
