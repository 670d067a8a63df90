"""Words and numbers that all pages write alike, and the command line that repeats a study."""

from __future__ import annotations

import re
import shlex

from normlab.data import outside_data
from normlab.models.outside import OutsideModel
from normlab.models.table import MODELS
from normlab.norms.outside import OutsideNorm
from normlab.norms.table import NORMS
from normlab.settings import SETTINGS, defaults
from normlab.shipped import words_of
from normlab.studies.decisions import Verdict, stops
from normlab.studies.study import Study

SYMBOLS = {
    "supported": "✓",
    "refuted": "✗",
    "open": "?",
    "depends": "±",
    "exploratory": "○",
    "not testable here": "∅",
    "not measured": "∅",
    "not run": "…",
}
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{5})")
"""A paper, as texts cite it."""
CHANGES = re.compile(r", (?=[a-z_]+(?:\.[a-z_]+)*=)")
"""Between two changes of a variant; their values may contain commas."""


def with_symbol(word: str, count: int = 0) -> str:
    return " ".join(filter(None, [SYMBOLS.get(word), str(count or ""), word]))


def is_final(verdict: Verdict) -> bool:
    """Return whether the rule asks for no more seeds."""
    contrast = verdict.contrast
    found, sesoi = contrast.estimator.margin(verdict.estimate, contrast.sesoi)
    return verdict.n >= contrast.looks[-1] or stops(found, verdict.word, sesoi)


def notes_of(verdict: Verdict) -> list[str]:
    """Return the notes that follow the word."""
    notes = [verdict.qualifier]
    if verdict.word == "exploratory":
        notes = ["n differs"]
    elif verdict.is_decided and not is_final(verdict):
        notes += ["not final"]
    elif verdict.word == "open":
        notes += ["at its cap"]
    notes += ["borderline" if verdict.is_borderline else ""]
    return [note for note in notes if note]


def n_text(verdict: Verdict) -> str:
    """Return n: of each look where there were several; with the first planned one where it is none
    of the planned ones."""
    looks = verdict.contrast.looks
    if verdict.n not in looks:
        return f"{verdict.n} of {looks[0]}"
    return " → ".join(str(look.n) for look in verdict.path) or str(verdict.n)


def command(study: Study, profile: str) -> str:
    """Return the command line that repeats a study's runs and report."""
    arms = [(s, arm) for s in study.setups[profile] for arm in s.arms]
    norms = [NORMS.get((defaults() | s.settings | a.settings)["norm.name"]) for s, a in arms]
    files = sorted({norm.file for norm in norms if isinstance(norm, OutsideNorm)})
    flags = [f"--study={study.file or study.name}", f"--profile={profile}"]
    flags += ["--norms=" + ",".join(files)] if files else []
    for change in filter(None, CHANGES.split(study.variant)):
        setting, _, value = change.partition("=")
        is_setting, own_data = setting in SETTINGS, outside_data()
        if setting == "data.name" and value in own_data:
            flags.append(f"--data={own_data[value].file}")
            continue
        model = MODELS.get(value) if setting == "model.name" else None
        if isinstance(model, OutsideModel):
            flags.append(f"--model={model.file}")
            continue
        flags.append(f"--config.{change}" if is_setting else f"--{change}")
    return shlex.join([*words_of("study"), *flags])
