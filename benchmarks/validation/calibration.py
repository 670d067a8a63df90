"""Calibration: does the rule that decides do what it promises? It judges effects of known truth.

CONTROLS has the limits. docs/calibration.md says how to read the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import scipy
from matplotlib.figure import Figure

from benchmarks import runner
from benchmarks.runner import Check, Options, emit
from benchmarks.validation import calibration_runs
from benchmarks.validation.calibration_runs import EXPONENTS, Pool
from benchmarks.validation.calibration_surfaces import (
    LOOKS,
    Noise,
    Search,
    differing,
    last_look,
    old_word,
    real_surface,
    with_failures,
)
from normlab.report.figures.style import MARKERS, OWN, STYLE, legend
from normlab.report.tables import Table
from normlab.runs.store import Store
from normlab.shipped import ROOT
from normlab.studies.decisions import Look
from normlab.studies.intervals import Estimate

NULLS, TIMES = 2000, 400
"""Repetitions without an effect, and of each other truth."""
TRUTHS = (-1, 0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3)
"""In delta."""
WINDOW, ONE, OCTAVES, NORMAL = "errors, window", "errors, one rate", "octaves", "normal noise"
"""Sources of noise."""


class Row(NamedTuple):
    """A contrast of the studies."""

    name: str
    effect: float
    """In delta, as pilot runs estimated it."""
    noise: str
    """The source that is most like its own noise. Normal noise: neither an error nor steps."""


ROWS = (
    Row("C1a, 85 %", 7.2, OCTAVES),
    Row("C1a, 90 %", 3.9, OCTAVES),
    Row("C1a, 95 %", 0.7, OCTAVES),
    Row("C1b, 75 %", 5.9, OCTAVES),
    Row("C1b, 80 %", 5.1, OCTAVES),
    Row("C1b, 85 %", 4.6, OCTAVES),
    Row("C2, MLP", 2.5, NORMAL),
    Row("C2, CNN", 2.7, NORMAL),
    Row("C3c", 0.85, NORMAL),
    Row("C4a", 0.0, ONE),
    Row("C4c", 0.1, ONE),
    Row("C6a", -1.8, ONE),
    Row("C7b", 0.6, NORMAL),
    Row("C8a", 0.54, WINDOW),
    Row("C8b", 2.3, WINDOW),
    Row("C10a, layer", -0.1, WINDOW),
    Row("C10a, group", -0.2, WINDOW),
    Row("C10b, group", -4.4, WINDOW),
    Row("C10b, layer", -5.6, WINDOW),
    Row("C14b", 0.4, NORMAL),
)
MIDDLE = (0.65, 1.15)
"""Truths so near delta that no rule is stable."""
FAILING = (0, 0.01)
"""Shares of the runs that fail at rates that count."""
FIGURE = ROOT / "docs" / "figures" / "stability.svg"
WORDS = ("supported", "refuted", "open")
Source = Search | Noise


class Outcome(NamedTuple):
    """One repetition: what it says at the look that decides, and at every look until twice that."""

    last: Look
    looks: Sequence[Look]

    @property
    def contradicts(self) -> bool:
        """Whether twice the seeds turn supported into refuted, or the other way round."""
        words = [look.word for look in self.looks]
        return any({*pair} == {"supported", "refuted"} for pair in pairwise(words))


Outcomes = Mapping[float, Sequence[Outcome]]
"""Truth -> what its repetitions said."""
Words = Mapping[float, Sequence[str]]
"""Truth -> the words of its repetitions."""


def repeat(source: Source, truth: float, times: int) -> list[Outcome]:
    random = np.random.default_rng(0)
    found = []
    for _ in range(times):
        look = source.start(truth, random)
        last = last_look(look)
        looks = [look(n)[0] for n in LOOKS if n <= max(2 * last.n, LOOKS[1])]
        found.append(Outcome(last, looks))
    return found


def share_of(found: Sequence[Outcome], *said: str) -> float:
    """Return how often a word or a qualifier was given."""
    return float(np.mean([bool({o.last.word, o.last.qualifier} & {*said}) for o in found]))


def claimed_error(found: Estimate, n: int) -> float:
    """Return the standard error that a 99 % t interval of n effects is made of."""
    return found.half_width / float(scipy.stats.t.ppf(0.995, n - 1))


def covers(found: Estimate, n: int, truth: float) -> bool:
    """Return whether the 95 % interval with the claimed standard error covers the truth."""
    half = float(scipy.stats.t.ppf(0.975, n - 1)) * claimed_error(found, n)
    return abs(found.centre - truth) <= half


def precision(found: Sequence[Outcome], place: int) -> tuple[float, float]:
    """Return the SD of the estimates over the standard error that is claimed. Return too how often
    a 95 % interval made of the latter covers the truth, which is 0."""
    estimates = [outcome.looks[place].estimate for outcome in found]
    claimed = [claimed_error(e, LOOKS[place]) for e in estimates]
    inside = [covers(e, LOOKS[place], 0.0) for e in estimates]
    spread = np.std([e.centre for e in estimates])
    return float(spread / np.sqrt(np.mean(np.square(claimed)))), float(np.mean(inside))


def chance(words: Words, effect: float, place: int) -> float:
    """Return the share of pairs that differ (0) or that are opposite (1) for a true effect.

    Between TRUTHS it is interpolated, beyond them it is that of the last one.
    """
    shares = [differing(words[truth])[place] for truth in TRUTHS]
    return float(np.interp(effect, TRUTHS, shares))


def judged_rows(is_far: bool = False) -> list[Row]:
    """Return ROWS, or those with a true effect that is not near delta."""
    return [r for r in ROWS if not (is_far and MIDDLE[0] <= r.effect <= MIDDLE[1])]


def over_rows(words: Words, place: int, is_far: bool = False) -> float:
    """Return the mean chance over ROWS, all with the noise of one source."""
    return float(np.mean([chance(words, r.effect, place) for r in judged_rows(is_far)]))


def with_own_noise(worlds: Mapping[str, Words], place: int, is_far: bool = False) -> float:
    """Return the mean chance over ROWS, each with its own noise. `worlds` has all sources."""
    found = [chance(worlds[r.noise], r.effect, place) for r in judged_rows(is_far)]
    return float(np.mean(found))


def last_words(outcomes: Outcomes) -> Words:
    return {truth: [o.last.word for o in found] for truth, found in outcomes.items()}


PAIRS = (
    ("pairs that differ, all contrasts", 0.05, (0, False)),
    ("pairs that differ, far from delta", 0.02, (0, True)),
    ("opposite pairs, all contrasts", 0.002, (1, False)),
)
"""Control, largest share, and which pairs of which contrasts are counted."""
Measure = Callable[[Outcomes], float]
CONTROLS: tuple[tuple[str, float, float, Measure], ...] = (
    ("no effect: supported or small", 0, 0.01, lambda o: share_of(o[0], "supported", "small")),
    ("no effect: refuted", 0.98, 1, lambda o: share_of(o[0], "refuted")),
    ("1.5 delta: supported", 0.98, 1, lambda o: share_of(o[1.5], "supported")),
    ("-1 delta: reversed", 0.98, 1, lambda o: share_of(o[-1], "reversed")),
    ("coverage of the 95 % interval, n = 12", 0.93, 0.97, lambda o: precision(o[0], 0)[1]),
    ("coverage of the 95 % interval, n = 24", 0.93, 0.97, lambda o: precision(o[0], 1)[1]),
    ("SD over claimed standard error, n = 12", 0, 1.1, lambda o: precision(o[0], 0)[0]),
    ("SD over claimed standard error, n = 24", 0, 1.1, lambda o: precision(o[0], 1)[0]),
    (
        "twice the seeds contradict the word",
        *(0, 0.005),
        lambda o: float(np.mean([x.contradicts for f in o.values() for x in f[:TIMES]])),
    ),
    *(
        (name, 0, most, lambda o, where=where: over_rows(last_words(o), *where))
        for name, most, where in PAIRS
    ),
)
"""Control, least and largest value, what is measured of a source."""


def judged(source: str, outcomes: Outcomes) -> list[Check]:
    """Judge all controls on one source."""
    found = []
    for name, least, most, measure in CONTROLS:
        value = measure(outcomes)
        text = f"{value:.3f}" if name.startswith("SD") else f"{value:.1%}"
        holds = least <= value <= most
        cell = text if holds else f"**{text}**"
        found.append(Check(f"{name}; {source}: {text}", [cell], holds))
    return found


def own_noise_checks(worlds: Mapping[str, Words]) -> list[Check]:
    """Judge the pairs of all contrasts, each with its own noise."""
    found = []
    for name, most, where in PAIRS:
        value = with_own_noise(worlds, *where)
        cells = [name, limit_text(name, 0, most), f"{value:.1%}"]
        found.append(Check(f"{name}, each with its own noise: {value:.1%}", cells, value <= most))
    return found


def rows_table(worlds: Mapping[str, Words]) -> Table:
    """Return the contrasts with their noise, and how often their pairs differ."""
    columns = ["contrast", "effect, delta", "noise", "pairs differ, %", "opposite, %"]
    lines = [
        [r.name, f"{r.effect:g}", r.noise]
        + [f"{100 * chance(worlds[r.noise], r.effect, place):.1f}" for place in (0, 1)]
        for r in ROWS
    ]
    return runner.table("Contrasts, each with its own noise", columns, lines)


def limit_text(name: str, least: float, most: float) -> str:
    if name.startswith("SD"):
        return f"at most {most:.2f}"
    if least and most < 1:
        return f"{least:.0%} to {most:.0%}"
    return f"at least {least:.1%}" if least else f"at most {most:.1%}"


def failure_check(source: Search, share: float) -> Check:
    """Judge whether it matters how many points a failed run counts with."""
    surface = with_failures(source.surface, share)
    changed, of, points = 0, 0, (90.0, 50.0)
    for truth in (0, 1, 1.5):
        for seed in range(TIMES // 4):
            starts = (
                Search(surface, source.reported, scored).start(truth, np.random.default_rng(seed))
                for scored in points
            )
            changed += len({last_look(look).word for look in starts}) > 1
            of += 1
    title = f"{share:.0%} of the runs fail at every rate"
    cells = [title, "none", f"{changed} of {of}"]
    return Check(f"words that change if failures count 50 points; {title}", cells, not changed)


def check_table(title: str, columns: Sequence[str], checks: Sequence[Check]) -> Table:
    return runner.table(title, [*columns, "reached"], [check.line for check in checks])


def words_table(old: Mapping[float, Sequence[str]], outcomes: Outcomes) -> Table:
    lines, new = [], last_words(outcomes)
    for truth in TRUTHS:
        cells = [f"{truth:g}"]
        for words in (old[truth], new[truth]):
            shares = [f"{100 * words.count(word) / len(words):.1f}" for word in WORDS]
            cells += [" / ".join(shares), *(f"{100 * share:.1f}" for share in differing(words))]
        seeds = np.mean([o.last.n for o in outcomes[truth]])
        turned = np.mean([o.contradicts for o in outcomes[truth]])
        lines.append([*cells, f"{seeds:.0f}", f"{100 * turned:.1f}"])
    columns = ["supported / refuted / open", "pairs differ", "opposite"]
    named = [f"{rules} rules: {column}" for rules in ("old", "new") for column in columns]
    title = "Errors, window: words in %, with the true effect in delta"
    return runner.table(title, ["truth", *named, "mean seeds", "2n contradicts"], lines)


def draw(path: Path, shares: Mapping[str, Sequence[float]]) -> None:
    """Draw the share of pairs that differ against the truth, a line for each of the rules."""
    with mpl.rc_context(STYLE):
        drawing = Figure(figsize=(5.6, 2.6), layout="constrained")
        ax = drawing.subplots()
        ax.axvspan(*MIDDLE, color="#eeeeee", lw=0)
        styles = zip(shares.items(), ("layer", "batch"), MARKERS, strict=False)
        for (name, values), scheme, marker in styles:
            percent = [100 * value for value in values]
            ax.plot(TRUTHS, percent, color=OWN[scheme], marker=marker, label=name)
        ax.set_xlabel("true effect / smallest effect of interest")
        ax.set_ylabel("pairs that differ, %")
        ax.set_ylim(bottom=0)
        legend(drawing)
        drawing.savefig(path, metadata={"Date": None})


def judge_all(pool: Pool, exponents: tuple[float, ...], real: Sequence[Check], figure: Path) -> str:
    """Print the progress and the tables; return the section of the page. Draw the figure."""
    window = Search(real_surface(pool.errors, exponents))
    sources = [window, Search(window.surface, "one"), Noise(OCTAVES, pool.octaves, 0.32)]
    sources.append(Noise(NORMAL, None, 1.2))
    columns, first, worlds = [], [[n, limit_text(n, a, b)] for n, a, b, _ in CONTROLS], {}
    for source in sources:
        emit(f"{source.title}: {len(TRUTHS)} truths")
        worlds[source.title] = {t: repeat(source, t, TIMES if t else NULLS) for t in TRUTHS}
        columns.append(judged(source.title, worlds[source.title]))
    random = np.random.default_rng(0)
    old = {t: [old_word(window.surface, t, random) for _ in range(NULLS)] for t in TRUTHS}
    emit("failures")
    failures = [failure_check(window, share) for share in FAILING]
    words = {title: last_words(outcomes) for title, outcomes in worlds.items()}
    own, named = own_noise_checks(words), {"old rules": old, "new rules": words[window.title]}
    draw(figure, {n: [differing(w[t])[0] for t in TRUTHS] for n, w in named.items()})
    head = runner.verdict("controls", [*(c for k in columns for c in k), *own, *failures, *real])
    old_text = "Old rules: {:.1%} of the pairs differ, {:.1%} far from delta, {:.1%} are opposite."
    old_shares = [over_rows(old, *where) for _, _, where in PAIRS]
    contrast = ["contrast", "delta", "effect, 99 % interval", "word", "must be"]
    cells = [[*c, *(k.cells[0] for k in row)] for c, *row in zip(first, *columns, strict=True)]
    tables = [
        runner.table("Controls", ["control", "limit", *(s.title for s in sources)], cells),
        check_table("All contrasts, each with its own noise", ["control", "limit", "found"], own),
        check_table(
            "Failures count 50 points instead of 90",
            ["errors, window", "words that may change", "words that change"],
            failures,
        ),
        rows_table(words),
        words_table(old, worlds[window.title]),
        check_table("Real runs", contrast, real),
    ]
    return runner.publish([runner.machine(), head, old_text.format(*old_shares)], tables)


def run(options: Options) -> str:
    """Train what is missing, judge, print the progress; return the section of the page."""
    emit("training what is missing of about 1,300 runs")
    pool, real = calibration_runs.measure(Store(options.results).open())
    return judge_all(pool, EXPONENTS, real, FIGURE)
