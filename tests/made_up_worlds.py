"""Worlds for the claims of the studies: made-up runs in which an effect has a given size.

A run knows its configuration alone, never the name of its arm. Arms differ in all they have: how
good they are, their best rate, and how fast they get worse beside it. Tuning seeds find the best
rate half a decade too low. So each way of choosing rates reports another value, which a world
makes up for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from normlab.runs.record import Record
from normlab.settings import Config
from normlab.studies.decisions import Verdict, decide
from normlab.studies.looks import Measure, look_at_study
from normlab.studies.planning import ConfigCache
from normlab.studies.setup import FIRST_SEED
from normlab.studies.study import Study

Make = Callable[[Config], Record]
TOO_LOW = 0.5
"""Decades by which the tuning seeds miss the best rate."""
OFF = {"one": 0.25, "window": (0 + 2 * 0.25**2) / 3, "two": (0.4**2 + 0.9**2) / 2, "given": 0.0}
"""How rates are reported -> mean square of the decades between them and the best one."""
TARGETS = (0.5, 0.75, 0.8, 0.85, 0.9, 0.95)
LOSSES = (2.1, 1.9, 1.0, 0.5, 0.2, 0.1)
"""Accuracies and training losses of the rows of a curve."""


class Known(ConfigCache):
    """Remembers the configuration of every run that planning asks for."""

    def __init__(self) -> None:
        super().__init__(needs_data=False)
        self.configs: dict[str, Config] = {}

    def look_up(self, setup, settings):
        name, config = super().look_up(setup, settings)
        self.configs[name] = config
        return name, config


class World(Mapping[str, Record]):
    """Every run there can be, made up when it is looked at."""

    def __init__(self, configs: Mapping[str, Config], make: Make):
        self.configs, self.make, self.made = configs, make, dict[str, Record]()

    def __contains__(self, name: object) -> bool:
        return name in self.configs

    def __getitem__(self, name: str) -> Record:
        if name not in self.made:
            self.made[name] = self.make(self.configs[name])
        return self.made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.configs)

    def __len__(self) -> int:
        return len(self.configs)


CACHE = Known()


def verdict_of(study: Study, profile: str, name: str, make: Make, measure: Measure) -> Verdict:
    """Return the verdict of one claim in a world, by way of all its runs and looks."""
    setups = {s.name: s for s in study.setups[profile]}
    (claim,) = (c for c in study.claims if c.id == name and c.setup in setups)
    small = replace(study, claims=(claim,), setups={profile: (setups[claim.setup],)})
    found = look_at_study(small, profile, World(CACHE.configs, make), CACHE, measure)
    return decide(found.paths[0])


def is_tuning(config: Config) -> bool:
    return (config["init.seed"] if config["init.seed"] > 0 else config["seed"]) < FIRST_SEED


def exponent(config: Config) -> float:
    return round(math.log10(config["optim.lr"]), 3)


def away(config: Config, best: float) -> float:
    """Return how many decades the rate is above the best one of these seeds."""
    return exponent(config) - best + (TOO_LOW if is_tuning(config) else 0)


def luck(config: Config) -> float:
    """What the arms of a seed share."""
    return 0.07 * (config["seed"] % 5)


def sign(config: Config) -> int:
    return 1 if config["seed"] % 2 else -1


def rows(**columns: Any) -> list[dict[str, float]]:
    """Return a curve from its columns; `gradients__slope` is the name of gradients.slope."""
    names = [name.replace("__", ".") for name in columns]
    return [dict(zip(names, v, strict=True)) for v in zip(*columns.values(), strict=True)]


def is_odd(config: Config) -> bool:
    return bool(config["seed"] % 2)


def norm(config: Config) -> str:
    return config["norm.name"]


def arm_of_level(setting: str) -> Callable[[Config], tuple]:
    return lambda config: (config["norm.name"], config[setting])


def shared(config: Config) -> int:
    """Return how many examples share batch norm's statistics; of other schemes 0."""
    is_batch = config["norm.name"] == "batch"
    return (config["norm.stats_batch"] or config["data.batch"]) if is_batch else 0


@dataclass(frozen=True)
class Made:
    """An arm: its reported value, its best rate, and what it loses a square decade beside it."""

    value: float
    best: float
    bend: float = 0.0
    wobble: float = 0.0
    """Added to the value of odd seeds, taken from that of even ones."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Of its curve, where the probe that measures them is on."""

    def reported(self, config: Config, how: str) -> float:
        """Return the value of a run, such that the mean of the reported ones is as it is said."""
        off = away(config, self.best) ** 2
        return self.value + self.bend * (off - OFF[how]) + self.wobble * sign(config)


STRANGE = Made(33.0, -1.0)
"""An arm that no claim is about."""


def probed(config: Config, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that the run measures: those of its probes, and all that have none."""
    probes = config["eval.probes"].split("+")
    return {k: v for k, v in columns.items() if "__" not in k or k.partition("__")[0] in probes}


def errors(key: Callable[[Config], Hashable], how: str, arms: Mapping[Any, Made]) -> Make:
    """Return a world of test errors, in points. Rates are tuned on validation, where the error
    rises on both sides of the best rate; on the test images it may as well fall."""

    def make(config: Config) -> Record:
        arm = arms.get(key(config), STRANGE)
        final = {"validation_accuracy": 0.9 - 0.08 * away(config, arm.best) ** 2}
        final["validation_loss"] = 1.0  # of text, it decides that the run has not failed
        final["test_accuracy"] = 1 - (arm.reported(config, how) + luck(config)) / 100
        curve = rows(**probed(config, arm.columns)) or [{"step": 5, "accuracy": 0.5}]
        return Record("", config, "trained", final, curve, provenance={"chance": 0.1})

    return make


@dataclass(frozen=True)
class Timed(Made):
    """The same of log2 of the steps to one target. To others it takes `others` less."""

    target: float = 0.9
    others: float = 0.0

    def steps(self, config: Config) -> list[float]:
        """Return the steps to all TARGETS. Every target has a best rate of its own."""
        found = []
        for place, target in enumerate(TARGETS):
            arm = self if target == self.target else replace(self, best=self.best - 0.25 - place)
            less = 0 if target == self.target else self.others
            found.append(2 ** (arm.reported(config, "one") - less + luck(config)))
        return found


def times(key: Callable[[Config], Hashable], arms: Mapping[Any, Timed]) -> Make:
    """Return a world of steps to a target. A run that stops at one has not seen the next."""

    def make(config: Config) -> Record:
        arm = arms.get(key(config), Timed(5.0, -1.0))
        curve = rows(accuracy=TARGETS, train_loss=LOSSES, **probed(config, arm.columns))
        for row, step in zip(curve, arm.steps(config), strict=True):
            row["step"] = step
        stop = config["train.stop_at"] or 1.0
        curve = [row for row in curve if row["accuracy"] <= stop]
        final = {"validation_accuracy": 0.95, "test_accuracy": 0.5}
        return Record("", config, "trained", final, curve, provenance={"chance": 0.1})

    return make


def finals(value: Callable[[Config], dict[str, float] | None], best: float = -1.5) -> Make:
    """Return a world of final values that fall beside a best rate, by 0.02 where they are reported.

    `value` returns None for a run that diverges.
    """

    def make(config: Config) -> Record:
        found, off = value(config), 0.08 * away(config, best) ** 2
        status = "diverged" if found is None else "trained"
        final = {"validation_accuracy": 0.9, **(found or {})}
        curve = [{"step": 5, "train_loss": 10 ** final.pop("log_loss", 0.0)}]
        final = {name: value - off for name, value in final.items()}
        return Record("", config, status, final, curve, provenance={"chance": 0.1})

    return make
