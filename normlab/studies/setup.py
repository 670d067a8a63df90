"""What a study compares: arms on one network and data set, and the runs that follow from them."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from normlab.layers.table import KERNELS
from normlab.lookup import did_you_mean
from normlab.norms.outside import OutsideNorm
from normlab.norms.table import NORMS, find_norm
from normlab.runs.config import resolve, run_id
from normlab.runs.errors import ConfigError
from normlab.settings import Config, flatten
from normlab.shipped import ROOT
from normlab.studies.protocols import Edges, Tuning

PAIR = ("none", "batch")
"""The norms that most claims compare."""
OFTEN = {"train.eval_every": 1, "train.eval_growth": 1.1}
"""Evaluations at every step, later at steps that are 10 % apart."""

FIRST_SEED = 10_000
"""Reporting seeds begin here."""
TUNING_ORDERS = 2_000
"""Where seeds draw initial weights alone, the splits and data orders of tuning begin here."""


@dataclass(frozen=True)
class Arm:
    """One thing that is compared: a name and the settings that make it."""

    name: str
    settings: Config
    is_primary: bool = False
    """Primary arms run at the planned n and decide; the others are screened and do not."""
    level: float | None = None
    """Its place on the axis of a figure over levels (a batch size, say)."""
    line: str = ""
    """The line of that figure it belongs to."""
    group: str = ""
    """Primary arms of one group are tuned on one grid: if it grows for one, it grows for all."""


def scheme(name: str) -> Config:
    """Return the settings of a scheme. Averages that training reads follow in tens of steps."""
    momentum = {"norm.momentum": 0.9} if find_norm(name).trains_on_averages else {}
    return {"norm.name": name} | momentum


def norm_arms(*names: str, primary: tuple[str, ...] = ()) -> tuple[Arm, ...]:
    """Return one arm for each scheme, with the name of the scheme."""
    return tuple(Arm(n, scheme(n), is_primary=n in primary) for n in names)


def all_norms(base: str, settings: Config) -> tuple[Arm, ...]:
    """Return an arm for every scheme, of norms and of kernels, that can run there. Each is tuned by
    itself. Of schemes that are the same there the first one stays. Norms from outside are none of
    the study's own: they join as in any study."""
    own = [name for name, row in NORMS.items() if not isinstance(row, OutsideNorm)]
    arms = [Arm(n, scheme(n), is_primary=True, group=n) for n in own]
    kernels = [name for name in KERNELS if name != "none"]
    arms += [
        Arm(n, {"norm.name": "none", "norm.kernel": n}, is_primary=True, group=n) for n in kernels
    ]
    found: dict[str, Arm] = {}
    for arm in arms:
        try:
            config = load_config(base) | settings | arm.settings
            name = run_id(resolve(config, needs_data=False).config)
        except ConfigError:
            continue
        found.setdefault(name, arm)
    return tuple(found.values())


def level_arms(setting: str, levels: tuple[float, ...], *norms: str) -> tuple[Arm, ...]:
    """Return each norm at each level of a setting, such as `batch/8`, tuned together per level."""
    short = setting.rpartition(".")[2]
    return tuple(
        Arm(
            f"{norm}/{level:g}",
            scheme(norm) | {setting: level},
            is_primary=True,
            level=level,
            line=norm,
            group=f"{short} {level:g}",
        )
        for level in levels
        for norm in norms
    )


def statistics_arms(*examples: int, primary: tuple[int, ...]) -> tuple[Arm, ...]:
    """Return batch norm with statistics over these numbers of examples, as levels of one line."""
    return tuple(
        Arm(
            f"batch/{n}",
            {"norm.name": "batch", "norm.stats_batch": n},
            is_primary=n in primary,
            level=n,
            line="batch norm",
        )
        for n in examples
    )


@dataclass(frozen=True)
class FollowUp:
    """Further runs of an arm at a rate that follows from another arm's.

    It is factor x the arm's rates (tuning), or factor x the median of the edges.
    """

    name: str
    arm: str
    rate_of: str
    factor: float = 1.0
    seeds: int = 0
    """0: as many as the arm reports."""
    settings: Config = field(default_factory=dict)
    is_secondary: bool = False
    """Whether no contrast depends on it: --seeds, which explores, then leaves it out."""

    @property
    def stage(self) -> str:
        return f"follow: {self.name}"

    def seeds_of(self, reporting: range) -> range:
        first = reporting.start
        return range(first, first + self.seeds) if self.seeds else reporting

    def text(self, reporting: range) -> str:
        """Return how it was run, as a sentence for the page."""
        times = "" if self.factor == 1 else f"{self.factor:g} x "
        changed = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        n = len(self.seeds_of(reporting))
        text = f"{self.arm} at {times}the rate of {self.rate_of}, {n} seeds"
        return f"{text}, {changed}." if changed else f"{text}."


@dataclass(frozen=True)
class Setup:
    """Where arms are compared: network, data, protocol."""

    name: str
    title: str
    base: str
    """A configuration in configs/, by name."""
    arms: tuple[Arm, ...]
    protocol: Tuning | Edges
    settings: Config = field(default_factory=dict)
    seeds: int = 12
    """Number of seeds of the primary arms, from `first_seed` on."""
    first_seed: int = FIRST_SEED
    """Another one repeats a setup with seeds of its own."""
    grows: bool = True
    """Whether the contrasts of the setup choose the number of seeds, and let it grow."""
    screening_seeds: int = 5
    target: float = 0.9
    """Accuracy to reach."""
    stop_at: float = 0.0
    """Accuracy at which tuning runs that are timed stop; 0: the target. Setups on a ladder of
    targets share their tuning runs, which stop at the highest."""
    report_settings: Config = field(default_factory=dict)
    """Settings of the reporting runs alone: diagnostics, say."""
    data_orders: int = 0
    """0: a seed draws all of a run. Otherwise it draws the initial weights, and this many splits
    and data orders take turns."""
    follows: tuple[FollowUp, ...] = ()

    def arm(self, name: str) -> Arm | None:
        return next((a for a in self.arms if a.name == name), None)

    def seeds_of(self, arm: Arm) -> range:
        n = self.seeds if arm.is_primary else self.screening_seeds
        return range(self.first_seed, self.first_seed + n)

    def decides(self, arm: Arm, stage: str) -> bool:
        """Return whether contrasts depend on the runs of an arm in a stage.

        They depend on primary arms, on follow-ups that are not secondary, and on the arms of these.
        """
        secondary = {f.stage for f in self.follows if f.is_secondary}
        followed = {name for f in self.follows if not f.is_secondary for name in (f.arm, f.rate_of)}
        return stage not in secondary and (arm.is_primary or arm.name in followed)

    def seed_settings(self, seed: int) -> Config:
        """Return what a seed sets."""
        if not self.data_orders:
            return {"seed": seed}
        first = FIRST_SEED if seed >= FIRST_SEED else TUNING_ORDERS
        return {"seed": first + seed % self.data_orders, "init.seed": seed}

    def on(self, base: str, title: str, **changes: Any) -> Setup:
        """Return the setup on another network or data set, with its primary arms alone unless
        `arms` are given. Its settings are not merged with those of `changes`."""
        primary = tuple(a for a in self.arms if a.is_primary)
        return replace(self, base=base, title=title, **{"arms": primary} | changes)


def ladder(setup: Setup, *lower: float) -> tuple[Setup, ...]:
    """Return the setup and, for each lower target, its primary arms with rates tuned for that.

    All stop where the setup does, at its target unless it says another, to share tuning runs."""
    top = replace(setup, stop_at=setup.stop_at or setup.target)
    deciding = tuple(f for f in setup.follows if not f.is_secondary)

    def rung(target: float) -> Setup:
        name = f"{top.name}-{100 * target:g}"
        return top.on(top.base, top.title, name=name, target=target, follows=deciding)

    return top, *map(rung, lower)


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config_names() -> list[str]:
    return sorted(p.stem for p in (ROOT / "configs").glob("*.py"))


@functools.cache
def _config(path: Path, written: int) -> Config:
    """`written`: when the file was, since a notebook lives longer than it."""
    del written
    return flatten(load_module(path).get_config().to_dict())


def load_config(name: str) -> Config:
    """Return the configuration of configs/<name>.py; raises ConfigError."""
    if name not in (known := config_names()):
        hint = did_you_mean(str(name), known)
        raise ConfigError(f"unknown configuration {name!r}{hint} (there are: {', '.join(known)})")
    path = ROOT / "configs" / f"{name}.py"
    return dict(_config(path, path.stat().st_mtime_ns))
