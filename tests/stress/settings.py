"""Settings that nobody would choose: each is refused in one line, or it trains."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hypothesis
from hypothesis import strategies as st

from normlab.runs import config as config_module
from normlab.runs.config import resolve, run_id
from normlab.runs.errors import ConfigError
from normlab.settings import SETTINGS, Config, from_json
from stress.campaign import Broken, Report, Workspace, caught, error_of

ODD = (None, True, "", "x" * 5000, "a\nb", "é\u202e", b"x", [], {}, (), (0,), (1.5,), (1,) * 3000)
NUMBERS = (-1, 0, 1, 2, 7, 97, 2**63, 10**400, -0.0, 5e-324, 0.5, 1e30, math.nan, math.inf)
TINY: Config = {"data.name": "synthetic", "model.widths": (4,), "train.steps": 2}
KNOWN = st.sampled_from(sorted(SETTINGS))
NAMES = st.one_of(KNOWN, KNOWN, KNOWN, st.text(max_size=20), st.just("x" * 5000))
MUTANTS = {"a check that crashes": KeyError("batch"), "two lines": ConfigError("one\ntwo")}
"""What a check of config.py raises instead of its one line."""


def values_of(name: str) -> st.SearchStrategy[Any]:
    """Return values for a setting: the default, its choices, the limits and what is beside them."""
    if name not in SETTINGS:
        return st.sampled_from((1, 0.5, "x"))
    setting = SETTINGS[name]
    edges = [v for v in (setting.low, setting.high) if v is not None]
    kind = type(setting.default)
    close = [kind(edge + step) for edge in edges for step in (0, 1, -1)]
    fitting = st.sampled_from([setting.default, *setting.choices, *close])
    return st.one_of(fitting, fitting, fitting, st.sampled_from(ODD + NUMBERS))


def check(config: Config, data_dir: Path) -> Config | None:
    """Raise Broken unless a configuration is refused in one line or resolves to a fixed point."""
    try:
        resolved = resolve(config, str(data_dir)).config
    except ConfigError as error:
        if "\n" in str(error) or len(str(error)) > 1000:
            raise Broken(f"a refusal of {len(str(error))} characters, not one line") from error
        return None
    again = resolve(resolved, str(data_dir))
    read_back = from_json(json.loads(json.dumps(resolved)))
    if again != (resolved, []) or run_id(read_back) != run_id(resolved):
        raise Broken("resolved again it is another configuration")
    return resolved


def train(config: Config) -> None:
    """Train a run of two steps; raises Broken where it ends without an outcome."""
    from normlab.data import load
    from normlab.training.population import Population

    population = Population([config], load(config["data.name"]))
    population.train(lambda progress: None)
    (outcome,) = population.outcomes
    if not (outcome.is_over or outcome.final):
        raise Broken("it ended without an outcome")


def examine(count: int, seed: int, data_dir: Path) -> tuple[list[Config], dict[str, Config]]:
    """Draw configurations; return those that were accepted, and error -> a configuration."""
    accepted, failures = list[Config](), dict[str, Config]()
    names = st.lists(NAMES, min_size=1, max_size=3)
    drawn = names.flatmap(lambda found: st.fixed_dictionaries({n: values_of(n) for n in found}))

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=count, database=None, phases=[hypothesis.Phase.generate])
    @hypothesis.given(drawn)
    def show(config: Config) -> None:
        def act() -> None:
            resolved = check(config, data_dir)
            accepted.extend([resolved] if resolved else [])

        if wrong := error_of(act):
            failures.setdefault(wrong[:60], config)

    show()
    return accepted, failures


def run(workspace: Workspace) -> Report:
    """Draw configurations, resolve all of them and train some of those that are accepted."""
    count, trained = (5000, 20) if workspace.is_long else (200, 1)
    accepted, failures = examine(count, workspace.seed, workspace.folder)
    small = [c | TINY for c in accepted if c["model.name"] == "mlp" and c["data.batch"] < 100]
    for config in small[:trained]:
        if wrong := error_of(lambda config=config: train(resolve(config).config)):
            failures[f"training: {wrong}"] = config
    missed = []
    for name, error in MUTANTS.items():
        with patch.object(config_module, "check_constraints", side_effect=error):
            if not examine(20, workspace.seed, workspace.folder)[1]:
                missed.append(name)
    figures = {"configurations": count, "accepted": len(accepted), "trained": len(small[:trained])}
    goal = "a configuration is refused in one line before anything runs, or it trains"
    lines = [f"seed {workspace.seed}: {wrong}: {config}" for wrong, config in failures.items()]
    lines += [f"a mutant was not caught: {name}" for name in missed]
    figures |= {"mutants caught": caught(missed, MUTANTS)}
    return Report("Settings that nobody would choose", goal, figures, lines)
