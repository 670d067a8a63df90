"""The examples of docs/examples run, and do what they say."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OWN_MODEL = ROOT / "docs" / "examples" / "own_model.py"
CHANCE = 0.25


def test_own_model_runs_as_written():
    done = subprocess.run(
        [sys.executable, "-W", "error", OWN_MODEL], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("batch: 9"), done.stdout


def test_own_model_takes_a_scheme_without_state_that_brings_its_activation():
    assert runpy.run_path(str(OWN_MODEL))["main"]("frn") > 3 * CHANCE
