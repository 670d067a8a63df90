"""Checkpoints: what is kept, what is used after damage, and that nothing is lost by going on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import small

from normlab import data
from normlab.runs import files
from normlab.runs.checkpoints import PopulationFolder, population_id, tidy, unfinished
from normlab.runs.errors import Damaged, NoCheckpoint
from normlab.runs.store import Store
from normlab.settings import Config, defaults
from normlab.training.population import Population
from normlab.training.snapshot import Snapshot, arrays_of, states_of

CONFIGS = {"a": defaults(), "b": defaults() | {"seed": 1, "model.widths": (7, 5)}}
NAME = population_id(CONFIGS)


@pytest.fixture
def folder(tmp_path) -> PopulationFolder:
    folder = PopulationFolder(Store(tmp_path / "results").open(), NAME)
    folder.form(CONFIGS, {"width": 2})
    return folder


def save(folder: PopulationFolder, *steps: int) -> None:
    for step in steps:
        arrays = {"step": np.full(2, step, np.int32), "w": np.arange(6.0).reshape(2, 3) / step}
        folder.save(step, arrays, {"runs": CONFIGS, "loss": 0.1 * step})


def newest(folder: PopulationFolder) -> tuple[int, list[str]]:
    """The step of the newest checkpoint, whose content is looked at too, and the warnings."""
    told: list[str] = []
    found = folder.newest(told.append)
    assert found is not None
    np.testing.assert_array_equal(found.arrays["step"], np.full(2, found.step, np.int32))
    np.testing.assert_array_equal(found.arrays["w"], np.arange(6.0).reshape(2, 3) / found.step)
    assert found.arrays["step"].dtype == np.int32 and found.facts["loss"] == 0.1 * found.step
    return found.step, told


def spoil(folder: PopulationFolder, step: int) -> None:
    path = folder.path / f"checkpoint-{step:010d}.json"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def names(folder: PopulationFolder) -> set[str]:
    return {path.name for path in folder.path.iterdir()}


def no_warning(message: str) -> None:
    raise AssertionError(message)


def test_the_newest_two_are_kept_and_the_newest_is_read(folder):
    assert folder.newest(no_warning) is None and not folder.is_unfinished()
    save(folder, 5)
    assert newest(folder) == (5, []) and folder.is_unfinished()
    save(folder, 10, 15, 200)
    assert newest(folder) == (200, []) and folder.steps() == [200, 15]
    kept = {f"checkpoint-{s:010d}.{kind}" for s in (15, 200) for kind in ("json", "safetensors")}
    assert names(folder) == kept | {"manifest.json", "unfinished"}


def test_a_save_that_does_not_read_back_removes_nothing(folder, monkeypatch):
    save(folder, 5, 10)
    write = files.write_atomic

    def write_wrong(path: Path, content: Any) -> None:
        is_arrays = path.suffix == ".safetensors"
        write(path, content[:-1] + b"?" if is_arrays else content)

    monkeypatch.setattr(files, "write_atomic", write_wrong)
    with pytest.raises(Damaged):
        save(folder, 15)
    monkeypatch.undo()
    assert folder.steps() == [15, 10, 5]
    assert newest(folder)[0] == 10


def test_the_end_removes_all_but_the_manifest(folder):
    save(folder, 5, 10)
    assert [f.name for f in unfinished(Store(folder.path.parents[1]))] == [NAME]
    folder.finish()
    assert names(folder) == {"manifest.json"} and folder.newest(no_warning) is None
    assert list(unfinished(Store(folder.path.parents[1]))) == []


def test_what_a_kill_behind_the_last_result_leaves_is_removed(folder):
    store = Store(folder.path.parents[1])
    save(folder, 5, 10)
    for done, left in (("a", True), ("b", False)):
        store.run_dir(done).mkdir(parents=True)
        (store.run_dir(done) / "result.json").touch()
        tidy(store)
        assert bool(folder.steps()) == folder.is_unfinished() == left
    assert names(folder) == {"manifest.json"}


def test_set_aside_keeps_everything_and_lets_the_runs_begin(folder):
    for step, name in ((5, f"{NAME}.aside"), (10, f"{NAME}-2.aside")):
        save(folder, step)
        folder.set_aside()
        assert (folder.path.with_name(name) / f"checkpoint-{step:010d}.json").is_file()
        assert folder.newest(no_warning) is None and not folder.is_unfinished()
        assert list(unfinished(Store(folder.path.parents[1]))) == []
        folder.form(CONFIGS, {})


def test_the_runs_are_those_of_the_manifest_or_else_of_a_checkpoint(folder):
    assert folder.runs() == CONFIGS and list(folder.runs()) == ["a", "b"]
    save(folder, 5, 10)
    manifest = folder.path / "manifest.json"
    manifest.write_text("{")
    assert folder.runs() == CONFIGS  # widths are a tuple again
    manifest.unlink()
    spoil(folder, 10)
    assert folder.runs() == CONFIGS
    spoil(folder, 5)
    with pytest.raises(NoCheckpoint, match="nobody knows its runs; move"):
        folder.runs()
    assert folder.runs_if_known() == {}


def test_a_population_is_named_by_its_runs_in_their_order():
    assert population_id(["a", "b"]) == NAME != population_id(["b", "a"])
    assert len(NAME) == 16 and set(NAME) <= set("0123456789abcdef")


KINDS: dict[str, Config] = {
    "map": {"norm.name": "batch", "norm.kernel": "spectral", "optim.name": "adam"},
    "vmap": {"norm.name": "layer", "norm.kernel": "weight_norm", "optim.momentum": 0.9},
}
"""Adam's two moments and a kernel with state; a kernel that starts from the first batch."""


class Whole:
    """A population that was never stopped, and its snapshots after each chunk."""

    def __init__(self, mode: str):
        self.mode = mode
        shared = KINDS[mode] | {"host.mode": mode, "host.width": 4, "host.chunk": 5}
        self.configs = [
            small(shared, seed=i, optim__lr=lr) for i, lr in enumerate((0.1, 0.02, 1e38))
        ]
        self.dataset = data.load("synthetic")
        self.snapshots: list[Snapshot] = []
        population = Population(self.configs, self.dataset)
        self.states = population.train(lambda p: self.snapshots.append(p.snapshot()))
        self.outcomes = population.outcomes

    def again(self) -> Population:
        return Population(self.configs, self.dataset)


@pytest.fixture(scope="module", params=list(KINDS))
def whole(request) -> Whole:
    return Whole(request.param)


def assert_same_bits(one: Any, two: Any) -> None:
    """All leaves agree in every bit, NaN or not; keys by their words."""
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for pair in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        a, b = (np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in pair)
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def test_states_are_the_same_after_a_trip_through_arrays(whole):
    arrays, kind = arrays_of(whole.states, 3)
    assert {len(values) for values in arrays.values()} == {3}
    states = states_of(arrays, kind, whole.states, 3, 4)
    members = [jax.tree.map(lambda x: x[:3], s) for s in (whole.states, states)]
    assert_same_bits(*members)
    padding = jax.tree.map(lambda x: x[3], states)
    assert_same_bits(padding, jax.tree.map(lambda x: x[2], states))


def test_every_part_of_the_states_is_kept(whole):
    arrays, _ = arrays_of(whole.states, 3)
    assert len(arrays) == len(jax.tree.leaves(whole.states))
    parts = {"params", "opt_state", "step", "key", "is_alive"}
    parts |= {"batch_stats", "norm_state"} if whole.mode == "map" else set()
    assert {name.split("/")[0] for name in arrays} == parts


@pytest.mark.parametrize("change", ["name", "missing", "shape", "type", "members", "key"])
def test_arrays_of_another_network_are_refused(whole, change):
    arrays, kind = arrays_of(whole.states, 3)
    name = "key" if change == "key" else next(n for n in arrays if n.startswith("params"))
    values = arrays.pop(name)
    if change == "name":
        arrays["params/other"] = values
    if change == "shape":
        arrays[name] = values[:, :-1]
    if change == "members":
        arrays[name] = values[:2]
    if change in ("type", "key"):
        arrays[name] = np.zeros(values.shape, np.float64)
    with pytest.raises(
        ValueError, match="another network" if change in ("name", "missing") else name
    ):
        states_of(arrays, kind, whole.states, 3, 4)


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_a_population_that_goes_on_ends_with_the_same_bits(whole, chunk, tmp_path):
    snapshot = whole.snapshots[chunk]
    folder = PopulationFolder(Store(tmp_path).open(), NAME)
    folder.form(CONFIGS, {})
    facts = {"runs": CONFIGS, "outcomes": snapshot.outcomes, "key_kind": snapshot.key_kind}
    folder.save(snapshot.step, snapshot.arrays, facts)
    found = folder.newest(no_warning)
    assert found is not None
    population, steps = whole.again(), []
    states = population.train(
        lambda p: steps.append(p.step),
        Snapshot(found.step, found.arrays, found.facts["key_kind"], found.facts["outcomes"]),
    )
    assert steps == list(range(snapshot.step + 5, 25, 5))
    assert_same_bits(*(jax.tree.map(lambda x: x[:3], s) for s in (states, whole.states)))
    assert repr(list(map(asdict, population.outcomes))) == repr(list(map(asdict, whole.outcomes)))
    assert population.outcomes[2].diverged_at is not None and population.outcomes[0].final
