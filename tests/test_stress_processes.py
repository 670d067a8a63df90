"""The short versions of the campaigns that kill processes and crowd them on one directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stress import kills, studies, sweepers
from stress.campaign import Report, Workspace

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".pytest_cache" / "normlab"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Workspace:
    monkeypatch.setenv("NORMLAB_CACHE", str(CACHE))
    return Workspace(tmp_path, seed=0, is_long=False)


def kept(report: Report) -> dict[str, Any]:
    """Return the figures of a campaign in which all promises were kept."""
    assert report.has_passed, "\n".join(report.failures)
    return dict(report.figures)


def test_a_run_that_is_killed_again_and_again_ends_as_if_undisturbed(desk):
    figures = kept(kills.single_runs(desk))
    equal, runs = figures["bit-equal"].split(" of ")
    assert figures["kills"] == 4 and equal == runs >= "1"
    assert figures["restarts from a checkpoint"] >= 1
    assert 0 <= figures["steps redone, median"] <= figures["steps redone, most"] <= studies.CHUNK


def test_two_studies_at_once_run_everything_once(desk):
    figures = kept(sweepers.crowd(desk))
    assert figures["bit-equal"] == f"{studies.RUNS} of {studies.RUNS}"


def test_claims_hold_when_claimers_are_killed_and_broken_ones_are_caught(desk):
    figures = kept(sweepers.claims(desk))
    assert figures["runs"] == 200 and figures["kills"] >= 3
    assert figures["runs lost"] == figures["runs recorded twice"] == 0
    assert figures["twice by claim without a lock"] > 0
    assert figures["twice by claim without a second look"] > 0


def test_a_stage_leaves_no_process_behind(desk):
    sleeper = "import time; time.sleep(60)"
    starter = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleeper!r}])"
    stage = studies.Stage(desk, "stage")
    child = stage.start("-c", starter)
    with pytest.raises(KeyError), stage:
        assert studies.until(lambda: len(studies.members(child.group)) == 2, 20)
        child.kill("supervisor")
        assert studies.until(lambda: len(studies.members(child.group)) == 1, 20)
        raise KeyError
    assert studies.until(child.is_empty, 20)


KILLED_CAMPAIGN = """
import os, sys
from pathlib import Path
from stress.campaign import Desk
from stress.studies import Stage, until
stage = Stage(Desk(Path(sys.argv[1]), 0, False), "stage")
child = stage.start("-c", "import time; print('here', flush=True); time.sleep(60)")
until(child.text, 20)
print(child.group, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_campaign_that_is_killed_leaves_no_process_behind(desk):
    command = [sys.executable, "-c", KILLED_CAMPAIGN, str(desk.folder)]
    group = int(subprocess.run(command, capture_output=True, cwd=ROOT).stdout)
    assert studies.until(lambda: not studies.members(group), 20)


def test_elsewhere_than_on_linux_campaigns_say_so_in_one_line(desk, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    for campaign in (kills.single_runs, kills.study, sweepers.crowd, sweepers.claims):
        with pytest.raises(RuntimeError, match="use Linux"):
            campaign(desk)
