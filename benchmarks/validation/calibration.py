"""Does the rule that decides do what it promises? It judges effects whose truth is known.

Null: one arm against itself. Planted: noise with an effect of the size that n should see, and with
none. Positive: contrasts known to be large. The rule is an argument, so that a broken one can be
seen to fail.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from benchmarks.page import Table, machine

N, SIZE = 12, 3.1
"""Seeds of a row; delta in SD / sqrt(n)."""
RUNS = 60
"""Of the arm that is its own null, and of the arm that is paired with it."""
DRAWS, REPETITIONS = 200, 1000
"""Of the null; of planted effects."""
SIZES = tuple(SIZE + 0.1 * i for i in range(11))
"""Among these the smallest is looked for that is seen often enough."""
RARELY, OFTEN = 0.05, 0.80
ROWS = 4
WORDS = ("supported", "refuted", "inconclusive")
Tell = Callable[[str], None]
Test = Literal["t", "wilcoxon"]


class Contrast(NamedTuple):
    """What a row is judged by."""

    effects: Sequence[float] | np.ndarray
    delta: float
    test: Test


Judge = Callable[[Sequence[Contrast]], list[str]]
"""The words for the rows of one study."""


class Metric(NamedTuple):
    """A figure of runs that differ in nothing but their seed, and what the rule tests with it."""

    title: str
    unit: str
    test: Test
    delta: float
    values: Sequence[float]
    """One for each run of one arm."""
    effect: Callable[[float, float], float]
    """Of two runs."""
    differences: Sequence[float]
    """Effects of two arms, paired by seed."""


class Noise(NamedTuple):
    """What is added to a planted effect: no effect by itself."""

    title: str
    test: Test
    values: np.ndarray | None = None
    """What is drawn from, with replacement; None: the standard normal distribution."""

    @property
    def sd(self) -> float:
        return 1.0 if self.values is None else statistics.pstdev(self.values.tolist())

    def draw(self, random: np.random.Generator) -> np.ndarray:
        if self.values is None:
            return random.standard_normal(N)
        return random.choice(self.values, N)


class Positive(NamedTuple):
    """A contrast that has to come out supported, as the rule decided it."""

    title: str
    effect: str
    word: str
    is_judged: bool = True
    """False: as information."""

    @property
    def holds(self) -> bool | None:
        return self.word == "supported" if self.is_judged else None


class Share(NamedTuple):
    """How often a word fell."""

    times: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Clopper-Pearson interval."""
        found = stats.binomtest(self.times, self.of).proportion_ci(0.95, method="exact")
        return float(found.low), float(found.high)

    @property
    def text(self) -> str:
        low, high = self.interval
        return f"{self.times / self.of:.1%} ({low:.1%} to {high:.1%})"

    def is_often(self) -> bool:
        return self.times >= OFTEN * self.of

    def is_rarer(self) -> bool:
        """Tell whether the whole interval lies below what is often enough."""
        return self.interval[1] < OFTEN


def centre(values: Sequence[float] | np.ndarray, test: Test) -> float:
    """Return what the test takes for the centre: the mean, or the Hodges-Lehmann estimate (the
    median of the means of all pairs)."""
    found = np.asarray(values, float)
    if test == "t":
        return float(found.mean())
    first, second = np.triu_indices(len(found))
    return float(np.median((found[first] + found[second]) / 2))


def noise_of(metric: Metric) -> Noise:
    """Return its paired differences without their centre; infinite ones have none and are left
    out."""
    values = np.array([v for v in metric.differences if math.isfinite(v)])
    return Noise(
        f"{metric.title}, {metric.unit}", metric.test, values - centre(values, metric.test)
    )


def disjoint(values: Sequence[float], random: np.random.Generator) -> list[tuple[float, float]]:
    """Return N pairs of different runs, no run twice."""
    chosen = random.permutation(len(values))[: 2 * N]
    return [(values[a], values[b]) for a, b in zip(chosen[:N], chosen[N:], strict=True)]


def null(metric: Metric, judge: Judge, draws: int, seed: int = 0) -> Counter[str]:
    """Return how often each word falls for one arm against itself."""
    random = np.random.default_rng(seed)
    words: Counter[str] = Counter()
    for _ in range(draws):
        effects = [metric.effect(*pair) for pair in disjoint(metric.values, random)]
        words.update(judge([Contrast(effects, metric.delta, metric.test)]))
    return words


def planted(
    noise: Noise,
    truth: Sequence[bool],
    judge: Judge,
    *,
    size: float = SIZE,
    repetitions: int,
    seed: int = 0,
) -> Counter[tuple[bool, str]]:
    """Return how often each word falls for rows with an effect of delta (True) and of 0 (False) in
    one study with a row for each of `truth`."""
    random = np.random.default_rng(seed)
    delta = size * noise.sd / math.sqrt(N)
    words: Counter[tuple[bool, str]] = Counter()
    for _ in range(repetitions):
        rows = [
            Contrast(noise.draw(random) + is_true * delta, delta, noise.test) for is_true in truth
        ]
        words.update(zip(truth, judge(rows), strict=True))
    return words


def both(noise: Noise, judge: Judge, repetitions: int, size: float = SIZE) -> tuple[Share, Share]:
    """Return how often a true effect of delta is supported, and one of 0 refuted."""
    kinds = ((True, "supported"), (False, "refuted"))
    counts = [
        planted(noise, [kind], judge, size=size, repetitions=repetitions)[kind, word]
        for kind, word in kinds
    ]
    return Share(counts[0], repetitions), Share(counts[1], repetitions)


def needed(noise: Noise, judge: Judge, repetitions: int) -> float:
    """Return the smallest of SIZES at which both fall often enough; NaN where there is none."""
    for size in SIZES:
        if all(share.is_often() for share in both(noise, judge, repetitions, size)):
            return size
    return math.nan


def t_power(size: float) -> float:
    """Return the exact chance that the t test, alone in its study, supports a normal effect."""
    return float(stats.nct.sf(stats.t.ppf(0.975, N - 1), N - 1, size))


class Result(NamedTuple):
    """A statement, what was found, and whether it holds (None: as information)."""

    cells: list[str]
    holds: bool | None = None

    @property
    def line(self) -> list[str]:
        words = {True: "pass", False: "**fail**", None: "-"}
        return [*self.cells, words[self.holds]]


def null_results(metrics: Sequence[Metric], judge: Judge) -> list[Result]:
    results = []
    for metric in metrics:
        words = null(metric, judge, DRAWS)
        shares = [Share(words[word], DRAWS) for word in WORDS]
        rule = f"{metric.test}, delta {metric.delta:g} {metric.unit}"
        cells = [metric.title, rule, *(share.text for share in shares)]
        results.append(Result(cells, shares[0].times <= RARELY * DRAWS))
    return results


def planted_results(noises: Sequence[Noise], judge: Judge) -> list[Result]:
    results = []
    for noise in noises:
        shares = both(noise, judge, REPETITIONS)
        holds = not any(share.is_rarer() for share in shares)
        size = SIZE if holds else needed(noise, judge, REPETITIONS)
        cells = [noise.title, noise.test, *(share.text for share in shares)]
        results.append(Result([*cells, "-" if holds else f"{size:.1f}"], holds))
    return results


def holm_results(noises: Sequence[Noise], judge: Judge) -> list[Result]:
    """Return the same with ROWS rows in one study: all with the effect, one of them, none."""
    results = []
    for noise in noises:
        for true in (ROWS, 1, 0):
            truth = [True] * true + [False] * (ROWS - true)
            words = planted(noise, truth, judge, repetitions=REPETITIONS)
            cells = [noise.title, noise.test, f"{true} of {ROWS}"]
            for kind, word, rows in ((True, "supported", true), (False, "refuted", ROWS - true)):
                share = Share(words[kind, word], rows * REPETITIONS) if rows else None
                cells.append(f"{share.times / share.of:.1%}" if share else "-")
            results.append(Result(cells))
    return results


def tables(
    nulls: Sequence[Result],
    plants: Sequence[Result],
    holm: Sequence[Result],
    positives: Sequence[Positive],
) -> list[Table]:
    of_positives = [Result([p.title, p.effect, p.word], p.holds) for p in positives]
    effect = f"{SIZE:g} SD / sqrt({N})"
    return [
        Table(
            "Null: one arm against itself",
            ["effect", "test", *WORDS, f"supported at most {RARELY:.0%}"],
            [result.line for result in nulls],
            NULL,
        ),
        Table(
            "Planted: an effect of delta, and one of 0",
            ["noise", "test", "delta: supported", "0: refuted", "needs", f"both {OFTEN:.0%}"],
            [result.line for result in plants],
            f"delta = {effect}, n = {N}, one row, {REPETITIONS} repetitions each. {PLANTED} By "
            f"calculation the t test supports a normal effect of delta in {t_power(SIZE):.1%}.",
        ),
        Table(
            f"The same with {ROWS} rows in one study",
            ["noise", "test", "rows with delta", "delta: supported", "0: refuted"],
            [result.cells for result in holm],
            f"As information: Holm's correction over {ROWS} rows, {REPETITIONS} studies each, the "
            "shares over all their rows. A row alone sees more.",
        ),
        Table(
            "Positive: known to be large",
            ["contrast", "effect", "verdict", "supported"],
            [result.line for result in of_positives],
            POSITIVE,
        ),
    ]


def verdict(results: Sequence[Result], positives: Sequence[Positive]) -> str:
    """Return how many controls hold, with those that do not."""
    judged = [result for result in results if result.holds is not None]
    wrong = [", ".join(result.cells[:2]) for result in judged if not result.holds]
    wrong += [positive.title for positive in positives if positive.holds is False]
    total = len(judged) + sum(positive.is_judged for positive in positives)
    return "\n".join(
        [f"{total - len(wrong)} of {total} controls hold.", *(f"- not: {name}" for name in wrong)]
    )


def run(metrics: Sequence[Metric], positives: Sequence[Positive], judge: Judge, tell: Tell) -> str:
    """Judge; tell the progress and the tables; return the page."""
    tell(f"null: {DRAWS} draws for each of {len(metrics)} metrics")
    nulls = null_results(metrics, judge)
    normal = [Noise("normal", "t"), Noise("normal", "wilcoxon")]
    tell(f"planted: {REPETITIONS} repetitions")
    plants = planted_results([*normal, *map(noise_of, metrics)], judge)
    tell(f"{ROWS} rows: {REPETITIONS} repetitions")
    found = tables(nulls, plants, holm_results(normal, judge), positives)
    told = verdict([*nulls, *plants], positives)
    tell("\n".join(["", *(table.terminal() for table in found), told]))
    return "\n\n".join([HEAD, machine(), told, *(table.markdown() for table in found)])


HEAD = """# Controls of the verdicts

Written by `python scripts/bench.py --suite=controls --write` from
`benchmarks/validation/calibration.py`: the rule of `normlab/studies/decisions.py` on effects whose
truth is known. Levels and deltas are those of the rule; nothing here is tuned to pass. Intervals
are Clopper-Pearson, 95 %."""
NULL = f"""Batch norm in the sigmoid MLP on digits at rate 0.1, {RUNS} real runs. Each of {DRAWS}
draws takes two disjoint sets of {N} and pairs them: any "supported" is false, "refuted" is right
where the effect, which is 0, lies below delta. The draws share the runs, so the intervals, which
take them for independent, are too narrow."""
PLANTED = f"""Real noise: differences between batch and layer norm in the network of the null,
paired by {RUNS} seeds, less their centre (t: the mean; wilcoxon: the Hodges-Lehmann estimate),
drawn with replacement. A control fails where a whole interval lies below {OFTEN:.0%}. "needs": the
smallest delta, in SD / sqrt({N}), at which both shares are at least that."""
POSITIVE = f"""Real runs, n = {N}, one study of two rows, every arm at its own best rate as in any
study. Without a mark: the first contrast at the fixed rate 0.1. Where more than a quarter of an
arm's runs fail (end below half accuracy), the rule compares only which runs trained (McNemar's
test, unit "trained"), and {N} pairs of which few differ decide nothing, however large the
difference in error: the last line has it, judged alone."""
