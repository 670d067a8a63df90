"""Train one population whose runs are locked: from its checkpoint or from the start, to results."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax

from normlab.data import Dataset
from normlab.launch.costs import CompileClock, memory_facts, speed_facts
from normlab.runs.checkpoints import Checkpoint, PopulationFolder, population_id
from normlab.runs.config import config_sha256, outside_file
from normlab.runs.errors import Drift, Preempted, StorageError
from normlab.runs.params import save_params
from normlab.runs.provenance import DECIDES_BITS, changed_facts, host_facts, now
from normlab.runs.store import Store
from normlab.settings import Config
from normlab.training.flops import matmul_rate
from normlab.training.population import Population, Progress
from normlab.training.snapshot import Snapshot, arrays_of

SHARE = 0.03
"""Of the training time that checkpoints may take."""


class Trainer:
    """One population. `emit(event, **facts)` gets what happens; after a chunk at whose end
    `is_stopping()` it saves and leaves with Preempted's code."""

    def __init__(
        self,
        store: Store,
        configs: dict[str, Config],
        dataset: Dataset,
        *,
        clock: CompileClock,
        emit: Callable[..., None],
        is_stopping: Callable[[], bool],
    ):
        matmul_rate()  # measured by the first population, before its time begins
        self.store, self.configs, self.dataset = store, configs, dataset
        self.clock, self.emit, self.is_stopping = clock, emit, is_stopping
        self.names, self.config = list(configs), next(iter(configs.values()))
        self.began, self.compiled = time.monotonic(), clock.seconds
        self.folder = PopulationFolder(store, population_id(self.names))
        self.population = Population(list(configs.values()), dataset)
        p, device = self.population, jax.devices()[0]
        self.facts = host_facts() | {"device": device.device_kind, "backend": device.platform}
        mode = p.spread.fact(p.mode, p.width)
        self.facts |= {"mode": mode, "width": p.width, "conv": p.conv_form, "chunk": p.chunk}
        self.past: dict[str, Any] = {
            "started": now(),
            "restarts": [],
            "population_seconds": 0.0,
            "compile_seconds": 0.0,
            "checkpoint_seconds": 0.0,
        }
        """What a checkpoint says of the time before it."""
        self.saving = 0.0
        self.next_save = self.began + self.config["train.checkpoint_seconds"]

    def train(self, attempts: list[dict[str, Any]]) -> None:
        """Train all runs and write their results; `attempts` are those that failed before.

        Raises StorageError, which also names the last checkpoint.
        """
        try:
            self._train(attempts)
        except StorageError as error:
            steps = self.folder.steps()
            last = f"is that of step {steps[0]}" if steps else "is none"
            raise StorageError(f"{error}; the last good checkpoint {last}") from error

    def _train(self, attempts: list[dict[str, Any]]) -> None:
        resumed = self.resume()
        self.folder.form(self.configs, self.facts)
        curves = [outcome["curve"] for outcome in resumed.outcomes] if resumed else None
        for i, name in enumerate(self.names):
            if not self.store.is_done(name):
                self.store.start_curve(name, curves[i] if curves else [])
        steps_before = int(resumed.arrays["step"].sum()) if resumed else 0
        ready, entered = self.clock.seconds, time.monotonic()
        states = self.population.train(self._on_chunk, resumed)
        training = time.monotonic() - entered - (self.clock.seconds - ready)
        steps = int(jax.device_get(states.step)[: len(self.names)].sum()) - steps_before
        costs = speed_facts(max(steps, 1), max(training, 1e-9), self.population.flops)
        costs |= self.population.stream.facts() if self.population.stream else {}
        keeps = any(config["host.keep_params"] for config in self.configs.values())
        kept = arrays_of(states, len(self.names))[0] if keeps else {}
        self._finish(costs | memory_facts() | {"attempts": attempts}, kept)

    def resume(self) -> Snapshot | None:
        """Return where to continue; None to begin. Raises NoCheckpoint and Drift."""

        def warn(message: str) -> None:
            self.emit("warning", message=message)

        checkpoint = self.folder.newest(warn)
        if checkpoint is None:
            return None
        facts = checkpoint.facts
        before, data = facts["data_sha256"], self.dataset.sha256
        if before != data:
            raise Drift(
                f"the data had sha256 {before[:16]} when the run began, now it is {data[:16]}; "
                "restore the data, or use --restart"
            )
        changed = changed_facts(facts["bits"], self.facts)
        restart = {"step": checkpoint.step, "when": now(), "changed": changed}
        self.past = facts["past"]
        self.past["restarts"] = [*self.past["restarts"], restart]
        if changed:
            warn(f"{', '.join(changed)} changed since the start: its runs are marked not bit-exact")
        self.emit("resumed", step=checkpoint.step)
        return self._snapshot(checkpoint)

    def _snapshot(self, checkpoint: Checkpoint) -> Snapshot:
        facts = checkpoint.facts
        snapshot = Snapshot(
            checkpoint.step, checkpoint.arrays, facts["key_kind"], facts["outcomes"]
        )
        try:
            self.population.resume(snapshot)
        except (ValueError, TypeError, KeyError) as error:
            raise Drift(
                f"population {self.folder.name} cannot be continued by this code ({error}); go "
                "back to the code that began it, or use --restart"
            ) from error
        return snapshot

    def _on_chunk(self, progress: Progress) -> None:
        for name, rows in zip(self.names, progress.rows, strict=True):
            if rows and not self.store.is_done(name):
                self.store.append_curve(name, rows)
        self.emit(
            "chunk",
            step=progress.step,
            alive=progress.alive,
            train_loss=progress.train_loss,
            best=progress.best_accuracy,
            seconds=progress.seconds,
            compiled=round(self.clock.seconds - self.compiled, 3),
            waited=round(progress.waited, 3),
        )
        if progress.alive == 0 or progress.step == progress.steps:
            return
        is_stopping = self.is_stopping()
        if is_stopping or time.monotonic() >= self.next_save:
            self._save(progress)
        if is_stopping:
            self.emit("saved", step=progress.step)
            raise SystemExit(Preempted.code)

    def _save(self, progress: Progress) -> None:
        """Write a checkpoint; the next one when it is time and saving has cost at most SHARE."""
        began = time.monotonic()
        snapshot = progress.snapshot()
        facts = {
            "runs": self.configs,
            "data_sha256": self.dataset.sha256,
            "bits": {name: self.facts[name] for name in DECIDES_BITS},
            "past": self._times(),
            "key_kind": snapshot.key_kind,
            "outcomes": snapshot.outcomes,
        }
        self.folder.save(progress.step, snapshot.arrays, facts)
        took = time.monotonic() - began
        self.saving += took
        wait = self.config["train.checkpoint_seconds"]
        self.next_save = time.monotonic() + (max(wait, took / SHARE) if wait else 0)

    def _times(self) -> dict[str, Any]:
        past = self.past
        spent = {
            "population_seconds": time.monotonic() - self.began,
            "compile_seconds": self.clock.seconds - self.compiled,
            "checkpoint_seconds": self.saving,
        }
        return past | {name: round(past[name] + more, 3) for name, more in spent.items()}

    def _finish(self, costs: dict[str, Any], arrays: dict[str, Any]) -> None:
        """Write the results. `arrays`: the states of all members, where they are to be kept."""
        times = self._times()
        common = self.facts | outside_file(self.config) | costs | times
        common |= {"population": self.folder.name, "members": len(self.names), "ended": now()}
        common |= {"data_sha256": self.dataset.sha256, "chance": self.dataset.chance}
        common["chance_loss"] = self.dataset.chance_loss
        common["bit_exact"] = not any(restart["changed"] for restart in times["restarts"])
        for i, (name, outcome) in enumerate(zip(self.names, self.population.outcomes, strict=True)):
            if self.store.is_done(name):
                continue  # by this population, before it was killed between two results
            config = self.configs[name]
            own = {"config_sha256": config_sha256(config), "seed": config["seed"]}
            if config["host.keep_params"] and outcome.status == "trained":
                own |= save_params(self.store.run_dir(name), {n: a[i] for n, a in arrays.items()})
            result = {
                "config": config,
                "status": outcome.status,
                "diverged_at": outcome.diverged_at,
                "skipped_steps": outcome.skipped_steps,
                "final": outcome.final,
                "seconds": round(times["population_seconds"] / len(self.names), 4),
                "provenance": common | own,
            }
            self.store.finish(name, result, outcome.curve)
        self.folder.finish()
