"""A population on 1, 2 and 8 devices: see run_on_mesh.py, one process for all cases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from workspace import run_script

SCRIPT = Path(__file__).with_name("run_on_mesh.py")
LIMIT = 1e-6
"""After 8 steps. Measured: 6e-8 at most."""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-W", "error", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_members_have_the_same_bits_on_eight_devices(found):
    cases = [case for name, case in found.items() if "members" in name]
    assert len(cases) == 1 and all(case["bits"] for case in cases)


@pytest.mark.parametrize("net", ["batch", "ghost", "cnn"])
def test_a_batch_over_devices_gives_the_same_numbers(net, found):
    cases = [case for name, case in found.items() if name.startswith(f"{net}, batch over")]
    assert len(cases) == (3 if net == "batch" else 1)
    for case in cases:
        assert case["apart"] <= LIMIT and case["losses"] <= 10 * LIMIT


def test_a_step_of_batch_norm_sends_little(found):
    """Three layers: a sum forward and one backward of each, and those of the gradients. No example
    moves to another device."""
    sums = found["calls"].pop("all-reduce")
    assert sums <= 8 and found["calls"] == {"all-reduce of second sums": 3}


def test_devices_are_as_many_as_divide_the_work(found):
    assert (found["devices for 60"], found["devices for 60, then 8"]) == (6, 4)
    assert found["devices for 7"] == 7
    assert found["auto"] == ["members", 8, 8]
    assert found["facts"] == ["map", "map, batches over 8 devices", "vmap, 1 a device"]


def test_a_worker_with_several_devices_says_how_it_used_them(tmp_path, monkeypatch):
    flags = os.environ.get("XLA_FLAGS", "")
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_force_host_platform_device_count=4")
    finals = {}
    for kind in ("none", "auto", "batch"):
        given = ["--config=digits_mlp", "--config.train.steps=8", f"--config.host.mesh={kind}"]
        results = tmp_path / kind
        run = run_script("train", *given, f"--results={results}", cwd=tmp_path)
        assert run.returncode == 0 and run.stderr == "", run.stderr
        (file,) = results.glob("runs/*/result.json")
        result = json.loads(file.read_text())
        finals[kind] = file.parent.name, result["final"], result["provenance"]["mode"]
    assert finals["none"] == finals["auto"] and finals["none"][2] == "map"
    assert finals["batch"][0] == finals["none"][0]
    assert finals["batch"][2] == "map, batches over 4 devices"
    assert finals["batch"][1]["test_loss"] == pytest.approx(finals["none"][1]["test_loss"], 1e-5)
