"""docs/norms.md is what the tables say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from normlab.layers.table import KERNELS
from normlab.norms.page import norms_page
from normlab.norms.table import COMMON, NORMS, Norm
from normlab.settings import SETTINGS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "norms.md"


def section(page: str, title: str) -> dict[str, list[str]]:
    """First cell without its quotes -> cells of each line of the section's table."""
    text = re.split(r"^## ", page, flags=re.MULTILINE)
    (chosen,) = (part for part in text if part.startswith(title + "\n"))
    lines = [line for line in chosen.splitlines() if line.startswith("|")][2:]
    cells = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in lines]
    return {row[0].strip("`"): row for row in cells}


def test_the_committed_page_is_the_one_of_the_tables():
    assert PAGE.read_text(encoding="utf-8") == norms_page(), (
        "write it again: python scripts/list.py norms --markdown > docs/norms.md"
    )


def test_every_scheme_and_option_is_there():
    page = norms_page()
    assert list(section(page, "What they compute")) == list(NORMS)
    assert list(section(page, "What they take")) == list(NORMS)
    assert list(section(page, "Kernel schemes")) == list(KERNELS)
    taken = {*COMMON, *(option for row in NORMS.values() for option in row.options)}
    options = section(page, "Options")
    assert set(options) == taken
    assert all(line[1] == f"`{SETTINGS[f'norm.{o}'].default!r}`" for o, line in options.items())
    assert all(len(line) == 4 for line in options.values())


def test_cells_are_those_of_the_rows():
    page = norms_page()
    what, takes = section(page, "What they compute"), section(page, "What they take")
    for name, row in NORMS.items():
        assert what[name][2] == (", ".join(row.over) or "-")
        assert what[name][3] == ("no" if row.is_per_sample else "yes")
        assert what[name][5] == ("running" if row.running_statistics else "-")
        assert (what[name][7] == "yes") == row.exact
        named = [re.findall(r"`(\w+)`", cell) for cell in (what[name][4], *takes[name][1:3])]
        assert named == [list(row.parameters), list(row.options), list(row.arguments)]
        assert takes[name][4:] == [row.cost or "-", row.source or "-"]


def test_a_row_from_outside_is_shown_and_cannot_break_the_table():
    mine = Norm("max |x|", "sample", object, over=("C",), options=("epsilon",), source="a|b")
    page = norms_page({"mine": mine})
    assert section(page, "What they compute")["mine"][1] == r"max \|x\|"
    assert section(page, "What they take")["mine"][-1] == r"a\|b"
    assert set(section(page, "Options")) == {"epsilon", *COMMON}


@pytest.mark.parametrize("link", re.findall(r"\]\((\S+?)\)", norms_page()))
def test_links_lead_somewhere(link):
    assert (PAGE.parent / link).exists()


def test_the_page_needs_no_jax():
    code = "import sys, normlab.norms.page as p; p.norms_page(); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
