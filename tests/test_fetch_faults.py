"""What sources get wrong, and what must not follow from it: no traceback, nothing lost without a word, nothing kept that is no picture."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from pipelines.core.errors import DetloopError
from pipelines.core.records import read_manifest
from tests.collect_runs import ROOT, collect
from tests.fetch_runs import Site, fetch, serving
from tests.images import jpeg


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


def web(folder: Path, content: bytes) -> dict[str, str]:
    (folder / "list.txt").write_bytes(content)
    return {"name": "web", "type": "urls", "path": str(folder / "list.txt")}


def test_addresses_that_are_none_are_refused_one_by_one(tmp_path: Path, site: Site) -> None:
    site.pages = {"/good.jpg": jpeg(1)}
    site.redirects = {"/to.jpg": "http://[::1/x.jpg", "/port.jpg": "http://127.0.0.1:99999/x.jpg"}
    bad = [
        "http://[::1/x.jpg",
        "http://127.0.0.1:99999/x.jpg",
        "http:///x.jpg",
        "www.example.com/x.jpg",
        f"{site.url}/to.jpg",
        f"{site.url}/port.jpg",
    ]
    rows = fetch(tmp_path, web(tmp_path, "\n".join([*bad, f"{site.url}/good.jpg"]).encode()))["web"]
    assert {row["uri"]: row.get("refused") for row in rows} == {**dict.fromkeys(bad, "bad_address"), f"{site.url}/good.jpg": None}


def test_addresses_as_people_write_them(tmp_path: Path, site: Site) -> None:
    """Spaces and umlauts, a list from Notepad, a comment that is indented; what is quoted already is not quoted twice."""
    site.pages = {"/my%20shots/gr%C3%BCn.jpg?a=1&b=%2F": jpeg(1), "/100%25.jpg": jpeg(2)}
    lines = f"\ufeff{site.url}/my shots/grün.jpg?a=1&b=%2F#top\r\n  # done last week\r\n  {site.url}/100%25.jpg  \r\n"
    rows = fetch(tmp_path, web(tmp_path, lines.encode()))["web"]
    assert [row.get("refused") for row in rows] == [None, None]
    with pytest.raises(DetloopError, match=r"list.txt is not UTF-8 text .*: save it as UTF-8"):
        fetch(tmp_path, web(tmp_path, f"{site.url}/grün.jpg\n".encode("latin-1")))


def test_an_answer_that_is_no_picture_is_asked_for_again(tmp_path: Path, site: Site) -> None:
    """A login page, or an empty file, with status 200: kept, it would stand for the picture for ever."""
    site.pages = {"/a.jpg": b"<html>please log in</html>", "/b.jpg": b"", "/c.gif": b"GIF89a" + bytes(20)}
    source = web(tmp_path, f"{site.url}/a.jpg\n{site.url}/b.jpg\n{site.url}/c.gif\n".encode())
    rows = fetch(tmp_path, source)["web"]
    assert {row["uri"][-5:]: row.get("refused") for row in rows} == {"a.jpg": "not_an_image", "b.jpg": "empty", "c.gif": None}  # collect judges kinds
    site.asked.clear()
    site.pages |= {"/a.jpg": jpeg(1), "/b.jpg": jpeg(2)}
    assert [row.get("refused") for row in fetch(tmp_path, source)["web"]] == [None] * 3
    assert {path for path, _ in site.asked} == {"/a.jpg", "/b.jpg"}


def test_an_address_of_no_known_kind_in_a_log_is_one_row_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    (tmp_path / "log.csv").write_text("image\na.jpg\nhtp://example.invalid/b.jpg\nfile:///etc/hosts\n")
    rows = fetch(tmp_path, {"name": "asked", "type": "log", "path": str(tmp_path / "log.csv")})["asked"]
    assert {row["uri"]: row.get("refused") for row in rows} == {
        "a.jpg": None,
        "htp://example.invalid/b.jpg": "bad_address",
        "file:///etc/hosts": "bad_address",
    }
    assert "is no web address and no object store" in capsys.readouterr().out


def test_a_server_that_drips_is_cut_off(tmp_path: Path, site: Site) -> None:
    """Each byte would start the socket's time limit anew; here headers would go on for a hundred seconds."""
    site.drips = {"/drip.jpg"}
    script = "import sys, pathlib; from tests.fetch_runs import fetch; fetch(pathlib.Path(sys.argv[1]), {**eval(sys.argv[2])}, timeout_s=1)"
    source = web(tmp_path, f"{site.url}/drip.jpg\n".encode())
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), repr(source)], cwd=ROOT, capture_output=True, text=True, timeout=50, check=True
    )
    assert "0 of 1 ready\n  1 unreachable: " in done.stdout


def test_an_interrupted_fetch_waits_for_no_server(tmp_path: Path, site: Site) -> None:
    """Ctrl-C took until the last of the downloads under way had come to its time limit, here two minutes."""
    site.drips = {f"/{number}.jpg" for number in range(20)}
    source = web(tmp_path, "".join(f"{site.url}{path}\n" for path in sorted(site.drips)).encode())
    settings = {"classes": [{"name": "bolt"}], "collect": {"sources": [source], "download": {"allow_private_addresses": True, "timeout_s": 120}}}
    (tmp_path / "params.yaml").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pipelines.stages.fetch", "--params", str(tmp_path / "params.yaml")]
    command += ["--fetched", str(tmp_path / "fetched"), "--work", str(tmp_path / "work")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while len(site.asked) < 8:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=50)
    assert process.returncode == 130
    assert said == "error: interrupted: run the same command again to go on\n"
    assert len(site.asked) == 8, "no other download was begun"


def test_an_interrupted_fetch_waits_for_no_store(tmp_path: Path) -> None:
    """Ctrl-C took until all objects that were under way had come."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    begun, over, main = threading.Semaphore(0), threading.Event(), threading.main_thread()

    class Slow(MemoryFileSystem):  # type: ignore[misc]
        """A store that stops in the middle of each object."""

        protocol = "slow"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(super()._strip_protocol(path.removeprefix("slow:/")))

        def get_file(self, rpath: str, lpath: str, **_: object) -> None:
            with Path(lpath).open("wb") as file:
                file.write(self.cat_file(rpath)[:100])
                file.flush()
                begun.release()
                over.wait(20)

    def interrupt() -> None:
        for _ in range(4):
            begun.acquire()
        signal.pthread_kill(main.ident or 0, signal.SIGINT)

    fsspec.register_implementation("slow", Slow, clobber=True)
    store = fsspec.filesystem("slow")
    for number in range(20):
        store.pipe_file(f"/cam/{number}.jpg", jpeg(number))
    threading.Thread(target=interrupt, daemon=True).start()
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            fetch(tmp_path, {"name": "objects", "type": "store", "url": "slow://cam"}, parallel=4)
        assert time.monotonic() - start < 10
        assert [path.name for path in (tmp_path / "fetched/objects").iterdir()] == [".versions.json"]
    finally:
        over.set()
        store.rm("/cam", recursive=True)


@pytest.mark.parametrize(
    ("name", "content", "settings", "files"),
    [
        ("log.csv", b"\xef\xbb\xbfimage,group\none.jpg,a\n", {}, {"one.jpg": None}),
        ("log.csv", b"image,session\n007,01\n7,1\n", {"group": "session"}, {"007": "01", "7": "1"}),
        ("log.csv", b"image,score\n" + b"one.jpg,1\n" * 200 + b"one.jpg,0.5\n", {"where": "score < 1"}, {"one.jpg": None}),
        ("log.csv", b"image,score\n007,1\n7,2\n", {"where": "score = 2"}, {"7": None}),
        ("log.csv", b'image,note\none.jpg,"a\nb, c"\n', {}, {"one.jpg": None}),
        ("log.jsonl", b'\xef\xbb\xbf{"image": "one.jpg"}\n', {}, {"one.jpg": None}),
        ("log.jsonl", b'{"image": "one.jpg"}\n' * 200 + b'{"image": "7", "user": "x"}\n', {"group": "user"}, {"one.jpg": None, "7": "x"}),
    ],
    ids=["byte_order_mark", "leading_zeros", "number_late", "sql_sees_numbers", "quoted_newline", "jsonl_byte_order_mark", "column_late"],
)
def test_logs_as_tools_write_them(name: str, content: bytes, settings: dict[str, str], files: dict[str, str | None], tmp_path: Path) -> None:
    for number, image in enumerate(("one.jpg", "007", "7")):
        (tmp_path / image).write_bytes(jpeg(number))
    (tmp_path / name).write_bytes(content)
    rows = fetch(tmp_path, {"name": "asked", "type": "log", "path": str(tmp_path / name), **settings})["asked"]
    assert {row["file"]: row.get("group") for row in rows} == files
    assert not any("refused" in row for row in rows)


def test_names_that_no_file_can_have_are_refused(tmp_path: Path) -> None:
    names = ["x" * 300 + ".jpg", "a\0b.jpg"]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps({"image": name}) + "\n" for name in names))
    rows = fetch(tmp_path, {"name": "asked", "type": "log", "path": str(tmp_path / "log.jsonl")})["asked"]
    assert sorted((row["uri"], row["refused"]) for row in rows) == sorted((name, "unreachable") for name in names)


@pytest.mark.parametrize("value", [["one.jpg"], {"path": "one.jpg"}], ids=["list", "struct"])
def test_a_nested_column_is_no_column_of_images(value: object, tmp_path: Path) -> None:
    pl.DataFrame({"image": [value]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DetloopError, match=r"more than one value a row in image .*: name a column of single values"):
        fetch(tmp_path, {"name": "asked", "type": "log", "path": str(tmp_path / "log.parquet")})


def test_a_csv_with_semicolons_is_told(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("image;group\none.jpg;a\n")
    with pytest.raises(DetloopError, match="has no column image; it has image;group; the columns of a CSV log are parted by commas"):
        fetch(tmp_path, {"name": "asked", "type": "log", "path": str(tmp_path / "log.csv")})


def test_logs_of_other_tools_in_a_source_are_files_like_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of another tool, under the names that the inbox reads: they stopped collect, with advice to mend what fetch had written."""
    (tmp_path / "camera/deep").mkdir(parents=True)
    (tmp_path / "camera/a.jpg").write_bytes(jpeg(1))
    (tmp_path / "camera/deep/b.jpg").write_bytes(jpeg(2))
    (tmp_path / "camera/log.jsonl").write_text('{"frame": 1}\n')
    (tmp_path / "camera/deep/log.csv").write_text("time;temperature\n1;20\n")
    (tmp_path / "camera/deep/log.jsonl").write_text("{broken")
    rows = fetch(tmp_path, {"name": "cam", "type": "files", "path": str(tmp_path / "camera")})["cam"]
    assert len(rows) == 5
    assert "\n  3 files by the name of a log that are none (no column or key `file`): " in capsys.readouterr().out
    (tmp_path / "inbox").mkdir()
    metrics = collect(tmp_path, tmp_path / "inbox")
    assert (metrics["seen"], metrics["kept"], metrics["dropped_by_reason"]["not_an_image"]["count"]) == (5, 2, 3)


def test_logs_in_a_folder_say_what_they_say_in_the_inbox(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Groups and sides of the split were lost without a word, and frames of one burst stood on two sides."""
    camera = tmp_path / "camera"
    for number, name in enumerate(("a.jpg", "deep/b.jpg", "deep/c.jpg", "d d.jpg", "grün.jpg")):
        (camera / name).parent.mkdir(parents=True, exist_ok=True)
        (camera / name).write_bytes(jpeg(number))
    rows: list[dict[str, object]] = [
        {"file": "a.jpg", "source": "cam7", "group": 12, "captured_at": "2025-03-10T06:00:00Z", "split": "val", "score": 0.5},
        {"file": "./d d.jpg", "group": "g"},
        {"file": "gone.jpg", "group": "g"},
        {"file": "grün.jpg", "group": "h"},
    ]
    (camera / "log.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (camera / "deep/log.csv").write_text("\ufefffile,group,split\nb.jpg,,test\n")
    columns = ["image_id", "source", "group", "captured_at", "given_split", "status"]
    (tmp_path / "inbox").mkdir()
    source = {"name": "cam", "type": "files", "path": str(camera)}
    assert len(fetch(tmp_path, source)["cam"]) == 5
    said = capsys.readouterr().out
    assert "cam: 5 of 5 ready\n  1 line of its logs without a file: " in said
    assert "camera/log.jsonl line 3: " in said
    assert "camera/gone.jpg\n  columns of its logs that are not read: score (1)\n" in said
    collect(tmp_path, tmp_path / "inbox")
    found = read_manifest(tmp_path / "raw/manifest.parquet", columns).sort("image_id")
    shutil.copytree(camera, tmp_path / "other/inbox/cam")
    collect(tmp_path / "other", tmp_path / "other/inbox")
    assert found.rows() == read_manifest(tmp_path / "other/raw/manifest.parquet", columns).sort("image_id").rows()
    assert found["group"].null_count() == 2
    whole = fetch(tmp_path, {**source, "group": "one"})["cam"]
    assert {row["group"] for row in whole} == {"one"}
    assert {row.get("split") for row in whole} == {"val", "test", None}
    assert not any("group" in row for row in fetch(tmp_path, {**source, "path": f"{camera}/**/*.jpg"})["cam"]), "no log is named"
    (camera / "deep/log.csv").write_text("file,split\nb.jpg,training\n")
    with pytest.raises(DetloopError, match=r"1 bad log line in .*deep/log.csv line 2: split 'training' is not one of .*glob"):
        fetch(tmp_path, source)


def test_a_picture_that_has_the_name_of_a_log_is_a_file_like_others(tmp_path: Path) -> None:
    """Also as a folder's name, and in a query log: fetch's own log lies beside them."""
    for name in ("uploads/log.jsonl/a.jpg", "uploads/log.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(len(name)))
    (tmp_path / "asked.csv").write_text("image\nlog.jsonl/a.jpg\nlog.csv\n")
    source = {"name": "asked", "type": "log", "path": str(tmp_path / "asked.csv"), "root": str(tmp_path / "uploads")}
    folder = {"name": "files", "type": "files", "path": str(tmp_path / "uploads")}
    found = fetch(tmp_path, source, folder)
    assert [len(found[name]) for name in ("asked", "files")] == [2, 2]
    (tmp_path / "inbox").mkdir()
    metrics = collect(tmp_path, tmp_path / "inbox")
    assert (metrics["seen"], metrics["kept"], metrics["dropped_by_reason"]["exact_duplicate"]["count"]) == (4, 2, 2)


def test_a_source_must_not_hold_what_fetch_fills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run would fetch all that the last one fetched once more."""
    monkeypatch.chdir(tmp_path)
    Path("shots").mkdir()
    Path("shots/a.jpg").write_bytes(jpeg(1))
    source = {"name": "all", "type": "files", "path": "**/*.jpg"}
    assert [row["uri"] for row in fetch(Path(), source)["all"]] == ["shots/a.jpg"]
    with pytest.raises(DetloopError, match=r"\*\*/\*.jpg holds fetched, which this stage fills"):
        fetch(Path(), source)


def test_a_folder_whose_name_reads_like_a_glob(tmp_path: Path) -> None:
    (tmp_path / "shots [1]").mkdir()
    (tmp_path / "shots [1]/a.jpg").write_bytes(jpeg(1))
    assert len(fetch(tmp_path, {"name": "cam", "type": "files", "path": str(tmp_path / "shots [1]")})["cam"]) == 1
    with pytest.raises(DetloopError, match="is no glob"):
        fetch(tmp_path, {"name": "cam", "type": "files", "path": f"{tmp_path}/**x/*.jpg"})


def test_a_file_becomes_a_folder_and_a_file_again(tmp_path: Path) -> None:
    source = {"name": "cam", "type": "files", "path": str(tmp_path / "cam")}
    (tmp_path / "cam").mkdir()
    for _ in range(2):
        (tmp_path / "cam/a").write_bytes(jpeg(1))
        assert [row["file"] for row in fetch(tmp_path, source)["cam"]] == ["a"]
        (tmp_path / "cam/a").unlink()
        (tmp_path / "cam/a").mkdir()
        (tmp_path / "cam/a/b.jpg").write_bytes(jpeg(2))
        assert [row["file"] for row in fetch(tmp_path, source)["cam"]] == ["a/b.jpg"]
        (tmp_path / "cam/a/b.jpg").unlink()
        (tmp_path / "cam/a").rmdir()


def test_what_cannot_be_read_is_counted_and_stops_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("becomes another user, which only root may")
    (tmp_path / "cam/locked").mkdir(parents=True)
    for name in ("good.jpg", "bad.jpg", "locked/c.jpg"):
        (tmp_path / "cam" / name).write_bytes(jpeg(len(name)))
    script = (
        "import os, sys, pathlib; sys.path.insert(0, sys.argv[2])\n"
        "import pipelines.fetch.fetch; from tests.fetch_runs import fetch; os.setuid(65534)\n"
        "fetch(pathlib.Path(), {'name': 'cam', 'type': 'files', 'path': 'cam'})"
    )
    (tmp_path / "cam/bad.jpg").chmod(0)
    (tmp_path / "cam/locked").chmod(0)
    tmp_path.chmod(0o777)
    subprocess.run([sys.executable, "-c", script, "-", str(ROOT)], cwd=tmp_path, check=True)
    rows = [json.loads(line) for line in (tmp_path / "fetched/cam/log.jsonl").read_text().splitlines()]
    assert {row["file"]: row.get("refused") for row in rows} == {"good.jpg": None, "bad.jpg": "unreadable", "locked": "unreadable"}


@pytest.mark.parametrize("kind", ["files", "log"])
def test_a_source_that_is_away_is_not_taken_for_empty(kind: str, tmp_path: Path) -> None:
    """An unmounted disk is an empty folder: its images would leave the data set, the frozen test with them."""
    shots, away = tmp_path / "shots", tmp_path / "away"
    shots.mkdir()
    (shots / "a.jpg").write_bytes(jpeg(1))
    (tmp_path / "log.csv").write_text("image\na.jpg\n")
    source = {"files": {"path": str(shots)}, "log": {"path": str(tmp_path / "log.csv"), "root": str(shots)}}[kind]
    fetch(tmp_path, {"name": "cam", "type": kind, **source})
    shots.rename(away)
    shots.mkdir()
    with pytest.raises(
        DetloopError, match=r"cam gave 1 files in the last run and none now .*mount or correct it; to go on with .*; if they are to leave"
    ):
        fetch(tmp_path, {"name": "cam", "type": kind, **source})
    assert (tmp_path / "fetched/cam/a.jpg").read_bytes() == jpeg(1)
    shots.rmdir()
    with pytest.raises(DetloopError, match="mount"):
        fetch(tmp_path, {"name": "cam", "type": kind, **source})
    away.rename(shots)
    assert len(fetch(tmp_path, {"name": "cam", "type": kind, **source})["cam"]) == 1
    assert fetch(tmp_path) == {}  # taken out of params.yaml it goes


def test_a_log_may_name_nothing_any_more(tmp_path: Path) -> None:
    """Its filter meets no row today: that is an answer, and no source that is away."""
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    (tmp_path / "log.csv").write_text("image,score\na.jpg,0.2\n")
    source = {"name": "asked", "type": "log", "path": str(tmp_path / "log.csv"), "where": "score < 0.4"}
    assert len(fetch(tmp_path, source)["asked"]) == 1
    (tmp_path / "log.csv").write_text("image,score\na.jpg,0.9\n")
    assert fetch(tmp_path, source)["asked"] == []
    assert not (tmp_path / "fetched/asked/a.jpg").exists()


def test_a_changed_object_is_fetched_after_the_work_folder_was_lost(tmp_path: Path) -> None:
    """As on a clone, which has data/fetched from DVC and no data/work."""
    import fsspec

    store = fsspec.filesystem("memory")
    source = {"name": "objects", "type": "store", "url": "memory://versions/cam"}
    try:
        store.pipe("/versions/cam/a.jpg", jpeg(1))
        fetch(tmp_path, source)
        assert not (tmp_path / "work").exists()
        store.pipe("/versions/cam/a.jpg", jpeg(3))
        (row,) = fetch(tmp_path, source)["objects"]
        assert (tmp_path / "fetched/objects" / row["file"]).read_bytes() == jpeg(3)
    finally:
        store.rm("/versions", recursive=True)


def _clip(path: Path, codec: str, frames: int = 100) -> None:
    scenes = [np.random.default_rng(seed).integers(30, 220, (6, 8, 3), dtype=np.uint8) for seed in range(4)]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25, (320, 240))
    for number in range(frames):
        writer.write(cv2.resize(scenes[number * 4 // frames], (320, 240), interpolation=cv2.INTER_NEAREST))
    writer.release()


def test_a_clip_that_ends_too_soon_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clips").mkdir()
    _clip(tmp_path / "whole.avi", "MJPG")
    content = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "clips/cut.avi").write_bytes(content[: len(content) // 2])
    (tmp_path / "clips/whole.avi").write_bytes(content)
    source = {"name": "door", "type": "video", "path": str(tmp_path / "clips")}
    for _ in range(2):  # as well when it is not read again
        rows = fetch(tmp_path, source)["door"]
        assert [(row["file"], row.get("refused")) for row in rows] == [
            ("cut.avi", "clip_cut_short"),
            ("cut.avi/000000.jpg", None),
            ("cut.avi/000025.jpg", None),
            *((f"whole.avi/{number:06d}.jpg", None) for number in (0, 25, 50, 75)),
        ]
        assert re.search(r"clips/cut.avi \((49|50) of 100 frames can be read, up to (1.9|2.0) s: copy it anew", capsys.readouterr().out)
    (tmp_path / "inbox").mkdir()
    metrics = collect(tmp_path, tmp_path / "inbox")
    assert metrics["dropped_by_reason"]["clip_cut_short"] == {"count": 1, "first": ["door/cut.avi"]}


def _moov(content: bytes, path: list[bytes]) -> list[int]:
    """Where the boxes along `path` begin in an MP4 file."""
    found, start, end = [], 0, len(content)
    for name in path:
        while content[start + 4 : start + 8] != name:
            start += struct.unpack(">I", content[start : start + 4])[0]
            assert start < end
        found.append(start)
        start += 8
    return found


def test_times_are_the_clips_own(tmp_path: Path) -> None:
    """Phones film at an uneven rate: here 50 frames at 25 a second, then 50 at 5 a second (stts, ISO 14496-12)."""
    _clip(tmp_path / "clip.mp4", "mp4v")
    content = (tmp_path / "clip.mp4").read_bytes().replace(b"edts", b"free")  # the edit list would end the clip at its old length
    boxes = _moov(content, [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"])
    assert content.index(b"mdat") < boxes[0]  # what lies after the pictures may grow
    entries, count, delta = struct.unpack(">III", content[boxes[-1] + 12 : boxes[-1] + 24])
    assert (entries, count) == (1, 100)
    uneven = bytearray(content[: boxes[-1] + 12] + struct.pack(">IIIII", 2, 50, delta, 50, 5 * delta) + content[boxes[-1] + 24 :])
    for start in boxes:
        uneven[start : start + 4] = struct.pack(">I", struct.unpack(">I", uneven[start : start + 4])[0] + 8)
    (tmp_path / "clip.mp4").write_bytes(bytes(uneven))
    rows = fetch(tmp_path, {"name": "phone", "type": "video", "path": str(tmp_path / "clip.mp4")})["phone"]
    assert [row["uri"].rpartition("#t=")[2] for row in rows] == ["0.0", "1.0", "2.0", "7.0"]


def test_frames_of_a_turned_clip_stand_upright(tmp_path: Path) -> None:
    _clip(tmp_path / "clip.mp4", "mp4v")
    content = bytearray((tmp_path / "clip.mp4").read_bytes())
    start = _moov(bytes(content), [b"moov", b"trak", b"tkhd"])[-1]
    turn = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 240 << 16, 0, 1 << 30)  # a quarter clockwise
    content[start + 48 : start + 84] = turn
    flat = frame(tmp_path, "flat")
    (tmp_path / "clip.mp4").write_bytes(bytes(content))
    assert np.abs(frame(tmp_path, "turned").astype(int) - np.rot90(flat, -1).astype(int)).mean() < 3


def frame(folder: Path, name: str) -> NDArray[np.uint8]:
    rows = fetch(folder, {"name": name, "type": "video", "path": str(folder / "clip.mp4")})[name]
    picture = cv2.imread(str(folder / "fetched" / name / rows[0]["file"]))
    assert picture is not None
    return picture.astype(np.uint8)
