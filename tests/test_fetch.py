"""Sources into data/fetched: files, clips, query logs, addresses and object stores, against real files, a real server and fsspec's own stores."""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.errors import DataError, DetloopError
from pipelines.fetch.http import is_public
from pipelines.fetch.wanted import safe_name
from pipelines.stages.collect import work as collect_work
from tests.collect_runs import places
from tests.fetch_runs import Site, content_of, fetch, serving
from tests.images import jpeg


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


def test_no_sources_leave_no_files(tmp_path: Path) -> None:
    assert fetch(tmp_path) == {}
    assert content_of(tmp_path / "fetched") == {".counts.json": hashlib.sha256(b"{}\n").hexdigest()}


def test_folders_and_globs_with_names_and_links_as_real_folders_hold(tmp_path: Path) -> None:
    camera, outside = tmp_path / "camera", tmp_path / "outside"
    (camera / "deep").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(jpeg(9))
    for name in (b"a.jpg", b"deep/b.png", b"line\nbreak.jpg", b"not\xffutf8.jpg", b".hidden.jpg", b"%2e%2e%2fup.jpg", b"notes.txt"):
        (camera / os.fsdecode(name)).write_bytes(jpeg(len(name)))
    (camera / "out.jpg").symlink_to(outside / "secret.jpg")
    (camera / "out").symlink_to(outside)
    (camera / "in.jpg").symlink_to(camera / "a.jpg")
    (camera / "broken.jpg").symlink_to(camera / "nowhere")
    logs = fetch(
        tmp_path,
        {"name": "cam", "type": "files", "path": str(camera), "group": "line 3"},
        {"name": "pngs", "type": "files", "path": f"{camera}/**/*.png"},
    )
    files = {
        path.relative_to(tmp_path / "fetched").as_posix()
        for path in (tmp_path / "fetched").rglob("*")
        if path.is_file() and path.name not in ("log.jsonl", ".counts.json")
    }
    plain = {"cam/a.jpg", "cam/deep/b.png", "cam/in.jpg", "cam/notes.txt", "pngs/deep/b.png"}
    assert plain < files
    hashed = files - plain
    assert len(hashed) == 3
    assert all(name.isascii() and ".." not in name and "\n" not in name for name in hashed)
    refused = {row["file"]: row["refused"] for row in logs["cam"] if "refused" in row}
    assert refused == {"out.jpg": "symlink_outside", "out": "symlink_outside", "broken.jpg": "not_a_file"}
    assert all(row["group"] == "line 3" and row["source"] == "cam" for row in logs["cam"])
    assert not any(path.is_symlink() for path in (tmp_path / "fetched").rglob("*"))
    before = content_of(tmp_path / "fetched")
    assert set(fetch(tmp_path, {"name": "cam", "type": "files", "path": str(camera), "group": "line 3"})) == {"cam"}
    assert content_of(tmp_path / "fetched/cam") == {name.removeprefix("cam/"): value for name, value in before.items() if name.startswith("cam/")}
    (camera / "a.jpg").unlink()
    fetch(tmp_path, {"name": "cam", "type": "files", "path": str(camera)})
    assert not (tmp_path / "fetched/cam/a.jpg").exists()


@given(st.text(max_size=300), st.text(max_size=9))
def test_no_name_leads_out_of_the_folder(name: str, unique: str) -> None:
    safe = safe_name(name, unique)
    parts = safe.split("/")
    assert safe.isascii()
    assert safe.isprintable()
    assert all(part and not part.startswith(".") and len(part) <= 200 for part in parts)
    assert (Path("/folder") / safe).resolve().is_relative_to("/folder")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_query_log_is_narrowed_by_sql(kind: str, tmp_path: Path, site: Site) -> None:
    (tmp_path / "shots").mkdir()
    (tmp_path / "shots/one.jpg").write_bytes(jpeg(1))
    (tmp_path / "secret.jpg").write_bytes(jpeg(2))
    site.pages = {"/two.jpg": jpeg(3)}
    table = pl.DataFrame(
        {
            "picture": ["one.jpg", f"{site.url}/two.jpg", "one.jpg", "../secret.jpg", "gone.jpg", "low.jpg"],
            "score": [0.4, 0.3, 0.2, 0.1, 0.1, 0.9],
            "session": ["s1", "s1", "s2", "s3", "s3", "s4"],
            "at": ["2026-01-02T03:04:05"] * 6,
        }
    )
    path = tmp_path / f"log.{kind}"
    {"csv": table.write_csv, "jsonl": table.write_ndjson, "parquet": table.write_parquet}[kind](path)
    source = {"name": "asked", "type": "log", "path": str(path), "root": str(tmp_path / "shots"), "image": "picture"}
    rows = fetch(tmp_path, {**source, "where": "score < 0.5 AND session <> 's9'", "group": "session", "captured_at": "at"})["asked"]
    assert {(row["uri"].rpartition("/")[2], row["group"], row.get("refused")) for row in rows} == {
        ("one.jpg", "s1", None),
        ("two.jpg", "s1", None),
        ("secret.jpg", "s3", "path_outside"),
        ("gone.jpg", "s3", "unreachable"),
    }
    assert all(row["captured_at"] == "2026-01-02T03:04:05" for row in rows)
    assert (tmp_path / "fetched/asked/one.jpg").read_bytes() == jpeg(1)
    for wrong, message in (({"where": "colour = 1"}, "where"), ({"where": "score <"}, "where"), ({"group": "user"}, "no column user")):
        with pytest.raises(DetloopError, match=message):
            fetch(tmp_path, {**source, **wrong})


def test_what_a_logs_rows_say_of_one_image_is_put_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate("abc"):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(number))
    (tmp_path / "log.csv").write_text(
        "image,session,at,side\na.jpg,,,\nb.jpg,s1,,test\nc.jpg,s2,,\nb.jpg,s3,,\na.jpg,s2,2026-01-02,val\nb.jpg,s1,,test\n"
    )
    source = {"name": "asked", "type": "log", "path": str(tmp_path / "log.csv"), "group": "session", "captured_at": "at", "split": "side"}
    rows = {row["file"]: row for row in fetch(tmp_path, source)["asked"]}
    assert {name: (row.get("group"), row.get("captured_at"), row.get("split")) for name, row in rows.items()} == {
        "a.jpg": ("s2", "2026-01-02", "val"),
        "b.jpg": ("s1", None, "test"),
        "c.jpg": ("s2", None, None),
    }
    assert "1 image under several groups, of which the first counts: b.jpg (s1, not s3)" in capsys.readouterr().out
    with (tmp_path / "log.csv").open("a") as file:
        file.write("b.jpg,s1,,train\n")
    with pytest.raises(DataError, match=r"gives 1 image two sides: b.jpg \(test and train\)"):
        fetch(tmp_path, source)


def test_addresses_are_fetched_once_resumed_and_bounded(tmp_path: Path, site: Site) -> None:
    big = jpeg(0)[:4] + np.random.default_rng(0).bytes(300_000)
    site.pages = {"/a/x.jpg": jpeg(1), "/b/x.jpg": jpeg(2), "/big.jpg": big, "/huge.jpg": bytes(3_000_000), "/final.jpg": jpeg(4)}
    site.redirects = {"/moved.jpg": "/final.jpg", "/round.jpg": "/round.jpg"}
    site.breaks_at = {"/big.jpg": 200_000}
    names = ("a/x.jpg", "b/x.jpg", "big.jpg", "huge.jpg", "none.jpg", "moved.jpg", "round.jpg")
    (tmp_path / "list.txt").write_text(
        "# wanted\n" + "".join(f"{site.url}/{name}\n" for name in (*names, "a/x.jpg")) + "ftp://example.invalid/x.jpg\n"
    )
    source = {"name": "web", "type": "urls", "path": str(tmp_path / "list.txt")}
    rows = fetch(tmp_path, source, max_mb=1)["web"]
    fate = {row["uri"].removeprefix(site.url): row.get("refused") for row in rows}
    assert fate == {
        "/a/x.jpg": None,
        "/b/x.jpg": None,
        "/big.jpg": None,
        "/huge.jpg": "too_many_bytes",
        "/none.jpg": "http_404",
        "/moved.jpg": None,
        "/round.jpg": "unreachable",
        "ftp://example.invalid/x.jpg": "bad_address",
    }
    files = {row["uri"].removeprefix(site.url): (tmp_path / "fetched/web" / row["file"]) for row in rows}
    assert files["/big.jpg"].read_bytes() == big
    assert ("/big.jpg", "bytes=200000-") in site.asked  # the second try asked for the rest only
    assert files["/moved.jpg"].read_bytes() == jpeg(4)
    assert files["/a/x.jpg"].read_bytes() != files["/b/x.jpg"].read_bytes()
    site.asked.clear()
    site.pages["/none.jpg"] = jpeg(5)
    again = fetch(tmp_path, source, max_mb=1)["web"]
    assert {path for path, _ in site.asked} == {"/none.jpg", "/huge.jpg", "/round.jpg"}  # only what could not be had is asked for again
    assert {row["uri"] for row in again if "refused" not in row} == {
        f"{site.url}{path}" for path in ("/a/x.jpg", "/b/x.jpg", "/big.jpg", "/none.jpg", "/moved.jpg")
    }


def test_private_addresses_are_refused_unless_allowed(tmp_path: Path, site: Site) -> None:
    port = site.server.server_port
    site.pages = {"/x.jpg": jpeg(1)}
    hosts = ("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1", "2130706433", "0x7f.1")
    (tmp_path / "list.txt").write_text("".join(f"http://{host}:{port}/x.jpg\n" for host in hosts))
    source = {"name": "web", "type": "urls", "path": str(tmp_path / "list.txt")}
    rows = fetch(tmp_path, source, allow_private_addresses=False, timeout_s=2)["web"]
    assert {row.get("refused") for row in rows} <= {"private_address", "unreachable"}
    assert sum(row["refused"] == "private_address" for row in rows) >= 7
    assert site.asked == []
    allowed = fetch(tmp_path, {**source}, timeout_s=1)["web"]
    assert "refused" not in next(row for row in allowed if "127.0.0.1" in row["uri"])


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("::7f00:1", False),
        ("fec0::1", False),
        ("64:ff9b:1::7f00:1", False),
    ],
)
def test_addresses_of_the_registries(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_objects_of_a_store_by_their_version(tmp_path: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe({"/bucket/cam/a.jpg": jpeg(1), "/bucket/cam/../../up.jpg": jpeg(2), "/bucket/other.txt": b"x"})
    source = {"name": "objects", "type": "store", "url": "memory://bucket/cam"}
    try:
        rows = fetch(tmp_path, source)["objects"]
        assert [row["uri"] for row in rows if row["uri"].endswith("/a.jpg")] == ["memory://bucket/cam/a.jpg"]
        assert all((tmp_path / "fetched/objects" / row["file"]).is_file() for row in rows)
        store.pipe("/bucket/cam/a.jpg", jpeg(3))
        rows = fetch(tmp_path, source)["objects"]
        row = next(row for row in rows if row["uri"].endswith("/a.jpg"))
        assert (tmp_path / "fetched/objects" / row["file"]).read_bytes() == jpeg(3)
        with pytest.raises(DetloopError, match="nothing lies at"):
            fetch(tmp_path, {**source, "url": "memory://bucket/empty"})
    finally:
        store.rm("/bucket", recursive=True)
    for url in ("http://127.0.0.1/x", "file:///etc"):
        with pytest.raises(DetloopError, match="is no object store"):
            fetch(tmp_path, {**source, "url": url})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a file system: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["urls", "store"])
def test_a_full_disk_is_no_fault_of_the_other_side(kind: str, small_disk: Path, tmp_path: Path, site: Site) -> None:
    """Called unreachable, the image would leave the round without a word of the disk."""
    import fsspec

    site.pages = {"/big.jpg": bytes(400_000)}
    fsspec.filesystem("memory").pipe("/full/big.jpg", bytes(400_000))
    (tmp_path / "list.txt").write_text(f"{site.url}/big.jpg\n")
    source = {"urls": {"path": str(tmp_path / "list.txt")}, "store": {"url": "memory://full"}}[kind]
    try:
        with pytest.raises(OSError, match="No space left") as caught:
            fetch(small_disk, {"name": "web", "type": kind, **source})
        assert caught.value.errno == errno.ENOSPC
    finally:
        fsspec.filesystem("memory").rm("/full", recursive=True)


def test_the_shared_clip(tmp_path: Path, shared: Path) -> None:
    """Six people walk in one after another. Where each was seen was read off the clip by eye, from the first hair to the last shoe."""
    people = {
        "grey coat": (60, 201),
        "black cap": (227, 449),
        "long hair": (501, 700),
        "short sleeves": (744, 870),
        "speckled": (920, 1201),
        "grey shirt": (1234, 1364),
    }
    source = {"name": "door", "type": "video", "path": str(shared / "data/video")}
    rows = fetch(tmp_path, source)["door"]
    frames = [int(Path(row["file"]).stem) for row in rows if "refused" not in row]
    assert frames[0] == 0
    assert len(frames) <= 1394 / 10
    assert all(later - earlier >= 10 for earlier, later in pairwise(frames))
    for person, (first, last) in people.items():
        assert sum(first <= frame <= last for frame in frames) >= 4, person
    empty = [frame for frame in frames if not any(first <= frame <= last for first, last in people.values())]
    assert len(empty) <= 3  # the empty scene, and a shadow at the edge
    clips = [row for row in rows if "refused" not in row]
    assert {row["group"] for row in clips} == {"one-by-one-person-detection.mp4"}
    assert all(row["uri"].endswith(f"#t={frame / 10}") for row, frame in zip(clips, frames, strict=True))
    assert {row["refused"] for row in rows if row["file"] in ("LICENSE", "SOURCE.txt")} == {"no_video"}
    before = content_of(tmp_path / "fetched")
    fetch(tmp_path, source)
    assert content_of(tmp_path / "fetched") == before
    (tmp_path / "inbox").mkdir()
    collect_work(argparse.Namespace(**places(tmp_path, tmp_path / "inbox")))
    metrics = json.loads((tmp_path / "collect.json").read_text())
    assert metrics["seen"] == len(rows)
    assert metrics["kept"] == len(frames)
    assert metrics["dropped_by_reason"]["no_video"]["count"] == 2
    manifest = pl.read_parquet(tmp_path / "raw/manifest.parquet").filter(pl.col("status") == "kept")
    assert manifest["group"].unique().to_list() == ["one-by-one-person-detection.mp4"]
    assert manifest["uri"].str.contains("#t=").all()


def test_a_scene_change_is_a_frame_of_its_own(tmp_path: Path) -> None:
    scenes = [np.random.default_rng(seed).integers(30, 220, (6, 8, 3), dtype=np.uint8) for seed in range(3)]
    writer = cv2.VideoWriter(str(tmp_path / "cuts.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (320, 240))
    for number in range(150):
        writer.write(cv2.resize(scenes[number // 50], (320, 240), interpolation=cv2.INTER_NEAREST))
    writer.release()
    rows = fetch(tmp_path, {"name": "cuts", "type": "video", "path": str(tmp_path / "cuts.avi"), "min_gap_s": 0.0})["cuts"]
    assert [Path(row["file"]).stem for row in rows] == ["000000", "000050", "000100"]
