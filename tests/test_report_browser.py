"""The report in a real browser: no script errors, nothing requested, filters and arrow keys work. Skipped where no Chromium is installed."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.report.page import render
from tests.browser import LEAVE_ANSWER, answer_of, needs_chromium
from tests.report_example import write_example
from tests.test_report import HOSTILE, read

LISTEN = """<script>
window.problems = [];
addEventListener("error", (event) => problems.push(String(event.message)));
addEventListener("securitypolicyviolation", (event) => problems.push(event.blockedURI));
</script>"""
PLAY = """<script>
const shown = () => [...document.querySelectorAll(".gallery figure")].filter((card) => !card.hidden);
const pick = (name, value) => {
  const select = document.querySelector(`.filters select[name=${name}]`);
  select.value = value;
  select.dispatchEvent(new Event("change"));
  return { value: select.value, shown: shown().length, all: shown().every((card) => JSON.parse(card.dataset[name]).includes(value) || value === "") };
};
const dialog = document.getElementById("large");
const key = (name) => dialog.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
const place = () => dialog.querySelector(".place").textContent;
const answer = { start: shown().length, kind: pick("kind", "missed"), places: [] };
shown()[0].querySelector("button").click();
answer.open = dialog.open;
for (const name of ["ArrowRight", "ArrowLeft", "ArrowLeft"]) { answer.places.push(place()); key(name); }
answer.places.push(place());
answer.caption = dialog.querySelector(".text").textContent;
dialog.querySelector(".close").click();
answer.closed = !dialog.open;
pick("kind", "");
answer.hostile = pick("class", HOSTILE);
answer.again = pick("class", "").shown;
answer.text = document.getElementById("gallery-count").textContent;
answer.requests = performance.getEntriesByType("resource").map((entry) => entry.name).filter((name) => !name.startsWith("data:"));
answer.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
answer.problems = problems;
ANSWER</script>""".replace("ANSWER", LEAVE_ANSWER)


WIDE_TABLES = """<script>
const wide = [...document.querySelectorAll(".scroll")].filter((box) => box.scrollWidth > box.clientWidth + 1);
const answer = { tables: document.querySelectorAll(".scroll").length, wide: wide.map((box) => box.textContent.trim().slice(0, 40)) };
ANSWER</script>""".replace("ANSWER", LEAVE_ANSWER)


@needs_chromium
def test_no_table_scrolls_sideways_on_a_wide_window(tmp_path: Path) -> None:
    html = render(read(write_example(tmp_path)))
    (tmp_path / "page.html").write_text(html.replace("</body>", f"{WIDE_TABLES}</body>"))
    answer = answer_of((tmp_path / "page.html").as_uri(), tmp_path, "--window-size=1280,2000")
    assert answer["tables"] > 15
    assert answer["wide"] == []


@needs_chromium
def test_the_page_works_in_a_browser(tmp_path: Path) -> None:
    classes = (HOSTILE, "nut", "washer")
    html = render(read(write_example(tmp_path, classes=classes), classes))
    play = PLAY.replace("HOSTILE", json.dumps(HOSTILE).replace("</", "<\\/"))
    (tmp_path / "page.html").write_text(html.replace("<head>", f"<head>{LISTEN}").replace("</body>", f"{play}</body>"))
    answer = answer_of((tmp_path / "page.html").as_uri(), tmp_path)
    assert answer["problems"] == []
    assert answer["requests"] == []
    assert answer["start"] == 8
    missed = answer["kind"]["shown"]
    assert 1 < missed < answer["start"]
    assert answer["kind"]["all"]
    assert (answer["open"], answer["closed"]) == (True, True)
    assert answer["places"] == [f"1 of {missed}", f"2 of {missed}", f"1 of {missed}", f"{missed} of {missed}"]
    assert "missed" in answer["caption"]
    assert answer["hostile"]["value"] == HOSTILE
    assert 0 < answer["hostile"]["shown"] < answer["start"]
    assert answer["hostile"]["all"]
    assert answer["again"] == 8
    assert answer["text"] == "8 of 8 pictures shown"
    assert not answer["wide"], "the page scrolls sideways"
