"""Made-up runs of two arms at every rate, whose true difference is known, and what the rule says.

The runs are made up where planning asks for them. Everything after that is the project's own code:
search, window, choice of the rate, jackknife, looks and word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np

from normlab.runs.record import Record
from normlab.settings import Config
from normlab.studies.decisions import Contrast, Look, look_at
from normlab.studies.effects import Claim, error_difference, looks
from normlab.studies.intervals import PAIRED_T, t_interval
from normlab.studies.looks import SetupLooks
from normlab.studies.planning import ConfigCache
from normlab.studies.protocols import Tuning
from normlab.studies.rates import STEP
from normlab.studies.setup import FIRST_SEED, Arm, Setup
from normlab.studies.units import PLAIN

ARMS = ("worse", "better")
SESOI = 1.0
"""Points. Truths are given in these."""
LOOKS = looks(12, 96)
FAILED, CHANCE = 90.0, 0.1
"""Points that a failed run counts with; accuracy of guessing."""
FAILS = 54.0
"""Points above which a run has failed."""
RUN = {"data.name": "digits", "train.stop_at_loss": 0.0}
"""All that a run's verdict reads of its settings."""
Draw = Callable[[np.random.Generator, int], np.ndarray]
"""Returns errors in points, [arms, rates, seeds, (validation, test)], of two arms that are equal in
the mean at every rate."""
Replication = Callable[[int], tuple[Look, bool]]
"""Returns what one repetition says with its first n seeds, and whether they are enough."""


class Surface(NamedTuple):
    """Where the errors of one replication come from."""

    draw: Draw
    exponents: tuple[float, ...]
    """log10 of its rates, STEP apart."""

    @property
    def halves(self) -> tuple[float, ...]:
        return tuple(e for e in self.exponents if e * 2 == round(e * 2))


def real_surface(errors: np.ndarray, exponents: tuple[float, ...]) -> Surface:
    """Return residuals of real runs around one curve. A seed keeps all its runs together."""
    curve = errors.mean(2, keepdims=True)
    residuals = errors - curve

    def draw(random: np.random.Generator, seeds: int) -> np.ndarray:
        return curve[:1] + residuals[:, :, random.integers(errors.shape[2], size=seeds)]

    return Surface(draw, exponents)


def with_failures(surface: Surface, share: float) -> Surface:
    """Return a surface of which further runs fail, each with this probability. The error of a run
    that failed is NaN."""

    def draw(random: np.random.Generator, seeds: int) -> np.ndarray:
        errors = surface.draw(random, seeds)
        fails = (random.random(errors.shape[:3]) < share) | (errors[..., 0] > FAILS)
        return np.where(fails[..., None], np.nan, errors)

    return surface._replace(draw=draw)


@dataclass
class MadeUp(ConfigCache):
    """Makes a run up when planning looks it up. Its name is its arm, rate and seed."""

    errors: np.ndarray = field(default_factory=lambda: np.zeros(0))
    exponents: tuple[float, ...] = ()
    scored: float = FAILED
    """Points that a failed run counts with."""
    records: dict[str, Record] = field(default_factory=dict)

    def look_up(self, setup: Setup, settings: Config) -> tuple[str, Config]:
        arm, rate, seed = (settings[n] for n in ("norm.name", "optim.lr", "seed"))
        name = f"{arm} {rate} {seed}"
        if name not in self.records:
            tuning = setup.protocol.seeds
            place = tuning.index(seed) if seed in tuning else len(tuning) + seed - FIRST_SEED
            at = round((math.log10(rate) - self.exponents[0]) / STEP)
            at = min(max(at, 0), len(self.exponents) - 1)
            self.records[name] = self.run(name, self.errors[ARMS.index(arm), at, place])
        return name, settings

    def run(self, name: str, errors: np.ndarray) -> Record:
        if math.isnan(errors[0]):
            origin = {"chance": 1 - self.scored / 100}
            return Record(name, RUN, "diverged", {}, [], provenance=origin)
        validation, test = (1 - errors / 100).tolist()
        final = {"validation_accuracy": validation, "test_accuracy": test}
        return Record(name, RUN, "trained", final, [], provenance={"chance": CHANCE})


@dataclass(frozen=True)
class Search:
    """Starts replications of a whole contrast, each with its own tuning and reporting seeds."""

    surface: Surface
    reported: Literal["window", "one"] = "window"
    """A window of rates after 3 tuning seeds, or one rate after 6."""
    scored: float = FAILED

    @property
    def title(self) -> str:
        return "errors, window" if self.reported == "window" else "errors, one rate"

    @property
    def setup(self) -> Setup:
        seeds = tuple(range(1000, 1003 if self.reported == "window" else 1006))
        protocol = Tuning(self.surface.halves, seeds=seeds, reported=self.reported)
        arms = tuple(Arm(name, {"norm.name": name}, is_primary=True) for name in ARMS)
        return Setup("made-up", "", "", arms, protocol)

    def begin(self, truth: float, random: np.random.Generator) -> tuple[SetupLooks, Claim]:
        """Return the setup at any number of seeds, and the claim that is read from it."""
        setup = self.setup
        errors = self.surface.draw(random, len(setup.protocol.seeds) + LOOKS[-1])
        errors[0] += truth * SESOI
        runs = MadeUp(errors=errors, exponents=self.surface.exponents, scored=self.scored)
        claim = Claim("made-up", "", setup.name, error_difference(*ARMS), SESOI, LOOKS)
        return SetupLooks(setup, runs.records, runs), claim

    def start(self, truth: float, random: np.random.Generator) -> Replication:
        looks, claim = self.begin(truth, random)
        return cache(lambda n: look_at(claim.contrast(looks.at(n), "")))


@dataclass(frozen=True)
class Noise:
    """Starts replications of a contrast without any choice of rates."""

    title: str
    values: np.ndarray | None
    """What is drawn from, with replacement; None: the normal distribution."""
    sesoi: float

    def start(self, truth: float, random: np.random.Generator) -> Replication:
        if self.values is None:
            drawn = random.standard_normal(LOOKS[-1])
        else:
            drawn = random.choice(self.values - self.values.mean(), LOOKS[-1])
        effects = dict(enumerate(drawn + truth * self.sesoi))
        texts = dict.fromkeys(("id", "claim", "sentence", "comparison", "scope"), "")

        def look(n: int) -> tuple[Look, bool]:
            first = {seed: effects[seed] for seed in range(n)}
            facts: Any = dict(unit=PLAIN, sesoi=self.sesoi, looks=LOOKS, estimator=PAIRED_T)
            return look_at(Contrast(**texts, effects=first, **facts))

        return cache(look)


def last_look(look: Replication) -> Look:
    """Return the look that decides: the last one that `SetupLooks.follow` takes."""
    for n in LOOKS[:-1]:
        found, is_enough = look(n)
        if is_enough:
            return found
    return look(LOOKS[-1])[0]


def old_word(surface: Surface, truth: float, random: np.random.Generator) -> str:
    """Return what the first rules said, by two one-sided t tests at 0.025 with twelve seeds.

    The rate is that of the half decades with the least mean error of three tuning seeds.
    """
    errors = surface.draw(random, 15)[:, [surface.exponents.index(e) for e in surface.halves]]
    best = errors[:, :, :3, 0].mean(2).argmin(1)
    worse, better = (errors[arm, best[arm], 3:, 1] for arm in (0, 1))
    return first_word((worse - better + truth * SESOI).tolist(), SESOI)


def first_word(effects: Sequence[float], sesoi: float) -> str:
    """Return what the first rules said of the effects of twelve seeds."""
    low, high = t_interval(effects)
    return "refuted" if high < sesoi else "supported" if low > 0 else "open"


def differing(words: Sequence[str]) -> tuple[float, float]:
    """Return the share of pairs of replications that differ, and of those with supported against
    refuted."""
    counts = {word: words.count(word) for word in ("supported", "refuted", "open")}
    pairs = math.comb(len(words), 2)
    same = sum(math.comb(count, 2) for count in counts.values())
    return 1 - same / pairs, counts["supported"] * counts["refuted"] / pairs
