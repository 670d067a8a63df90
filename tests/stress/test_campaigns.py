"""The short versions of all campaigns: every promise is kept and every mutant is caught."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from workspace import CACHE, ROOT

from stress import processes
from stress.campaign import CAMPAIGNS, Workspace, find_campaign
from stress.output_escaping import Parsed
from stress.slurm_nodes import missing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and fork")
AT_LEAST = {
    "kills": {"kills": 8, "restarts from a checkpoint": 1},
    "crashes": {
        "before an operation": 75,
        "refused by a full disk": 40,
        "trainings refused and continued": 1,
    },
    "damage": {"damages": 55},
    "untrusted_input": {"files planted": 40, "links planted": 15},
    "cluster": {"faults": 3},
    "slurm": {"faults": 4},
}
"""Figures without which a campaign would have tried nothing."""


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Workspace:
    for name, value in CACHE.items():
        monkeypatch.setenv(name, value)
    return Workspace(tmp_path, seed=0, is_long=False, emit=lambda line: None)


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_every_promise_is_kept_and_every_mutant_is_caught(name, workspace):
    if name == "cluster":
        pytest.importorskip("ray", reason="needs ray: pip install 'normlab[ray]'")
    if name == "slurm" and (lacking := missing(installs=False)):
        pytest.skip(f"needs a Slurm: {lacking}")
    report = find_campaign(name)(workspace)
    assert not report.failures
    few = {f: least for f, least in AT_LEAST[name].items() if int(report.figures[f]) < least}
    assert not few, report.figures


KILLED_CAMPAIGN = """
import os, sys
from pathlib import Path
from stress.campaign import Workspace
from stress.processes import Stage, until
stage = Stage(Workspace(Path(sys.argv[1]), 0, False), "stage")
child = stage.start("-c", "import time; print('here', flush=True); time.sleep(60)")
until(child.out.read_text, 20)
print(child.group, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_campaign_that_is_killed_leaves_no_process_running(workspace):
    command = [sys.executable, "-c", KILLED_CAMPAIGN, str(workspace.folder)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": path}
    group = int(subprocess.run(command, capture_output=True, env=environment).stdout)
    assert processes.until(lambda: not processes.members(group), 20)


ALLOWED = {"outside.py: exec"}
"""A norm or a reader from outside is run, from the bytes that were hashed."""
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


@pytest.mark.parametrize("tag", ["script", "link", "base", "form", "foreignobject", "animate"])
def test_active_tags_are_found_in_a_page(tag):
    assert Parsed(f"<p><{tag} x='1'></p>").active == [f"<{tag}>"]
    assert Parsed("<p><b>text</b></p>").active == []
