"""The page in a browser: nothing overflows, links lead somewhere, its script works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import CLAIMS, FASTER, STUDY, runs_for

from normlab.report.model import collect
from normlab.report.write import write_report
from normlab.runs.store import Store
from normlab.studies.effects import speedup

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
WIDTHS = (390, 1400)
CHECK = """
<script>
const errors = [];
addEventListener("error", event => errors.push(event.message));
addEventListener("load", () => {
  const all = selector => [...document.querySelectorAll(selector)];
  const leads = a => document.getElementById(decodeURIComponent(a.hash.slice(1)));
  const head = all("table.arms thead th").find(th => th.textContent.startsWith("test error"));
  const rows = [...head.closest("table").tBodies[0].rows];
  const column = () => [...head.closest("table").tBodies[0].rows].map(
    row => row.cells[head.cellIndex].textContent);
  head.querySelector("button").click();
  const ascending = [head.ariaSort, ...column()];
  head.querySelector("button").click();
  const verdicts = document.querySelector("table.verdicts");
  const parts = () => [...verdicts.tBodies].map(body => [...body.rows].map(
    row => row.className + " " + (row.querySelector(".id, .command")?.textContent ?? "")));
  const cells = i => all(".verdicts .row").map(row => row.cells[i].textContent.trim());
  const before = parts();
  const sorted = [0, 1, 3].flatMap(i => ["first", "again"].map(() => {
    const head = verdicts.tHead.rows[0].cells[i];
    head.querySelector("button").focus();
    document.activeElement.click();
    const marked = all(".verdicts [aria-sort]").map(th => [th.cellIndex, th.ariaSort]);
    return {marked, cells: cells(i), parts: parts()};
  }));
  const mark = document.querySelector("[data-name^='none, rate'] use");
  const point = mark.getBoundingClientRect();
  const at = {clientX: point.x + point.width / 2, clientY: point.y + point.height / 2};
  mark.closest("svg").dispatchEvent(new PointerEvent("pointermove", at));
  parent.postMessage({
    width: innerWidth,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    cut: all(".scroll").filter(e => e.scrollWidth > e.clientWidth).length,
    lost: all("a[href^='#']").filter(a => !leads(a)).map(a => a.href),
    links: all(".verdicts .how a").length,
    before, sorted, ascending, descending: [head.ariaSort, ...column()],
    tip: document.getElementById("tip").textContent,
    copies: all("button.copy").length - all("code.command").length,
    errors}, "*");
});
</script>
"""
FRAMES = """
<script>
const found = [];
addEventListener("message", event => {
  found.push(event.data);
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>
<pre id="found"></pre>
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict[int, dict[str, Any]]:
    """Return what the page looks like at each width."""
    if not BROWSER:
        pytest.skip("needs Chromium or Chrome")
    root = tmp_path_factory.mktemp("results")
    pairs = {"C10": ("none", "group"), "C2": ("batch", "none")}
    more = [
        replace(FASTER, id=name, effect=replace(speedup(*pair), comparison=f"steps: {name}"))
        for name, pair in pairs.items()
    ]
    study = replace(STUDY, claims=(*CLAIMS, *more))
    records = runs_for([study], "quick")
    page = write_report(Store(root), collect(Store(root), [study], "quick", records=records))
    text = page.read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', CHECK, text)
    page.with_name("checked.html").write_text(text, encoding="utf-8")
    frames = [f'<iframe src="checked.html" width="{w}" height="800"></iframe>' for w in WIDTHS]
    outer = page.with_name("frames.html")
    outer.write_text("<!doctype html>" + FRAMES + "".join(frames), encoding="utf-8")
    return {found["width"]: found for found in opened(outer)}


def opened(page: Path) -> list[dict[str, Any]]:
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [str(BROWSER), *flags, profile, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found and found[1], done.stderr
    return json.loads(unescape(found[1]))


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows_and_links_lead_somewhere(seen, width):
    found = seen[width]
    assert found["errors"] == [] and found["lost"] == []
    assert found["overflow"] <= 0
    assert found["links"] == 4 * 5  # figure, table, runs and study of five rows
    assert found["cut"] == 0 or width < 1000, "tables that do not fit"


def test_tables_can_be_sorted(seen):
    up, *rising = seen[1400]["ascending"]
    down, *falling = seen[1400]["descending"]
    assert (up, down) == ("ascending", "descending")
    errors = [float(text.partition(" ")[0]) for text in rising]
    assert errors == sorted(errors) and len({*errors}) > 2
    assert [float(text.partition(" ")[0]) for text in falling] == errors[::-1]


def test_claims_and_their_results_can_be_sorted(seen):
    """From the keyboard too: buttons have the focus before they are used."""
    found = seen[1400]["sorted"]
    marks = [[[i, way]] for i in (0, 1, 3) for way in ("ascending", "descending")]
    assert [sort["marked"] for sort in found] == marks
    claims, effects, words = ([sort["cells"] for sort in found[i : i + 2]] for i in (0, 2, 4))
    ids = [[text.partition(" ")[0] for text in sort] for sort in claims]
    assert ids == [["C1a", "C1b", "C1c", "C2", "C10"], ["C10", "C2", "C1c", "C1b", "C1a"]]
    rising, falling = ([float(text.partition("×")[0]) for text in sort] for sort in effects)
    assert rising == sorted(rising) and falling == rising[::-1] and len({*rising}) == 3
    said = [[text.split()[1].strip(",") for text in sort] for sort in words]
    of_c1 = ["exploratory", "refuted", "supported"]
    assert said == [["exploratory", *of_c1, "refuted"], [*of_c1[::-1], "refuted", "exploratory"]]
    rows = [sorted(map(sorted, sort["parts"])) for sort in found]
    assert all(row == sorted(map(sorted, seen[1400]["before"])) for row in rows)
    for body in (body for sort in found for body in sort["parts"]):
        assert body[0].startswith("claim ")
        kinds = [part.partition(" ")[0] for part in body[1:]]
        assert kinds[-2:] == ["row", "fold"] and "row row" not in " ".join(kinds)


def test_figures_say_their_values_and_commands_can_be_copied(seen):
    assert re.fullmatch(r"none, rate [\d.]+, n = 6, step [\d.]+: [\d.]+", seen[1400]["tip"])
    assert seen[1400]["copies"] == 0
