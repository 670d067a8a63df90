"""Do the verdicts hold what their rule promises? The truth is known, because the runs are made up.

A `World` answers every run that a study asks for. Its error is a sum of three parts: a parabola
over the log rate, a part that all runs of a seed share, and noise. The study is planned, its rates
are chosen, its window moves and its seeds grow as in a real one. Only the training is missing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats

from benchmarks import runner
from benchmarks.runner import Check, Options, emit
from normlab.runs.record import Record
from normlab.settings import Config
from normlab.studies.decisions import Contrast, look_at
from normlab.studies.effects import Claim, error_difference, looks
from normlab.studies.looks import SetupLooks
from normlab.studies.planning import ConfigCache
from normlab.studies.protocols import WINDOW
from normlab.studies.setup import Setup, norm_arms

DELTA = 1.0
"""Points, the smallest effect of interest of most contrasts of errors."""
TRUTHS = (-1.0, 0.0, 0.5, 0.65, 0.8, 1.0, 1.15, 1.5, 2.0)
"""True effects, in units of DELTA."""
CLOSE = (0.65, 1.15)
"""Truths from here to there are too close to DELTA for any rule to be stable."""
REPETITIONS = 300
SEED_SD, RUN_SD, SPLIT_SD = 0.6, 0.6, 0.5
"""Points: of what runs of a seed share, of a run, of each split of it. Fitted to dense networks on
the digits, in which a paired difference of two runs has an SD of about 1 point."""
CURVATURE = 3.0
"""Points that a rate one decade from the best costs."""
BEST = {"none": -1.1, "batch": -0.9}
"""log10 of the best rates, which lie between those of the grid."""
FLOOR = 3.0
"""Points of error of the better arm at its best rate."""
SETUP = Setup(
    "made-up", "", "digits_mlp", norm_arms("none", "batch", primary=("none", "batch")), WINDOW
)
CLAIM = Claim("C", "", SETUP.name, error_difference("none", "batch"), DELTA, looks(12, 96))
WORDS = ("supported", "refuted", "open")


class World(Mapping[str, Record]):
    """Every run that is asked for, with the errors of one repetition."""

    def __init__(self, truth: float, repetition: int, configs: Mapping[str, Config]):
        self.truth, self.repetition, self.configs = truth, repetition, configs

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self.configs)

    def __len__(self) -> int:
        return len(self.configs)

    def __getitem__(self, name: str) -> Record:
        config = self.configs[name]
        norm, rate = config["norm.name"], math.log10(config["optim.lr"])
        own = np.random.default_rng([self.repetition, config["seed"], hash_of(norm, rate)])
        shared = np.random.default_rng([self.repetition, config["seed"]]).normal() * SEED_SD
        error = FLOOR + shared + RUN_SD * own.normal() + CURVATURE * (rate - BEST[norm]) ** 2
        error += self.truth * DELTA if norm == "none" else 0.0
        splits = (error + SPLIT_SD * own.normal() for _ in range(2))
        names = ("validation_accuracy", "test_accuracy")
        final = {name: 1 - value / 100 for name, value in zip(names, splits, strict=True)}
        return Record(name, config, "trained", final, [], provenance={"chance": 0.1})


def hash_of(norm: str, rate: float) -> int:
    return 1000 * (norm == "batch") + round(100 * (rate + 9))


class NamedConfigs(ConfigCache):
    """Also finds a configuration by the id of its run."""

    def __init__(self) -> None:
        super().__init__(needs_data=False)
        self.by_name: dict[str, Config] = {}

    def look_up(self, setup: Setup, settings: Config) -> tuple[str, Config]:
        name, config = super().look_up(setup, settings)
        self.by_name[name] = config
        return name, config


@dataclass(frozen=True)
class Repetition:
    """A study carried out once: its contrast at 12 seeds, and at the looks of the rule."""

    first: Contrast
    path: Sequence[Contrast]
    old: str
    """The word of the rule of before: a t test at 12 seeds, at the best of a coarse grid."""

    @property
    def word(self) -> str:
        return look_at(self.path[-1])[0].word

    @property
    def qualifier(self) -> str:
        return look_at(self.path[-1])[0].qualifier


def old_word(world: World, cache: NamedConfigs) -> str:
    """Return the word of one-sided t tests at level 0.025, n = 12. Each arm has the rate with the
    least mean error of three tuning seeds on a grid of half decades."""
    chosen = {}
    for arm in SETUP.arms:
        errors = {}
        for exponent in WINDOW.exponents:
            runs = [run_of(world, cache, arm.name, exponent, seed) for seed in WINDOW.seeds]
            errors[exponent] = np.mean([1 - run.final["validation_accuracy"] for run in runs])
        best = min(errors, key=lambda e: errors[e])
        runs = [run_of(world, cache, arm.name, best, seed) for seed in range(12)]
        chosen[arm.name] = np.array([100 * (1 - run.final["test_accuracy"]) for run in runs])
    effects = chosen["none"] - chosen["batch"]
    error = effects.std(ddof=1) / math.sqrt(len(effects))
    if stats.t.cdf((effects.mean() - DELTA) / error, 11) < 0.025:
        return "refuted"
    return "supported" if stats.t.sf(effects.mean() / error, 11) < 0.025 else "open"


def run_of(world: World, cache: NamedConfigs, norm: str, exponent: float, seed: int) -> Record:
    settings = {"norm.name": norm, "optim.lr": float(f"{10**exponent:.4g}"), "seed": seed}
    return world[cache.look_up(SETUP, settings)[0]]


def repeat(truth: float, repetitions: int, cache: NamedConfigs) -> list[Repetition]:
    """Carry out the study with this true effect; repetitions share no seed of the generator."""
    found = []
    for i in range(repetitions):
        world = World(truth, round(1000 * (truth + 5)) * 100_000 + i, cache.by_name)
        setup = SetupLooks(SETUP, world, cache)
        path = setup.follow(CLAIM, "quick")
        found.append(Repetition(path[0], path, old_word(world, cache)))
    return found


def shares(words: Sequence[str]) -> dict[str, float]:
    counts = Counter(words)
    return {word: counts[word] / len(words) for word in WORDS}


def differing(words: Sequence[str]) -> tuple[float, float]:
    """Return the shares of pairs of repetitions whose words differ, and of supported against
    refuted."""
    found, n = Counter(words), len(words)
    pairs = n * (n - 1)
    same = sum(count * (count - 1) for count in found.values())
    return 1 - same / pairs, 2 * found["supported"] * found["refuted"] / pairs


def coverage(found: Sequence[Repetition], truth: float) -> tuple[float, float]:
    """Return how often the 95 % interval of the first look covers the truth, and the SD of the
    estimates over their mean standard error."""
    estimates = [repetition.first.estimate() for repetition in found]
    n = len(found[0].first.effects)
    errors = np.array([e.half_width for e in estimates]) / stats.t.ppf(0.995, n - 1)
    centres = np.array([e.centre for e in estimates])
    inside = np.abs(centres - truth * DELTA) <= stats.t.ppf(0.975, n - 1) * errors
    return float(inside.mean()), float(centres.std(ddof=1) / math.sqrt(np.mean(errors**2)))


def contradicted(found: Sequence[Repetition]) -> float:
    """Return how often a later look says refuted after supported, or the reverse."""
    both = {"supported", "refuted"}
    words = ([look_at(contrast)[0].word for contrast in r.path] for r in found)
    return float(np.mean([both <= set(path) for path in words]))


def limit(name: str, value: float, least: float = 0.0, most: float = 1.0) -> Check:
    """Return a share that has to lie between two limits."""
    text = f"at most {most:.1%}" if least == 0 else f"at least {least:.1%}"
    text = f"{least:.0%} to {most:.0%}" if 0 < least and most < 1 else text
    return Check(name, [name, text, f"{value:.1%}"], least <= value <= most)


def checks_of(worlds: Mapping[float, Sequence[Repetition]]) -> list[Check]:
    """Return all checks, each with its limit."""
    null, reversed_ = worlds[0.0], worlds[-1.0]
    small = [r.word == "supported" or r.qualifier == "small" for r in null]
    inside, ratio = zip(*(coverage(found, truth) for truth, found in worlds.items()), strict=True)
    pairs = {truth: differing([r.word for r in found]) for truth, found in worlds.items()}
    far = [pairs[t] for t in worlds if not CLOSE[0] <= t <= CLOSE[1]]
    clear, hard = zip(*far, strict=True)
    contradictions = float(np.mean([contradicted(found) for found in worlds.values()]))
    mean = float(np.mean(ratio))
    spread = ["SD over standard error", "at most 1.10", f"{mean:.2f}"]
    return [
        limit("no effect: supported or small", float(np.mean(small)), most=0.01),
        limit("no effect: refuted", shares([r.word for r in null])["refuted"], least=0.98),
        limit("1.5 delta: supported", shares([r.word for r in worlds[1.5]])["supported"], 0.98),
        limit(
            "-delta: reversed",
            float(np.mean([r.qualifier == "reversed" for r in reversed_])),
            least=0.98,
        ),
        limit("a later look contradicts an earlier one", contradictions, most=0.005),
        limit("95 % interval covers the truth", float(np.mean(inside)), 0.93, 0.97),
        Check(spread[0], spread, mean <= 1.10),
        limit("pairs that differ, truth not close to delta", max(clear), most=0.02),
        limit("supported against refuted, truth not close to delta", max(hard), most=0.002),
    ]


def line_of(truth: float, found: Sequence[Repetition]) -> list[str]:
    new, old = [r.word for r in found], [r.old for r in found]
    cells = [f"{truth:g}", *(f"{share:.1%}" for share in shares(new).values())]
    cells += [f"{np.mean([r.path[-1].n for r in found]):.0f}"]
    return cells + [f"{share:.1%}" for words in (new, old) for share in differing(words)]


def run(options: Options) -> str:
    """Carry out the studies, print the tables; return the section of the page."""
    cache, repetitions = NamedConfigs(), options.repeats or REPETITIONS
    worlds = {}
    for truth in TRUTHS:
        worlds[truth] = repeat(truth, repetitions, cache)
        emit(f"truth {truth:g} delta: {shares([r.word for r in worlds[truth]])}")
    checks = checks_of(worlds)
    columns = ["truth / delta", *WORDS, "mean n", "pairs that differ", "hard"]
    columns += ["old rule: pairs that differ", "hard"]
    tables = [
        runner.table(
            "Controls", ["control", "limit", "measured", "kept"], [c.line for c in checks]
        ),
        runner.table(
            f"Words of {repetitions} repetitions",
            columns,
            map(partial(line_of), *zip(*worlds.items(), strict=True)),
        ),
    ]
    return runner.publish([runner.machine(), runner.verdict("controls", checks)], tables)
