"""Short versions of the campaigns against inputs: hostile files, names and texts, bad settings.

Each also plants readers, printers and checks that are broken on purpose and fails where it misses
one; what it looks with is tried here too.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from stress.campaign import Workspace
from stress.naive_readers import SOURCES
from stress.output_escaping import PACKAGE, active_parts, banned, banned_in
from stress.untrusted_input import end_of, malice
from stress.workspace_files import leaves, made_up, put, sealed
from workspace import CACHE

from normlab.runs import files
from normlab.runs.config import resolve
from normlab.runs.errors import ConfigError, StorageError
from normlab.runs.provenance import missing_facts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs links")


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Workspace:
    for name, value in CACHE.items():
        monkeypatch.setenv(name, value)
    return Workspace(tmp_path, seed=0, is_long=False, tell=lambda line: None)


def test_what_is_planted_neither_runs_nor_escapes_nor_breaks_a_reader(desk):
    report = malice(desk)
    assert report.failures == []
    none = ("canaries executed", "files outside the results", "active parts printed")
    assert [report.figures[name] for name in none] == [0, 0, 0]
    assert report.figures["files planted"] == 20 + 7 * 4 and report.figures["links planted"] == 18
    assert report.figures["planted faults caught"] == "20 of 20"


def test_bad_settings_are_refused_in_a_line_and_the_others_train(desk):
    from stress.settings_fuzz import bad_settings

    report = bad_settings(desk)
    assert report.failures == []
    refused, accepted = (report.figures[name] for name in ("refused in one line", "accepted"))
    assert isinstance(refused, int) and refused > 100 and isinstance(accepted, int)
    assert accepted > 40 and refused + accepted == report.figures["configurations"]
    assert report.figures["trained for 2 steps"] == 1 and report.figures["commands refused"] == 3
    assert report.figures["tracebacks"] == 0
    assert report.figures["planted faults caught"] == "6 of 6"


def test_equal_seeds_draw_equal_settings():
    from stress.settings_fuzz import configurations, drawn

    def draws(seed: int) -> list[str]:
        seen: list[str] = []
        drawn(configurations(), 30, seed, lambda config: seen.append(repr(config)))
        return seen

    assert draws(1) == draws(1) != draws(2)


def test_without_hypothesis_the_way_out_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    monkeypatch.delitem(sys.modules, "stress.settings_fuzz", raising=False)
    with pytest.raises(ConfigError, match="^hypothesis, .* not installed; bash scripts/test.sh"):
        importlib.import_module("stress.settings_fuzz")


# what the campaigns look with


def test_nothing_in_the_package_runs_what_a_file_holds():
    assert banned_in(PACKAGE) == []


@pytest.mark.parametrize("source", SOURCES)
def test_what_would_run_a_file_is_found_in_a_source(source, tmp_path):
    (tmp_path / "x.py").write_text(source)
    assert banned_in(tmp_path) == [f"x.py: {what}" for what in banned(source)] != []


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "numpy.load(x, allow_pickle=False)",
        "json.loads(x)",
        "'eval(x)'",
        "execute()",
    ],
)
def test_what_only_looks_like_it_is_not(source):
    assert list(banned(source)) == []


ACTIVE = {
    ".html": (
        "<script>1</script>",
        "<img src=x>",
        "<p onclick='x'>",
        "<a href='JavaScript:x'>",
        "<a href='https://example.org'>",
        "<img src='data:text/html;base64,x'>",
        "<svg><animate>",
    ),
    ".svg": ("<svg onload=x>", "<script/>", "<a xlink:href='javascript:x'/>"),
    ".csv": ("a,=1\n", '"+x"\n', "-1+x\n", "@x\n", "a\r=1\n", '"\t1"\n'),
    ".tex": (
        "\\input{x}",
        "a $x$",
        "^^5cinput",
        "a % b",
        "a_b",
        "\\beginx",
        "a & b \\\\\n[1cm] & c \\\\",
    ),
    ".md": ("<b>", "[x](y)", "`x`", "$x$", "a \\\\`x`"),
}
INERT = {
    ".html": ("<p>&lt;script&gt; onclick=x</p>", "<a href='#x'>", "<a href='tables/a-b.csv'>"),
    ".svg": ("<svg><use xlink:href='#x'/></svg>",),
    ".csv": ("a,b\n", "'=1\n", "-1.5,+2e3\n", '"a\n=1"\n'),
    ".tex": (
        "\\begin{tabular}{ll}",
        "a \\& b \\\\\n\\bottomrule",
        "$-$1 $\\times$ \\textbackslash{}x",
    ),
    ".md": ("a &lt;b&gt; \\`x\\` \\$x\\$ \\|", "[x]\\(y)"),
}


@pytest.mark.parametrize("suffix", ACTIVE)
def test_active_parts_are_found_and_others_are_not(suffix, tmp_path):
    file = tmp_path / f"x{suffix}"
    for texts, is_active in ((ACTIVE[suffix], True), (INERT[suffix], False)):
        for text in texts:
            file.write_bytes(text.encode())
            assert bool(active_parts(file)) == is_active, text


def test_a_refusal_is_one_line_of_the_labs_own():
    def fail(error: Exception) -> None:
        raise error

    assert end_of(lambda: None) == end_of(lambda: fail(StorageError("one line"))) == []
    for error in (StorageError("two\nlines"), StorageError("x" * 1000), KeyError("x"), OSError(28)):
        assert len(end_of(lambda error=error: fail(error))) == 1


def test_what_is_planted_is_sealed_as_by_the_lab(tmp_path):
    value = {"a": {"b": 1, "c": [1, 2]}, "d": float("nan")}
    files.write_json(tmp_path / "x.json", value)
    assert (tmp_path / "x.json").read_bytes() == sealed(json.dumps(value, indent=1))
    assert list(leaves(value)) == [("a",), ("a", "b"), ("a", "c"), ("d",)]
    assert put(value, ("a", "b"), 2)["a"] == {"b": 2, "c": [1, 2]} and value["a"]["b"] == 1


def test_made_up_results_are_complete():
    result, curve = made_up(resolve({}).config)
    assert missing_facts(result["provenance"]) == [] and len(curve) == 2
    assert json.loads(json.dumps(result))["status"] == "trained" and Path(PACKAGE).name == "normlab"
