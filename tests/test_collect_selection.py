"""Lists, the champion's view and budgets: which usable images are taken."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.collect.selection import Interest, Lists, lines_of, unmatched, with_budget, with_interest, with_lists
from pipelines.core.errors import DataError
from pipelines.core.io import sha256_bytes
from pipelines.core.records import read_manifest
from tests.collect_runs import collect, snapshot
from tests.images import encoded, jpeg, picture

SCHEMA = {
    "origin": pl.String,
    "image_id": pl.String,
    "reason": pl.String,
    "refused": pl.String,
    "source": pl.String,
    "captured_at": pl.String,
    "given_split": pl.String,
    "near_duplicate_of": pl.String,
    "predicted_classes": pl.List(pl.String),
    "interest_score": pl.Float64,
    "uncertainty": pl.Float64,
    "picked": pl.Boolean,
}


def table(*rows: dict[str, object]) -> pl.DataFrame:
    blank = {"picked": False, "source": "cam"}
    return pl.DataFrame([{**blank, "image_id": sha256_bytes(str(row["origin"]).encode()), **row} for row in rows], schema=SCHEMA)


def fates(frame: pl.DataFrame) -> dict[str, str | None]:
    return dict(zip(frame["origin"], frame["reason"], strict=True))


def test_lists_name_images_by_id_origin_or_glob() -> None:
    frame = table(
        {"origin": "cam/a.jpg"},
        {"origin": "cam/b.jpg", "reason": "blurred"},
        {"origin": "cam/c.jpg", "reason": "truncated", "refused": "truncated"},
        {"origin": "door/d.jpg", "reason": "too_dark"},
        {"origin": "door/e.jpg", "given_split": "test"},
    )
    pick = lines_of("# keep\n\ncam/b.jpg\n  cam/c.jpg \ndoor/*\ncam/none.jpg\n")
    found = with_lists(frame, Lists(pick, (sha256_bytes(b"cam/a.jpg"), "door/d.*")))
    assert fates(found) == {"cam/a.jpg": "rejected", "cam/b.jpg": None, "cam/c.jpg": "truncated", "door/d.jpg": "rejected", "door/e.jpg": None}
    assert found["picked"].to_list() == [False, True, True, True, True]
    assert unmatched(frame, pick) == ["cam/none.jpg"]
    assert fates(with_lists(frame, Lists())) == fates(frame)


def test_dull_images_go_unless_the_champion_is_unsure_or_someone_picked_them() -> None:
    frame = table(
        {"origin": "seen", "interest_score": 0.6, "uncertainty": 0.1},
        {"origin": "unsure", "interest_score": 0.0, "uncertainty": 0.7},
        {"origin": "dull", "interest_score": 0.1, "uncertainty": 0.2},
        {"origin": "picked", "interest_score": 0.1, "uncertainty": 0.2, "picked": True},
        {"origin": "dark", "reason": "too_dark"},
    )
    found = fates(with_interest(frame, Interest(score=0.25, uncertainty=0.5)))
    assert found == {"seen": None, "unsure": None, "dull": "nothing_of_interest", "picked": None, "dark": "too_dark"}


def test_a_budget_is_spread_over_the_strata() -> None:
    """Worked by hand: of 60, 6 and 3 images a budget of 15 takes 3 of the third, then 6 and 6 of the others."""
    rows = [{"origin": f"{source}/{number}", "source": source} for source, count in (("a", 60), ("b", 6), ("c", 3)) for number in range(count)]
    found = with_budget(table(*rows), 15, ["source"], set())
    assert Counter(found.filter(pl.col("reason").is_null())["source"]) == {"a": 6, "b": 6, "c": 3}
    assert set(found["reason"].drop_nulls()) == {"over_budget"}
    days = [
        {"origin": f"{day}/{number}", "captured_at": f"2026-01-{day}T00:00:00"} for day, count in (("01", 30), ("02", 2)) for number in range(count)
    ]
    found = with_budget(table(*days), 6, ["day"], set())
    assert Counter(found.filter(pl.col("reason").is_null())["captured_at"].str.head(10)) == {"2026-01-01": 4, "2026-01-02": 2}


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, ["nut"], ["bolt", "nut"]]), st.booleans()), max_size=40),
    st.integers(1, 50),
    st.integers(0, 20),
)
def test_budgets_are_kept_whatever_the_order_and_grow_by_adding(rows: list[tuple[str, list[str] | None, bool]], budget: int, more: int) -> None:
    frame = table(*({"origin": f"{n}", "source": s, "predicted_classes": c, "picked": p} for n, (s, c, p) in enumerate(rows)))
    strata = ["source", "predicted_class"]
    kept = set(with_budget(frame, budget, strata, set()).filter(pl.col("reason").is_null())["origin"])
    picked = set(frame.filter("picked")["origin"])
    assert picked <= kept
    assert len(kept) == max(min(budget, len(rows)), len(picked))
    assert kept == set(with_budget(frame.reverse(), budget, strata, set()).filter(pl.col("reason").is_null())["origin"])
    ids = set(frame.filter(pl.col("origin").is_in(list(kept)))["image_id"])
    larger = set(with_budget(frame, budget + more, strata, ids).filter(pl.col("reason").is_null())["origin"])
    assert kept <= larger


def test_a_budget_takes_the_best_of_each_cluster_and_keeps_what_it_once_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inbox, out = tmp_path / "inbox/cam", tmp_path / "out"
    inbox.mkdir(parents=True)
    out.mkdir()
    for number in range(12):
        (inbox / f"{number:02d}.jpg").write_bytes(jpeg(number))
    (inbox / "again.jpg").write_bytes(jpeg(3, quality=50))
    (out / "params.yaml").write_text("classes: [{name: bolt}]\ncollect: {sample: {budget: 6, by: [source]}}\n")
    first = collect(out, tmp_path / "inbox")
    assert first["kept"] == 6
    assert first["dropped_by_reason"]["near_duplicate"]["first"] == ["cam/again.jpg"]
    assert first["seen"] == first["kept"] + sum(entry["count"] for entry in first["dropped_by_reason"].values())
    manifest = read_manifest(out / "raw/manifest.parquet")
    linked = manifest.filter(origin="cam/again.jpg").row(0, named=True)
    assert (linked["status"], linked["near_duplicate_of"]) == ("dropped", manifest.filter(origin="cam/03.jpg")["image_id"].item())
    before = snapshot(out)
    collect(out, tmp_path / "inbox")
    assert snapshot(out) == before
    kept = set(manifest.filter(status="kept")["image_id"])
    for number in range(20, 40):
        (inbox / f"{number:02d}.jpg").write_bytes(jpeg(number))
    collect(out, tmp_path / "inbox")
    assert set(read_manifest(out / "raw/manifest.parquet").filter(status="kept")["image_id"]) == kept
    assert len(list((out / "raw/images").rglob("*.jpg"))) == 6
    assert "over the budget" not in capsys.readouterr().out
    (out / "params.yaml").write_text("classes: [{name: bolt}]\ncollect: {sample: {budget: 2, by: [source]}}\n")
    assert collect(out, tmp_path / "inbox")["kept"] == 6
    assert "over the budget of 2: what is picked, has a given split or was kept by an earlier run stays" in capsys.readouterr().out


def test_lists_of_the_project_reach_the_manifest(tmp_path: Path) -> None:
    inbox, out = tmp_path / "inbox/cam", tmp_path / "out"
    inbox.mkdir(parents=True)
    (inbox / "a.jpg").write_bytes(jpeg(1))
    (inbox / "fog.jpg").write_bytes(encoded(picture(2).resize((8, 8)).resize((320, 240))))
    (inbox / "tiny.jpg").write_bytes(jpeg(3, (20, 20)))
    assert collect(out, tmp_path / "inbox")["dropped_by_reason"]["too_small"]["count"] == 1
    (out / "lists/pick.txt").write_text("cam/tiny.jpg\n")
    (out / "lists/reject.txt").write_text("cam/a.*\nnobody\n")
    metrics = collect(out, tmp_path / "inbox")
    assert metrics["dropped_by_reason"] == {"rejected": {"count": 1, "first": ["cam/a.jpg"]}}
    assert metrics["list_lines_unmatched"] == {"pick": [], "reject": ["nobody"]}
    assert json.dumps(metrics)
    kept = read_manifest(out / "raw/manifest.parquet").filter(status="kept")["path"]
    assert {path.relative_to(out / "raw").as_posix() for path in (out / "raw/images").rglob("*.jpg")} == set(kept)


def test_what_the_lists_get_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list from Notepad, a line that names nothing, a file on both lists, a list in another encoding."""
    inbox, out = tmp_path / "inbox/cam", tmp_path / "out"
    inbox.mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        (inbox / name).write_bytes(jpeg(ord(name[0])))
    collect(out, tmp_path / "inbox")
    (out / "lists/pick.txt").write_bytes("\ufeffcam/a.jpg\r\ncam/b.jpg\r\nghost.jpg\r\n".encode())
    (out / "lists/reject.txt").write_text("cam/a.*\n")
    capsys.readouterr()
    metrics = collect(out, tmp_path / "inbox")
    assert metrics["list_lines_unmatched"] == {"pick": ["ghost.jpg"], "reject": []}
    assert metrics["picked_and_rejected"] == ["cam/a.jpg"]
    printed = capsys.readouterr().out
    assert "1 line of" in printed
    assert "pick.txt without a file: ghost.jpg\n" in printed
    assert "1 file on both lists, and so rejected: cam/a.jpg\n" in printed
    (out / "lists/reject.txt").write_bytes("grün.jpg\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"reject.txt is not UTF-8 text .*: save it as UTF-8"):
        collect(out, tmp_path / "inbox")


def test_a_class_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/params.yaml").write_text("classes: [{name: bolt}]\ncollect: {screen: {use: champion, classes: [gear]}}\n")
    with pytest.raises(Exception, match="gear"):
        collect(tmp_path / "out", tmp_path)
