"""What the campaigns look with: equal bits, active parts of printed files, calls that run data."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import numpy as np
import pytest
from workspace import ROOT

from normlab.runs.checkpoints import Checkpoint
from normlab.runs.errors import StorageError
from stress.output_escaping import active_parts
from stress.states import same
from stress.untrusted_input import end_of

ALLOWED = {"norms/outside.py: exec"}
"""A norm of somebody's own is run, from the bytes that were hashed."""
SOURCES = (
    "import pickle",
    "from yaml import load",
    "f(x, allow_pickle=True)",
    "eval(x)",
    "exec(x)",
)


def calls_that_run_data(source: str) -> Iterator[str]:
    """Yield what a source does that could run what a file holds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = str(getattr(node, "module", node.names[0].name))
            banned = ("pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "yaml")
            yield from [module] if module.partition(".")[0] in banned else []
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            yield from [called] if called in ("eval", "exec", "__import__") else []
            arguments = {str(k.arg) for k in node.keywords if ast.unparse(k.value) != "False"}
            yield from sorted(arguments & {"allow_pickle", "shell"})


def test_nothing_in_the_package_runs_what_a_file_holds():
    package, found = ROOT / "normlab", set()
    for path in package.rglob("*.py"):
        for call in calls_that_run_data(path.read_text(encoding="utf-8")):
            found.add(f"{path.relative_to(package).as_posix()}: {call}")
    assert found == ALLOWED
    assert all(list(calls_that_run_data(source)) for source in SOURCES)
    assert not list(calls_that_run_data("model.eval(); f(allow_pickle=False); 'eval(x)'"))


def test_checkpoints_are_the_same_when_every_bit_is():
    one = Checkpoint(5, {"w": np.array([0.0, np.nan])}, {"loss": 0.1})
    assert same(one, Checkpoint(5, {"w": np.array([0.0, np.nan])}, {"loss": 0.1}))
    for step, values in ((6, [0, np.nan]), (5, [-0.0, np.nan]), (5, [0, 0])):
        assert not same(one, Checkpoint(step, {"w": np.array(values, float)}, {"loss": 0.1}))
    assert not same(one, Checkpoint(5, {"w": np.array([0, np.nan], "f4")}, {"loss": 0.1}))
    assert not same(one, Checkpoint(5, one.arrays, {"loss": 0.2}))
    assert not same(one, None) and same(None, None)


ACTIVE = {
    "html": ("<script>1</script>", "<p onclick='x'>", "<a href='https://x.org'>", "<animate>"),
    "svg": ("<svg onload=x>", "<a xlink:href='javascript:x'/>"),
    "csv": ("a,=1\n", '"+x"\n', "-1+x\n", "a\r=1\n", '"\t1"\n'),
    "tex": ("\\input{x}", "a $x$", "^^5cinput", "a % b", "\\beginx", "a & b \\\\\n[1cm] & c \\\\"),
    "md": ("<b>", "[x](y)", "`x`", "$x$", "a \\\\`x`"),
}
INERT = {
    "html": ("<p>&lt;script&gt; onclick=x</p>", "<a href='#x'>", "<a href='tables/a-b.csv'>"),
    "csv": ("'=1\n", "-1.5,+2e3\n", '"a\n=1"\n'),
    "tex": ("\\begin{tabular}{ll}", "a \\& b \\\\\n\\bottomrule", "$-$1 \\textbackslash{}x"),
    "md": ("a &lt;b&gt; \\`x\\` \\$x\\$ \\|", "[x]\\(y)"),
}


@pytest.mark.parametrize("suffix", ACTIVE)
def test_active_parts_are_found_and_others_are_not(suffix, tmp_path):
    file = tmp_path / f"x.{suffix}"
    for texts, is_active in ((ACTIVE[suffix], True), (INERT.get(suffix, ()), False)):
        for text in texts:
            file.write_bytes(text.encode())
            assert bool(active_parts(file)) == is_active, text


def test_a_refusal_is_one_line_of_our_own():
    def fail(error: Exception) -> None:
        raise error

    assert end_of(lambda: None) == end_of(lambda: fail(StorageError("one line"))) == []
    for error in (StorageError("two\nlines"), StorageError("x" * 1000), KeyError("x"), OSError(28)):
        assert len(end_of(lambda error=error: fail(error))) == 1
