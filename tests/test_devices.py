"""The same numbers on 1, 2 and 8 devices: see run_on_devices.py, one process for all cases."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from run_on_devices import SCHEMES

from normlab.norms import NORMS

LIMIT = 1e-5
AIM = 2e-6
"""For the rows that are exact. Measured: 8e-7 at most, over all rows and ways."""
SCRIPT = Path(__file__).with_name("run_on_devices.py")


@pytest.fixture(scope="module")
def lines() -> list[list]:
    """[scheme, way, devices, data, mask, quantity, relative error], every case."""
    done = subprocess.run([sys.executable, "-W", "error", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", SCHEMES)
def test_no_number_depends_on_the_devices(name, lines):
    """Output, gradients and new state; data at mean 0 and 1e4 and with std 1e20; masks too."""
    mine = [line for line in lines if line[0] == name]
    off = [line for line in mine if not line[-1] <= (AIM if NORMS[name].exact else LIMIT)]
    assert mine
    assert not off, f"{len(off)} of {len(mine)}, first {off[0]}"
    assert {line[1] for line in mine} >= {"shard_map", "jit" if name == "layer" else "jit/4"}
    assert name == "layer" or {line[5] for line in mine} & {"mean", "var"}


def test_all_ways_are_gone(lines):
    ways = {f"{way} on {devices}" for name, way, devices, *_ in lines if name == "batch"}
    jits = {"jit on 2", "jit on 8", "jit/2 on 8", "jit/4 on 2", "jit/4 on 8", "jit/8 on 8"}
    maps = {"shard_map on 1", "shard_map on 2", "shard_map on 8"}
    mixed = {"groups in shard_map on 8", "vmap in vmap on 8", "vmap in shard_map on 8"}
    assert ways == jits | maps | mixed | {"vmap on 8"}
    assert {line[3] for line in lines} == {"mean 0", "mean 1e4", "std 1e20"}
    assert {line[4] for line in lines} == {"none", "uneven", "half"}
    quantities = {line[5] for line in lines if line[0] == "batch"}
    assert quantities == {"[0][0]['bias']", "[0][0]['scale']", "[0][1]", "[1]", "mean", "var"}
