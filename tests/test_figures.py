"""Figures of probes, layers, percentiles, effects and levels, from records that are made up."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from normlab.layers.table import KERNELS
from normlab.norms.table import NORMS
from normlab.report.figures.curves import accuracy_curves
from normlab.report.figures.dose_response import level_text
from normlab.report.figures.draw import draw, save
from normlab.report.figures.forest import draw_effects
from normlab.report.figures.series import by_layer, layer_names, quartiles, trace
from normlab.report.figures.style import PALETTE, STYLE, line_styles, place_of
from normlab.report.html import inline
from normlab.runs.record import Record
from normlab.settings import defaults
from normlab.studies.decisions import Contrast, decide
from normlab.studies.intervals import (
    AT_LEAST,
    AT_MOST,
    MAX_ERROR,
    PAIRED_T,
    QUANTILE,
    Estimator,
)
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import Edges, Tuning
from normlab.studies.reported import ReportedRates
from normlab.studies.setup import Arm, FollowUp, Setup
from normlab.studies.study import Figure, Kind
from normlab.studies.units import FAILED, OCTAVES, POINTS, Unit

NASTY = "batch, $x$ and $\\frac{$"
ARMS = (
    Arm("none", {"norm.name": "none"}, True),
    Arm("batch", {"norm.name": "batch"}, True),
    Arm(NASTY, {"norm.name": "batch", "norm.noise": 1.0}),
)
SETUP = Setup("made-up", "MLP", "digits_mlp", ARMS, Tuning((-1.0,), 0.5, "error"), seeds=3)
STEPS = (1, 10, 100)
LAYERS = ("dense_1", "dense_10", "dense_2", "head")
"""Sorted by name, as a compiled program returns them."""


def made_run(seed: int, *, size: float = 1.0, steps=STEPS, **facts: Any) -> Record:
    """Return a run whose probe reads size x (1 + seed) x step."""
    curve = [made_row(size * (1.0 + seed), step) for step in steps]
    final = {f"{s}_accuracy": 0.9 for s in ("validation", "test", "train_set")}
    facts = {"status": "trained", "final": final, "curve": curve} | facts
    return Record(f"run {seed}", defaults() | {"seed": seed}, **facts)


def made_row(size: float, step: int) -> dict[str, float]:
    row = {"step": step, "train_loss": 1.0, "accuracy": 0.9, "train_set_accuracy": 0.5 * size / 3}
    row |= {"made.up": size * step, "shift.cosine": 0.1 * size - 0.2}
    row |= {f"activations.p{p}": size * (p - 50) for p in (15, 50, 85)}
    return row | {f"gradients.input.{name}": size * step * len(name) for name in LAYERS}


def runs_of(setup: Setup = SETUP, **reports: dict[int, Record]) -> SetupRuns:
    """Return the runs of a setup whose every arm has the same three, or those given."""
    e = SetupRuns(setup, {})
    runs = {seed: made_run(seed) for seed in range(3)}
    e.reports = {arm.name: reports.get(arm.name, runs) for arm in setup.arms}
    return e


def drawn(kind: Kind, e: SetupRuns, key: str = "", **options: Any) -> list[Any]:
    """Return the axes of a figure."""
    drawing = draw(Figure(kind, "made-up", "", key, **options), e)
    assert drawing is not None
    return drawing.axes


def lines_of(ax: Any) -> dict[str, Any]:
    return {str(line.get_label()).split("\n")[0]: line for line in ax.get_lines()}


def values(line: Any) -> list[float]:
    return [*line.get_ydata()]


def test_a_scheme_has_one_colour_in_all_setups_and_each_arm_a_line_of_its_own():
    names = ("batch/4", "noisy batch", "batch, depth 16", "batch", "a", "b", "c", "d")
    batch = [Arm(name, {"norm.name": "batch", "norm.stats_batch": 4}) for name in names]
    gains = [Arm(f"none, gain {g}", {"norm.name": "none", "init.gain": g}) for g in (1.0, 4.0)]
    weights = Arm("weights", {"norm.name": "none", "norm.kernel": "weight_norm"})
    follows = (
        FollowUp("at none's rate", "batch", "layer"),
        FollowUp("renorm", "batch", "batch", settings={"norm.name": "batch_renorm"}),
    )
    there = line_styles(replace(SETUP, arms=(*batch, *gains)))
    arms = (Arm("layer", {}), *reversed(gains), batch[1], batch[3], weights)
    here = line_styles(replace(SETUP, arms=arms, follows=follows))
    color = {name: style["color"] for name, style in (there | here).items()}
    assert {there[name]["color"] for name in names} == {color["noisy batch"]} == {"#0072b2"}
    assert {there[a.name]["color"] for a in gains} == {color[a.name] for a in gains}
    assert color["layer"] not in (color["noisy batch"], color[gains[0].name])
    assert len({str(there[name]) for name in names}) == len(names)
    assert len({str(there[name]["linestyle"]) for name in names[:6]}) == 6
    assert color["weights"] == PALETTE[place_of("weight_norm")[0]] != color[gains[0].name]
    assert color["at none's rate"] == color["batch"]
    assert color["renorm"] == PALETTE[place_of("batch_renorm")[0]]


def test_no_two_schemes_share_colour_and_marker():
    schemes = [*NORMS, *(name for name in KERNELS if name != "none")]
    assert len({place_of(name) for name in schemes}) == len(schemes)
    familiar = ("none", "batch", "layer", "group", "instance", "rms", "affine", "layer_channels")
    assert len({place_of(name)[0] for name in familiar}) == len(PALETTE)


def test_quartiles_are_of_the_runs_that_are_there_and_end_where_fewer_than_half_are_left():
    runs = {seed: made_run(seed) for seed in range(5)}
    runs[3].curve[1]["made.up"] = math.nan
    runs[4] = made_run(4, status="diverged", diverged_at=10)  # its later rows are rubbish
    steps, found = trace(runs, "made.up")
    assert list(steps) == [1, 10, 100] and np.isnan(found).sum() == 3
    low, middle, high = (list(part) for part in quartiles(steps, found)[1:])
    assert (low, middle, high) == ([2, 15, 175], [3, 20, 250], [4, 25, 325])
    runs = {seed: made_run(seed, steps=STEPS[: 3 - seed % 2]) for seed in range(4)}
    assert list(quartiles(*trace(runs, "made.up")).at) == [1, 10, 100]
    runs[2] = made_run(2, steps=(1, 7))
    assert list(quartiles(*trace(runs, "made.up")).at) == [1, 10]
    assert not quartiles(*trace(runs, "unknown")).at.size


def test_layers_are_in_order_of_execution():
    runs = {seed: made_run(seed) for seed in range(2)}
    assert layer_names(runs, "gradients.input") == ["dense_1", "dense_2", "dense_10", "head"]
    row = {f"rank.{name}": 1.0 for name in ("block_1/conv_1", "conv_stem", "head")}
    convolutional = {0: made_run(0, curve=[{"step": 1} | row])}
    assert layer_names(convolutional, "rank") == ["conv_stem", "block_1/conv_1", "head"]
    runs[1].curve[2] |= {f"gradients.input.{name}": math.nan for name in LAYERS}
    first, last = (by_layer(runs, "gradients.input", place) for place in (0, -1))
    assert first[0] == 1 and last[0] == 100
    assert last[1].tolist() == [[700, 700, 800, 400], [140, 140, 160, 80]]


def test_a_curve_that_ends_early_falls_to_chance_only_if_it_diverged():
    rows = [{"step": s, "accuracy": a} for s, a in ((1, 0.5), (2, 0.9), (3, 0.95))]
    runs = {
        0: Record("a", {}, "trained", {}, rows),
        1: Record("b", {}, "trained", {}, rows[:2]),
        2: Record("c", {}, "diverged", {}, rows[:1], 2, provenance={"chance": 0.2}),
    }
    steps, accuracies = accuracy_curves(runs)
    assert steps.tolist() == [1, 2, 3]
    assert accuracies[:, -1].tolist() == pytest.approx([95, 90, 20])


def test_a_probe_is_drawn_as_medians_with_n():
    half = made_run(2, status="diverged", diverged_at=100)
    e = runs_of(batch={0: made_run(0), 1: made_run(1), 2: half})
    (ax,) = drawn("probe", e, "made.up")
    lines = lines_of(ax)
    assert (values(lines["none"]), values(lines["batch"])) == ([2, 20, 200], [2, 20, 150])
    assert lines["none"].get_label() == "none\nn = 3"
    assert lines["batch"].get_label() == "batch\nn = 3, 1 diverged"
    assert len(ax.collections) == 3
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("gradient steps", "made.up")
    assert lines["batch"].get_linestyle() != lines[NASTY].get_linestyle()
    assert lines["batch"].get_color() == lines[NASTY].get_color()


def test_a_probe_axis_says_what_it_is_and_is_linear_where_it_must():
    (signed,) = drawn("probe", runs_of(), "shift.cosine")
    assert signed.get_yscale() == "linear" and "cosine of the gradients" in signed.get_ylabel()
    (percent,) = drawn("probe", runs_of(), "train_set_accuracy")
    assert percent.get_ylabel() == "training accuracy, %"
    assert values(lines_of(percent)["none"])[0] == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    "kind, key, e",
    [
        ("probe", "unknown", runs_of()),
        ("probe", "made.up", SetupRuns(SETUP, {})),
        ("layers", "unknown", runs_of()),
    ],
)
def test_nothing_is_drawn_without_data(kind: Kind, key: str, e: SetupRuns):
    assert draw(Figure(kind, "made-up", "", key), e) is None


def test_a_probe_of_chosen_arms_or_of_what_follows():
    follow_up = FollowUp("batch at none's rate", "batch", "none")
    e = runs_of(replace(SETUP, follows=(follow_up,)))
    e.follows = {follow_up.name: {0: made_run(0)}}
    (chosen,) = drawn("probe", e, "made.up", arms=("batch",))
    assert list(lines_of(chosen)) == ["batch"]
    (followed,) = drawn("probe", e, "made.up", follows=True)
    assert list(lines_of(followed)) == [follow_up.name] and not followed.collections


def test_layers_are_drawn_at_the_first_and_the_last_point():
    first, last = drawn("layers", runs_of(), "gradients.input")
    places = np.array([lines_of(first)[name].get_xdata() for name in ("none", "batch", NASTY)])
    assert places.mean(axis=0) == pytest.approx([1, 2, 3, 4])
    assert np.diff(places, axis=0) == pytest.approx(0.12)  # equal lines do not hide each other
    assert values(lines_of(first)["none"]) == [14, 14, 16, 8]
    assert values(lines_of(last)["none"]) == [1400, 1400, 1600, 800]
    assert first.get_ylim() == last.get_ylim() and last.get_yscale() == "log"
    assert (first.get_title(), last.get_title()) == ("first point, step 1", "last point, step 100")
    assert first.get_xlabel() == "layer, counted from the input"


@pytest.mark.parametrize(
    "kind, key", [("curves", ""), ("probe", "made.up"), ("layers", "gradients.input")]
)
def test_no_line_hides_an_equal_one(kind: Kind, key: str):
    steps = tuple(range(1, 60))
    runs = {seed: made_run(seed, steps=steps) for seed in range(2)}
    for run in runs.values():
        run.config["optim.lr"] = 0.1
    e = runs_of(SETUP, **{arm.name: runs for arm in ARMS})
    drawing = draw(Figure(kind, "made-up", "", key), e)
    assert_every_line_shows(drawing)


def test_no_line_across_hides_an_equal_one_and_each_has_its_interval():
    others = tuple(Arm(name, {"norm.name": name}) for name in ("layer", "group", "rms"))
    setup = replace(SETUP, arms=(*level_arms("norm.stats_batch", (4, 64)), *others))
    runs = {s: made_run(s, final={"test_accuracy": 0.9 - 0.01 * s}) for s in range(3)}
    e = runs_of(setup, **{arm.name: runs for arm in setup.arms})
    drawing: Any = draw(Figure("levels", "made-up", ""), e)
    assert_every_line_shows(drawing)
    assert sum(container.has_yerr for container in drawing.axes[0].containers) == 5


def assert_every_line_shows(drawing: Any) -> None:
    """Each line of a figure changes its pixels."""
    canvas = FigureCanvasAgg(drawing)

    def pixels() -> np.ndarray:
        canvas.draw()
        return np.array(canvas.buffer_rgba(), int)

    whole = pixels()
    lines = [line for ax in drawing.axes for line in ax.get_lines() if len(line.get_xdata())]
    lines = [line for line in lines if line.get_marker() != "_"]  # the ends of an interval
    assert len(lines) >= 3
    for line in lines:
        line.set_visible(False)
        assert (abs(pixels() - whole).max(axis=-1) > 60).sum() > 10, line.get_label()
        line.set_visible(True)


def test_a_saved_figure_says_how_to_read_values_from_it(tmp_path):
    drawing: Any = draw(Figure("probe", "made-up", "", "made.up"), runs_of())
    text = save(drawing, tmp_path / "probe").read_text()
    (scale,) = json.loads(text.partition("data-scales='")[2].partition("'")[0])
    left, bottom, right, top, across, up, is_steps = scale
    marks = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', text.partition('data-name="none')[2])
    places = [(float(x), float(y)) for x, y in marks[:3]]
    steps = [across[0] + (across[1] - across[0]) * (x - left) / (right - left) for x, _ in places]
    found = [up[0] + (up[1] - up[0]) * (y - bottom) / (top - bottom) for _, y in places]
    assert 10 ** np.array(steps) == pytest.approx([1, 10, 100], rel=1e-3)
    assert 10 ** np.array(found) == pytest.approx([2, 20, 200], rel=1e-3) and is_steps
    assert "<text" in text and "gradient steps" in text  # text remains text
    page = str(inline(tmp_path / "probe.svg", 'alt "'))
    assert 'aria-label="alt &#34;"' in page and "var(--text)" in page and "#000000" not in page
    ids, used = (set(re.findall(p, page)) for p in (r' id="([^"]*)"', r'(?:url\(|href=")#([\w-]+)'))
    assert ids == used and ids


def test_points_with_intervals_are_lines_with_a_name_too(tmp_path):
    setup = replace(SETUP, arms=level_arms("init.gain", (0.25, 1.0, 4.0)))
    drawing: Any = draw(Figure("levels", "made-up", ""), runs_of(setup))
    text = save(drawing, tmp_path / "levels").read_text()
    assert set(re.findall('data-name="([^"]*)"', text)) == {"batch, n = 3", "none, n = 3"}


def test_percentiles_are_drawn_with_one_panel_for_each_arm():
    e = runs_of(batch={seed: made_run(seed, size=0.5) for seed in range(3)})
    left, right = drawn("percentiles", e, arms=("none", "batch"))
    assert [values(line)[0] for line in left.get_lines()] == [-70, 0, 70]
    band = np.asarray(left.collections[0].get_paths()[0].vertices)
    assert (band[:, 1].min(), band[:, 1].max()) == (-70, 70)
    assert [values(line)[0] for line in right.get_lines()] == [-35, 0, 35]
    assert left.get_ylim() == right.get_ylim()
    assert left.get_title() == "none\nn = 3" and "activation" in left.get_ylabel()
    assert left.figure.legends[0].get_texts()[1].get_text().startswith("15th")


def level_arms(setting: str, levels: tuple[float, ...]) -> tuple[Arm, ...]:
    return tuple(
        Arm(f"{n} {v}", {"norm.name": n, setting: v}, level=float(v), line=n)
        for v in levels
        for n in ("batch", "none")
    )


def test_levels_may_be_gains_or_depths_and_accuracy_of_training():
    gains = replace(SETUP, arms=(*level_arms("init.gain", (0.25, 1.0, 4.0)), ARMS[1]))
    depths = replace(SETUP, arms=level_arms("model.depth", (4, 16)))
    last = depths.arms[-1]
    chance = replace(last, settings=last.settings | {"norm.stats_batch": 16})
    for arms in (depths.arms, (*depths.arms[:-1], chance)):
        assert level_text(replace(depths, arms=arms)) == "hidden layers"
    lost = made_run(0, status="diverged", diverged_at=10, final={})
    (ax,) = drawn("levels", runs_of(gains, **{"batch 4.0": {0: lost}}), "train_set_accuracy")
    labels = ("initial gain, times He's", "final training accuracy, %")
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_ylim()) == (*labels, (0, 101.5))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1/4", "1", "4"]
    bars = {bar.get_label(): bar.lines[0] for bar in ax.containers}
    assert values(bars["batch, n = 1 to 3"]) == pytest.approx([90, 90, 10])
    assert bars["none, n = 3"].get_color() == "#000000"
    assert bars["batch, n = 1 to 3"].get_color() == "#0072b2"
    unmeasured = {seed: made_run(seed, final={"validation_accuracy": 0.9}) for seed in range(3)}
    e = runs_of(gains, **{arm.name: unmeasured for arm in gains.arms})
    assert draw(Figure("levels", "made-up", "", "train_set_accuracy"), e) is None
    spreads = replace(SETUP, arms=level_arms("data.length_spread", (0, 8)))
    (even,) = drawn("levels", runs_of(spreads))
    assert [*even.get_xticks()] == [1, 2]  # 0 has no place on a logarithmic axis
    assert [t.get_text() for t in even.get_xticklabels()] == ["0", "8"]
    (error,) = drawn("levels", runs_of(depths))
    assert error.get_ylabel() == "test error, percentage points"
    assert values(error.containers[0].lines[0]) == pytest.approx([10, 10])


def contrast(
    name: str, estimator: Estimator, effects: list[Any], unit: Unit, sesoi: float, **facts
):
    found, looks = dict(enumerate(effects)), (len(effects),)
    return Contrast(name, "C", "s", "c", "s", found, unit, sesoi, looks, estimator, **facts)


CHANNELS = Unit("share of channels", is_proportion=True)
PAIRS = [(8.0 + 0.1 * i, 5.0 + 0.1 * i) for i in range(11)]
ROWS = [
    decide([row])
    for row in (
        contrast("C1 $x$ $\\frac{$", PAIRED_T, [1.0, 2.0, 3.0, 2.5], OCTAVES, 0.3),
        contrast("share", AT_MOST, [1.0, *[0.0] * 19], FAILED, 0.05),
        contrast("tail", QUANTILE, PAIRS, POINTS, 0.5),
        contrast("bound", MAX_ERROR, [0.01, 0.02], Unit("radians"), 0.05),
        contrast("limit", AT_LEAST, [1.0, 0.98], CHANNELS, 0.95),
        contrast("at least", PAIRED_T, [1.0, 2.0, 1.5], OCTAVES, 0.3, is_lower_bound=True),
        contrast("untestable", PAIRED_T, [1.0, 2.0, 1.5], OCTAVES, 0.3, unmet="no"),
        contrast("too few", PAIRED_T, [1.0], OCTAVES, 0.3),
        contrast("nothing", PAIRED_T, [], OCTAVES, 0.3),
    )
]


def heights(ax) -> list[list[float]]:
    """Return what each of a panel's lines holds, without the lines across it."""
    return [values(line) for line in ax.get_lines() if line.get_transform() == ax.transData]


def across(ax) -> set[float]:
    """Return where the lines across a panel are."""
    lines = [line for line in ax.get_lines() if line.get_transform() != ax.transData]
    return {round(float(values(line)[0]), 6) for line in lines}


def test_effects_are_drawn_with_their_centre_and_the_smallest_of_interest():
    drawing = draw_effects(ROWS)
    assert drawing is not None
    panels = {ax.get_title().split("\n")[0]: ax for ax in drawing.axes if ax.get_title()}
    t, share, tail, bound, limit, at_least, untestable = panels.values()
    assert [*panels] == [verdict.contrast.id for verdict in ROWS[:7]]
    dots, interval, centre = heights(t)
    assert dots == [1.0, 2.0, 3.0, 2.5] and centre == [2.125]
    assert interval == pytest.approx(ROWS[0].estimate.interval)
    assert t.get_title().endswith("? open, at its cap,\nborderline\nn = 4")
    units = [ax.get_ylabel() for ax in (t, share, tail, limit)]
    assert units == ["octaves", "failed, %", "percentage points", "channels, %"]
    limits = [across(ax) for ax in (t, share, tail, bound, limit)]
    assert limits == [{0.0, 0.3}, {5.0}, {5.9, 6.4}, {0.05}, {95.0}]
    assert heights(share)[1] == pytest.approx([5.0])
    first, second, interval, centre = heights(tail)
    assert (first[0], second[0], centre) == (8.0, 5.0, [pytest.approx(8.9)])
    assert interval[0] <= 8.9 <= interval[1]
    markers = [[line.get_marker() for line in ax.get_lines()] for ax in (t, at_least)]
    assert ("^" in markers[0], "^" in markers[1]) == (False, True)
    high = next(line for line in at_least.get_lines() if line.get_marker() == "^")
    assert values(high) == pytest.approx([ROWS[5].estimate.high])
    assert heights(untestable)[0] == [1.0, 2.0, 1.5]  # the seeds are shown, no interval is
    assert all(map(math.isnan, heights(untestable)[1]))
    assert draw_effects(ROWS[7:]) is None and draw_effects([]) is None  # no two effects


@pytest.mark.parametrize("rows, said", [(ROWS[:1], False), (ROWS[5:6], True)])
def test_the_legend_says_what_is_drawn(rows, said):
    drawing: Any = draw_effects(rows)
    texts = [text.get_text() for text in drawing.legends[0].get_texts()]
    assert ("true effect at least this" in texts) is said
    assert texts[:2] == ["one seed", "centre with its 99 % interval"]


def with_rates(e: SetupRuns, arm: str, runs: dict[float, dict[int, Record]]) -> None:
    """Give an arm reports at several rates."""
    e.reported[arm] = ReportedRates(runs, 0.2, is_window=True)
    e.reports[arm] = next(iter(runs.values()))


def test_levels_are_means_over_the_rates_that_count():
    e = runs_of(replace(SETUP, arms=level_arms("norm.stats_batch", (4, 64))))

    def scored(seed: int, validation: float, test: float) -> Record:
        final = {"validation_accuracy": validation, "test_accuracy": test}
        return made_run(seed, final=final | {"train_set_accuracy": test})

    rates = {-1.0: (0.90, 0.8), -0.75: (0.94, 0.9), -0.5: (0.93, 0.73), -0.25: (0.85, 0.1)}
    runs = {rate: {s: scored(s, *said) for s in range(3)} for rate, said in rates.items()}
    with_rates(e, "batch 4", runs)
    assert e.reported["batch 4"].chosen() == [-1.0, -0.75, -0.5]
    (errors,) = drawn("levels", e)
    bars = {bar.get_label(): bar.lines[0] for bar in errors.containers}
    assert values(bars["batch, n = 3"]) == pytest.approx([19, 10])
    (fits,) = drawn("levels", e, "train_set_accuracy")
    assert values(fits.containers[0].lines[0]) == pytest.approx([81, 90])


def test_edges_are_marked_where_rates_are_drawn():
    setup = replace(SETUP, protocol=Edges((-1.0, 0.0), 1.0))
    e = runs_of(setup)
    e.grids = {"none": {rate: {s: made_run(s) for s in range(3)} for rate in (-1.0, 0.0)}}
    assert "median edge" not in lines_of(drawn("rates", e)[0])
    e.edges = {"none": {0: -1.0, 1: -0.5, 2: 0.0}}
    top, _ = drawn("rates", e)
    marks = [line for line in top.get_lines() if line.get_transform() != top.transData]
    assert [round(line.get_xdata()[0], 4) for line in marks] == [0.3162]
    assert marks[0].get_color() == lines_of(top)["none, n = 3"].get_color()
    assert "median edge" in lines_of(top) and not any("target" in name for name in lines_of(top))


KEYS: dict[Kind, str] = {
    "levels": "",
    "probe": "made.up",
    "layers": "gradients.input",
    "percentiles": "",
}


@pytest.mark.parametrize("kind", [*KEYS, "effects"])
def test_figures_can_be_laid_out_and_no_text_covers_another(kind: Kind):
    """Their names would be formulas."""
    long = replace(ARMS[2], name=f"{NASTY} {'x ' * 40}")
    arms = (*level_arms("init.gain", (0.25, 1.0)), long)
    e, key = runs_of(replace(SETUP, arms=arms, title=NASTY)), KEYS.get(kind)
    drawing: Any = draw_effects(ROWS) if key is None else draw(Figure(kind, "", "", key), e)
    assert drawing is not None
    with matplotlib.rc_context(STYLE):
        drawing.draw_without_rendering()
    page, legend = drawing.bbox, drawing.legends[0].get_window_extent()
    assert page.x0 <= legend.x0 + 1 and legend.x1 <= page.x1 + 1, "legend is cut"
    boxes = [ax.get_tightbbox() for ax in drawing.axes if ax.axison]
    assert not any(legend.overlaps(box) for box in boxes), "legend over axes"
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i]), "panels overlap"
    assert min(ax.bbox.width for ax in drawing.axes) > 40, "narrow"


def test_a_style_of_the_user_changes_no_figure(tmp_path):
    theirs: dict[Any, Any] = {
        "text.usetex": True,
        "lines.linewidth": 9,
        "savefig.facecolor": "yellow",
    }
    theirs |= {"axes.edgecolor": "red", "font.sans-serif": ["Times"], "svg.fonttype": "none"}
    e, figure = runs_of(), Figure("curves", "made-up", "")
    for name, style in (("plain", dict[Any, Any]()), ("theirs", theirs)):
        with matplotlib.rc_context(style):
            drawing = draw(figure, e)
            assert drawing is not None
            save(drawing, tmp_path / name)
    for kind in ("svg", "pdf"):
        one, other = (tmp_path / f"{name}.{kind}" for name in ("plain", "theirs"))
        assert one.read_bytes() == other.read_bytes()
