"""What must be right in a study before its first run: names, arms, and claims on made-up runs.

A mistake in a claim would else be found when all runs are there.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from normlab.data import DATASETS
from normlab.diagnostics.names import probe_names
from normlab.lookup import did_you_mean
from normlab.norms.table import find_norm
from normlab.runs.config import resolve
from normlab.runs.errors import ConfigError
from normlab.runs.record import Record
from normlab.settings import Config
from normlab.studies.decisions import look_at
from normlab.studies.effects import Claim, Effect
from normlab.studies.metrics import RUNNING
from normlab.studies.planning import ConfigCache, RequiredRun, SetupRuns
from normlab.studies.protocols import GOALS, Tuning
from normlab.studies.setup import Setup, load_config
from normlab.studies.study import PROFILES, Kind, Study
from normlab.training.evaluation_steps import eval_steps

ROWS = 60
"""Rows that the curve of a made-up run has at most."""
TRAINS = 1.2
"""Decades from the middle of its grid up to which a made-up run trains."""


def check_study(study: Study, profile: str, data_dir: str | None = None) -> None:
    """Raise ConfigError where any arm of the profile could not run, or a claim could not be tested.

    Claims are tested as the file has them, whatever a command line changed. Those of
    `experiments/` are tested once, by the tests.
    """
    try:
        if study.is_own:
            check_names(study.planned or study)
        check_arms(study, profile, data_dir)
        if study.is_own:
            check_claims(study.planned or study, profile)
    except ConfigError as error:
        if not study.is_own:
            raise
        raise ConfigError(f"study file {study.file!r}: {error}") from error


def check_arms(study: Study, profile: str, data_dir: str | None) -> None:
    if profile not in study.setups:
        raise ConfigError(
            f"study {study.name!r} has no profile {profile!r} (profiles: {', '.join(study.setups)})"
        )
    if not any(setup.arms for setup in study.setups[profile]):
        raise ConfigError(f"study {study.name!r}, profile {profile!r}: no setup has such an arm")
    for setup in study.setups[profile]:
        base = load_config(setup.base) | setup.settings
        for arm in setup.arms:
            for also in setup.protocol.combinations:
                resolve(base | arm.settings | also | setup.report_settings, data_dir)
        for follow_up in setup.follows:
            told = setup.arm(follow_up.arm)
            resolve(base | (told.settings if told else {}) | follow_up.settings, data_dir)


def check_names(study: Study) -> None:
    """Raise ConfigError for the first mistake in names and rules."""
    for mistake in mistakes(study):
        raise ConfigError(mistake)


def check_claims(study: Study, profile: str) -> None:
    """Raise ConfigError for the first mistake in what a claim computes."""
    setups = {setup.name: setup for setup in study.setups.get(profile, ())}
    cache, known = ConfigCache(needs_data=False), {}
    for claim in () if study.benchmarks else study.claims:
        if claim.setup not in setups:
            continue
        setup = setups[claim.setup]
        n = (claim.setup_seeds or claim.looks[0]) if setup.grows else setup.seeds
        for make in (trained, diverged):
            if (setup.name, n, make) not in known:
                known[setup.name, n, make] = complete(replace(setup, seeds=n), cache, make)
            rehearse(claim, known[setup.name, n, make], profile, Path(study.file))


def mistakes(study: Study) -> Iterator[str]:
    """Yield what is wrong in the names and rules of a study, a line each."""
    setups: dict[str, Setup] = {setup.name: setup for setup in study.all_setups}
    yield from unknown("the profile", study.setups, PROFILES)
    for own in study.setups.values():
        names = [setup.name for setup in own]
        yield from repeated("setups", names)
        yield from repeated("claims", [c.id for c in study.claims if c.setup in names])
    for setup in setups.values():
        yield from (f"setup {setup.name!r}: {text}" for text in mistakes_of_setup(setup))
    for claim in study.claims:
        where = f"claim {claim.id!r}: "
        yield from (where + text for text in unknown("its setup", [claim.setup], setups))
        profiles = [p for p, own in study.setups.items() if claim.setup in [s.name for s in own]]
        yield from (where + text for text in mistakes_of_claim(claim, profiles))
        for setup in filter(None, [setups.get(claim.setup)]):
            names = names_of(setup)
            yield from (where + t for t in unknown("the arm", claim.effect.arms, names))
    for figure in study.figures:
        where = f"figure {figure.caption!r:.60}: "
        yield from (where + text for text in unknown("its kind", [figure.kind], get_args(Kind)))
        yield from (where + text for text in unknown("its setup", [figure.setup], setups))
        names = names_of(setups[figure.setup])
        yield from (where + text for text in unknown("the arm", figure.arms, names))
    for ranking in study.rankings:
        yield from unknown("the setup of a ranking", [ranking.setup], setups)


def mistakes_of_setup(setup: Setup) -> Iterator[str]:
    arms, protocol = [arm.name for arm in setup.arms], setup.protocol
    yield from repeated("arms", names_of(setup))
    for follow_up in setup.follows:
        yield from unknown("the arm", [follow_up.arm, follow_up.rate_of], arms)
    if not 0 < setup.target < 1:
        yield f"target = {setup.target!r} is not an accuracy between 0 and 1"
    if not protocol.exponents or not all(map(math.isfinite, protocol.exponents)):
        yield f"exponents = {protocol.exponents!r} are not log10 of rates"
    given = {"optim.lr", "seed", *(name for arm in setup.arms for name in arm.settings)}
    for name, values in protocol.also:
        if len(set(values)) < 2 or name in given:
            yield f"also = {name} of {values!r} is not a setting that no arm has, with two values"
    if isinstance(protocol, Tuning):
        yield from unknown("the metric", [protocol.metric], GOALS)
        both = sorted(s for s in protocol.seeds if s >= setup.first_seed)
        if both or not protocol.seeds:
            yield (
                f"tuning seeds {tuple(protocol.seeds)!r}: give some, all below "
                f"{setup.first_seed:,}, where the seeds that report begin"
            )


def mistakes_of_claim(claim: Claim, profiles: Iterable[str]) -> Iterator[str]:
    """Yield what is wrong in the rule of a claim, in each profile that tests it."""
    if not isinstance(claim.effect, Effect):
        yield (
            f"its effect {getattr(claim.effect, '__name__', claim.effect)!r} is a function; put "
            "@effect(...) above it, or call one of normlab/studies/effects.py with arms"
        )
    for profile in profiles:
        try:
            delta = claim.delta(profile)
        except KeyError:
            yield f"sesoi = {claim.sesoi!r} has none for the profile {profile!r}"
        else:
            if not isinstance(delta, (int, float)) or not 0 <= delta < math.inf:
                yield f"sesoi = {delta!r} is not a number from 0"
    n = claim.looks
    is_list = isinstance(n, tuple) and bool(n) and all(type(look) is int for look in n)
    if not is_list or n[0] < 2 or list(n) != sorted(set(n)):
        yield f"looks = {n!r} are not numbers of seeds, from 2 upwards, such as looks=(12, 24)"


def names_of(setup: Setup) -> list[str]:
    """Return the names of the arms and of the runs that follow from them."""
    return [part.name for part in (*setup.arms, *setup.follows)]


def unknown(what: str, names: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    known = list(known)
    for name in names:
        if name not in known:
            hint = did_you_mean(str(name), known)
            yield f"{what} {name!r} does not exist{hint} (there are: {', '.join(known)})"


def repeated(what: str, names: Sequence[str]) -> Iterator[str]:
    for name in {name: None for name in names if names.count(name) > 1}:
        yield f"two {what} are named {name!r}; give one another name"


def complete(setup: Setup, cache: ConfigCache, make: Callable[[Setup, RequiredRun], Record]):
    """Return a setup with made-up runs, as many as it asks for."""
    records: dict[str, Record] = {}
    while True:
        runs = SetupRuns(setup, records, cache)
        missing = [run for name, run in runs.wanted.items() if name not in records]
        if not missing:
            break
        records |= {run.run_id: make(setup, run) for run in missing}
    runs.step_seconds = {arm.name: 1e-3 * (i + 1) for i, arm in enumerate(setup.arms)}
    return runs


class Values(dict[str, float]):
    """The values of a made-up run. Those of its diagnostics are there under any name that begins
    with that of one."""

    def __init__(self, values: dict[str, float], diagnostics: tuple[str, ...]):
        super().__init__(values)
        self.diagnostics = diagnostics

    def __missing__(self, name: str) -> float:
        if str(name).startswith(self.diagnostics):
            return 0.5
        hint = did_you_mean(str(name), self)
        raise KeyError(f"{name!r} is no value of a run{hint} (there are: {', '.join(self)})")


def trained(setup: Setup, run: RequiredRun) -> Record:
    """Return a run with all the values of a real one, best in the middle of its grid of rates."""
    config, exponents = run.config, setup.protocol.exponents
    luck = int(run.run_id[:6], 16) / 16**6
    away = abs(math.log10(config["optim.lr"]) - (exponents[0] + exponents[-1]) / 2)
    error, pace = 1e-4 * (1 + away**2 + luck), 8 / (1 + away + 0.1 * luck)
    chance = 1 / DATASETS[config["data.name"]].classes
    if away > TRAINS:
        error = 1 - chance
    steps = eval_steps(
        config["train.steps"], config["train.eval_every"], config["train.eval_growth"]
    )
    diagnostics, rows = probe_names(config["eval.probes"]), []
    for step in sorted({*steps[:: len(steps) // ROWS + 1], steps[-1]}):
        left = math.exp(-pace * step / steps[-1])
        scores = score("", 1 - error - left * (1 - chance) / 2, 2.5 * left + error)
        row = {"step": step, "train_loss": 2.5 * left + error} | spread(config, ("",), scores)
        rows.append(Values(row, diagnostics))
    if limit := config["train.stop_at_loss"]:
        rows[-1] |= {f"{part}_loss": limit / 2 for part in ("train_set", "replaced")}
    final = spread(config, ("validation_", "test_"), score("", 1 - error, 2 * error))
    if config["train.stop_at"]:
        final = {name: value for name, value in final.items() if name.startswith("validation_")}
    facts = {"chance": chance}
    return Record(run.run_id, config, "trained", Values(final, ()), rows, provenance=facts)


def diverged(setup: Setup, run: RequiredRun) -> Record:
    """Return a run like that; of every arm, that with the first reporting seed has diverged."""
    found = trained(setup, run)
    if run.config["seed"] % setup.first_seed:
        return found
    return replace(found, status="diverged", final=Values({}, ()), curve=[], diverged_at=1)


def score(prefix: str, accuracy: float, loss: float) -> dict[str, float]:
    return {f"{prefix}loss": loss, f"{prefix}accuracy": accuracy}


def spread(config: Config, parts: tuple[str, ...], scores: dict[str, float]) -> dict[str, float]:
    """Return the scores of each part that a run scores, by each way to evaluate it."""
    row = find_norm(config["norm.name"])
    parts += ("train_set_",) if config["eval.train_examples"] else ()
    parts += ("replaced_",) if config["data.label_noise"] else ()
    parts += ("long_",) if config["eval.long"] and "test_" in parts else ()
    modes = ("", *((RUNNING,) if row.running_statistics else ()))
    modes += () if row.is_per_sample else ("batch_",)
    return {f"{m}{p}{name}": value for m in modes for p in parts for name, value in scores.items()}


def rehearse(claim: Claim, runs: SetupRuns, profile: str, file: Path) -> None:
    """Raise ConfigError where a claim cannot be measured on made-up runs of its setup."""
    is_whole = all(run.status == "trained" for run in runs.records.values())
    where = f"claim {claim.id!r}, tried on made-up runs" + ("" if is_whole else ", one diverged")
    try:
        measured = claim.effect.measure(runs)
        if not isinstance(getattr(measured, "effects", measured), dict):
            raise TypeError(f"it returns {measured!r:.60}, not seed -> effect")
        contrast = claim.contrast(runs, profile)
        if len(contrast.effects) > 1 and not contrast.unmet:
            look_at(contrast)
    except Exception as error:  # it is somebody's Python: anything can be wrong with it
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if f.filename == str(file)]
        line = f" in line {lines[-1]}" if lines else ""
        told = f"{type(error).__name__}: {error.args[0] if error.args else error}"
        raise ConfigError(f"{where}: {told}{line}") from error
    if not is_whole or contrast.unmet:
        return
    if contrast.n != claim.looks[0]:
        primary = ", ".join(arm.name for arm in runs.setup.arms if arm.is_primary) or "none"
        raise ConfigError(
            f"{where}: it measures {contrast.n} seeds, and its first look is at {claim.looks[0]}; "
            f"the arms that it compares must be primary (primary arms: {primary}; follow-ups: "
            f"{', '.join(f.name for f in runs.setup.follows) or 'none'})"
        )
    if not contrast.effects:
        raise ConfigError(f"{where}: no seed has an effect; are its names right?")
