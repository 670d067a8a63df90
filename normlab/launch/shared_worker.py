"""The worker of a run that several processes train: process 0 says what, all train it.

Process 0 holds the locks, reads the checkpoint and writes; it gives settings and state to the
others, which only train. After each chunk they agree whether one of them is to stop.
"""

from __future__ import annotations

import json
import os
import resource
from typing import Any

import jax
from safetensors.numpy import load, save

from normlab.launch.peers import LOST
from normlab.launch.trainer import Trainer
from normlab.launch.worker import Worker, main
from normlab.runs.errors import Drift, Preempted
from normlab.runs.provenance import host_facts
from normlab.settings import Config, from_json
from normlab.training.population import Population, Progress
from normlab.training.processes import from_first, is_of_peers, is_wanted, join
from normlab.training.snapshot import Snapshot

ALIKE = ("training_version", "versions")
"""What of host_facts must be the same on all processes."""


class SharedTrainer(Trainer):
    """A trainer that gives what it begins with to the other processes."""

    def resume(self) -> Snapshot | None:
        resumed = super().resume()
        state: dict[str, Any] = {}
        if resumed:
            state = {name: v for name, v in resumed._asdict().items() if name != "arrays"}
        alike = {name: self.facts[name] for name in ALIKE} | {"data": self.dataset.sha256}
        from_first(json.dumps({"runs": self.configs, "alike": alike, "state": state}).encode())
        from_first(save(resumed.arrays) if resumed else b"")
        return resumed


class SharedWorker(Worker):
    """Process 0 trains as a worker does, the others with it."""

    trainer = SharedTrainer
    is_training = False
    """Whether the others train, or wait for what process 0 says."""

    def ends_training(self) -> bool:
        return is_wanted(self.is_stopping())

    def answer(self, request: dict[str, Any]) -> None:
        try:
            if jax.process_index() == 0:
                super().answer(request)
            else:
                self.follow()
                self.emit("done", ids=list(request["configs"]), busy=[])
        except Exception as error:
            if not is_of_peers(error):
                raise
            print(error)
            os._exit(LOST)

    def train_free(self, configs: dict[str, Config], attempts: list[dict[str, Any]]) -> None:
        trainer = self.make_trainer(configs)
        self.is_training = True
        trainer.train(attempts)
        self.is_training = False

    def emit(self, event: str, **facts: Any) -> None:
        """Before the end of a request is known, let the others go: this process is killed then."""
        if event in ("done", "error") and jax.process_index() == 0 and not self.is_training:
            self.release()
        super().emit(event, **facts)

    def release(self) -> None:
        from_first(b"")
        jax.distributed.shutdown()

    def follow(self) -> None:
        """Train what process 0 says, until it says nothing more."""
        while message := from_first():
            given, arrays = json.loads(message), from_first()
            configs = {name: from_json(config) for name, config in given["runs"].items()}
            dataset = self.dataset(configs)
            here = host_facts() | {"data": dataset.sha256}
            if other := [name for name, value in given["alike"].items() if here[name] != value]:
                raise Drift(
                    f"process {jax.process_index()} has {other[0]} {here[other[0]]}, process 0 has "
                    f"{given['alike'][other[0]]}; all need the same"
                )
            state = given["state"]
            resumed = Snapshot(arrays=load(arrays), **state) if state else None
            Population(list(configs.values()), dataset).train(self._on_chunk, resumed)
        jax.distributed.shutdown()

    def _on_chunk(self, progress: Progress) -> None:
        self.emit("chunk", step=progress.step)  # a sign of life
        if 0 < progress.alive and progress.step < progress.steps and self.ends_training():
            raise SystemExit(Preempted.code)


def begin(options: dict[str, Any]) -> None:
    """Wait for the other processes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # jax aborts where another process is lost
    try:
        join(*options["peers"])
    except jax.errors.JaxRuntimeError as error:
        address = options["peers"][0]
        raise ConnectionError(f"{address} cannot be used ({error}); give another port") from error


if __name__ == "__main__":
    main(SharedWorker, begin)
