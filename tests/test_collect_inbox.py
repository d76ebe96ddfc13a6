"""The inbox: what is seen, what the logs say, and names and links that real folders hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.collect.inbox import read_inbox
from pipelines.core.errors import DataError
from pipelines.core.filelog import origin_of
from pipelines.fetch.local import local_files
from tests.fetch_runs import fetch


def put(inbox: Path, *names: str) -> None:
    for name in names:
        (inbox / name).parent.mkdir(parents=True, exist_ok=True)
        (inbox / name).write_bytes(name.encode())


def by_origin(inbox: Path) -> dict[str, dict[str, Any]]:
    return {row["origin"]: row for row in read_inbox(inbox).seen.iter_rows(named=True)}


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_every_file_is_seen_but_logs_and_dotfiles(tmp_path: Path) -> None:
    put(tmp_path, "top.jpg", "cam1/a.jpg", "cam1/deep/b.png", "cam1/README.txt", "cam1/.hidden.jpg", ".git/x.jpg", "cam1/deep/log.csv")
    (tmp_path / "cam1/deep/log.csv").write_text("file\nb.png\n")
    found = read_inbox(tmp_path)
    assert found.seen.select("origin", "source").rows() == [
        ("cam1/README.txt", "cam1"),
        ("cam1/a.jpg", "cam1"),
        ("cam1/deep/b.png", "cam1"),
        ("top.jpg", "inbox"),
    ]
    assert found.seen.select("group", "captured_at", "given_split", "uri", "unopened").null_count().row(0) == (4, 4, 4, 4, 4)


def test_logs_fill_source_group_time_and_split(tmp_path: Path) -> None:
    put(tmp_path, "line/a.jpg", "line/b/c.jpg", "line/b/d.jpg")
    (tmp_path / "line/log.jsonl").write_text(
        jsonl(
            {"file": "a.jpg", "source": "cam7", "group": 12, "captured_at": "2025-03-10T06:00:00Z", "split": "val", "score": 0.5},
            {"file": "./b/c.jpg", "group": "burst", "captured_at": None},
        )
        + "\n  \n"
        + jsonl({"file": "gone.jpg"})
    )
    (tmp_path / "line/b/log.csv").write_text("\ufefffile,group,split\nd.jpg,,test\n")
    found = read_inbox(tmp_path)
    assert found.seen.select("origin", "source", "group", "captured_at", "given_split").rows() == [
        ("line/a.jpg", "cam7", "12", "2025-03-10T06:00:00Z", "val"),
        ("line/b/c.jpg", "line", "burst", None, None),
        ("line/b/d.jpg", "line", None, None, "test"),
    ]
    assert found.missing == ("line/log.jsonl line 5: line/gone.jpg",)
    assert found.ignored_columns == {"score": 1}


def test_bad_log_lines_are_reported_together(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "log.jsonl").write_text(
        jsonl(
            {"file": "/etc/passwd"},
            {"file": "x/../../a.jpg"},
            {"group": "no file"},
            {"file": "a.jpg", "split": "training"},
            {"file": "a.jpg", "captured_at": "yesterday"},
            {"file": "a.jpg", "group": ["g"]},
            {"file": "b.jpg", "group": "one"},
            {"file": "b.jpg", "group": "one"},
            {"file": "b.jpg", "group": "two"},
        )
    )
    with pytest.raises(DataError) as caught:
        read_inbox(tmp_path)
    message = str(caught.value)
    assert message.startswith("7 bad log lines")
    for part in (
        "'/etc/passwd'",
        "without `..`",
        "no `file`",
        "'training'",
        "'yesterday'",
        "['g']",
        "b.jpg stands in log.jsonl line 7 with other values",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.jsonl", b"{broken\n", "line 1 is not JSON"),
        ("log.jsonl", b"[1]\n", "not a JSON object"),
        ("log.csv", b"name,group\na.jpg,g\n", "wanted at least `file`"),
        ("log.csv", b"", "wanted at least `file`"),
        ("log.csv", b"file,group\na.jpg,g,h\n", "more fields than the header"),
        ("log.csv", b"file\n\xff\xfe\n", "UTF-8"),
        ("log.csv", b'file\n"a"b\n', "not a readable CSV"),
    ],
    ids=["not_json", "a_list", "no_file_column", "empty_csv", "long_row", "latin", "quotes"],
)
def test_a_broken_log_is_one_clear_error(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_inbox(tmp_path)


def test_links_are_followed_inside_the_inbox_only(tmp_path: Path) -> None:
    inbox, outside = tmp_path / "inbox", tmp_path / "outside"
    put(inbox, "cam/a.jpg")
    put(outside, "secret.jpg", "log.csv")
    for name, target in {
        "in.jpg": inbox / "cam/a.jpg",
        "out.jpg": outside / "secret.jpg",
        "out_folder": outside,
        "in_folder": inbox / "cam",
        "up": inbox,
        "broken.jpg": inbox / "nowhere.jpg",
        "loop.jpg": inbox / "loop.jpg",
        "log.csv": outside / "log.csv",
        "relative.jpg": Path("../outside/secret.jpg"),
    }.items():
        (inbox / name).symlink_to(target)
    os.mkfifo(inbox / "pipe.jpg")
    assert {origin: row["unopened"] for origin, row in by_origin(inbox).items()} == {
        "cam/a.jpg": None,
        "in.jpg": None,
        "out.jpg": "symlink_outside",
        "out_folder": "symlink_outside",
        "in_folder": "symlink_folder",
        "up": "symlink_folder",
        "broken.jpg": "symlink_broken",
        "loop.jpg": "symlink_broken",
        "log.csv": "symlink_outside",
        "relative.jpg": "symlink_outside",
        "pipe.jpg": "not_a_file",
    }


def test_files_that_dvc_replaced_by_links_into_its_cache_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As teams with one cache for all have it (`cache.type: symlink`): every image was dropped as a link out of the inbox, and the logs with them."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "inbox", "cam/a.jpg", "cam/deep/b.png")
    (tmp_path / "inbox/cam/log.csv").write_text("file,group\na.jpg,g\n")
    for command in (["init", "--no-scm"], ["config", "cache.type", "symlink"], ["add", "inbox"]):
        subprocess.run([sys.executable, "-m", "dvc", "--quiet", *command], check=True, capture_output=True)
    assert (tmp_path / "inbox/cam/a.jpg").is_symlink()
    found = by_origin(tmp_path / "inbox")
    assert {origin: (row["unopened"], row["group"]) for origin, row in found.items()} == {"cam/a.jpg": (None, "g"), "cam/deep/b.png": (None, None)}
    assert [item.refused for item, _ in local_files("inbox", tmp_path)] == [None] * 3
    Path("asked.csv").write_text("image\ncam/a.jpg\n")
    (row,) = fetch(tmp_path, {"name": "asked", "type": "log", "path": "asked.csv", "root": "inbox"})["asked"]
    assert "refused" not in row


def test_names_of_any_bytes_get_printable_names(tmp_path: Path) -> None:
    names = [b"line\nbreak.jpg", b"not\xffutf8.jpg", b"back\\slash.jpg", "schön 写真.jpg".encode(), b"\\xff.jpg", b"tab\t.jpg"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    (tmp_path / "log.jsonl").write_text(jsonl({"file": "line\nbreak.jpg", "group": "g"}))
    inbox = read_inbox(tmp_path)
    found = by_origin(tmp_path)
    assert set(found) == {"line\\nbreak.jpg", "not\\xffutf8.jpg", "back\\\\slash.jpg", "schön 写真.jpg", "\\\\xff.jpg", "tab\\t.jpg"}
    assert found["line\\nbreak.jpg"]["group"] == "g"
    assert len({path for path in inbox.paths(inbox.seen) if Path(path).read_bytes() == b"x"}) == len(names)


@given(st.lists(st.binary(min_size=1, max_size=6).filter(lambda name: b"\0" not in name), unique=True, max_size=8))
def test_different_names_stay_different(names: list[bytes]) -> None:
    origins = [origin_of(os.fsdecode(name)) for name in names]
    assert len(set(origins)) == len(names)
    assert all(origin.isprintable() and origin.encode() for origin in origins)
