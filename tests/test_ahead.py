"""Which runs come first, which verdicts wait for them, which runs will follow, and for how long."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from lab import BATCH, GROUP, INSIDE, MEMORY, NONE, SETUP, Lab
from workspace import run_script

from normlab.launch import remaining
from normlab.launch.backlog import PLAN_S, Backlog
from normlab.launch.batching import PlannedPopulation, form_populations
from normlab.launch.engines.engine import WorkerHandle
from normlab.launch.remaining import TimeLeft, guessed_seconds
from normlab.launch.supervisor import Supervisor
from normlab.launch.sweep import Job
from normlab.runs.store import Store
from normlab.settings import Config, defaults, program_key
from normlab.studies.effects import Claim, error_difference
from normlab.studies.forecast import expected_runs
from normlab.studies.looks import look_at_study
from normlab.studies.planning import RequiredRun, SetupRuns
from normlab.studies.protocols import WINDOW, Edges
from normlab.studies.setup import FollowUp
from normlab.studies.study import Study

CLAIM = Claim("C1", "none is worse", "setup", error_difference("none", "batch"), 1.0, looks=(4,))
TEXTS = dict.fromkeys(("title", "fair_test", "source", "expect", "refuted_if", "cost"), "")
SECOND = FollowUp("again", "batch", "none", settings={"norm.momentum": 0.98}, is_secondary=True)
SLOWER = FollowUp("slower", "batch", "none", settings={"norm.momentum": 0.5})


def study_of(name: str = "first", **changes: Any) -> Study:
    setup = replace(SETUP, **changes)
    return Study(name, question="?", setups={"quick": (setup,)}, claims=(CLAIM,), **TEXTS)


def test_a_verdict_waits_for_what_decides_alone():
    """Not for the arm `group`, which is screened, and not for a secondary follow-up."""
    study = study_of(follows=(SECOND, SLOWER))
    lab = Lab(study.setups["quick"][0], INSIDE)
    wanted = lab.evidence.wanted
    rest = wanted.keys() - lab.evidence.deciding
    assert {wanted[name].arm for name in rest} == {"group", "batch"}
    assert {wanted[name].stage for name in rest} == {"tune", "report", "follow: again"}
    few = {name: run for name, run in lab.records.items() if name not in rest}
    known = look_at_study(study, "quick", few, MEMORY)
    assert known.settled == {"C1"} and not known.setups["setup"].is_complete
    whole = look_at_study(study, "quick", lab.records, MEMORY)
    assert known.paths[0][0].effects == whole.paths[0][0].effects
    for name in wanted.keys() - rest:
        without = {n: run for n, run in few.items() if n != name}
        assert not look_at_study(study, "quick", without, MEMORY).settled


def test_a_run_that_decides_somewhere_decides():
    """The screened arm is batch norm too: it asks for runs of a deciding arm."""
    same = replace(GROUP, settings=BATCH.settings)
    evidence = SetupRuns(replace(SETUP, arms=(NONE, BATCH, same)), {}, MEMORY)
    assert evidence.wanted.keys() == evidence.deciding


def runs_of(count: int, **settings: Any) -> dict[str, Config]:
    named = {name.replace("__", "."): value for name, value in settings.items()}
    return {f"{named}{seed}": defaults() | named | {"seed": seed} for seed in range(count)}


def test_populations_do_not_mix_tiers_and_begin_with_what_has_its_turn():
    runs = runs_of(6)
    turns = {name: (i % 2, -i) for i, name in enumerate(runs)}
    populations = form_populations(runs, turns.__getitem__)
    assert sorted(len(p.configs) for p in populations) == [3, 3]
    for population in populations:
        assert {turns[name][0] for name in population.configs} == {population.turn[0]}
        assert population.turn == min(turns[name] for name in population.configs)


def test_a_worker_takes_the_first_tier_then_its_own_program_then_the_first_setup(tmp_path):
    supervisor = Supervisor(Store(tmp_path).open())
    worker, other = WorkerHandle(0), WorkerHandle(1)
    supervisor.workers = [worker, other]
    kinds = (
        ("layer", (0, 3), 2),  # its own program
        ("group", (0, 1), 2),  # nobody's: the first setup
        ("group", (0, 2), 9),  # then the largest
        ("group", (0, 2), 2),
        ("rms", (0, 0), 9),  # the other one's
        ("layer", (1, 0), 9),
    )
    populations = [PlannedPopulation(runs_of(n, norm__name=name), turn=t) for name, t, n in kinds]
    worker.programs.add(program_key(populations[0].config))
    other.programs.add(program_key(populations[4].config))
    left = populations[::-1]
    for population in populations:
        assert supervisor._choose(worker, left) is population
        left.remove(population)


def job_of(tmp_path, *studies: Study) -> Job:
    job = Job(studies, "quick", Store(tmp_path).open())
    job.cache = MEMORY
    return job


def test_studies_have_their_turn_in_order_and_share_their_runs(tmp_path):
    """The second study asks for all runs of the first, and for those of one more arm."""
    more = replace(GROUP, name="more", settings={"norm.name": "layer"}, is_primary=True)
    job = job_of(tmp_path, study_of(), study_of("second", arms=(*SETUP.arms, more)))
    required = job.required()
    tiers = {(run.arm, job.serves[name].name, job.turns[name][0]) for name, run in required.items()}
    assert tiers == {
        ("none", "first", 0),
        ("batch", "first", 0),
        ("group", "first", 1),
        ("more", "second", 2),
    }


def test_the_studies_that_are_all_run_in_the_order_of_the_headline(tmp_path):
    out = run_script("study", "--study=all", "--dry_run", f"--results={tmp_path}").stdout
    found = list(dict.fromkeys(line.split("-")[0] for line in out.splitlines()[:-1]))
    assert found[:2] == ["convergence", "learning"] and found[-1] == "which"
    assert found.index("depth") < found.index("small") < found.index("accuracy")


CASES = {
    "tuning": (SETUP, INSIDE),
    "window that moves": (
        replace(SETUP, protocol=replace(WINDOW, exponents=(-2.0, -1.5, -1.0))),
        lambda norm, exponent, seed: 0.9 - 0.1 * (exponent + (1.0 if seed >= 10_000 else 1.5)) ** 2,
    ),
    "edges": (
        replace(SETUP, protocol=Edges((-2.0, -1.5, -1.0, -0.5))),
        lambda norm, exponent, seed: 0.95 if exponent <= -1.1 else 0.2,
    ),
    "follow-ups": (replace(SETUP, follows=(SECOND, SLOWER)), INSIDE),
}


@pytest.mark.parametrize("name", CASES)
def test_what_will_be_wanted_is_told_before_the_first_run(name):
    """As many runs of each arm and stage as are wanted in the end, where the runs are usual."""
    setup, response = CASES[name]
    wanted = Lab(setup, response).evidence.wanted
    expected = expected_runs(setup, {}, MEMORY)
    assert Counter(run.place for run in expected.values()) == Counter(
        run.place for run in wanted.values()
    )


def test_known_results_replace_what_was_assumed():
    """With all runs there, exactly these are expected, at their own rates."""

    def response(norm: str, exponent: float, seed: int) -> float:
        return 0.9 - 0.1 * (exponent + 1.7) ** 2

    lab = Lab(SETUP, response)
    assert expected_runs(SETUP, lab.records, MEMORY).keys() == lab.evidence.wanted.keys()
    tuned = {n: r for n, r in lab.records.items() if lab.evidence.wanted[n].stage == "tune"}
    assert expected_runs(SETUP, tuned, MEMORY).keys() == lab.evidence.wanted.keys()


def test_a_job_counts_what_follows_once(tmp_path):
    """Runs that are asked for at another rate than expected are not expected any more."""
    job = job_of(tmp_path, study_of())
    wanted = Lab(SETUP, lambda norm, exponent, seed: 0.9 - 0.1 * (exponent + 1.7) ** 2).evidence
    job.missing()
    left, ahead = job.left()
    assert len(left) + len(ahead) == len(wanted.wanted)
    for name, run in wanted.records.items():
        if wanted.wanted[name].stage == "tune":
            job.records.ids.add(name)
            job.records.kept[name] = run
    job.missing()
    left, ahead = job.left()
    assert {wanted.wanted[name].stage for name in left} == {"report"}
    assert ahead == {}
    job.expected["more"] = replace(next(iter(job.expected.values())), stage="another")
    assert "more" in job.left()[1]
    job.records.ids |= wanted.records.keys()
    job.records.kept |= wanted.records
    assert job.missing() == {} and job.left() == ({}, {})


class Hands:
    """Workers of which a test says what they do."""

    def __init__(self) -> None:
        self.now = 0.0
        self.left = TimeLeft(lambda: self.now)

    def say(self, number: int, event: str, runs: dict[str, Config] | None = None, **facts: Any):
        population = PlannedPopulation(runs) if runs else None
        worker: Any = SimpleNamespace(number=number, population=population)
        self.left.note(worker, event, facts)

    def train(self, runs: dict[str, Config], seconds: float, compiled: float = 0.0) -> None:
        self.say(0, "given", runs)
        self.now += compiled + seconds
        self.say(0, "chunk", step=300, compiled=compiled)
        self.say(0, "done", ids=[*runs], busy=[])

    def seconds(self, runs: dict[str, Config], workers: int = 1) -> float:
        return self.left.seconds(runs.items(), workers)


def test_runs_like_those_that_were_timed_take_as_long():
    hands = Hands()
    assert not hands.left.has_measured
    hands.train(runs_of(4), 8.0, compiled=5.0)
    assert hands.left.has_measured
    assert hands.seconds(runs_of(6)) == pytest.approx(12.0)  # its program is there
    assert hands.seconds(runs_of(6), workers=2) == pytest.approx(6.0)
    for norm in ("group", "layer"):  # as much slower than guessed, and a program to compile
        other = runs_of(6, norm__name=norm)
        assert hands.seconds(other) == pytest.approx(12.0 + 5.0)
    network = runs_of(6, data__batch=128)
    longer = guessed_seconds(network[next(iter(network))]) / guessed_seconds(defaults())
    assert hands.seconds(network) == pytest.approx(12.0 * longer + 5.0)


def test_another_norm_takes_as_long_as_the_closest_runs_that_were_timed():
    """Its own batch size, not the mean of all that was timed on the network."""
    hands = Hands()
    hands.train(runs_of(1), 1.0)
    hands.train(runs_of(1, data__batch=128), 100.0)
    assert hands.seconds(runs_of(1, norm__name="group")) == pytest.approx(1.0)


def test_what_a_worker_has_done_is_not_left():
    hands, runs = Hands(), runs_of(4)
    hands.train(runs_of(4, optim__lr=0.5), 8.0, compiled=5.0)
    hands.say(0, "given", runs)
    hands.now += 6.0
    hands.say(0, "chunk", step=225, compiled=0.0)
    assert hands.seconds(runs, workers=2) == pytest.approx(2.0)  # nobody can help with it
    waiting = runs | runs_of(8, optim__lr=0.1)
    assert hands.seconds(waiting, workers=2) == pytest.approx((2.0 + 16.0) / 2)


def test_what_continues_from_a_checkpoint_took_its_own_time_only():
    hands, runs = Hands(), runs_of(4)
    hands.say(0, "given", runs)
    hands.say(0, "resumed", step=150)
    hands.now += 4.0
    hands.say(0, "chunk", step=300, compiled=0.0)
    hands.say(0, "done", ids=[*runs], busy=[])
    assert hands.seconds(runs) == pytest.approx(8.0)


def test_a_worker_that_starts_or_compiles_does_not_train():
    """It loads jax and data for 5 s, and then trains for 8 s and compiles for 3 s."""
    hands, runs = Hands(), runs_of(4)
    hands.say(0, "given", runs)
    hands.now += 2.0
    hands.say(0, "ready")
    hands.now += 3.0 + 3.0 + 4.0
    hands.say(0, "chunk", step=150, compiled=3.0, seconds=7.0)
    hands.now += 4.0
    hands.say(0, "chunk", step=300, compiled=3.0, seconds=11.0)
    hands.say(0, "done", ids=[*runs], busy=[])
    assert hands.seconds(runs) == pytest.approx(8.0)
    new = runs_of(4, norm__name="group")
    hands.say(0, "given", new)
    assert hands.seconds(new) == pytest.approx(8.0 + 3.0)  # it compiles now


def test_a_program_that_both_workers_needed_counts_for_both():
    hands = Hands()
    for number in (0, 1):
        hands.say(number, "given", runs_of(2))
        hands.now += 5.0
        hands.say(number, "chunk", step=300, compiled=5.0)
        hands.say(number, "done", ids=[], busy=[])
    hands.left.spent.clear()
    new = runs_of(1, norm__name="group")
    only = guessed_seconds(next(iter(new.values())))
    assert hands.seconds(new) == pytest.approx(only + 2 * 5.0)


def test_a_population_that_stops_early_is_counted_as_a_whole():
    """Runs that reached their target cost nothing more, and the next ones will do the same."""
    hands, runs = Hands(), runs_of(4, train__stop_at=0.9)
    hands.say(0, "given", runs)
    hands.now += 3.0
    hands.say(0, "chunk", step=100, compiled=0.0)
    hands.say(0, "done", ids=[*runs], busy=[])
    assert hands.seconds(runs) == pytest.approx(3.0)


@pytest.mark.parametrize(
    "longer",
    [
        {"model__name": "cnn", "model__widths": (16, 32, 64)},
        {"train__steps": 600},
        {"data__batch": 512},
        {"model__depth": 8},
        {"train__eval_every": 1},
        {"norm__name": "group"},
    ],
)
def test_the_first_guess_knows_what_takes_longer(longer):
    plain = defaults() | {"norm.name": "none"}
    changed = plain | {name.replace("__", "."): value for name, value in longer.items()}
    assert guessed_seconds(changed) > 1.3 * guessed_seconds(plain)
    stopped = changed | {"train.stop_at": 0.9}
    assert guessed_seconds(stopped) < guessed_seconds(changed)
    late = changed | {"train.late_batch": 1, "train.late_from": 10}
    assert guessed_seconds(late) < guessed_seconds(changed)
    probed = changed | {"eval.probes": "shift"}
    assert guessed_seconds(probed) > guessed_seconds(changed)


def test_the_first_guess_counts_the_steps_of_a_sequence():
    rows = defaults() | {"model.name": "rnn", "model.widths": (32,)}
    long = rows | {"data.length": 24, "data.length_spread": 8}
    assert guessed_seconds(long) == pytest.approx(4 * guessed_seconds(rows))


@pytest.mark.parametrize("constant, value", [("LAYER_S", 0.0), ("OPERATIONS_PER_S", 1e99)])
def test_evaluations_cost_calls_and_operations(monkeypatch, constant, value):
    monkeypatch.setattr(remaining, constant, value)
    often = defaults() | {"train.eval_every": 1}
    assert guessed_seconds(often) > 1.3 * guessed_seconds(defaults())


# when planning again is worth its time


def planned(*runs: tuple[str, str], cost: float = 0.0, eager: bool = False) -> Backlog:
    """A backlog of runs with their stages."""
    found = [RequiredRun(name, defaults(), "setup", "arm", stage) for name, stage in runs]
    protocol = Edges((0.0, 1.0)) if eager else None
    setup: Any = SimpleNamespace(name="setup", protocol=protocol)
    look: Any = SimpleNamespace(setups={"setup": SimpleNamespace(setup=setup)})
    backlog = Backlog(lambda: found, {"study": look})
    backlog.plan()
    backlog.cost = cost
    return backlog


def note(backlog: Backlog, *ids: str, busy: tuple[str, ...] = ()) -> Any:
    records: Any = SimpleNamespace(store=SimpleNamespace(is_done="x".__eq__), ids=set(), kept={})
    backlog.note({"ids": ids, "busy": busy, "records": {"a": "record"}}, records)
    return records


def test_planning_waits_until_a_stage_is_whole():
    backlog = planned(("a", "tune"), ("b", "tune"), ("c", "report"))
    assert not backlog.is_due(False)
    records = note(backlog, "a", busy=("x", "y"))
    assert records.ids == {"a", "x"} and records.kept == {"a": "record"}
    assert list(backlog.left) == ["b", "c"] and not backlog.is_due(False)
    note(backlog, "b")
    assert backlog.is_due(True)
    note(backlog, "c")
    assert backlog.is_due(True) and not backlog.left


def test_a_search_for_edges_goes_on_from_every_run():
    backlog = planned(("a", "edge"), ("b", "edge"), eager=True)
    note(backlog, "a")
    assert backlog.is_due(True)


def test_planning_that_is_dear_waits_for_populations_or_until_workers_have_nothing_to_do():
    backlog = planned(("a", "tune"), ("b", "report"), cost=2 * PLAN_S)
    note(backlog, "a")
    assert not backlog.is_due(True)
    note(backlog)
    assert backlog.is_due(True)
    backlog = planned(("a", "tune"), ("b", "report"), cost=10.0)
    note(backlog, "a")
    assert not backlog.is_due(False)
    backlog.planned -= 11
    assert not backlog.is_due(True) and backlog.is_due(False)
