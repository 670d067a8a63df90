"""The runs of an arm with the reporting seeds, and the rates among them that count."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

import numpy as np

from normlab.runs.record import Record
from normlab.studies.decisions import Redraw
from normlab.studies.metrics import accuracy, is_failed
from normlab.studies.protocols import eligible
from normlab.studies.rates import STEP, neighbours, vertex


@dataclass(frozen=True)
class ReportedRates:
    """The runs of an arm with the reporting seeds, at one rate or at several.

    The rates that count are those that are not left out for their failures. Of a window they are
    its vertex and the neighbours of that, chosen by the seeds themselves.
    """

    runs: Mapping[float, Mapping[int, Record]]
    """Exponent -> seed -> run."""
    cap: float
    is_window: bool = False
    chooser: ReportedRates | None = None
    """Whose choice counts here; None: its own."""

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds with a run at every rate."""
        return sorted(set.intersection(*(set(runs) for runs in self.runs.values())))

    @cached_property
    def _place(self) -> dict[int, int]:
        return {seed: i for i, seed in enumerate(self.seeds)}

    def _table(self, metric: Callable[[Record], float]) -> np.ndarray:
        """Return a metric of every run, [rates, seeds]."""
        return np.array([[metric(self.runs[e][s]) for s in self.seeds] for e in self.runs])

    @cached_property
    def _errors(self) -> np.ndarray:
        return self._table(lambda run: 1 - accuracy(run, "validation"))

    @cached_property
    def _failures(self) -> np.ndarray:
        return self._table(is_failed)

    def _means(self, seeds: Sequence[int] | None) -> dict[float, float]:
        """Return the mean validation error of each eligible rate, over the runs that trained; 1
        where none did."""
        places = [self._place[s] for s in (self.seeds if seeds is None else seeds)]
        failed = self._failures[:, places]
        errors = known_mean(np.where(failed, math.nan, self._errors[:, places]).T, 1.0)
        able = set(eligible(dict(zip(self.runs, failed.mean(1).tolist(), strict=True))))
        return {e: float(error) for e, error in zip(self.runs, errors, strict=True) if e in able}

    def eligible_alone(self) -> ReportedRates:
        """Return the same with the rates that are eligible for all seeds, and no others."""
        return replace(self, runs={e: self.runs[e] for e in self._means(None)})

    def _lowest(self, means: Mapping[float, float]) -> float:
        """Return the eligible rate that is nearest to the lowest point of the parabola."""
        lowest = vertex(means, self.cap)
        return min(means, key=lambda e: (abs(e - lowest), means[e]))

    def vertex(self, seeds: Sequence[int] | None = None) -> float:
        return self._lowest(self._means(seeds))

    def chosen(self, seeds: Sequence[int] | None = None) -> list[float]:
        """Return the rates whose mean counts, chosen by these seeds or by all."""
        if self.chooser:
            return self.chooser.chosen(seeds)
        means = self._means(seeds)
        if not self.is_window:
            return [*means]
        return [*neighbours(means, self._lowest(means), STEP)]

    @property
    def share_failed(self) -> float:
        """The share of failed runs at the rates that count."""
        return fmean(is_failed(self.runs[e][s]) for e in self.chosen() for s in self.seeds)

    def values(self, metric: Callable[[Record], float]) -> dict[int, float]:
        """Return seed -> mean of a metric over the rates that count, where it is not NaN."""
        chosen = self.chosen()
        found = {s: [metric(self.runs[e][s]) for e in chosen] for s in self.seeds}
        known = {s: [v for v in values if not math.isnan(v)] for s, values in found.items()}
        return {s: fmean(values) if values else math.nan for s, values in known.items()}

    def redraw(self, metric: Callable[[Record], float]) -> Redraw:
        """Return the function from seeds to their means over the rates that they choose."""
        table, rows = self._table(metric), {e: i for i, e in enumerate(self.runs)}

        def values(seeds: Sequence[int]) -> np.ndarray:
            chosen = [rows[e] for e in self.chosen(seeds)]
            return known_mean(table[np.ix_(chosen, [self._place[s] for s in seeds])])

        return values


def known_mean(values: np.ndarray, nothing: float = math.nan) -> np.ndarray:
    """Return the mean over the first axis of what is not NaN; `nothing` where all is."""
    known = ~np.isnan(values)
    sums, counts = np.where(known, values, 0).sum(0), known.sum(0)
    return np.where(counts, sums / np.maximum(counts, 1), nothing)
