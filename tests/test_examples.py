"""The examples of docs/examples run, and do what they say."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OWN_MODEL = ROOT / "docs" / "examples" / "own_model.py"
CHANCE = 0.25


def test_own_model_runs_as_written():
    done = subprocess.run(
        [sys.executable, "-W", "error", OWN_MODEL], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("batch: 9"), done.stdout


@pytest.mark.parametrize("name", ["group", "frn"])
def test_own_model_takes_other_schemes(name):
    """One without state, one that brings its own activation."""
    assert runpy.run_path(str(OWN_MODEL))["main"](name) > 3 * CHANCE
