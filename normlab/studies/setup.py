"""A setup: arms that are compared on one network and data set, by one protocol."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from normlab.runs.errors import ConfigError
from normlab.settings import Config, flatten
from normlab.studies.protocols import FollowUp, Protocol

ROOT = Path(__file__).resolve().parents[2]


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


def norm_arms(*names: str, primary: tuple[str, ...] = ()) -> tuple[Arm, ...]:
    """Return one arm for each scheme, with the name of the scheme."""
    return tuple(Arm(n, {"norm.name": n}, is_primary=n in primary) for n in names)


def level_arms(setting: str, levels: tuple[float, ...], *norms: str) -> tuple[Arm, ...]:
    """Return each norm at each level of a setting, such as `batch/8`, tuned together per level."""
    short = setting.rpartition(".")[2]
    return tuple(
        Arm(
            f"{norm}/{level:g}",
            {"norm.name": norm, setting: level},
            is_primary=True,
            level=level,
            line=norm,
            group=f"{short} {level:g}",
        )
        for level in levels
        for norm in norms
    )


@dataclass(frozen=True)
class Setup:
    """Where arms are compared: network, data, protocol."""

    name: str
    title: str
    base: str
    """A configuration in configs/, by name."""
    arms: tuple[Arm, ...]
    protocol: Protocol
    settings: Config = field(default_factory=dict)
    seeds: int = 12
    """Planned n of the primary arms: seeds 0 .. n - 1."""
    screening_seeds: int = 5
    target: float = 0.9
    """Accuracy to reach."""
    report_settings: Config = field(default_factory=dict)
    """Settings of the reporting runs alone: diagnostics, say."""
    seed_setting: Literal["seed", "init.seed"] = "seed"
    """What the seeds of this setup draw: all of a run, or its initial weights alone."""
    follows: tuple[FollowUp, ...] = ()

    def arm(self, name: str) -> Arm | None:
        return next((a for a in self.arms if a.name == name), None)

    def seeds_of(self, arm: Arm) -> range:
        return range(self.seeds if arm.is_primary else self.screening_seeds)

    def on(self, base: str, title: str, **changes: Any) -> Setup:
        """Return the setup on another network or data set, with its primary arms alone unless
        `arms` are given. Its settings are not merged with those of `changes`."""
        primary = tuple(a for a in self.arms if a.is_primary)
        return replace(self, base=base, title=title, **{"arms": primary} | changes)


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config_names() -> list[str]:
    return sorted(p.stem for p in (ROOT / "configs").glob("*.py"))


def load_config(name: str) -> Config:
    """Return the configuration of configs/<name>.py."""
    return flatten(load_module(ROOT / "configs" / f"{name}.py").get_config().to_dict())
