"""How numbers read in tables, on the page and in the terminal: one place, so that they agree."""

from __future__ import annotations

import re
import shlex

from normlab.norms.outside import OutsideNorm
from normlab.norms.table import NORMS
from normlab.studies.decisions import Verdict
from normlab.studies.study import Study

INFINITE = "one of the two never gets there, in most seeds"
"""What an infinite effect means."""
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


def p_text(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def effect_text(verdict: Verdict) -> str:
    """Return the effect with its interval, as a reader sees it."""
    return verdict.contrast.unit.text(verdict.effect, verdict.interval)


def raw_effect_text(verdict: Verdict) -> str:
    """Return the effect with its interval in the unit that the rule is written in."""
    return verdict.contrast.unit.raw_text(verdict.effect, verdict.interval)


def sesoi_text(verdict: Verdict) -> str:
    """Return the smallest effect of interest; empty where fixed limits replace it."""
    contrast = verdict.contrast
    return "" if contrast.test.limits else contrast.unit.sesoi_text(contrast.sesoi)


def n_text(verdict: Verdict) -> str:
    """Return n, with the planned one where it differs."""
    planned = verdict.contrast.n
    return str(verdict.n) if verdict.n == planned else f"{verdict.n} of {planned}"


def word_text(verdict: Verdict) -> str:
    """Return the verdict's word with its symbol; an exploratory row says why."""
    text = f"{SYMBOLS.get(verdict.word, '')} {verdict.word}".strip()
    if verdict.word != "exploratory":
        return text
    return f"{text}, n differs ({verdict.n}, planned {verdict.contrast.n})"


def primary_arms(study: Study, profile: str, setup: str) -> list[str]:
    arms = [a for s in study.setups[profile] if s.name == setup for a in s.arms]
    return [a.name for a in arms if a.is_primary]


def norm_files(study: Study, profile: str) -> list[str]:
    """Return the files that the norms of a study's arms come from, but for those of normlab."""
    told = [s.settings | a.settings for s in study.setups[profile] for a in s.arms]
    rows = [NORMS.get(settings["norm.name"]) for settings in told if "norm.name" in settings]
    return sorted({row.file for row in rows if isinstance(row, OutsideNorm)})


def command(study: Study, profile: str, seeds: int | None = None, setup: str = "") -> str:
    """Return the command line that makes a study's runs and report again; with `seeds`, one that
    brings the primary arms of one setup to that many."""
    overrides = re.split(r", (?=[a-z_]+(?:\.[a-z_]+)*=)", study.variant) if study.variant else []
    flags = [f"--study={study.file or study.name}", f"--profile={profile}"]
    files = norm_files(study, profile)
    flags += ["--norms=" + ",".join(files)] if files else []
    flags += [f"--config.{override}" for override in overrides]
    if seeds:
        flags += [f"--setups={setup}", "--arms=" + ",".join(primary_arms(study, profile, setup))]
        flags += [f"--seeds={seeds}"]
    return shlex.join(["python", "scripts/study.py", *flags])
