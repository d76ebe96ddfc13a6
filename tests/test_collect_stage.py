"""The collect stage as DVC runs it: whole folders in, raw images, manifest and metrics out; killed, repeated, changed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.collect.cache import MEASURED_SCHEMA, Cache
from pipelines.collect.listing import listing_beside
from pipelines.core.records import read_manifest
from tests.collect_runs import ROOT, collect, command, kill_at_random_moments, snapshot
from tests.images import bad_files, jpeg, odd_but_good


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    for number in range(6):
        (folder / "cam1").mkdir(parents=True, exist_ok=True)
        (folder / f"cam1/{number}.jpg").write_bytes(jpeg(number))
    return folder


def test_a_folder_as_real_ones_are(tmp_path: Path, inbox: Path) -> None:
    (inbox / "odd").mkdir()
    bad, good = bad_files(), odd_but_good()
    for name, content in {**{name: content for name, (content, _) in bad.items()}, **good}.items():
        (inbox / "odd" / name).write_bytes(content)
    (inbox / "zoo").mkdir()
    (inbox / "zoo/copy.jpg").write_bytes(jpeg(2))
    (inbox / "zoo/again.jpg").write_bytes(jpeg(3, quality=60))
    metrics = collect(tmp_path / "out", inbox)
    manifest = read_manifest(tmp_path / "out/raw/manifest.parquet")
    kept = manifest.filter(pl.col("status") == "kept")
    assert metrics["seen"] == 6 + len(bad) + len(good) + 2 == len(manifest)
    assert metrics["kept"] == 6 + len(good) + 1 == len(kept)
    assert metrics["seen"] == metrics["kept"] + sum(entry["count"] for entry in metrics["dropped_by_reason"].values())
    fate = dict(zip(manifest["origin"], manifest["reason"], strict=True))
    assert all(fate[f"odd/{name}"] == reason for name, (_, reason) in bad.items())
    assert metrics["exact_duplicates"] == [{"origin": "zoo/copy.jpg", "duplicate_of": "cam1/2.jpg"}]
    pairs = [(pair["a"], pair["b"]) for pair in metrics["near_duplicates"]]
    assert ("zoo/again.jpg", "cam1/3.jpg") in pairs
    assert metrics["near_duplicate_pairs"] == len(pairs) == 1
    for row in kept.iter_rows(named=True):
        content = (tmp_path / "out/raw" / row["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["image_id"]
        assert content == (inbox / row["origin"]).read_bytes()
    assert {path for path in snapshot(tmp_path / "out/raw") if path.startswith("images/")} == set(kept["path"])
    group = kept.filter(pl.col("near_group").is_not_null())
    assert set(group["origin"]) == {"cam1/3.jpg", "zoo/again.jpg"}
    assert set(group["near_group"]) == {min(group["image_id"])}
    best = group.filter(pl.col("origin") == "cam1/3.jpg")["image_id"].item()  # same size, less compressed
    assert dict(zip(group["origin"], group["near_duplicate_of"], strict=True)) == {"cam1/3.jpg": None, "zoo/again.jpg": best}


def test_an_empty_inbox_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox/.gitkeep").touch()
    for folder in ("inbox", "nowhere"):
        done = subprocess.run(command(tmp_path, tmp_path / folder), cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "`detloop sample` or `detloop import`" in done.stderr


def test_later_runs_add_remove_and_judge_anew_as_a_first_run_would(tmp_path: Path, inbox: Path) -> None:
    collect(tmp_path / "out", inbox)
    (inbox / "cam1/0.jpg").unlink()
    (inbox / "cam1/1.jpg").write_bytes(jpeg(101))
    (inbox / "cam0").mkdir()
    (inbox / "cam0/twin.jpg").write_bytes(jpeg(2))  # stands before the file that was kept until now
    (tmp_path / "out/raw/images/zz").mkdir()
    (tmp_path / "out/raw/images/zz/.half.tmp").write_bytes(b"left by a killed run")
    Path(os.fsdecode(b"%s/out/raw/images/zz/\xff.jpg" % os.fsencode(tmp_path))).write_bytes(b"no name that is text")
    (tmp_path / "out/raw/.manifest.parquet.x.tmp").write_bytes(b"left by a killed run")
    metrics = collect(tmp_path / "out", inbox)
    assert metrics["exact_duplicates"] == [{"origin": "cam1/2.jpg", "duplicate_of": "cam0/twin.jpg"}]
    collect(tmp_path / "fresh", inbox)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "fresh")


def test_measurements_of_an_earlier_run_change_nothing(tmp_path: Path, inbox: Path) -> None:
    time.sleep(2.1)  # files that changed a moment ago are not kept in mind
    collect(tmp_path / "out", inbox)
    before = snapshot(tmp_path / "out")
    names = {path.name.partition("-")[0] for path in (tmp_path / "out/work").glob("*/*")}
    assert names == {"files", "measured", "near", "thumbnails.bin"}
    for name in sorted(names):
        next((tmp_path / "out/work").glob(f"*/{name}*")).write_bytes(b"broken")
        collect(tmp_path / "out", inbox)
        assert snapshot(tmp_path / "out") == before
    victim = next((tmp_path / "out/raw/images").rglob("*.jpg"))
    victim.write_bytes(b"")  # as a power cut leaves a file
    collect(tmp_path / "out", inbox)
    assert snapshot(tmp_path / "out") == before


def test_files_that_are_gone_are_forgotten_once_they_are_the_most(tmp_path: Path) -> None:
    """9,000 measurements, one in nine without a thumbnail. A run with 5,000 of the images keeps all, one with 900 keeps those alone."""
    ids = [f"{number:064x}" for number in range(9000)]
    kinds = {name: kind for name, kind in MEASURED_SCHEMA.items() if name != "thumbnail_at"}
    rows = pl.DataFrame({"image_id": ids, "width_px": range(9000)}, schema_overrides=kinds)
    cache = Cache(tmp_path)
    pictures = [None if number % 9 == 0 else number.to_bytes(2, "big") * 512 for number in range(9000)]
    cache.add(rows.select(*(pl.col(name) if name in rows.columns else pl.lit(None, kind).alias(name) for name, kind in kinds.items())), pictures)
    cache.forget_others(pl.Series(ids[:5000]))
    assert len(Cache(tmp_path).measured) == 9000
    cache.forget_others(pl.Series(ids[8100:]))
    for found in (cache, Cache(tmp_path)):
        assert found.measured["image_id"].to_list() == ids[8100:]
        thumbnails = found.thumbnails()
        assert len(thumbnails) == 800
        for number, place in found.measured.select("width_px", "thumbnail_at").iter_rows():
            assert (None if place is None else thumbnails[place].tobytes()) == pictures[number]


def test_killed_anywhere_a_rerun_ends_as_if_undisturbed(tmp_path: Path) -> None:
    """`python -m tests.collect_runs` does the same with 5,000 images and 20 kills."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for number in range(300):
        (inbox / f"{number:03d}.jpg").write_bytes(jpeg(number, (320, 240)))
    found = kill_at_random_moments(tmp_path, inbox, kills=6, seed=0)
    assert found.differing == []
    assert any(0 < images < 300 for images in found.images_when_killed), found  # some were in the middle


def test_the_store_is_seen_as_os_walk_sees_it(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff\n.jpg")
    for name, content in {"stray.bin": b"", "aa/one.jpg": b"1", f"aa/{odd}": b"22", "ab/Ü b.png": b"333"}.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content)
    (tmp_path / "images/ac").mkdir()
    found = [Path(folder, name) for folder, _, names in os.walk(tmp_path) for name in names]
    with listing_beside(str(tmp_path), "images") as listed:
        paths, sizes, others, folders, empty = listed()
    there = {str(path.relative_to(tmp_path)): path.stat().st_size for path in found}
    assert dict(zip(paths, np.frombuffer(sizes, np.int64).tolist(), strict=True)) == {path: there[path] for path in there if path.isascii()}
    assert sorted(others) == sorted(path for path in there if not path.isascii())
    assert (sorted(folders), empty) == (["images/aa", "images/ab", "images/ac"], ["images/ac"])
    with listing_beside(str(tmp_path), "nowhere") as listed:
        assert listed() == ([], b"", [], [], [])


def test_two_inboxes_with_the_same_content_give_the_same_bytes(tmp_path: Path, inbox: Path) -> None:
    twin = tmp_path / "elsewhere/other"
    (twin / "cam1").mkdir(parents=True)
    for path in sorted(inbox.rglob("*.jpg"), reverse=True):
        (twin / path.relative_to(inbox)).write_bytes(path.read_bytes())
    collect(tmp_path / "one", inbox)
    collect(tmp_path / "two", twin)
    assert snapshot(tmp_path / "one/raw") == snapshot(tmp_path / "two/raw")
    assert (tmp_path / "one/collect.json").read_bytes() == (tmp_path / "two/collect.json").read_bytes()


@pytest.fixture(scope="module")
def opened() -> list[str]:
    """Every file that this process opens from now on, by name."""
    names: list[str] = []
    sys.addaudithook(lambda event, arguments: names.append(str(arguments[0])) if event == "open" else None)
    return names


def test_what_did_not_change_is_not_even_opened(tmp_path: Path, inbox: Path, opened: list[str]) -> None:
    time.sleep(2.1)  # files that changed a moment ago are not trusted
    collect(tmp_path / "out", inbox)
    victim = inbox / "cam1/3.jpg"
    stat = victim.stat()
    victim.write_bytes(b"\0" * stat.st_size)
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same name, size, inode and time: the change time gives it away
    (inbox / "cam1/new.jpg").write_bytes(jpeg(50))
    opened.clear()
    metrics = collect(tmp_path / "out", inbox)
    assert {name for name in opened if name.startswith(str(inbox)) and Path(name).is_file()} == {str(victim), str(inbox / "cam1/new.jpg")}
    assert metrics["dropped_by_reason"]["not_an_image"]["first"] == ["cam1/3.jpg"]
    assert metrics["kept"] == 6
