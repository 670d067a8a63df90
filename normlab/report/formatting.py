"""Words and numbers that all pages write alike, and the command line that repeats a study."""

from __future__ import annotations

import re
import shlex

from normlab.norms.outside import OutsideNorm
from normlab.norms.table import NORMS
from normlab.studies.decisions import Verdict
from normlab.studies.study import Study

SYMBOLS = {
    "supported": "✓",
    "refuted": "✗",
    "inconclusive": "?",
    "depends": "±",
    "exploratory": "○",
    "not testable here": "∅",
    "no data": "…",
    "not decided": "…",
}
OVERRIDES = re.compile(r", (?=[a-z_]+(?:\.[a-z_]+)*=)")
"""Between two overrides of a variant; their values may contain commas."""


def with_symbol(word: str, count: int = 0) -> str:
    return " ".join(filter(None, [SYMBOLS.get(word), str(count or ""), word]))


def word_text(verdict: Verdict) -> str:
    """Return the verdict's word with its symbol; an exploratory one says why it is no more."""
    differs = f", n differs ({verdict.n}, planned {verdict.contrast.n})"
    return with_symbol(verdict.word) + (differs if verdict.word == "exploratory" else "")


def n_text(verdict: Verdict) -> str:
    """Return n, with the planned one where it differs."""
    planned = verdict.contrast.n
    return str(verdict.n) if verdict.n == planned else f"{verdict.n} of {planned}"


def p_text(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def norm_files(study: Study, profile: str) -> list[str]:
    """Return the files of the norms from outside among a study's arms."""
    arms = [s.settings | a.settings for s in study.setups[profile] for a in s.arms]
    rows = [NORMS.get(settings["norm.name"]) for settings in arms if "norm.name" in settings]
    return sorted({row.file for row in rows if isinstance(row, OutsideNorm)})


def command(study: Study, profile: str, seeds: int | None = None, setup: str = "") -> str:
    """Return the command line that repeats a study's runs and report; with `seeds`, one that brings
    the primary arms of one setup to that many."""
    flags = [f"--study={study.file or study.name}", f"--profile={profile}"]
    files = norm_files(study, profile)
    flags += ["--norms=" + ",".join(files)] if files else []
    flags += [f"--config.{override}" for override in OVERRIDES.split(study.variant) if override]
    if seeds:
        arms = [a for s in study.setups[profile] if s.name == setup for a in s.arms]
        primary = ",".join(arm.name for arm in arms if arm.is_primary)
        flags += [f"--setups={setup}", f"--arms={primary}", f"--seeds={seeds}"]
    return shlex.join(["python", "scripts/study.py", *flags])
