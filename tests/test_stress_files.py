"""Short versions of the campaigns against files: crashes, damage, full disks, lost rights.

Each also plants readers and writers that are broken on purpose and fails where it misses one.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from stress import crashes, damage, full_disks
from stress.campaign import Report, Workspace
from stress.real_runs import same
from workspace import CACHE

from normlab.runs.checkpoints import Checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Workspace:
    for name, value in CACHE.items():
        monkeypatch.setenv(name, value)
    return Workspace(tmp_path, seed=0, is_long=False, tell=lambda line: None)


def count(report: Report, name: str) -> int:
    """A figure of a report that kept its promises."""
    assert report.failures == []
    assert report.has_passed and report.figures["bad"] == 0
    value = report.figures[name]
    assert isinstance(value, int)
    return value


def test_checkpoints_are_the_same_when_every_bit_is():
    one = Checkpoint(5, {"w": np.array([0.0, np.nan])}, {"loss": 0.1})
    assert same(one, Checkpoint(5, {"w": np.array([0.0, np.nan])}, {"loss": 0.1}))
    for step, values, loss in ((6, [0, np.nan], 0.1), (5, [-0.0, np.nan], 0.1), (5, [0, 0], 0.1)):
        assert not same(one, Checkpoint(step, {"w": np.array(values, float)}, {"loss": loss}))
    assert not same(one, Checkpoint(5, {"w": np.array([0, np.nan], "f4")}, {"loss": 0.1}))
    assert not same(one, Checkpoint(5, one.arrays, {"loss": 0.2}))
    assert not same(one, None) and same(None, None)


def test_a_crash_at_any_file_operation_leaves_the_old_or_the_new(desk):
    report = crashes.every_file_operation(desk)
    assert count(report, "crash points") > 120
    assert report.figures["planted faults caught"] == "7 of 7"


def test_damaged_checkpoints_are_never_used(desk):
    report = damage.checkpoints(desk)
    assert count(report, "injuries") >= 35
    assert report.figures["planted faults caught"] == "7 of 7"


def test_damaged_results_are_never_used(desk):
    report = damage.results(desk)
    assert count(report, "injuries") >= 30
    assert report.figures["planted faults caught"] == "4 of 4"


def test_a_full_disk_is_told_and_changes_nothing(desk):
    report = full_disks.full(desk)
    assert count(report, "refused") >= 15 and count(report, "done, there was room") >= 5
    assert report.figures["planted faults caught"] == "4 of 4"


def test_lost_rights_are_told_and_change_nothing(desk):
    report = full_disks.permission(desk)
    assert count(report, "refused") >= 9 and count(report, "done, there was room") == 0
    assert report.figures["planted faults caught"] == "2 of 2"


def test_a_training_outlives_a_disk_that_fills(desk):
    report = full_disks.training(desk)
    assert count(report, "refused, and went on from a checkpoint") == 1
