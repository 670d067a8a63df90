"""The loops beside normlab train the same networks; the suites count and time what they say."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import BadSelection, study, training
from benchmarks.loops import flax_loop, network, normlab_loop, stepwise
from benchmarks.loops.contender import Broken, Contender
from benchmarks.loops.network import NETWORKS, Product, load_job, save_job
from benchmarks.loops.stepwise import Run
from benchmarks.training import Disagreement, Result
from normlab.data import Split
from normlab.models.build import build_model
from normlab.settings import defaults
from normlab.training.state import hyper_of, init_state
from normlab.training.step import Batch, make_train_step

ROOT = Path(__file__).resolve().parents[1]
LISTED = {n.name: n for n in NETWORKS}
TINY = {
    "mlp": replace(LISTED["mlp"], shape=(3, 2, 1), batch=8, widths=(6, 5)),
    "cnn": replace(LISTED["cnn8"], shape=(4, 4, 1), batch=6, widths=(4, 8)),
    "resnet": replace(LISTED["resnet20"], shape=(4, 4, 3), batch=6, widths=(4, 8), blocks=1),
}
STEPS = 3


def quiet(line: str) -> None:
    del line


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
            state, info = step(state, Batch(images[rows], labels[rows], jnp.ones(())))
            found.append(float(info.loss))
        return found

    return {name: losses(job) for name, job in jobs.items()}


# --- what a step costs


def test_operations_of_tiny_networks_by_hand():
    mlp = TINY["mlp"]
    assert network.products(mlp) == [Product(1, 6, 6), Product(1, 6, 5), Product(1, 5, 10)]
    assert network.step_flops(mlp) == 2 * 8 * (2 * 36 + 3 * 30 + 3 * 50)
    cnn = TINY["cnn"]
    assert network.products(cnn) == [Product(16, 9, 4), Product(4, 36, 8), Product(1, 8, 10)]
    assert network.step_flops(cnn) == 2 * 6 * (2 * 576 + 3 * 1152 + 3 * 80)
    assert network.products(TINY["resnet"]) == [
        Product(16, 27, 4),
        Product(16, 36, 4),
        Product(16, 36, 4),
        Product(4, 36, 8),
        Product(4, 72, 8),
        Product(1, 8, 10),
    ]


def test_a_resnet_20_has_20_layers_and_41_million_products_a_forward_pass():
    found = network.products(LISTED["resnet20"])
    assert len(found) == 20
    assert sum(p.rows * p.inner * p.columns for p in found) == pytest.approx(40.55e6, rel=1e-3)


# --- the same training


@pytest.mark.parametrize("name", TINY)
def test_the_flax_loop_trains_the_same_network(name, jobs, right):
    loop = flax_loop.Loop(jobs[name])
    assert loop.losses(STEPS) == pytest.approx(right[name], rel=1e-4)
    assert loop.losses(STEPS) == pytest.approx(right[name], rel=1e-4)  # it begins again
    assert right[name][0] != pytest.approx(right[name][1], rel=1e-2)


@pytest.mark.peers("torch")
@pytest.mark.parametrize("form", ["", "last"])
@pytest.mark.parametrize("name", TINY)
def test_the_torch_loop_trains_the_same_network(name, form, jobs, right):
    torch_loop = importlib.import_module("benchmarks.loops.torch_loop")
    assert torch_loop.Loop(jobs[name], form).losses(STEPS) == pytest.approx(right[name], rel=1e-4)


@pytest.mark.peers("keras")
@pytest.mark.parametrize("name", TINY)
def test_the_keras_loop_trains_the_same_network(name, jobs, right):
    keras_loop = importlib.import_module("benchmarks.loops.keras_loop")
    assert keras_loop.Loop(jobs[name]).losses(STEPS) == pytest.approx(right[name], rel=1e-4)


def test_the_population_starts_there_too_and_counts_its_chunks(jobs, right):
    loop = normlab_loop.Loop(jobs["mlp"], [0, 7], 2)
    assert loop.losses(STEPS) == pytest.approx(right["mlp"], rel=1e-4)  # over two chunks
    before = np.asarray(loop.states.step)
    assert loop.run(2) > 0 and min(loop.facts().values()) > 0
    np.testing.assert_array_equal(loop.states.step, before + 4)


def test_a_job_survives_its_file(jobs, tmp_path):
    job = jobs["mlp"]
    save_job(job, tmp_path / "job.npz")
    found = load_job({**vars(job.network), "widths": [6, 5]}, str(tmp_path / "job.npz"))
    assert found.network == replace(job.network, shape=(3, 2, 1))
    np.testing.assert_array_equal(found.rows, job.rows)
    assert found.weights.keys() == job.weights.keys()


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


def test_a_run_of_a_study_is_trained_and_evaluated(jobs):
    job = jobs["cnn"]._replace(network=replace(TINY["cnn"], batch=2))
    split = Split(np.arange(5), np.arange(5, 8), np.arange(8, 14))
    loop = Counting(job)
    accuracy, seconds = loop.train(Run(0.1, 3, 5, 2), split)
    assert accuracy == 0.5 and seconds >= 0
    batches = [seen for seen in loop.seen if isinstance(seen, list)]
    assert [s if not isinstance(s, list) else "step" for s in loop.seen] == [
        *[3, "step", "step", 3, "step", "step", 3, "step", 3, 3, 3, "wait"]
    ]
    for epoch in (batches[:2], batches[2:4]):
        assert len({*epoch[0], *epoch[1]}) == 4 and {*epoch[0], *epoch[1]} <= set(range(5))
    stopped = Counting(job, bad_from=2)
    accuracy, _ = stopped.train(Run(0.1, 3, 5, 2), split)
    assert math.isnan(accuracy) and sum(isinstance(s, list) for s in stopped.seen) == 2


def test_the_rate_of_a_run_reaches_the_step(jobs):
    loop: Any = flax_loop.Loop(jobs["mlp"])
    moved = []
    for rate in (0.1, 0.2):
        loop.start(Run(rate, 5, 1, 1))
        before = np.asarray(loop.state.params["dense_1"]["kernel"])
        loop.step(jobs["mlp"].rows[0])
        moved.append(np.asarray(loop.state.params["dense_1"]["kernel"]) - before)
    np.testing.assert_allclose(moved[1], 2 * moved[0], rtol=1e-3, atol=1e-6)
    assert loop.train_step._cache_size() == 1  # nothing compiles again


def group(arm: str, runs: int) -> study.Group:
    configs = [
        defaults() | {"seed": s, "train.steps": 50, "norm.name": arm, "data.name": "digits"}
        for s in range(runs)
    ]
    return study.Group("setup", arm, configs)


def test_what_was_not_measured_lasts_as_long_as_what_was():
    timed = study.Timed(group("batch", 10), "flax", "", 2, 5.0, 0.5)
    assert timed.seconds == 5 + 10 * 0.5
    other = study.Timed(group("none", 4), "flax", "", 1, 1.0, 0.25)
    (whole,) = study.whole_loops([timed, other])
    assert whole == study.Whole("Flax loop, one process", 14, 700, 12.0)
    own = [study.Whole("normlab", 28, 1400, 6.0)]
    table = study.ways_table(own, [whole], "")
    assert table.rows[0] == ["normlab", "28", "1,400", "6", "233", "1.00"]
    assert table.rows[1] == ["Flax loop, one process", "14", "700", "12", "58.3", "4.00"]
    (row,) = study.loops_table([timed, other]).rows
    assert row == ["setup", "Flax loop", "", "3 of 14", "6.0", "0.43", "12"]


def test_the_loops_of_a_study_skip_runs_and_count_compilation_once(monkeypatch):
    class Shop:
        def __init__(self):
            self.runs: list[Run] = []

        def prepare(self, *_):
            pass

        def train(self, contender, group, run):
            self.runs.append(run)
            return math.nan if run.seed else 0.9, 3.0 if len(self.runs) == 1 else 1.0

    monkeypatch.setattr(study, "time", type("Clock", (), {"perf_counter": lambda: 7.0}))
    shop: Any = Shop()
    contender: Any = None
    timed, best = study.time_group(shop, contender, "flax", "", group("batch", 7), 3)
    assert [run.seed for run in shop.runs] == [0, 0, 3, 6]
    assert (timed.trained, timed.start, timed.each, best) == (3, 2.0, 1.0, 0.9)


# --- processes, tables, flags


def test_a_process_answers_and_its_errors_are_one_line(tmp_path):
    contender = Contender(tmp_path / "log", {})
    try:
        with pytest.raises(Broken, match="No module named 'benchmarks.loops.none_loop'"):
            contender.make("none", TINY["mlp"], tmp_path, [{}])
        contender.processes[0].kill()
        with pytest.raises(Broken, match="its process ended with code -9: ModuleNotFound"):
            contender.run(1)
    finally:
        contender.close()


def test_members_are_divided_over_the_cores(monkeypatch, jobs):
    seen: list[tuple] = []
    monkeypatch.setattr(training, "core_numbers", lambda: [3, 5])
    monkeypatch.setattr(training.Field, "add", lambda self, *a: seen.append(a))
    with training.Field(jobs["mlp"], training.plan(), quiet) as field:
        field.add_population(1, 1e9)
        field.add_population(5, 1e9)
    (_, one, _, bound), (key, options, unit, places) = seen
    assert one[0]["seeds"] == [0] and bound == [3]
    assert key == ("normlab", "5") and places == [3, 5]
    assert [o["seeds"] for o in options] == [[0, 2, 4], [1, 3]]
    assert unit == 5 * options[0]["length"] and options[0]["length"] == options[1]["length"] > 1


class Fake:
    """A contender of a fixed speed."""

    unit = 10.0

    def __init__(self, seconds: float):
        self.seconds, self.counts = seconds, []

    def run(self, count: int) -> float:
        self.counts.append(count)
        return count * self.seconds


def test_turns_are_of_one_length_and_medians_count():
    fake: Any = Fake(0.01)
    assert training.calibrate(fake, 0.5) == 50
    field: Any = type("Field", (), {})()
    field.plan = training.plan(repeats=3)
    field.contenders = {("a", ""): Fake(0.01), ("b", ""): Fake(2.0)}
    assert training.take_turns(field) == pytest.approx({("a", ""): 1000.0, ("b", ""): 5.0})
    assert field.contenders["b", ""].counts == [1] * 5


def test_tables_hold_ratios_to_the_best_form():
    mlp, cnn = LISTED["mlp"], LISTED["cnn28"]
    results = [
        Result(mlp, "normlab", "16", 3000.0, 0.51, 2.04, 600.4),
        Result(mlp, "torch", "", 900.0, 0.1),
        Result(mlp, "torch", "one", 1500.0, 0.2),
        Result(cnn, "normlab", "8", 99.96, 0.3, 5.0, 800.0),
        Result(cnn, "torch", "last", 80.0, 0.25),
    ]
    table = training.population_table(results, ["torch", "flax"], "")
    assert table.columns[3:5] == ["/ PyTorch eager", "/ Flax loop"]
    assert table.rows[0][1:] == ["16", "3,000", "2.00", "-", "51.0%", "2.0", "600"]
    assert table.rows[1][1:4] == ["8", "100", "1.25"]
    rows = [row[1:] for row in training.peer_table(results).rows]
    assert rows[1] == ["PyTorch eager", "one thread", "1,500", "20.0%"]
    assert rows[2][1] == "channels last"


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ((["vit"],), r"unknown network 'vit' \(known: mlp, cnn8, cnn28, resnet20\)"),
        (([], ["0"]), "population '0' is no number of runs; use 1 or more"),
        (([], ["many"]), "population 'many' is no number"),
        (([], [], ["numpy"]), "unknown library 'numpy'"),
    ],
)
def test_what_is_not_there_cannot_be_selected(selection, words):
    with pytest.raises(BadSelection, match=words):
        training.plan(*selection)


def test_a_bad_selection_is_one_line_and_exit_code_2():
    command = [sys.executable, str(ROOT / "scripts" / "bench.py"), "--suite=training"]
    command += ["--populations=1,x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2 and "population 'x' is no number of runs" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not done.stdout


def test_a_library_that_is_not_installed_is_left_out_with_a_line(monkeypatch):
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: name != "torch" or None)
    found, lines = training.find_libraries(["flax", "torch-compiled"])
    assert found == ["flax"] and lines == ["torch.compile is left out: not installed"]
    with pytest.raises(BadSelection, match="unknown library 'keras'"):
        study.plan([], [], ["keras"])
