"""The benchmarks measure what they say: cases, references, errors, turns, ratios, pages."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from workspace import run_fresh

from benchmarks import edge_cases, layers, numerics, runner, steps, training
from benchmarks.reference_libraries import OWN, TITLES, make_peer
from benchmarks.runner import BadSelection, Options
from normlab.norms import NORMS
from normlab.testing.cases import CASES, DTYPES, FEW, LAYERS, LIMITS, reference
from normlab.testing.result import off

ROOT = Path(__file__).resolve().parents[1]
SHAPE, EPSILON, GROUPS = (2, 3, 2, 4), 1e-3, 2


def draw(shape=SHAPE, seed=0) -> np.ndarray:
    return 3 + np.random.default_rng(seed).standard_normal(shape)


def case_of(name: str, **changes):
    return replace(next(case for case in CASES if case.name == name), **changes)


# --- cases and their references


def test_cases_are_the_same_at_every_call_and_the_few_are_of_every_dtype():
    assert len({case.name for case in CASES}) == len(CASES) >= 42
    for case in CASES:
        one, two = case.draw((8, 16)), case.draw((8, 16))
        np.testing.assert_array_equal(one, two)
        assert one[0].dtype == one[1].dtype == DTYPES[case.dtype]
        assert np.isfinite(one[0].astype(np.float64)).all()
    assert not np.array_equal(case_of("std 1e18").draw((8,))[1], case_of("std 1e19").draw((8,))[1])
    for kind in ("const", "mean 1e6", "std 1e30", "denormal", "outlier", "big N", "bf16", "f16"):
        assert any(kind in case.name for case in CASES)
    few = [case for case in CASES if case.name in FEW]
    assert len(few) == len(FEW) and {case.dtype for case in few} == set(LIMITS)


SHARING = {
    "batch": np.s_[:, :, :, 3],
    "layer": np.s_[1],
    "layer_channels": np.s_[1, 2, 0],
    "group": np.s_[1, :, :, 2:],
    "instance": np.s_[1, :, :, 3],
    "rms": np.s_[1, 2, 0],
}
"""Which values share the statistics of x[1, 2, 0, 3]."""


@pytest.mark.parametrize("scheme", LAYERS)
def test_the_reference_is_the_equation_and_its_gradient_that_of_finite_differences(scheme):
    x, cotangent = draw(), draw(seed=1)

    def both(x):
        return reference(NORMS[scheme], x, cotangent, epsilon=EPSILON, groups=GROUPS)

    y, dx = both(x)
    values = x[SHARING[scheme]]
    mean = values.mean() if scheme != "rms" else 0.0
    expected = (x[1, 2, 0, 3] - mean) / math.sqrt(((values - mean) ** 2).mean() + EPSILON)
    assert y.shape == SHAPE and y[1, 2, 0, 3] == pytest.approx(expected, rel=1e-13)
    units = 1e-6 * np.eye(x.size).reshape(-1, *SHAPE)
    slopes = [np.sum(cotangent * (both(x + u)[0] - both(x - u)[0])) / 2e-6 for u in units]
    assert off(dx, np.reshape(slopes, SHAPE), floor=0) < 1e-7


def test_the_error_is_relative_absolute_at_zero_and_nan():
    right = np.array([3.0, 4.0])
    assert off(np.array([3.0, 4.5], np.float32), right, floor=0) == pytest.approx(0.1)
    assert off(np.array([0.5, 0.5]), np.zeros(2), floor=0) == pytest.approx(0.5)
    assert off(right, right, floor=0) == 0
    for bad in (math.nan, math.inf):
        assert math.isnan(off(np.array([3.0, bad]), right, floor=0))


def best_float(right: np.ndarray, dtype: str) -> np.ndarray:
    """The nearest floats of `dtype`; float32 and bfloat16 below 1.2e-38 are flushed to 0."""
    stored = right.astype(DTYPES[dtype]).astype(np.float64)
    return stored if dtype == "float16" else np.where(abs(stored) < 2.0**-126, 0, stored)


@pytest.mark.parametrize("case", [c for c in CASES if "big N" not in c.name], ids=lambda c: c.name)
def test_unrepresentable_is_what_no_float_can_hold_and_nothing_else(case):
    excess = dict.fromkeys(numerics.SIDES, 0.0)
    for scheme in case.layers:
        row = NORMS[scheme]
        x, cotangent = case.draw(case.shape(row.over))
        right = reference(row, x, cotangent, epsilon=case.epsilon, groups=case.groups)
        for side, values in zip(numerics.SIDES, right, strict=True):
            assert np.isfinite(values).all()
            best = off(best_float(values, case.dtype), values, floor=0)
            excess[side] = max(excess[side], best / LIMITS[case.dtype])
    assert {side for side in excess if excess[side] > 1} == set(case.unrepresentable)


# --- the numerics suite


def test_texts_of_errors():
    assert numerics.side_text([0.0, 0.0], "") == "0"
    assert numerics.side_text([1e-8, 2e-3], "") == "2e-03"
    assert numerics.side_text([0.5, math.nan, 7.0], "") == "**NaN**"
    assert numerics.side_text([0.5], "") == "**5e-01**"
    assert numerics.side_text([0.5], "subnormal") == "5e-01†"
    assert numerics.side_text([0.5, math.nan], "subnormal") == "**NaN**†"


def test_a_selection_of_the_numerics_suite(monkeypatch, capsys):
    more = runner.table("More", ["a"], [["b"]])
    monkeypatch.setattr(edge_cases, "tables", lambda *_: [more])
    page = numerics.run(Options(schemes=["batch"], cases="const 3.3 eps", against=["flax"]))
    assert "normlab: 0 of 4 figures are NaN or above" in page
    assert "| case | normlab | Flax |" in page and page.endswith("| a |\n| --- |\n| b |")
    row = next(line for line in page.splitlines() if line.startswith("| const 3.3 eps 1e-12 |"))
    ours, theirs = row.strip("| ").split(" | ")[1:]
    assert ours.startswith("0 / ") and "**" in theirs
    printed = capsys.readouterr().out
    assert printed.startswith("1/2 const 3.3 eps 1e-12\n2/2 f16 const 3.3 eps 1e-8\n")
    assert "Worst of batch" in printed and "**" not in printed


SMALL = {"image": (4, 4, 4, 8), "layers": ("batch",)}


def grid_of(case, libraries=(OWN,)):
    return numerics.measure_all([case], case.layers, libraries)


def test_a_wrong_normlab_is_counted_and_named(monkeypatch):
    def wrong(library, layer):
        right = make_peer(library, layer).gradient
        return SimpleNamespace(
            gradient=lambda x, c: (right(x, c)[0] * np.float32(1.001), np.full_like(x, np.nan))
        )

    monkeypatch.setattr(numerics, "prepare", wrong)
    grid = grid_of(case_of("N(0,1)", **SMALL))
    assert numerics.total_line(grid, OWN) == ["normlab", 2, 0, 1, 0, 2]
    assert numerics.verdict(grid).splitlines()[1:] == [
        "- N(0,1), batch, forward: 1e-03, limit 2e-06",
        "- N(0,1), batch, gradient: NaN, limit 2e-06",
    ]


def test_refused_layers_and_unrepresentable_sides_are_shown_and_not_counted():
    case = case_of("1 value per statistic", layers=("batch",))
    grid = grid_of(case)
    assert numerics.worst_table(grid, ["batch"], [OWN]).rows == [[case.name, "refused"]]
    assert numerics.total_line(grid, OWN)[1:3] == [0, 1]
    case = case_of("denormal 1e-40", **SMALL)
    grid = grid_of(case)
    assert "† / " in str(numerics.worst_table(grid, ["batch"], [OWN]).rows[0][1])
    assert numerics.total_line(grid, OWN)[1] == 1
    assert "- denormal 1e-40, forward: " in numerics.excuses([case])
    worse = {key: cell._replace(forward=math.nan) for key, cell in grid.items()}
    assert numerics.total_line(worse, OWN) == ["normlab", 2, 0, 1, 0, 1]


ORDINARY = case_of("N(0,1)", epsilon=0.1, image=(4, 4, 4, 8), dense=(8, 32), groups=2)
"""With an epsilon that nobody has by default."""


@pytest.mark.parametrize(
    "libraries",
    [["flax"], pytest.param(list(TITLES), marks=pytest.mark.peers)],
    ids=["flax", "all"],
)
def test_all_libraries_are_asked_for_the_same_layers(libraries):
    grid = grid_of(ORDINARY, libraries)
    absent = "equinox" in libraries  # it has no instance norm
    assert len(grid) == len(libraries) * len(LAYERS) - absent
    assert all(max(cell[:2]) < 1e-6 for cell in grid.values())


# --- masks, NaN and running statistics


def test_masks_and_one_nan():
    ours, theirs = edge_cases.masks([OWN, "flax"], ["batch"]).rows
    assert ours == ["normlab", "batch", *["finite"] * 6]
    assert theirs[2:5] == ["**NaN**"] * 3 and "**NaN**" in theirs[5:]
    found = edge_cases.one_nan([OWN], ["batch", "group"]).rows
    assert found == [["batch", "3.1 % / 3.1 %"], ["group", "0 % / 0 %"]]


def test_running_statistics_far_from_zero():
    ours, theirs = map(str, edge_cases.running([OWN, "flax"]).rows[-1][1:])
    assert float(ours) < 2e-6 and theirs.startswith("**")


def test_the_reference_of_evaluation_is_an_average_of_two_batches():
    batches = np.array([[[1.0], [3.0]], [[10.0], [14.0]]])
    x = np.array([[5.0]])
    m = edge_cases.MOMENTUM
    mean = m * (1 - m) * 2 + (1 - m) * 12
    for unbiased, first, second in ((False, 1, 4), (True, 2, 8)):
        var = m * m + m * (1 - m) * first + (1 - m) * second
        y = edge_cases.evaluation_reference(batches, x, unbiased=unbiased)
        assert y[0, 0] == pytest.approx((5 - mean) / math.sqrt(var + edge_cases.EPSILON))


# --- turns and ratios


def test_contenders_take_turns_and_rounds_of_warm_up_do_not_count():
    calls: list[str] = []
    values = {"a": iter([9.0, 1.0, 2.0]), "b": iter([9.0, 4.0, 4.0])}
    turns = {name: lambda name=name: calls.append(name) or next(values[name]) for name in values}
    found: Any = runner.take_turns(turns, 2, warm_up=1)
    assert found == {"a": [1, 2], "b": [4, 4]} and calls == ["a", "b"] * 3


def test_a_ratio_is_of_medians_and_knows_its_spread():
    ratio = runner.ratio_of([1.0, 2.0, 9.0], [4.0, 4.0, 4.0])
    assert ratio.text == "0.50" and ratio.spread == pytest.approx((5.5 / 4 - 1.5 / 4) / 2 / 0.5)
    text = runner.spread_text([ratio, runner.Ratio(1.0, 0.0), runner.Ratio(1.0, 0.02)])
    assert "by 2% in the median and by 100% at most" in text and runner.spread_text([]) == ""


class Clock:
    """A clock that only work moves; what is done for the first time takes an hour."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def work(self, fixed: float, each: float) -> layers.Work:
        hours = iter([3600.0])

        def run(times: int) -> None:
            self.now += next(hours, 0.0) + fixed + each * times

        return run


def test_two_lengths_measure_one_more_iteration(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(layers, "time", clock)
    work: Any = {
        (OWN, "rms"): clock.work(5.0, 2.0),
        ("flax", "rms"): clock.work(100.0, 0.5),
        (OWN, "batch"): clock.work(0.0, 1.0),
        (layers.COPY, ""): clock.work(0.0, 0.25),
    }
    found = layers.time_all(work, (2, 10), 1)
    assert found["rms"].cells == ["2000000", "4.00", "-", "8.00"]
    assert found["batch"].cells == ["1000000", "-", "-", "4.00"]
    assert layers.iteration(work[OWN, "rms"], (0, 10)) == pytest.approx(2.5)


def test_lengths_fit_the_size():
    for setup in layers.setups(layers.SIZES):
        short, long = setup.lengths
        values = setup.members * math.prod(setup.shape)
        assert 4 <= long - short <= 200 and (short > 0) == (values >= 2**20)
    members = {(s.shape, s.members) for s in layers.setups(layers.SIZES)}
    assert ((64, 8, 8, 32), 16) in members and ((4096, 1024), 16) not in members


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("direction", layers.DIRECTIONS)
def test_the_measured_loop_applies_the_layer_that_many_times(direction, members, monkeypatch):
    """y = x + step adds up over the iterations; its gradient for `step` is the sum of dx."""
    seen: list[Any] = []
    monkeypatch.setattr(jax, "block_until_ready", lambda carry: seen.append(carry) or carry)

    def apply(v, x):
        return x + v["params"]["step"], {"batch_stats": {"n": v["batch_stats"]["n"] + 1}}

    setup = layers.Setup((4, 8), "float32", members)
    params, state = {"step": np.float32(2)}, {"batch_stats": {"n": np.float32(0)}}
    work = layers.jax_work(apply, params, state, setup, direction)
    work(3)
    work(4)
    x, cotangent, state, slopes = jax.tree.map(np.asarray, seen[-1])
    start, drawn = setup.draw()
    np.testing.assert_allclose(x, np.broadcast_to(start + 14, x.shape), rtol=1e-6)
    np.testing.assert_array_equal(state["batch_stats"]["n"], np.full(x.shape[:-2], 7))
    summed = drawn.sum() if direction != layers.FORWARD else 0
    np.testing.assert_allclose(slopes["step"], np.full(x.shape[:-2], summed), rtol=1e-4)


def cells_of(section: str, beginning: str) -> list[list[str]]:
    """The cells of the lines of a table that begin with a word."""
    lines = [line for line in section.splitlines() if line.startswith(f"| {beginning}")]
    return [line.strip("| ").split(" | ") for line in lines]


def test_a_selection_of_the_layers_suite(monkeypatch):
    monkeypatch.setattr(layers, "VALUES", 2**10)
    monkeypatch.setattr(layers, "LARGEST_IN_POPULATION", 48)
    sizes, schemes = ["6x8", "2x2x2x8"], ["rms", "instance"]
    options = Options(["flax"], schemes, sizes=sizes, dtypes=["float32"], repeats=1)
    section = layers.run(options)
    lines = [line for size in sizes for line in cells_of(section, size)]
    assert [(line[0], *line[2:4]) for line in lines] == [
        ("6x8", "1", "rms"),
        ("6x8", "16", "rms"),
        ("2x2x2x8", "1", "rms"),
        ("2x2x2x8", "1", "instance"),
    ]
    for line in lines:
        assert float(line[5]) > 0 and line[6] == "-" and float(line[7]) > 0
    assert "left out" not in section  # instance norm has nothing to average over in 6x8


def test_a_scheme_that_refuses_a_size_is_left_out_with_a_line():
    setup = layers.Setup((1, 8), "float32")
    work, refused = layers.gather(setup, layers.FORWARD, ["batch"], [])
    assert list(work) == [(layers.COPY, "")]
    assert len(refused) == 1 and refused[0].startswith("batch at 1x8 is left out: ")


TINY = (8, 6), {"model.name": "mlp", "model.widths": (4,)}


def test_the_networks_of_a_step_differ_in_the_norm_only():
    nets: Any = steps.networks(TINY[1], "batch", "map")
    assert nets["flax"].layers.norm.func is steps.FlaxNorm
    x = draw(TINY[0]).astype(np.float32)
    outputs, kernels = {}, {}
    for name, net in nets.items():
        init = jax.jit(lambda x, net=net: net.init_with_output(jax.random.key(0), x, train=True))
        outputs[name], variables = init(x)
        kernels[name] = variables["params"]["dense_1"]["kernel"]
    np.testing.assert_array_equal(kernels["normlab"], kernels["flax"])
    np.testing.assert_allclose(outputs["normlab"], outputs["flax"], rtol=1e-4, atol=1e-5)
    assert not np.allclose(outputs["normlab"], outputs["none"])


def test_a_selection_of_the_steps_suite(monkeypatch):
    monkeypatch.setattr(steps, "STEPS", 2)
    monkeypatch.setattr(steps, "NETWORKS", {"tiny": TINY})
    clock = type("Clock", (), {"perf_counter": iter(range(1000)).__next__})
    monkeypatch.setattr(steps, "time", clock)
    section = steps.run(Options(schemes=["batch"], repeats=1))
    rows = cells_of(section, "tiny")
    assert [row[1:3] for row in rows] == [["batch", "map"], ["batch", "vmap"]]
    assert all(row[3:] == [f"{1e6 / 2 / steps.MEMBERS:.0f}", "1.00", "1.00"] for row in rows)


# --- selections, pages and the command line


@pytest.mark.parametrize(
    ("suite", "asked", "message"),
    [
        (numerics, Options(schemes=["bathc"]), "unknown scheme 'bathc'"),
        (numerics, Options(cases="no such case"), "no case has 'no such case'"),
        (numerics, Options(against=["numpy"]), "unknown library 'numpy'"),
        (layers, Options(sizes=["60"]), "is no shape; write"),
        (layers, Options(sizes=["4x0"]), "is no shape; write"),
        (layers, Options(sizes=["4x-1x3"]), "is no shape; write"),
        (layers, Options(dtypes=["int8"]), "unknown dtype 'int8'"),
        (training, Options(networks=["vit"]), r"'vit' \(known: mlp, cnn8, cnn28, resnet20\)"),
        (
            training,
            Options(populations=["0"]),
            "population '0' is no number of runs",
        ),
        (training, Options(populations=["many"]), "population 'many' is no number"),
    ],
)
def test_what_is_not_there_cannot_be_selected(suite, asked, message):
    with pytest.raises(BadSelection, match=message):
        suite.run(asked)


def test_a_library_that_is_missing_is_left_out_with_a_line(monkeypatch):
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda name: name != "torch" or None)
    found = runner.find_libraries(["torch-compiled", "flax"], training.LIBRARIES)
    assert found == (["flax"], ["torch.compile is left out: not installed"])
    assert runner.find_libraries([], training.LIBRARIES) == ([], [])
    assert runner.find_libraries(None, {"flax": "Flax", "keras": "Keras"})[0] == ["flax", "keras"]


def test_a_table_for_the_page_and_for_the_terminal(capsys):
    table = runner.table("T", ["case", "us"], [["a", "**NaN**"], ["long", "1"]])
    page = runner.publish(["2 cores.", ""], [table, runner.table("None", ["a"], [])])
    text = "**T**\n\n| case | us |\n| --- | --- |\n| a | **NaN** |\n| long | 1 |"
    assert page == f"2 cores.\n\n{text}"
    assert capsys.readouterr().out == "\nT\n\ncase  us\na     NaN\nlong  1\n\n2 cores.\n"


def test_a_section_is_replaced_and_nothing_else(tmp_path):
    page, lines = tmp_path / "benchmarks.md", "<!-- {} of {}, written by scripts/bench.py -->"
    sections = [
        f"{lines.format('begin', name)}\none\n{lines.format('end', name)}\n"
        for name in ("layers", "steps")
    ]
    before = "\n".join(["# Mine\n", *sections, "after\n"])
    page.write_text(before, encoding="utf-8")
    runner.write_section(page, "layers", "two\n")
    assert page.read_text(encoding="utf-8") == before.replace("\none\n", "\ntwo\n", 1)
    page.write_text(before.replace("<!-- end of layers", "<!-- lost"), encoding="utf-8")
    with pytest.raises(ValueError, match="needs both of these lines: <!-- begin of layers"):
        runner.write_section(page, "layers", "three")


def test_bad_usage_is_one_line_and_exit_code_2():
    command = [sys.executable, str(ROOT / "scripts" / "bench.py"), "--suite=training"]
    command += ["--populations=1,x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2 and "population 'x' is no number of runs" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not done.stdout


# --- with the other libraries


@pytest.mark.peers
def test_half_precision_is_kept():
    grid = grid_of(case_of("bf16 mean 1e2 std 1", **SMALL), list(TITLES))
    assert "**" not in str(numerics.worst_table(grid, ["batch"], [OWN]).rows)
    assert "**" in str(numerics.worst_table(grid, ["batch"], ["haiku"]).rows)


@pytest.mark.peers
def test_running_statistics_and_timings_with_the_other_libraries(monkeypatch):
    assert len(edge_cases.running(list(TITLES)).columns) == 5
    monkeypatch.setattr(layers, "VALUES", 2**10)
    monkeypatch.setattr(layers, "LARGEST_IN_POPULATION", 0)
    asked = Options(None, ["group"], sizes=["2x2x2x8"], dtypes=["float32"], repeats=1)
    (line,) = cells_of(layers.run(asked), "2x2x2x8")
    assert "-" not in line


def test_earlier_names_of_suites_are_accepted():
    code = """
import runpy
from absl import flags
main = runpy.run_path("scripts/bench.py")["main"]
from benchmarks.validation import calibration, keras_parity, theory
for suite in (calibration, keras_parity, theory):
    suite.run = lambda options, name=suite.__name__: print(name)
for old in ("controls", "tutorial", "anchors"):
    flags.FLAGS(["bench", f"--suite={old}"])
    main()
"""
    found = run_fresh("import sys; sys.path.insert(0, '.')" + code).splitlines()
    assert found == [
        f"benchmarks.validation.{n}" for n in ("calibration", "keras_parity", "theory")
    ]
