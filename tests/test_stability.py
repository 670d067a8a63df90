"""Stability on pools of runs: made-up runs whose truth is known, and pools that lack a run."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from benchmarks.validation import stability, stability_runs
from benchmarks.validation.calibration import covers
from benchmarks.validation.stability import Found, checks_of, judge, judge_all
from benchmarks.validation.stability_runs import (
    ROUNDINGS,
    TUNING,
    Pool,
    Row,
    draw_seeds,
    effect_of,
    look_at_pool,
    missing,
    replicate,
    rows,
    train,
)
from normlab.runs.record import Record
from normlab.studies.effects import Claim, effect, error_difference, looks, subtract
from normlab.studies.intervals import PAIRED_T
from normlab.studies.planning import ConfigCache, SetupRuns
from normlab.studies.protocols import WINDOW, Edges, Tuning
from normlab.studies.setup import FIRST_SEED, Arm, Setup
from normlab.studies.units import DECADES

ARMS = ("worse", "better")
ERRORS = error_difference(*ARMS)
TIMES = 12
SWAPPED: dict[str, str] = {"worse": "better", "better": "worse"}


def row_of(claim_effect=ERRORS, protocol: Tuning | Edges = WINDOW, most=24) -> Row:
    arms = tuple(Arm(name, {"norm.name": name}, is_primary=True) for name in ARMS)
    setup = Setup("made-up", "made-up network", "", arms, protocol)
    return Row(setup, Claim("X1", "", "made-up", claim_effect, 1.0, looks(12, most)), "quick", 96)


ROW = row_of()


class MadeUp(ConfigCache):
    """Makes up a run in every rounding when it is looked up, as planning does before it trains."""

    def __init__(self, error, records, lacks=lambda rounding, seed: False):
        super().__init__()
        self.error, self.made, self.lacks = error, records, lacks

    def look_up(self, setup, settings):
        arm, rate, seed = (settings[n] for n in ("norm.name", "optim.lr", "seed"))
        name = f"{arm} {rate} {seed}"
        for rounding, records in self.made.items():
            if name not in records and not self.lacks(rounding, seed):
                error = self.error(arm, round(math.log10(rate), 2), seed, rounding)
                accuracy = {f"{s}_accuracy": 1 - error / 100 for s in ("validation", "test")}
                facts = {"status": "trained", "curve": [], "provenance": {"chance": 0.1}}
                config = {"data.name": "digits", "train.stop_at_loss": 0.0}
                records[name] = Record(name, config, final=accuracy, **facts)
        return name, {"train.steps": 10, "seed": seed}


def errors(truth: float, swapped: tuple[str, ...] = (), spread: float = 0.5):
    """Return errors in points: a parabola of the rate, a part of the seed, noise of the run."""

    @cache
    def noise(*key) -> float:
        return spread * np.random.default_rng([abs(hash(k)) for k in key]).normal()

    def error(arm: str, exponent: float, seed: int, rounding: str) -> float:
        arm = SWAPPED[arm] if rounding in swapped else arm
        run = noise(ARMS.index(arm), round(100 * exponent), seed, [*ROUNDINGS].index(rounding))
        return 5 + 3 * (exponent + 0.9) ** 2 + truth * (arm == "worse") + noise(seed) + run

    return error


def pool_of(error, **options) -> Pool:
    records: dict[str, dict[str, Record]] = {rounding: {} for rounding in ROUNDINGS}
    return Pool({**records}, MadeUp(error, records, **options))


def found_for(truth: float, **options) -> Found:
    found = judge(ROW, pool_of(errors(truth, **options)), TIMES)
    assert isinstance(found, Found)
    return found


def test_a_known_truth_is_found():
    for truth, word in ((2.0, "supported"), (0.0, "refuted"), (-2.0, "refuted")):
        found = found_for(truth)
        assert found.truth == pytest.approx(truth, abs=0.1)
        assert {*found.new} == {word} and found.old.count(word) > TIMES / 2
        assert found.seeds < 14 and len(found.covered) == TIMES and np.mean(found.covered) > 0.7
    assert all(check.holds is not False for check in checks_of([found_for(2.0, spread=0.0)])[:3])


def test_near_the_smallest_effect_words_differ_and_seeds_grow():
    found = found_for(1.0, spread=1.5)
    assert len({*found.new}) > 1 and found.seeds > 12 and not found.is_far
    assert checks_of([found])[0].holds is False


def test_swapped_arms_are_caught():
    assert {*found_for(2.0, swapped=("map", "vmap")).new} == {"refuted"}
    found = found_for(2.0, swapped=("vmap",))  # in one of the roundings
    assert sorted(found.new) == ["refuted"] * 6 + ["supported"] * 6
    assert found.truth == pytest.approx(0, abs=0.1)
    assert [check.holds for check in checks_of([found])] == [False] * 4


def test_draws_are_of_the_pool_and_disjoint():
    drawn = [draw_seeds(ROW, np.random.default_rng(number)) for number in range(50)]
    for seeds in drawn:
        assert {*seeds} == {*WINDOW.seeds, *range(FIRST_SEED, FIRST_SEED + 48)}
        tuning = {seeds[s] for s in WINDOW.seeds}
        reporting = {seeds[s] for s in seeds if s >= FIRST_SEED}
        assert tuning <= {*TUNING} and reporting <= {*range(FIRST_SEED, FIRST_SEED + 96)}
        assert not tuning & reporting and len(reporting) > 24
    assert len({tuple(seeds.values()) for seeds in drawn}) == 50
    assert len({seed for seeds in drawn for seed in seeds.values()}) == len(TUNING) + 96


def test_a_replication_reads_its_own_seeds_and_its_own_rounding():
    """Errors that tell seed and rounding: the effects are those of the seeds that were drawn."""

    def error(arm, exponent, seed, rounding):
        seen = (seed - FIRST_SEED) / 10 + 20 * (rounding == "vmap")
        return 5 + (exponent + 1) ** 2 + (arm == "worse") * seen * (seed >= FIRST_SEED)

    pool = pool_of(error)
    for number in (0, 1, 2):
        found = replicate(ROW, pool, number)
        seeds = draw_seeds(ROW, np.random.default_rng(number))
        assert found.rounding == ("map", "vmap")[number % 2]
        for contrast in (*found.path, found.old):
            expected = {
                s: (seeds[s] - FIRST_SEED) / 10 + 20 * (number % 2) for s in contrast.effects
            }
            assert contrast.effects == pytest.approx(expected)
        assert {c["seed"] for c in found.wanted.values()} <= {*seeds.values()}
    assert effect_of(ROW, pool) == pytest.approx(95 / 20 + 10)


def test_a_pool_that_lacks_a_run_is_not_run(tmp_path):
    """One seed of one rounding is not there: its contrast has no word, the other one has."""
    pool = pool_of(errors(2.0), lacks=lambda rounding, seed: (rounding, seed) == ("map", 10_095))
    left = judge(ROW, pool, 1)
    assert isinstance(left, int) and left > 0
    page = judge_all([ROW], pool, 1, tmp_path / "figure.svg")
    assert "0 of 1 contrasts have all runs" in page and "| not run | - |" in page
    assert "supported /" not in page.split("not run")[1] and not (tmp_path / "figure.svg").exists()
    assert all(check.holds is None for check in checks_of([]))
    smaller = replace(ROW, seeds=95)
    page = judge_all([ROW, smaller], pool, 4, tmp_path / "figure.svg")
    assert "1 of 2 contrasts have all runs" in page and "100 / 0 / 0" in page
    assert (tmp_path / "figure.svg").stat().st_size > 1000


def test_only_missing_runs_are_trained_and_in_their_rounding(monkeypatch):
    there: dict[str, dict[str, Record]] = {rounding: {} for rounding in ROUNDINGS}
    later: dict[str, dict[str, Record]] = {rounding: {} for rounding in ROUNDINGS}
    asked: list[tuple[str, str]] = []

    def trains(row, pool, rounding, configs, known):
        asked.extend((rounding, name) for name in configs)
        there[rounding] |= {name: later[rounding][name] for name in configs}

    pool = Pool({**there}, MadeUp(errors(0.0, spread=2.0), later))
    monkeypatch.setattr(stability_runs, "train_rounding", trains)
    train(ROW, pool, 8)
    assert len(asked) == len({*asked}) > 1000 and {r for r, _ in asked} == {*ROUNDINGS}
    replications, wanted = look_at_pool(ROW, pool, 8)
    assert not any(missing(wanted, pool).values())
    for found in replications:
        assert {*found.wanted} <= {*there[found.rounding]}
        assert found.path[-1].n in (12, 24) and found.old.n == 12
    before = len(asked)
    train(ROW, pool, 8)
    assert len(asked) == before


def test_the_first_rules_have_one_coarse_rate_of_three_tuning_seeds():
    protocol = replace(WINDOW, seeds=tuple(range(1000, 1006)), reported="one")
    row = replace(ROW, setup=replace(ROW.setup, protocol=protocol))
    assert row.old_setup.protocol.seeds == (1000, 1001, 1002)
    pool = pool_of(lambda arm, exponent, seed, rounding: 5 + 3 * (exponent + 0.7) ** 2)
    old, new = (SetupRuns(s, pool.records["map"], pool.cache) for s in (row.old_setup, row.setup))
    assert [{*runs.best.values()} for runs in (old, new)] == [{-0.5}, {-0.75}]
    found = replicate(row, pool, 0)
    assert len(found.old.effects) == 12
    reported = {name.split()[1] for name in found.wanted if int(name.split()[2]) >= FIRST_SEED}
    assert reported == {"0.1778", "0.3162"}  # of the new rules and of the first


def test_edges_are_found_in_a_pool():
    """A rate trains up to the edge of its arm; the whole pool has the same edges."""
    edges = {"worse": -0.75, "better": 0.0}

    @effect(PAIRED_T, DECADES, "edges")
    def higher(e):
        return subtract(e.edges.get("better", {}), e.edges.get("worse", {}))

    def error(arm, exponent, seed, rounding):
        return 5.0 if exponent <= edges[arm] + 1e-9 else 80.0

    row = row_of(higher, Edges((-1.0, -0.5, 0.0, 0.5)), 12)
    assert draw_seeds(row, np.random.default_rng(0)).keys() == {*range(FIRST_SEED, FIRST_SEED + 48)}
    found = judge(row, pool_of(error), 4)
    assert isinstance(found, Found)
    assert found.truth == pytest.approx(0.75, abs=0.07) and {*found.new} == {"refuted"}
    assert row.whole.seeds == 96 and row.whole.protocol == row.setup.protocol


def test_the_contrasts_are_those_of_the_studies():
    found = {row.claim.id: row for row in rows()}
    assert len(found) == 13 and {r.claim.id for r in rows() if r.seeds == 48} == {
        *("C4a", "C10b-layer", "C10b-group", "C10b-instance"),
    }
    for row in found.values():
        assert all(arm.is_primary for arm in row.setup.arms) and not row.setup.follows
    assert [a.name for a in found["C13"].setup.arms] == ["batch/pre", "batch/post"]
    assert {a.name for a in found["C10b-group"].setup.arms} == {
        *("batch", "layer", "group", "instance"),
    }
    ladder = [found[name] for name in ("C1a-85", "C1a-90", "C1a")]
    assert [row.setup.target for row in ladder] == [0.85, 0.9, 0.95]
    assert all(row.setup.report_settings == {"train.stop_at": 0.95} for row in ladder)
    assert (found["C8b"].sesoi, found["C8b"].profile, found["C4a"].sesoi) == (1.0, "quick", 0.5)
    assert found["C1a"].whole.protocol.seeds == TUNING and found["C1a"].whole.seeds == 96


def test_shares_are_means_over_contrasts():
    same, mixed = ["open"] * 4, ["supported", "refuted"] * 2
    near, far = (Found(n, t, mixed, same, [True], 12) for n, t in (("a", 1.0), ("b", 2.0)))
    fine = Found("c", -1.0, same, mixed, [False], 12)
    shares = [check.cells[2:] for check in checks_of([near, far, fine])]
    assert shares == [["44.4%", "22.2%"], ["33.3%", "33.3%"], ["44.4%", "22.2%"], ["66.7%", "-"]]


def test_an_interval_of_95_percent_is_narrower_than_that_of_the_rule():
    found = found_for(0.0)
    contrast = replicate(ROW, pool_of(errors(0.0)), 0).path[0]
    estimate, n = contrast.estimate(), len(contrast.effects)
    edge = estimate.half_width * 2.2010 / 3.1058  # t of 11 degrees of freedom
    assert covers(estimate, n, estimate.centre + 0.999 * edge)
    assert not covers(estimate, n, estimate.centre - 1.001 * edge)
    assert 0 < np.mean(found.covered) <= 1 and stability.COVERED == (0.93, 0.97)
