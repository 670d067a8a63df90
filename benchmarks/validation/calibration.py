"""Calibration: does the rule that decides do what it promises? It judges effects of known truth.

Null: one arm against itself. Planted: noise with an effect of the size that n should see, and with
none. Positive: contrasts known to be large. The rule is an argument, so that a broken one can be
seen to fail. docs/calibration.md says how to read the tables.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from normlab.studies.hypothesis_tests import PAIRED_T, PROPORTION, SIGNED_RANK, HypothesisTest
from scipy import stats

from benchmarks import runner
from benchmarks.runner import Check, Options, emit
from benchmarks.validation import calibration_runs
from benchmarks.validation.calibration_runs import RUNS, Metric, N, contrast_of
from normlab.runs.store import Store
from normlab.studies import decisions
from normlab.studies.decisions import Contrast

SIZE = 3.1
"""delta in SD / sqrt(n)."""
DRAWS, REPETITIONS = 200, 1000
"""Of the null; of planted effects."""
SIZES = tuple(SIZE + 0.1 * i for i in range(11))
"""Among these the smallest is looked for that is seen often enough."""
RARELY, OFTEN = 0.05, 0.80
ROWS = 4
WORDS = ("supported", "refuted", "inconclusive")
Judge = Callable[[Sequence[Contrast]], list[str]]
"""Returns the words for the contrasts of one study."""


def judge(contrasts: Sequence[Contrast]) -> list[str]:
    """Return what the project's rule says."""
    return [verdict.word for verdict in decisions.decide(contrasts)]


class Noise(NamedTuple):
    """What is added to a planted effect: no effect by itself."""

    title: str
    test: HypothesisTest
    values: np.ndarray | None = None
    """What is drawn from, with replacement; None: the standard normal distribution."""

    @property
    def sd(self) -> float:
        return 1.0 if self.values is None else statistics.pstdev(self.values.tolist())

    def draw(self, random: np.random.Generator) -> np.ndarray:
        if self.values is None:
            return random.standard_normal(N)
        return random.choice(self.values, N)


class Proportion(NamedTuple):
    """How often a word was given."""

    times: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Clopper-Pearson interval."""
        return PROPORTION.summarize([1] * self.times + [0] * (self.of - self.times))[1]

    @property
    def text(self) -> str:
        low, high = self.interval
        return f"{self.times / self.of:.1%} ({low:.1%} to {high:.1%})"

    def is_often(self) -> bool:
        return self.times >= OFTEN * self.of

    def is_rarer(self) -> bool:
        """Return whether the whole interval lies below what is often enough."""
        return self.interval[1] < OFTEN


def noise_of(metric: Metric) -> Noise:
    """Return its paired differences without their centre. The t test takes the mean for it, the
    other the Hodges-Lehmann estimate: the median of the means of all pairs. Infinite differences
    have no centre and are left out."""
    values = np.array([v for v in metric.differences if math.isfinite(v)])
    first, second = np.triu_indices(len(values))
    is_mean = metric.test is PAIRED_T
    centre = values.mean() if is_mean else np.median((values[first] + values[second]) / 2)
    return Noise(f"{metric.title}, {metric.unit.name}", metric.test, values - centre)


def disjoint(values: Sequence[float], random: np.random.Generator) -> list[tuple[float, float]]:
    """Return N pairs of different runs, no run twice."""
    chosen = random.permutation(len(values))[: 2 * N]
    return [(values[a], values[b]) for a, b in zip(chosen[:N], chosen[N:], strict=True)]


def null(metric: Metric, judge: Judge, draws: int) -> Counter[str]:
    """Return how often each word is given for one arm against itself."""
    random = np.random.default_rng(0)
    words: Counter[str] = Counter()
    for _ in range(draws):
        effects = [metric.effect(*pair) for pair in disjoint(metric.values, random)]
        found = contrast_of("", dict(enumerate(effects)), metric.sesoi, metric.test)
        words.update(judge([found]))
    return words


def planted(
    noise: Noise, truth: Sequence[bool], judge: Judge, repetitions: int, size: float = SIZE
) -> Counter[tuple[bool, str]]:
    """Return how often each word is given in one study with a row for each of `truth`.

    True counts rows with an effect of delta, False those with an effect of 0.
    """
    random = np.random.default_rng(0)
    delta = size * noise.sd / math.sqrt(N)
    words: Counter[tuple[bool, str]] = Counter()
    for _ in range(repetitions):
        effects = [noise.draw(random) + is_true * delta for is_true in truth]
        contrasts = [
            contrast_of("", dict(enumerate(of_one)), delta, noise.test) for of_one in effects
        ]
        words.update(zip(truth, judge(contrasts), strict=True))
    return words


def both(
    noise: Noise, judge: Judge, repetitions: int, size: float = SIZE
) -> tuple[Proportion, Proportion]:
    """Return how often a true effect of delta is supported, and one of 0 refuted."""
    supported = planted(noise, [True], judge, repetitions, size)[True, "supported"]
    refuted = planted(noise, [False], judge, repetitions, size)[False, "refuted"]
    return Proportion(supported, repetitions), Proportion(refuted, repetitions)


def needed(noise: Noise, judge: Judge, repetitions: int) -> float:
    """Return the smallest of SIZES at which both are frequent enough; NaN where there is none."""
    for size in SIZES:
        if all(found.is_often() for found in both(noise, judge, repetitions, size)):
            return size
    return math.nan


def t_power(size: float) -> float:
    """Return the exact chance that the t test, alone in its study, supports a normal effect."""
    return float(stats.nct.sf(stats.t.ppf(0.975, N - 1), N - 1, size))


def null_check(metric: Metric, judge: Judge) -> Check:
    words = null(metric, judge, DRAWS)
    found = [Proportion(words[word], DRAWS) for word in WORDS]
    rule = f"{metric.test.name}, delta {metric.sesoi:g} {metric.unit.name}"
    cells = [metric.title, rule, *(proportion.text for proportion in found)]
    return Check(f"{metric.title}, {rule}", cells, found[0].times <= RARELY * DRAWS)


def planted_check(noise: Noise, judge: Judge) -> Check:
    found = both(noise, judge, REPETITIONS)
    holds = not any(proportion.is_rarer() for proportion in found)
    size = "-" if holds else f"{needed(noise, judge, REPETITIONS):.1f}"
    cells = [noise.title, noise.test.name, *(proportion.text for proportion in found), size]
    return Check(f"{noise.title}, {noise.test.name}", cells, holds)


def holm_line(noise: Noise, judge: Judge, true: int) -> list[str]:
    """Return the proportions in a study of ROWS rows, of which `true` have the effect."""
    truth = [True] * true + [False] * (ROWS - true)
    words = planted(noise, truth, judge, REPETITIONS)
    cells = [noise.title, noise.test.name, f"{true} of {ROWS}"]
    for kind, word, rows in ((True, "supported", true), (False, "refuted", ROWS - true)):
        cells.append(f"{words[kind, word] / (rows * REPETITIONS):.1%}" if rows else "-")
    return cells


def judge_all(metrics: Sequence[Metric], positives: Sequence[Check], judge: Judge) -> str:
    """Print the progress and the tables; return the section of the page."""
    emit(f"null: {DRAWS} draws for each of {len(metrics)} metrics")
    nulls = [null_check(metric, judge) for metric in metrics]
    normal = [Noise("normal", PAIRED_T), Noise("normal", SIGNED_RANK)]
    emit(f"planted: {REPETITIONS} repetitions")
    plants = [planted_check(noise, judge) for noise in [*normal, *map(noise_of, metrics)]]
    emit(f"{ROWS} rows: {REPETITIONS} repetitions")
    holm = [holm_line(noise, judge, true) for noise in normal for true in (ROWS, 1, 0)]
    power = f"By calculation the t test supports a normal effect of delta in {t_power(SIZE):.1%}."
    verdict = runner.verdict("checks", [*nulls, *plants, *positives])
    null_columns = ["effect", "test", *WORDS, f"supported at most {RARELY:.0%}"]
    columns = ["delta: supported", "0: refuted"]
    planted_columns = ["noise", "test", *columns, "needs", f"both {OFTEN:.0%}"]
    holm_columns = ["noise", "test", "rows with delta", *columns]
    positive_columns = ["contrast", "effect", "verdict", "supported"]
    planted_title = f"Planted: delta = {SIZE:g} SD / sqrt({N}), and 0"
    tables = [
        runner.table("Null: one arm against itself", null_columns, [c.line for c in nulls]),
        runner.table(planted_title, planted_columns, [c.line for c in plants]),
        runner.table(f"The same with {ROWS} rows in one study", holm_columns, holm),
        runner.table("Positive: known to be large", positive_columns, [c.line for c in positives]),
    ]
    return runner.publish([runner.machine(), verdict, power], tables)


def run(options: Options) -> str:
    """Train what is missing, judge, print the progress; return the section of the page."""
    decisions.SEARCH = N  # the n that would decide is not asked for here, and takes long
    emit(f"training what is missing of {2 * RUNS + 2 * N} runs and of two tuned setups")
    metrics, positives = calibration_runs.measure(Store(options.results).open())
    return judge_all(metrics, positives, judge)
