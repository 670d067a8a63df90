"""Populations on forced host devices against one device: `python tests/run_on_mesh.py` prints
JSON, name of a case -> what was found.

`bits`: whether all arrays and curves are equal to the bit. `apart`: the distance of all parameters
from those of one device, relative to their size. `calls`: collectives of the compiled step, those
of its second sums (see moments.py) apart.
"""

import json
import os
import re
from collections import Counter
from typing import Any
from unittest import mock

if __name__ == "__main__":  # read when jax starts
    given = os.environ.get("XLA_FLAGS", "")  # of tests/conftest.py
    os.environ["XLA_FLAGS"] = f"{given} --xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
from small_runs import small

from normlab.data import load
from normlab.training import mesh
from normlab.training.population import Population
from normlab.training.snapshot import Snapshot, arrays_of

STEPS, MEMBERS = 8, 3
NETS: dict[str, dict[str, Any]] = {
    "batch": {"norm.name": "batch", "model.widths": (16,)},
    "ghost": {"norm.name": "batch", "norm.stats_batch": 8, "model.widths": (16,)},
    "cnn": {"norm.name": "batch", "model.name": "cnn", "model.widths": (8,)},
    "deep": {"norm.name": "batch", "model.widths": (16, 16, 16)},
}
COLLECTIVE = r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("


def population(kind: str, net: str, **more: Any) -> Population:
    shared = NETS[net] | {"data.batch": 64, "train.steps": STEPS, "host.width": MEMBERS}
    shared |= {"train.eval_every": 4, "host.chunk": 4, "host.mesh": kind, "train.late_from": 4}
    more = {name.replace("__", "."): value for name, value in more.items()}
    own = [{"seed": seed, "optim.lr": 0.03 * (1 + seed)} for seed in range(MEMBERS)]
    return Population([small(shared | more | o) for o in own], load("digits"))


def trained(found: Population, resumed: Snapshot | None = None) -> dict[str, Any]:
    """All that a population leaves behind, and its snapshot of step 4."""
    kept: list[Snapshot] = []
    states = found.train(lambda progress: kept.append(progress.snapshot()), resumed)
    arrays, _ = arrays_of(states, MEMBERS)
    curves = [outcome.curve for outcome in found.outcomes]
    return {"arrays": arrays, "curves": curves, "snapshot": kept[0]}


def compared(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    a, b = one["arrays"], other["arrays"]
    same = all(a[name].tobytes() == b[name].tobytes() for name in a)
    names = [name for name in a if name.startswith("params/")]
    wide = {n: (np.asarray(a[n], np.float64), np.asarray(b[n], np.float64)) for n in names}
    far = sum(float(np.square(x - y).sum()) for x, y in wide.values())
    size = sum(float(np.square(y).sum()) for _, y in wide.values())
    mine, others = ([row["loss"] for rows in run["curves"] for row in rows] for run in (one, other))
    return {
        "bits": same and one["curves"] == other["curves"],
        "apart": (far / size) ** 0.5,
        "losses": max(abs(a - b) for a, b in zip(mine, others, strict=True)),
    }


def calls(found: Population) -> dict[str, int]:
    inputs = found.hyper, found.batches(0, 4), found.schedule.chunk(0, 4), found.images
    advance: Any = found.program.advance
    text = advance.lower(found.start(), *inputs).compile().as_text()
    kinds = Counter()
    for line in text.splitlines():
        if match := re.search(COLLECTIVE, line):
            again = " of second sums" if "compute_moments)/while" in line else ""
            kinds[match[1] + again] += 1
    return dict(kinds)


def main() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for net in ("batch", "ghost", "cnn"):  # each program is compiled for seconds
        plain = trained(population("none", net))
        for kind in ("members", "batch") if net == "batch" else ("batch",):
            spread = trained(population(kind, net))
            found[f"{net}, {kind} over 8"] = compared(spread, plain)
            if (net, kind) != ("batch", "batch"):
                continue
            with mock.patch.object(jax, "device_count", return_value=2):
                few, again = population(kind, net), population(kind, net)
            found["batch, batch over 2"] = compared(trained(few), plain)
            resumed = trained(again, spread["snapshot"])
            found["batch, batch over 8, then 2"] = compared(resumed, plain)
    wide = population("batch", "deep")
    found["calls"] = calls(wide)
    for name, sizes in {"60": {}, "60, then 8": {"train__late_batch": 8}, "7": {}}.items():
        config = population("none", "batch").config | {"data.batch": int(name.split(",")[0])}
        config |= {n.replace("__", "."): v for n, v in sizes.items()} | {"host.mesh": "batch"}
        found[f"devices for {name}"] = mesh.choose_spread(config).devices
    auto = population("auto", "batch")
    found["auto"] = [auto.spread.kind, auto.spread.devices, auto.width]
    at_once = population("members", "batch", host__mode="vmap")
    found["facts"] = [p.spread.fact(p.mode, p.width) for p in (auto, wide, at_once)]
    return found


if __name__ == "__main__":
    print(json.dumps(main()))
