"""A study is a question: data, no training code. `experiments/*.py` each hold one `STUDY`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from normlab.data import outside_data
from normlab.models.outside import outside_models
from normlab.norms.table import NORMS, meant_by
from normlab.runs.config import resolve
from normlab.runs.errors import ConfigError
from normlab.runs.files import NAME
from normlab.settings import SETTINGS, Config, nearest_setting
from normlab.shipped import ROOT
from normlab.studies.effects import Claim
from normlab.studies.panel import VARIED, Line
from normlab.studies.protocols import Edges, Tuning
from normlab.studies.ranking import Ranking
from normlab.studies.setup import (
    Arm,
    FollowUp,
    Setup,
    load_config,
    load_module,
    norm_arms,
    scheme,
)

PROFILES = ("quick", "standard", "full")
SECTIONS = ("Fair test", "Source", "Expect", "Refuted if", "Cost")
"""What the docstring of a study says under its question, each as `Section: text`."""

Kind = Literal["curves", "rates", "levels", "probe", "layers", "percentiles"]


@dataclass(frozen=True)
class Figure:
    kind: Kind
    setup: str
    caption: str
    key: str = ""
    """What of a curve is drawn. `layers`: the beginning of the names of its layers' values.
    `levels`: what the vertical axis shows instead of test error."""
    arms: tuple[str, ...] = ()
    """Only these; none: all."""
    follows: bool = False
    """Whether the runs that follow are drawn instead of those of the arms."""


@dataclass(frozen=True)
class Study:
    name: str
    title: str
    question: str
    fair_test: str
    """What a fair test of the claims is, for the page."""
    source: str
    expect: str
    refuted_if: str
    cost: str
    setups: Mapping[str, tuple[Setup, ...]]
    """Profile -> setups."""
    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    """Purposes for which all arms are compared with the best of them."""
    panel: Mapping[str, tuple[Line, ...]] = field(default_factory=dict)
    """Profile -> contrasts of other studies under other optimisers."""
    is_extra: bool = False
    """Whether it is expensive: --study=all leaves it out."""
    benchmarks: tuple[str, ...] = ()
    """Benchmarks whose record in results/bench its claims read."""
    on_data: Callable[[str, str], Study] | None = None
    """Returns a study of the same question on a data set of your own, by its name."""
    file: str = ""
    """What --study=... takes for it: its name in experiments/, else its path."""
    variant: str = ""
    """What a command line changed: overrides, arms, seeds. It has a page of its own."""
    norms: tuple[str, ...] = ()
    """Norms that joined its arms: they are screened, and it has a page of its own."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The same as arguments of `adapt`, for a later report."""
    planned: Study | None = None
    """The study as its file has it, where a command line changed it; the rule is from there."""

    @property
    def is_planned(self) -> bool:
        """Whether this is the study as its file has it: nothing changed, no norms that joined."""
        return not self.variant and not self.norms

    @property
    def is_own(self) -> bool:
        """Whether it is a file outside of experiments/."""
        return self.file.endswith(".py")

    @property
    def all_setups(self) -> list[Setup]:
        """The setups of all profiles."""
        return [setup for setups in self.setups.values() for setup in setups]

    def changed(self, change: Callable[[Setup], Setup], **facts: Any) -> Study:
        """Return the study with every setup changed, and other facts."""
        setups = {profile: tuple(map(change, setups)) for profile, setups in self.setups.items()}
        return replace(self, setups=setups, **facts)


def study(doc: str | None, name: str, title: str, **facts: Any) -> Study:
    """Return a study whose texts are the docstring of its file: the question is the first line, a
    blank line ends a section."""
    doc = (doc or "").strip()
    found = re.findall(
        rf"^({'|'.join(SECTIONS)}): (.+?)(?=^(?:{'|'.join(SECTIONS)}): |^\s*$|\Z)", doc, re.M | re.S
    )
    texts = {section: " ".join(text.split()) for section, text in found}
    missing = [section for section in SECTIONS if section not in texts]
    if missing:
        raise ConfigError(f"the docstring of study {name!r} has no {', '.join(missing)}")
    fair, source, expect, refuted_if, cost = (texts[section] for section in SECTIONS)
    question = doc.splitlines()[0]
    return Study(name, title, question, fair, source, expect, refuted_if, cost, **facts)


def study_names() -> list[str]:
    return sorted(p.stem for p in (ROOT / "experiments").glob("*.py"))


def load_studies(names: Sequence[str]) -> list[Study]:
    """Return the studies of these names. `all` is every one in experiments/ that is not extra."""
    every = [load_study(name) for name in study_names()] if "all" in names else []
    every = [study for study in every if not study.is_extra]
    known = {"all", *(study.name for study in every)}
    found: dict[str, Study] = {}
    for study in [*every, *(load_study(name) for name in names if name not in known)]:
        if found.setdefault(study.name, study).file != study.file:
            raise ConfigError(f"two study files are named {study.name!r}; give one another name")
    return [*found.values()]


def load_study(name: str) -> Study:
    """Return the study of experiments/<name>.py, or of the file `name`."""
    path = Path(name) if name.endswith(".py") else ROOT / "experiments" / f"{name}.py"
    if not path.is_file():
        raise ConfigError(f"unknown study {name!r} (studies: {', '.join(study_names())}, all)")
    try:
        study = load_module(path).STUDY
    except Exception as error:  # it is somebody's Python: anything can be wrong with it
        told = f"{type(error).__name__}: {error}"
        raise ConfigError(f"study file {str(path)!r} cannot be loaded ({told})") from error
    if not isinstance(study, Study):
        raise ConfigError(f"study file {str(path)!r}: STUDY = {study!r:.80} is not a Study")
    if wrong := wrong_part(study):
        raise ConfigError(f"study file {str(path)!r}: {wrong}")
    for name in (study.name, *(setup.name for setup in study.all_setups)):
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"study file {str(path)!r}: {name[:120]!r} cannot be a part of file names; use up "
                "to 100 of A-Z a-z 0-9 . _ = -, not beginning with a point"
            )
    if path.parent != ROOT / "experiments" and study.name in study_names():
        raise ConfigError(
            f"study file {str(path)!r} is named {study.name!r} like one of experiments/; "
            "give it another name"
        )
    own = str(path.resolve()) if path.parent != ROOT / "experiments" else study.name
    return replace(study, file=own)


def wrong_part(study: Study) -> str:
    """Return which part of a study is none, in a line; empty where all are right."""
    parts: list[tuple[str, Any, type]] = [("claims", study.claims, Claim)]
    parts += [("figures", study.figures, Figure), ("rankings", study.rankings, Ranking)]
    parts += [(f"setups[{name!r}]", found, Setup) for name, found in study.setups.items()]
    for name, found, kind in parts:
        if not isinstance(found, tuple) or not all(isinstance(part, kind) for part in found):
            return f"{name} = {found!r:.80} is no tuple of {kind.__name__}; (x,) has one"
        for setup in found if kind is Setup else ():  # the list grows by these
            parts += [("arms", setup.arms, Arm), ("follows", setup.follows, FollowUp)]
            if not isinstance(setup.protocol, Tuning | Edges):
                return f"protocol = {setup.protocol!r:.80} is not a Tuning or Edges"
    return ""


def varied_settings(study: Study) -> set[str]:
    """Return the settings that a study varies, which an override may therefore not touch."""
    names = {"seed", "optim.lr", *(VARIED if study.panel else ())}
    for setup in study.all_setups:
        names |= {*setup.seed_settings(0), *setup.report_settings, *dict(setup.protocol.also)}
        names |= {name for arm in setup.arms for name in arm.settings}
    return names


def adapt(
    study: Study,
    *,
    overrides: Config | None = None,
    arms: tuple[str, ...] = (),
    seeds: int | None = None,
    norms: Sequence[str] = (),
) -> Study:
    """Return the study with settings overridden, other arms, other seeds, and `norms` as further
    arms; raises ConfigError. Schemes among `arms` join the profiles without them, as `norms` do."""
    overrides, planned = overrides or {}, study.planned or study
    study = on_own_data(study, overrides)
    varied = varied_settings(study)
    for name, value in overrides.items():
        if name not in SETTINGS:
            raise ConfigError(f"unknown setting {name!r}{nearest_setting(name)}")
        if name in varied:
            raise ConfigError(
                f"study {study.name!r} varies {name} itself; to run only a part of it use "
                f"--only={name}={value}"
            )
    known = {arm.name for setup in study.all_setups for arm in setup.arms}
    if "norm.name" not in overrides:
        chosen = [n for n in norms if not arms or n in arms]
        chosen += [n for n in arms if n in NORMS and n not in chosen]
        study = join_norms(study, chosen, overrides)
        known.update(chosen)
    for name in arms:
        if name not in known:
            hint = meant_by(name)
            hint = hint if any(repr(arm) in hint for arm in known) else ""
            raise ConfigError(
                f"study {study.name!r} has no arm {name!r}{hint} (arms: "
                f"{', '.join(sorted(known))}, and the schemes of list.py norms)"
            )
    shown = {n: v for n, v in overrides.items() if SETTINGS[n].kind != "execution"}
    changes = [f"{n}={v}" for n, v in sorted(shown.items())]
    title_end = "".join(f", {change}" for change in changes)
    changes += ([f"arms={','.join(arms)}"] if arms else []) + ([f"seeds={seeds}"] if seeds else [])

    def change(setup: Setup) -> Setup:
        kept = tuple(a for a in setup.arms if not arms or a.name in arms)
        names = {a.name for a in kept}
        follows = tuple(f for f in setup.follows if {f.arm, f.rate_of} <= names)
        title, settings = setup.title + title_end, setup.settings | overrides
        setup = replace(setup, title=title, arms=kept, follows=follows, settings=settings)
        if not seeds:
            return setup
        follows = tuple(replace(f, seeds=0) for f in follows if not f.is_secondary)
        return replace(setup, seeds=seeds, grows=False, screening_seeds=seeds, follows=follows)

    study = study.changed(change, variant=", ".join(changes), planned=planned)
    with_arms = {p: tuple(s for s in setups if s.arms) for p, setups in study.setups.items()}
    options = {"overrides": overrides, "arms": arms, "seeds": seeds, "norms": [*norms]}
    return replace(study, setups=with_arms, options=options)


def on_own_data(study: Study, overrides: Config) -> Study:
    """Return the study on a data set or a network of your own, where the overrides name one.

    It is what the study has for such data, or else the arms that can run there. Raises ConfigError
    where none can."""
    data, model = overrides.get("data.name", ""), overrides.get("model.name", "")
    if data not in outside_data() and model not in outside_models():
        return study
    if study.on_data:
        study = replace(study.on_data(data or "digits", model), file=study.file)
        for setup in study.all_setups:
            plain = Arm("none", scheme("none"))
            if not setup.arms and (error := refusal(setup, plain, overrides)):
                raise error
    refused: list[ConfigError] = []

    def able(setup: Setup) -> Setup:
        errors = {arm.name: refusal(setup, arm, overrides) for arm in setup.arms}
        refused.extend(filter(None, errors.values()))
        return replace(setup, arms=tuple(arm for arm in setup.arms if not errors[arm.name]))

    study = study.changed(able)
    if refused and not any(setup.arms for setup in study.all_setups):
        raise refused[0]
    return study


def refusal(setup: Setup, arm: Arm, overrides: Config) -> ConfigError | None:
    """Return why an arm cannot run with these settings; None where it can."""
    try:
        resolve(load_config(setup.base) | setup.settings | overrides | arm.settings, None, False)
    except ConfigError as error:
        return error
    return None


def join_norms(study: Study, norms: Sequence[str], overrides: Config) -> Study:
    """Return the study with each of `norms` as a screening arm of every setup that it can run in.

    Profiles with such an arm stay. Raises ConfigError for a norm that can run in none.
    """
    refused: dict[str, ConfigError] = {}
    joined: dict[str, None] = {}

    def join(setup: Setup, lacking: Sequence[Arm]) -> Setup:
        arms = setup.arms
        for arm in lacking:
            if error := refusal(setup, arm, overrides):
                refused[arm.name] = error
            else:
                arms += (arm,)
                joined[arm.name] = None
        return replace(setup, arms=arms)

    setups = {}
    for profile, own in study.setups.items():
        lacking = [a for a in norm_arms(*norms) if not any(s.arm(a.name) for s in own)]
        setups[profile] = tuple(join(setup, lacking) for setup in own)
    study = replace(study, setups=setups)
    for name in norms:
        if not any(setup.arm(name) for setup in study.all_setups):
            raise refused[name]
    return replace(study, norms=tuple(joined))
