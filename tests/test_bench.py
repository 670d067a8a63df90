"""The benchmarks measure what they say: cases, references, errors, pages, clocks, selections."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import BadSelection, edge_cases, layers, numerics, reference_libraries, steps
from benchmarks.page import Table, write_section
from benchmarks.reference_libraries import OWN, Layer, Linen, find_peers
from normlab.norms import NORMS
from normlab.testing.cases import CASES, DTYPES, FEW, LAYERS, LIMITS, error, few, reference

ROOT = Path(__file__).resolve().parents[1]
SHAPE, EPSILON, GROUPS = (2, 3, 2, 4), 1e-3, 2


def draw(shape=SHAPE, seed=0) -> np.ndarray:
    return 3 + np.random.default_rng(seed).standard_normal(shape)


def case_of(name: str):
    return next(case for case in CASES if case.name == name)


def quiet(line: str) -> None:
    del line


# --- cases and their references


def test_cases_are_the_same_at_every_call_and_differ():
    assert len({case.name for case in CASES}) == len(CASES) >= 42
    for case in CASES:
        one, two = case.draw((8, 16)), case.draw((8, 16))
        np.testing.assert_array_equal(one, two)
        assert one[0].dtype == one[1].dtype == DTYPES[case.dtype]
        assert np.isfinite(one[0].astype(np.float64)).all()
    assert not np.array_equal(case_of("std 1e18").draw((8,))[1], case_of("std 1e19").draw((8,))[1])
    for kind in ("const", "mean 1e6", "std 1e30", "denormal", "outlier", "big N", "bf16", "f16"):
        assert any(kind in case.name for case in CASES)


def test_the_few_are_of_every_kind_and_small():
    chosen = few()
    assert [case.name for case in chosen] == [case.name for case in CASES if case.name in FEW]
    assert len(chosen) == len(FEW)
    assert {case.dtype for case in chosen} == set(LIMITS)
    assert all(math.prod(case.shape(NORMS[name].over)) <= 512 for case in chosen for name in LAYERS)


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
def test_the_reference_is_the_equation(scheme):
    x = draw()
    y, _ = reference(NORMS[scheme], x, draw(seed=1), epsilon=EPSILON, groups=GROUPS)
    values = x[SHARING[scheme]]
    mean = values.mean() if scheme != "rms" else 0.0
    expected = (x[1, 2, 0, 3] - mean) / math.sqrt(((values - mean) ** 2).mean() + EPSILON)
    assert y.shape == SHAPE and y[1, 2, 0, 3] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("scheme", LAYERS)
def test_the_gradient_of_the_reference_is_that_of_finite_differences(scheme):
    x, cotangent = draw(), draw(seed=1)

    def value(x):
        y, _ = reference(NORMS[scheme], x, cotangent, epsilon=EPSILON, groups=GROUPS)
        return float((cotangent * y).sum())

    _, dx = reference(NORMS[scheme], x, cotangent, epsilon=EPSILON, groups=GROUPS)
    h = 1e-6
    units = h * np.eye(x.size).reshape(-1, *SHAPE)
    slopes = np.array([(value(x + u) - value(x - u)) / (2 * h) for u in units]).reshape(SHAPE)
    assert error(dx, slopes) < 1e-7


def test_the_reference_survives_the_largest_floats_and_constants():
    for name in ("U(2e38,3e38)", "alternating +-3e38", "const 1e6+.1"):
        x, cotangent = case_of(name).draw(SHAPE)
        for part in reference(NORMS["batch"], x, cotangent, epsilon=EPSILON):
            assert np.isfinite(part).all()
    assert not reference(NORMS["batch"], x, cotangent, epsilon=EPSILON)[0].any()


def test_the_error_is_relative_absolute_at_zero_and_nan():
    right = np.array([3.0, 4.0])
    assert error(np.array([3.0, 4.5], np.float32), right) == pytest.approx(0.1)
    assert error(np.array([0.5, 0.5]), np.zeros(2)) == pytest.approx(0.5)
    assert error(right, right) == 0
    for bad in (math.nan, math.inf):
        assert math.isnan(error(np.array([3.0, bad]), right))


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
            best = error(best_float(values, case.dtype), values)
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


def test_a_selection_of_the_numerics_suite(monkeypatch):
    monkeypatch.setattr(edge_cases, "tables", lambda *_: [Table("More", ["a"], [["b"]])])
    plan = numerics.plan(["batch"], "const 3.3 eps", ["flax"])
    assert [case.name for case in plan.cases] == ["const 3.3 eps 1e-12", "f16 const 3.3 eps 1e-8"]
    told: list[str] = []
    page = numerics.run(plan, told.append)
    assert page.startswith("# Numerics") and "normlab: 0 of 4 figures are NaN or above" in page
    assert "| case | normlab | Flax |" in page and page.endswith("| a |\n| --- |\n| b |")
    row = next(line for line in page.splitlines() if line.startswith("| const 3.3 eps 1e-12 |"))
    ours, theirs = row.strip("| ").split(" | ")[1:]
    assert ours.startswith("0 / ") and "**" in theirs
    assert any("Worst of batch" in text for text in told)


def test_a_wrong_normlab_is_counted_and_named(monkeypatch):
    def make(layer: Layer):
        run = reference_libraries._own(layer)
        return lambda x, cotangent: (
            run(x, cotangent)[0] * np.float32(1.001),
            np.full_like(x, np.nan),
        )

    wrong = replace(reference_libraries.PEERS[OWN], make=make)
    monkeypatch.setitem(reference_libraries.PEERS, OWN, wrong)
    reference_libraries.prepare.cache_clear()
    case = replace(case_of("N(0,1)"), image=(4, 4, 4, 8), layers=("batch",))
    grid = numerics.measure_all(numerics.Plan([case], ["batch"], []), [OWN], quiet)
    reference_libraries.prepare.cache_clear()
    counts = numerics.total(grid, OWN)
    assert counts == numerics.Total(measured=2, refused=0, nan=1, garbage=0, above_limit=2)
    assert numerics.misses(grid) == [
        "N(0,1), batch, forward: 1e-03, limit 2e-06",
        "N(0,1), batch, gradient: NaN, limit 2e-06",
    ]


def test_a_refused_layer_is_told_and_not_counted():
    case = replace(case_of("1 value per statistic"), layers=("batch",))
    grid = numerics.measure_all(numerics.Plan([case], ["batch"], []), [OWN], quiet)
    assert numerics.rows(grid, ["batch"], [OWN]) == [[case.name, "refused"]]
    assert numerics.total(grid, OWN)[:2] == (0, 1)


def test_unrepresentable_sides_are_shown_and_not_counted():
    case = replace(case_of("denormal 1e-40"), image=(4, 4, 4, 8), layers=("batch",))
    grid = numerics.measure_all(numerics.Plan([case], ["batch"], []), [OWN], quiet)
    assert "† / " in numerics.rows(grid, ["batch"], [OWN])[0][1]
    assert numerics.total(grid, OWN).measured == 1
    assert "- denormal 1e-40, forward: " in numerics.excuses([case])
    worse = {key: cell._replace(forward=math.nan) for key, cell in grid.items()}
    assert numerics.total(worse, OWN) == numerics.Total(2, 0, nan=1, garbage=0, above_limit=1)
    assert numerics.misses(worse) == ["denormal 1e-40, batch, forward: NaN, limit 2e-06"]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ((["bathc"], "", None), "unknown scheme 'bathc'"),
        (([], "no such case", None), "no case has 'no such case'"),
        (([], "", ["numpy"]), "unknown library 'numpy'"),
    ],
)
def test_what_is_not_there_cannot_be_selected(selection, message):
    with pytest.raises(BadSelection, match=message):
        numerics.plan(*selection)


ORDINARY = replace(case_of("N(0,1)"), epsilon=0.1, image=(4, 4, 4, 8), dense=(8, 32), groups=2)
"""With an epsilon that nobody has by default."""


def test_flax_is_asked_for_the_same_layers():
    grid = numerics.measure_all(numerics.Plan([ORDINARY], list(LAYERS), []), ["flax"], quiet)
    assert len(grid) == len(LAYERS)
    assert all(max(cell[:2]) < 1e-6 for cell in grid.values())


def test_a_library_that_is_missing_is_left_out_with_a_line(monkeypatch):
    monkeypatch.setitem(
        reference_libraries.PEERS,
        "torch",
        replace(reference_libraries.PEERS["torch"], module="no_such_one"),
    )
    found, missing = find_peers(["flax", "torch"])
    assert list(found) == [OWN, "flax"]
    assert missing == ["PyTorch is left out: No module named 'no_such_one'"]


# --- masks, NaN and running statistics


def test_masks_and_one_nan():
    table = edge_cases.masks([OWN, "flax"], ["batch"])
    (ours, theirs) = table.rows
    assert ours == ["normlab", "batch", *["finite"] * 6]
    assert theirs[2:5] == ["**NaN**"] * 3 and "**NaN**" in theirs[5:]
    assert edge_cases.one_nan([OWN], ["batch", "group"]).rows == [
        ["batch", "3.1 % / 3.1 %"],
        ["group", "0 % / 0 %"],
    ]


def test_running_statistics_far_from_zero():
    ours, theirs = edge_cases.running([OWN, "flax"]).rows[-1][1:]
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


# --- the clocks


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
    work = {"a": clock.work(5.0, 2.0), "b": clock.work(100.0, 0.5)}
    assert layers.take_turns(work, (2, 10), 1) == pytest.approx({"a": 2.0, "b": 0.5})
    assert layers.take_turns(work, (0, 10), 1) == pytest.approx({"a": 2.5, "b": 10.5})


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
    linen = Linen(
        {"params": {"step": np.float32(2)}, "batch_stats": {"n": np.float32(0)}},
        lambda v, x: (
            x + v["params"]["step"],
            {"batch_stats": {"n": v["batch_stats"]["n"] + 1}},
        ),
    )
    setup = layers.Setup((4, 8), "float32", members)
    work = layers.jax_work(linen, setup, direction)
    work(3)
    work(4)
    x, cotangent, state, slopes = jax.tree.map(np.asarray, seen[-1])
    start, drawn = setup.draw()
    np.testing.assert_allclose(x, np.broadcast_to(start + 14, x.shape), rtol=1e-6)
    np.testing.assert_array_equal(state["batch_stats"]["n"], np.full(x.shape[:-2], 7))
    summed = drawn.sum() if direction == layers.DIRECTIONS[1] else 0
    np.testing.assert_allclose(slopes["step"], np.full(x.shape[:-2], summed), rtol=1e-4)


def test_a_selection_of_the_layers_suite(monkeypatch):
    monkeypatch.setattr(layers, "VALUES", 2**10)
    monkeypatch.setattr(layers, "LARGEST_IN_POPULATION", 48)
    plan = layers.plan(["6x8", "2x2x2x8"], ["float32"], ["rms", "instance"], ["flax"], 1)
    told: list[str] = []
    section = layers.run(plan, told.append)
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if " | float32" in line]
    assert [(line[0], *line[2:4]) for line in lines] == [
        ("6x8", "1", "rms"),
        ("6x8", "16", "rms"),
        ("2x2x2x8", "1", "rms"),
        ("2x2x2x8", "1", "instance"),
    ]
    for line in lines:
        assert float(line[5]) > 0 and line[6] == "-" and float(line[7]) > 0
    assert "left out" not in section  # instance norm has nothing to average over in 6x8
    assert section.startswith("## Layers") and any("forward + backward" in text for text in told)


def test_a_scheme_that_refuses_a_size_is_left_out_with_a_line():
    setup = layers.Setup((1, 8), "float32")
    work, refused = layers.gather(setup, layers.DIRECTIONS[0], ["batch"], [])
    assert list(work) == [(layers.COPY, "")]
    assert len(refused) == 1 and refused[0].startswith("batch at 1x8 is left out: ")


@pytest.mark.parametrize("size", ["60", "4x0", "4x-1x3", "axb"])
def test_a_size_that_is_no_shape_is_refused(size):
    with pytest.raises(BadSelection, match="is no shape; write"):
        layers.plan([size])


TINY = steps.Network("tiny", (8, 6), {"model.name": "mlp", "model.widths": (4,)})


def test_the_networks_of_a_step_differ_in_the_norm_only():
    nets = steps.networks(TINY, "batch", "map")
    x = draw(TINY.shape).astype(np.float32)
    outputs, kernels = {}, {}
    for name, net in nets.items():
        variables: Any = net.init(jax.random.key(0), x, train=True)
        outputs[name] = net.apply(variables, x, train=True, mutable=["batch_stats"])[0]
        kernels[name] = variables["params"]["dense_1"]["kernel"]
    np.testing.assert_array_equal(kernels["normlab"], kernels["flax"])
    np.testing.assert_allclose(outputs["normlab"], outputs["flax"], rtol=1e-4, atol=1e-5)
    assert not np.allclose(outputs["normlab"], outputs["none"])


def test_a_selection_of_the_steps_suite(monkeypatch):
    monkeypatch.setattr(steps, "STEPS", 2)
    plan = steps.plan(["batch"], 1)._replace(members=2, networks=(TINY,))
    section = steps.run(plan, quiet)
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if "| tiny" in line]
    assert [row[:3] for row in rows] == [["tiny", "batch", "map"], ["tiny", "batch", "vmap"]]
    assert all(float(cell) > 0 for row in rows for cell in row[4:])


# --- pages and the command line


def test_a_table_for_the_page_and_for_the_terminal():
    table = Table("T", ["case", "us"], [["a", "**NaN**"], ["long", "1"]], "How to read it.")
    assert table.markdown() == (
        "## T\n\nHow to read it.\n\n| case | us |\n| --- | --- |\n| a | **NaN** |\n| long | 1 |"
    )
    assert table.terminal() == "T\n\ncase  us\na     NaN\nlong  1\n"


def test_a_section_is_replaced_and_nothing_else(tmp_path):
    page = tmp_path / "benchmarks.md"
    page.write_text("# Mine\n\ntext\n", encoding="utf-8")
    write_section(page, "layers", "one")
    write_section(page, "steps", "other")
    page.write_text(page.read_text(encoding="utf-8") + "\nafter\n", encoding="utf-8")
    before = page.read_text(encoding="utf-8")
    write_section(page, "layers", "two\n")
    assert page.read_text(encoding="utf-8") == before.replace("\none\n", "\ntwo\n")
    assert before.startswith("# Mine\n\ntext\n\n<!-- begin of layers")
    page.write_text(before.replace("<!-- end of layers", "<!-- lost"), encoding="utf-8")
    with pytest.raises(ValueError, match="one of the two markers of 'layers'"):
        write_section(page, "layers", "three")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite=nothing"], "numerics|layers|steps"),
        ([], "--suite"),
        (["--suite=numerics", "--against=numpy"], "unknown library 'numpy'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(arguments, words):
    command = [sys.executable, str(ROOT / "scripts" / "bench.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2 and words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not done.stdout


# --- with the other libraries


@pytest.mark.peers
def test_all_libraries_are_there_and_right_on_ordinary_input():
    found, missing = find_peers(list(reference_libraries.PEERS))
    assert not missing and list(found) == list(reference_libraries.PEERS)
    grid = numerics.measure_all(numerics.Plan([ORDINARY], list(LAYERS), []), found, quiet)
    assert len(grid) == len(found) * len(LAYERS) - 1  # Equinox has no instance norm
    assert all(max(cell[:2]) < 1e-6 for cell in grid.values())


@pytest.mark.peers
def test_all_libraries_keep_half_precision_and_show_where_they_fail():
    found, _ = find_peers(list(reference_libraries.PEERS))
    case = replace(case_of("bf16 mean 1e2 std 1"), image=(4, 4, 4, 8), layers=("batch",))
    grid = numerics.measure_all(numerics.Plan([case], ["batch"], []), found, quiet)
    (row,) = numerics.rows(grid, ["batch"], list(found))
    assert "**" not in row[1] and "**" in row[1 + list(found).index("haiku")]


@pytest.mark.peers
def test_running_statistics_and_timings_with_the_other_libraries(monkeypatch):
    find_peers(["torch", "keras"])
    assert len(edge_cases.running(list(reference_libraries.PEERS)).columns) == 5
    monkeypatch.setattr(layers, "VALUES", 2**10)
    monkeypatch.setattr(layers, "LARGEST_IN_POPULATION", 0)
    section = layers.run(layers.plan(["2x2x2x8"], ["float32"], ["group"], None, 1), quiet)
    (line,) = [line for line in section.splitlines() if " | float32" in line]
    assert "-" not in line
