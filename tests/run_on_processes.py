"""Populations of run_on_mesh.py on several processes: `python tests/run_on_processes.py HOST:PORT
COUNT INDEX FOLDER`. Process 0 writes what they leave to FOLDER/COUNT.pickle.

They also continue from step 4 what another number of processes has left there: see `CONTINUED`.
"""

import pickle
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before any array is made
    from normlab.training.processes import join

    join(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

import jax
from run_on_mesh import population, trained

NETS = {1: ("batch", "ghost", "cnn"), 2: ("batch", "ghost", "cnn"), 4: ("batch",)}
"""Processes -> what they train. Four of them compile for long on two cores."""
CONTINUED = {1: (), 4: (1,), 2: (4,)}
"""Processes -> those whose snapshots they continue."""


def train_all(folder: Path, count: int) -> dict[str, Any]:
    left: dict[str, Any] = {net: trained(population("auto", net)) for net in NETS[count]}
    for other in CONTINUED[count]:
        snapshot = read(folder, other)["batch"]["snapshot"]
        left[f"after {other}"] = trained(population("auto", "batch"), snapshot)
    left["fact"] = population("auto", "batch").spread.fact("map", 1)
    return left


def read(folder: Path, count: int) -> dict[str, Any]:
    return pickle.loads((folder / f"{count}.pickle").read_bytes())


def write(folder: Path, count: int, left: dict[str, Any]) -> None:
    (folder / f"{count}.pickle").write_bytes(pickle.dumps(left))


if __name__ == "__main__":
    found = train_all(Path(sys.argv[4]), jax.process_count())
    if jax.process_index() == 0:
        write(Path(sys.argv[4]), jax.process_count(), found)
