"""The loops of other libraries train the same networks; the suites count and time what they say."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import study, training
from benchmarks.loops import flax_loop, network, normlab_loop, stepwise
from benchmarks.loops.contender import Broken, Workspace
from benchmarks.loops.network import NETWORKS, Op
from benchmarks.loops.stepwise import Run
from benchmarks.training import Disagreement, Result
from normlab.data import Split
from normlab.models.build import build_model
from normlab.settings import defaults
from normlab.training.state import hyper_of, init_state
from normlab.training.step import Batch, make_train_step

LISTED = {n.name: n for n in NETWORKS}
TINY = {
    "mlp": replace(LISTED["mlp"], shape=(3, 2, 1), batch=8, widths=(6, 5)),
    "cnn": replace(LISTED["cnn8"], shape=(4, 4, 1), batch=6, widths=(4, 8)),
    "resnet": replace(LISTED["resnet20"], shape=(4, 4, 3), batch=6, widths=(4, 8), blocks=1),
}
STEPS = 3


@pytest.fixture(scope="module")
def jobs() -> dict[str, network.Job]:
    return {name: training.make_job(tiny) for name, tiny in TINY.items()}


@pytest.fixture(scope="module")
def right(jobs) -> dict[str, list[float]]:
    """The losses of normlab's own step, which a population is equal to."""

    def losses(job: network.Job) -> list[float]:
        config = normlab_loop.config_of(job.network)
        net, hyper = build_model(config, network.CLASSES, "patches"), hyper_of(config)
        step: Any = jax.jit(make_train_step(net, "momentum", hyper))
        state = jax.jit(lambda x: init_state(net, "momentum", hyper, x))(job.inputs[:2])
        images, labels, found = jnp.asarray(job.inputs), jnp.asarray(job.labels), []
        for rows in job.rows[:STEPS]:
            state, loss = step(state, Batch(images[rows], labels[rows], jnp.ones(())))
            found.append(float(loss))
        return found

    return {name: losses(job) for name, job in jobs.items()}


# --- the same training


def test_the_operations_of_a_network():
    kinds = [op.kind for op in LISTED["cnn8"].ops]
    layer = ["conv", "norm", "act"]
    assert kinds == [*layer, "pool", *layer, "pool", *layer, "mean", "dense"]
    ops = LISTED["resnet20"].ops
    assert [op.kind for op in ops].count("keep") == 9 and ops[0] == Op("conv", "conv_stem", 16)
    strided = [op for op in ops if op.stride == 2]
    assert Op("conv", "stage_2_block_1_conv_1", 32, 2) in strided and len(strided) == 4
    stem, forward = 32 * 32 * 27 * 16, 40.55e6  # products of one example, by hand
    flops = 2 * 128 * (3 * forward - stem)  # the stem has no input gradient
    assert LISTED["resnet20"].step_flops == pytest.approx(flops, rel=1e-3)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(
    ("library", "form"),
    [
        ("flax", ""),
        pytest.param("torch", "", marks=pytest.mark.peers("torch")),
        pytest.param("torch", "last", marks=pytest.mark.peers("torch")),
        pytest.param("keras", "fit", marks=pytest.mark.peers("keras")),
    ],
)
def test_every_loop_trains_the_same_network(library, form, name, jobs, right):
    loop = importlib.import_module(f"benchmarks.loops.{library}_loop").Loop(jobs[name], form)
    for _ in range(2):  # it begins again
        assert loop.losses(STEPS) == pytest.approx(right[name], rel=1e-4)
    assert right[name][0] != pytest.approx(right[name][1], rel=1e-2)


def test_the_population_starts_there_too_and_counts_its_chunks(jobs, right):
    loop = normlab_loop.Loop(jobs["mlp"], [0, 7], 2)
    assert loop.losses(STEPS) == pytest.approx(right["mlp"], rel=1e-4)  # over two chunks
    before = np.asarray(loop.states.step)
    assert loop.run(2) > 0 and min(loop.costs()) > 0
    np.testing.assert_array_equal(loop.states.step, before + 4)


def test_losses_that_differ_are_an_error_in_one_line():
    right = [2.0, 1.5]
    training.check_losses("mlp", {"normlab 1": right, "flax": [2.0, 1.5 * 1.0009]})
    for wrong in (1.5 * 1.0011, math.nan):
        with pytest.raises(Disagreement, match="mlp: the loss of flax at step 2 is") as error:
            training.check_losses("mlp", {"normlab 1": right, "flax": [2.0, wrong]})
        assert "\n" not in str(error.value)


# --- runs of a study


class Counting(stepwise.Stepwise):
    """A loop that notes what it is asked for; its loss is the number of the step, or NaN."""

    def __init__(self, job, bad_from: float = math.inf):
        super().__init__(job)
        self.seen: list[Any] = []
        self.bad_from = bad_from

    def start(self, run):
        self.seen.append(run.seed)

    def step(self, rows):
        self.seen.append(sorted(rows))
        return math.nan if len(self.seen) > self.bad_from else 1.0

    def wait(self):
        self.seen.append("wait")

    def count_correct(self, rows):
        self.seen.append(len(rows))
        return len(rows) / 2


def test_a_run_of_a_study_is_trained_and_evaluated(jobs, monkeypatch):
    job = jobs["cnn"]._replace(network=replace(TINY["cnn"], batch=2))
    split = Split(np.arange(5), np.arange(5, 8), np.arange(8, 14))
    monkeypatch.setattr(stepwise, "split_rows", lambda data, seed: split if seed == 3 else None)
    run = [0.1, 3, 5, 2]
    loop = Counting(job)
    accuracy, seconds = loop.train(run, "digits")
    assert accuracy == 0.5 and seconds >= 0
    batches = [seen for seen in loop.seen if isinstance(seen, list)]
    assert [s if not isinstance(s, list) else "step" for s in loop.seen] == [
        *[3, "step", "step", 3, "step", "step", 3, "step", 3, 3, 3, "wait"]
    ]
    for epoch in (batches[:2], batches[2:4]):
        assert len({*epoch[0], *epoch[1]}) == 4 and {*epoch[0], *epoch[1]} <= set(range(5))
    stopped = Counting(job, bad_from=2)
    accuracy, _ = stopped.train(run, "digits")
    assert math.isnan(accuracy) and sum(isinstance(s, list) for s in stopped.seen) == 2


def test_every_epoch_has_an_order_of_its_own():
    epochs = np.reshape(list(stepwise.batch_rows(np.arange(40), 4, Run(0.1, 0, 20, 1))), (2, 40))
    assert (np.sort(epochs) == np.arange(40)).all() and (epochs[0] != epochs[1]).any()


def test_the_rate_of_a_run_reaches_the_step(jobs):
    loop: Any = flax_loop.Loop(jobs["mlp"])
    moved = []
    for rate in (0.1, 0.2):
        loop.start(Run(rate, 5, 1, 1))
        before = np.asarray(loop.variables["params"]["dense_1"]["kernel"])
        loop.step(jobs["mlp"].rows[0])
        moved.append(np.asarray(loop.variables["params"]["dense_1"]["kernel"]) - before)
    np.testing.assert_allclose(moved[1], 2 * moved[0], rtol=1e-3, atol=1e-6)
    assert loop.train_step._cache_size() == 1  # nothing compiles again


def group(arm: str, runs: int) -> study.Group:
    configs = [
        defaults() | {"seed": s, "train.steps": 50, "norm.name": arm, "data.name": "digits"}
        for s in range(runs)
    ]
    return study.Group("setup", arm, configs)


def test_what_was_not_measured_lasts_as_long_as_what_was():
    timed = study.Timed(group("batch", 10), "flax", 2, 5.0, 0.5, 0.9)
    assert timed.seconds == 5 + 10 * 0.5
    other = study.Timed(group("none", 4), "flax", 1, 1.0, 0.25, 0.9)
    (whole,) = study.whole_loops([timed, other])
    assert whole == study.Whole("Flax loop, one process", 14, 700, 12.0)
    own = [study.Whole("normlab", 28, 1400, 6.0)]
    assert study.ways_table(own, [whole]).rows == [
        ["normlab", "28", "1,400", "6", "233", "1.00"],
        ["Flax loop, one process", "14", "700", "12", "58.3", "4.00"],
    ]
    (row,) = study.loops_table([timed, other]).rows
    assert row == ["setup", "Flax loop", "", "3 of 14", "6.0", "0.43", "12"]


def test_the_loops_of_a_study_skip_runs_and_count_compilation_once(monkeypatch):
    runs: list[Run] = []

    def train(contender, group, run):
        runs.append(run)
        return math.nan if run.seed else 0.9, 3.0 if len(runs) == 1 else 1.0

    monkeypatch.setattr(study, "prepare", lambda *_: None)
    monkeypatch.setattr(study, "train", train)
    monkeypatch.setattr(study, "time", type("Clock", (), {"perf_counter": lambda: 7.0}))
    nobody: Any = None
    timed = study.time_group(nobody, nobody, "flax", group("batch", 7), 3)
    assert [run.seed for run in runs] == [0, 0, 3, 6]
    assert (timed.trained, timed.start, timed.each, timed.accuracy) == (3, 2.0, 1.0, 0.9)


# --- processes and tables


def test_a_process_answers_and_its_errors_are_one_line(tmp_path):
    with Workspace() as space:
        contender = space.start()
        with pytest.raises(Broken, match="No module named 'benchmarks.loops.none_loop'"):
            contender.make("none", tmp_path, {})
        contender.processes[0].kill()
        with pytest.raises(Broken, match="its process ended with code -9: ModuleNotFound"):
            contender.run(1)
    assert not space.folder.exists()


class Fake:
    """A contender of a fixed speed."""

    unit = 10.0

    def __init__(self, seconds: float = 1.0):
        self.seconds, self.counts, self.options = seconds, [], ()

    def make(self, *arguments: Any):
        self.options = arguments[2:]

    def run(self, count: int) -> float:
        self.counts.append(count)
        return count * self.seconds


def test_members_are_divided_over_the_cores(monkeypatch, tmp_path):
    started: list[tuple] = []
    monkeypatch.setattr(training, "available_cores", lambda: [3, 5])
    with Workspace() as space:
        monkeypatch.setattr(space, "start", lambda *a: started.append(a) or Fake())
        one, five = (
            training.start_population(space, TINY["mlp"], tmp_path, n, 1e9) for n in (1, 5)
        )
    options: Any = five.options  # pyright: ignore
    assert one.options[0]["seeds"] == [0] and started[0][0] == [3]  # pyright: ignore
    assert [o["seeds"] for o in options] == [[0, 2, 4], [1, 3]]
    length = options[0]["length"]
    assert length == options[1]["length"] > 1 and started[1] == ([3, 5], 5 * length)


def test_turns_are_of_one_length():
    fake: Any = Fake(0.01)
    assert training.calibrate(fake, 0.5) == 50
    contenders: Any = {("a", ""): Fake(0.01), ("b", ""): Fake(2.0)}
    assert training.take_turns(contenders, 3) == {
        ("a", ""): pytest.approx([1000.0] * 3),
        ("b", ""): pytest.approx([5.0] * 3),
    }
    assert contenders["b", ""].counts == [1] * 5


def test_tables_hold_ratios_to_the_best_form():
    mlp, cnn = LISTED["mlp"], LISTED["cnn28"]
    results = [
        Result(mlp, "normlab", "16", [2000.0, 3000.0, 9000.0], 0.51, 2.04, 600.4),
        Result(mlp, "torch", "", [900.0], 0.1),
        Result(mlp, "torch", "one", [1500.0, 1500.0, 1500.0], 0.2),
        Result(cnn, "normlab", "8", [99.96], 0.3, 5.0, 800.0),
        Result(cnn, "torch", "last", [80.0], 0.25),
    ]
    table, ratios = training.population_table(results, ["torch", "flax"])
    assert table.columns[3:5] == ["/ PyTorch eager", "/ Flax loop"] and len(ratios) == 2
    assert table.rows[0][1:] == ["16", "3,000", "2.00", "-", "51.0%", "2.0", "600"]
    assert table.rows[1][1:4] == ["8", "100", "1.25"]
    rows = [row[1:] for row in training.library_table(results).rows]
    assert rows[1] == ["PyTorch eager", "one thread", "1,500", "20.0%"]
    assert rows[2][1] == "channels last"
