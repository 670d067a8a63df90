"""Settings that nobody would choose: each is refused in one line before anything runs, or trains.

hypothesis draws configurations from the table of settings: values inside and outside the limits, of
wrong types, extreme, and names that do not exist. Of those that are accepted some are trained.
"""

from __future__ import annotations

import json
import math
import random
import re
import reprlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from normlab.data import DATASETS
from normlab.layers.table import KERNELS
from normlab.models.table import MODELS
from normlab.norms.table import NORMS
from normlab.runs import config as config_module
from normlab.runs.config import resolve, run_id
from normlab.runs.errors import ConfigError
from normlab.settings import SETTINGS, Config, Setting, from_json, program_key
from normlab.studies.study import ROOT
from stress.campaign import Report, Workspace

try:
    import hypothesis
    from hypothesis import strategies as st
except ImportError as error:
    raise ConfigError(
        "hypothesis, which draws the configurations, is not installed; bash scripts/test.sh does it"
    ) from error

Values = st.SearchStrategy[Any]
LONGEST = 1000
"""Characters of a refusal."""
BASES: tuple[Config, ...] = (
    {},
    {"model.name": "cnn", "model.widths": (8, 8)},
    {"model.name": "vgg", "model.widths": (8, 8)},
    {"model.name": "resnet", "model.widths": (8, 8)},
)
NAMES = {
    "norm.name": tuple(NORMS),
    "norm.kernel": tuple(KERNELS),
    "model.name": tuple(MODELS),
    "data.name": tuple(DATASETS),
}
ODD = (None, True, "", "x" * 5000, "a\nb", "\0", "é\u202e", "1", "nan", b"x", 1j, {}, [], {"a": 1})
ODD += ((), (0,), (-1,), (True,), (1.5,), ("1",), ((1,),), (1,) * 3000, [8, 8], {8}, object)
NUMBERS = (-1, 0, 1, 2, 3, 7, 97, 1000, 2**31, 2**63, 10**30, 10**400)
FLOATS = (-0.0, 5e-324, 1e-300, 1e-30, 1e-7, 0.5, 1.5, 2.5, 1e30, 1e308, math.nan, math.inf)
GROUPS_OF_SEVEN = ("--config.norm.name=group", "--config.norm.groups=7")
SLOW = {
    "model depth": ["--config.model.depth=1000000000000"],
    "channels": ["--config.model.widths=(1000000000000,)", *GROUPS_OF_SEVEN],
}
"""Numbers without a limit that would have to be refused before something is counted up to them."""
MEMORY, POLL_S = 4 * 1024**2, 20
"""KiB and seconds of a command that only has to refuse."""
TINY: dict[str, tuple[Any, ...]] = {
    "data.name": ("synthetic", "digits"),
    "data.batch": (1, 2, 3, 4, 8, 16),
    "model.widths": ((1,), (4,), (4, 4), (4, 8), (2, 4, 4), (8, 4)),
    "model.depth": (0, 0, 0, 1, 2, 3, 6, 8),
    "norm.groups": (1, 2, 3, 4),
    "norm.stats_batch": (0, 0, 1, 2, 3, 4),
    "norm.epsilon": (1e-30, 1e-5, 1.0, 1e30),
    "norm.momentum": (0.0, 0.9, 1.0),
    "norm.renorm_steps": (0, 1, 100),
    "norm.r_max": (1.0, 3.0, 1e30),
    "norm.d_max": (0.0, 5.0, 1e30),
    "norm.noise": (0.0, 0.0, 1.0, 1e30),
    "optim.lr": (1e-30, 0.1, 1e30),
    "optim.momentum": (0.0, 0.9, 1.0),
    "optim.weight_decay": (0.0, 1.0, 1e30),
    "optim.warmup": (0, 1),
    "init.gain": (1e-30, 1.0, 1e30),
    "seed": (0, 1, 2**32 - 1),
    "train.steps": (2,),
    "train.eval_every": (1, 2, 50),
    "train.eval_growth": (1.0, 2.0),
    "train.stop_at": (0.0, 0.01, 1.0),
    "eval.curve_examples": (1, 3, 100_000),
    "eval.stats_examples": (2, 3, 100_000),
    "eval.batch": (1000, 3000),
    "host.width": (1, 3),
    "host.chunk": (1, 2, 5),
}
"""Values with which a run of two steps takes no time but for its compilation."""


def misspelt() -> Values:
    """Return names that look like those of settings."""

    def change(name: str, at: int, letter: str) -> str:
        at %= len(name)
        return name[:at] + letter + name[at + 1 :]

    known, letters = st.sampled_from(sorted(SETTINGS)), st.text(max_size=2)
    parts = st.sampled_from(["lr", "norm", "optim.lr.x", ".", "x" * 5000])
    return st.one_of(st.builds(change, known, st.integers(0, 30), letters), st.text(), parts)


def values_of(name: str) -> Values:
    """Return values for a setting, half of them of its type."""
    setting: Setting = SETTINGS[name]
    edges = [v for v in (setting.low, setting.high) if v is not None]
    near: list[Any] = [v + d for v in edges for d in (-1, 0, 1)]
    if name in NAMES or setting.choices:
        fitting = st.sampled_from(NAMES.get(name, setting.choices))
    elif isinstance(setting.default, tuple):
        fitting = st.lists(st.integers(-1, 70), max_size=6).map(tuple)
    elif isinstance(setting.default, float):
        fitting = st.one_of(st.floats(), st.sampled_from(near + list(FLOATS)))
    else:
        fitting = st.one_of(st.integers(-2, 200), st.sampled_from([int(v) for v in near] or [0]))
    large = [n for n in NUMBERS if n < 10_000 or name != "model.depth"]  # SLOW has those
    return st.one_of(fitting, fitting, st.sampled_from(ODD), st.sampled_from(large))


@st.composite
def configurations(draw: Callable[[Values], Any]) -> Config:
    """Return a configuration that may be right or wrong in up to four places."""
    config = dict(draw(st.sampled_from(BASES)))
    for name in draw(st.lists(st.sampled_from(sorted(SETTINGS)), min_size=1, max_size=4)):
        config[name] = draw(values_of(name))
    if draw(st.integers(0, 9)) == 0:
        config[draw(misspelt())] = draw(st.sampled_from((1, 0.5, "x")))
    return config


@st.composite
def tiny_configurations(draw: Callable[[Values], Any]) -> Config:
    """Return a configuration of a run that takes no time, with everything else as it comes."""
    config = {}
    for name, setting in SETTINGS.items():
        is_free = bool(setting.choices) or name in NAMES or isinstance(setting.default, bool)
        if name in TINY:
            config[name] = draw(st.sampled_from(TINY[name]))
        elif is_free:
            config[name] = draw(st.sampled_from(NAMES.get(name, setting.choices) or (False, True)))
    return config


def drawn(strategy: Values, count: int, seed: int, see: Callable[[Config], None]) -> None:
    """Show `count` examples of a strategy to `see`; equal seeds draw equally."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    @hypothesis.given(strategy)
    def show(config: Config) -> None:
        see(config)

    show()


def shown(config: Config) -> str:
    """Return a configuration as one line, its values cut where they are long."""
    return ", ".join(f"{name[:60]!r}: {reprlib.repr(value)}" for name, value in config.items())


def fault_of_line(line: str) -> str:
    """Return what is wrong with a refusal, "" for a line."""
    if "\n" in line:
        return "a refusal of several lines"
    return "" if len(line) < LONGEST else f"a refusal of {len(line)} characters"


class Examiner:
    """Resolves configurations and counts what becomes of them."""

    def __init__(self, data_dir: Path):
        self.data_dir = str(data_dir)
        self.refused = 0
        self.accepted: list[Config] = []
        self.failures: dict[str, str] = {}
        """What went wrong -> the first configuration with which."""

    def see(self, config: Config) -> None:
        try:
            resolved = resolve(config, self.data_dir).config
        except ConfigError as error:
            self.refused += 1
            self._note(fault_of_line(str(error)), config)
            return
        except Exception as error:
            self._note(f"{type(error).__name__}: {error}", config)
            return
        self.accepted.append(resolved)
        is_settled = resolve(resolved, self.data_dir) == (resolved, [])
        is_settled &= run_id(from_json(json.loads(json.dumps(resolved)))) == run_id(resolved)
        self._note("" if is_settled else "resolved again it is another one", config)

    def _note(self, fault: str, config: Config) -> None:
        kind = re.sub(r"\d+|'.*'", "_", fault)[:60]
        if fault and kind not in self.failures:
            self.failures[kind] = f"{fault[:120]}: {shown(config)}"


def fault_of_training(config: Config) -> str:
    """Train a run and return what went wrong, "" for an outcome."""
    from normlab.data import load
    from normlab.training.population import Population

    try:
        population = Population([config], load(config["data.name"]))
        population.train(lambda progress: None)
    except Exception as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0][:200]
    (outcome,) = population.outcomes
    return "" if outcome.is_over or outcome.final else "it ended without an outcome"


def sample(accepted: list[Config], count: int, desk: Workspace) -> list[Config]:
    """Return configurations with programs of their own, for the short campaign small ones."""
    programs = {program_key(config): config for config in accepted}
    chosen = list(programs.values())
    desk.dice("trained").shuffle(chosen)
    if not desk.is_long:
        chosen = [c for c in chosen if c["model.name"] in ("mlp", "cnn") and c["model.depth"] < 3]
    return chosen[:count]


def bad_flags(dice: random.Random, count: int) -> dict[str, list[str]]:
    """Return what -> flags of scripts/train.py that it must refuse."""
    found = dict(SLOW)
    names = [n for n in SETTINGS if n != "data.augment"]
    for name in dice.sample(names, count):
        setting, wrong = SETTINGS[name], ["", "x", "nan", "\n", "1e999", "--", "$(x)", "(", "None"]
        if isinstance(setting.default, (int, float)) and setting.low is not None:
            wrong.append(str(int(setting.low) - 1))
        text = dice.choice(wrong)
        found[f"{name} = {text!r}"] = [f"--config.{name}={text}"]
        at = dice.randrange(len(name))
        found[f"{name} misspelt"] = [f"--config.{name[:at]}{name[at + 1 :]}x={setting.default}"]
    return {what: found[what] for what in list(found)[:count]}


def fault_of_command(flags: list[str], folder: Path) -> str:
    """Run scripts/train.py in an empty folder and return what is wrong with its refusal."""
    folder.mkdir(exist_ok=True)
    limited = ["sh", "-c", f'ulimit -v {MEMORY} 2>/dev/null; exec "$@"', "sh"]
    command = [*limited, sys.executable, str(ROOT / "scripts" / "train.py"), "--config=digits_mlp"]
    try:
        run = subprocess.run(
            [*command, *flags, "--dry_run"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=POLL_S,
        )
    except subprocess.TimeoutExpired:
        return f"nothing said within {POLL_S} s"
    if run.returncode != 2 or run.stdout or not run.stderr.startswith("normlab: error["):
        return f"exit code {run.returncode}, {run.stderr[-200:]!r}"
    written = [path.name for path in folder.iterdir()]
    return f"wrote {written}" if written else fault_of_line(run.stderr.rstrip("\n"))


def faults(desk: Workspace) -> dict[str, bool]:
    """Return for each planted fault of the code whether the checks see it."""

    def crash(*_: object) -> None:
        raise KeyError("batch")

    def ramble(*_: object) -> None:
        error = ConfigError("")
        error.args = ("first line\nsecond line",)
        raise error

    def go_on(*_: object) -> None:
        error = ConfigError("")
        error.args = ("x" * LONGEST,)
        raise error

    def count_up(config: Config, row: object) -> tuple[Config, list[str]]:
        return config | {"seed": config["seed"] + 1}, []

    def is_seen(check: str, fault: Callable[..., object]) -> bool:
        examiner = Examiner(desk.folder)
        with patch.object(config_module, check, fault):
            drawn(configurations(), 40, desk.seed, examiner.see)
        return bool(examiner.failures)

    let_through = resolve({"data.batch": 8, "train.steps": 2}).config | {"norm.stats_batch": 3}
    folder = desk.folder / "harmless"
    return {
        "a check that raises KeyError": is_seen("check_training", crash),
        "a refusal of two lines": is_seen("check_training", ramble),
        "a refusal without end": is_seen("_check_layers", go_on),
        "settings that change each time": is_seen("_reset_unused", count_up),
        "a configuration that is let through": bool(fault_of_training(let_through)),
        "a command that refuses nothing": bool(fault_of_command([], folder)),
    }


def bad_settings(desk: Workspace) -> Report:
    """Draw configurations, resolve all and train some; a failure has what to look at again."""
    examiner, tiny = Examiner(desk.folder), Examiner(desk.folder)
    count, trained, commands = (5000, 100, 10) if desk.is_long else (200, 1, 3)
    drawn(configurations(), count, desk.seed, examiner.see)
    drawn(tiny_configurations(), 40 * trained, desk.seed, tiny.see)
    failures = [*examiner.failures.values(), *tiny.failures.values()]
    chosen = sample(tiny.accepted, trained, desk)
    for i, config in enumerate(chosen, 1):
        fault = fault_of_training(config)
        changed = {n: v for n, v in config.items() if v != SETTINGS[n].default}
        failures += [f"training: {fault}: {changed}"] if fault else []
        if i % 20 == 0:
            desk.tell(f"bad_settings: {i} of {len(chosen)} trained")
    tried = bad_flags(desk.dice("flags"), commands)
    for what, flags in tried.items():
        fault = fault_of_command(flags, desk.folder / "empty")
        failures += [f"scripts/train.py {what}: {fault}"] if fault else []
    seen = faults(desk)
    failures += [f"not noticed: {what}" for what, is_seen in seen.items() if not is_seen]
    figures = {
        "configurations": count + 40 * trained,
        "refused in one line": examiner.refused + tiny.refused,
        "accepted": len(examiner.accepted) + len(tiny.accepted),
        "trained for 2 steps": len(chosen),
        "commands refused": len(tried),
        "tracebacks": sum("Error:" in failure for failure in failures),
        "planted faults caught": f"{sum(seen.values())} of {len(seen)}",
    }
    goal = "a configuration is refused in one line before anything runs, or it trains"
    return Report("Settings that nobody would choose", goal, figures, failures)
