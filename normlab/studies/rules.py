"""The rule of a study as canonical content: all that decides its verdicts, and what changed in it.

The rule is written before the first run. It holds what the study asks for, never the text of a
file, so that a comment, a rename or a move changes no rule. A later change is shown as a
difference: which value became which.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from normlab.data.table import DATASETS
from normlab.runs.config import DRAWN, identity
from normlab.runs.errors import ConfigError, LabError
from normlab.runs.files import make_folder, read_json, write_json
from normlab.runs.provenance import now
from normlab.runs.store import Store
from normlab.settings import Config
from normlab.studies import decisions, effects, intervals, metrics, planning, rates
from normlab.studies.effects import Claim
from normlab.studies.looks import look_at_study
from normlab.studies.planning import ConfigCache
from normlab.studies.protocols import Edges, Tuning
from normlab.studies.setup import FIRST_SEED, Setup
from normlab.studies.study import Study, load_study, study_names

LONGEST = 60
"""Characters of a value that a difference shows."""
UNKNOWN = "the rule is another one than today's; the older one was kept as a hash only"


@dataclass(frozen=True)
class KeptRule:
    """The rule of a study as it was before its first run."""

    written: str
    changes: tuple[str, ...]
    """What differs in today's rule, a line for each value; empty: nothing."""


def rule_of(study: Study, profile: str, cache: ConfigCache | None = None) -> dict[str, Any]:
    """Return all that decides the verdicts of a study in one profile, as JSON has it."""
    study, cache = study.planned or study, cache or ConfigCache(needs_data=False)
    setups = study.setups[profile]
    names = {setup.name for setup in setups}
    claims = [claim for claim in study.claims if claim.setup in names]
    known = look_at_study(study, profile, {}, cache)
    contrasts = [path[0] for path in known.paths]
    content = {
        "decision": {
            "confidence": intervals.CONFIDENCE,
            "half-width that ends the growth, in delta": dict(decisions.NARROW),
            "percentile": intervals.PERCENTILE,
            "resamples": intervals.RESAMPLES,
            "failed below": f"chance + {metrics.ABOVE_CHANCE} (1 - chance)",
            "missed steps": metrics.MISSED_STEPS,
            "share of failures that a rate may have": rates.MAY_FAIL,
            "share of misses before a lower bound": effects.MAY_BE_CUT_OFF,
            "seeds where training itself is compared": effects.TRAINED_SEEDS,
            "first seed": FIRST_SEED,
            "tuning seeds of arms that decide nothing": planning.SCREENING_SEEDS,
            "decades between rates": rates.STEP,
            "rates of a window on a side": rates.REACH,
            "moves of a window": planning.MOST_MOVES,
            "matched losses": list(effects.MATCHED_LOSSES),
        },
        "claims": {
            claim.id: claim_content(contrast) | _setup_seeds(claim)
            for claim, contrast in zip(claims, contrasts, strict=True)
        },
        "rankings": [
            {"purpose": r.purpose.name, "setup": r.setup, "delta": r.delta(profile)}
            for r in study.rankings
            if r.setup in names
        ],
        "setups": {setup.name: setup_content(setup, cache) for setup in setups},
    }
    if any(_reads_text(setup, cache) for setup in setups):
        limit = f"{metrics.BELOW_SHARES} x the loss of the tokens' shares"
        content["decision"]["failed above, on text"] = limit
    if study.panel:  # rules that were kept before there were panels have no such part
        content["panel"] = {
            line.claim.id: claim_content(line.claim.contrast(known.setups[setup], profile))
            | {"setup": dict(line.cells), "own cell": line.own}
            for line in study.panel[profile]
            for setup in [line.cells[line.own]]
        }
    return json.loads(json.dumps(content, sort_keys=True))


def claim_content(c: decisions.Contrast) -> dict[str, Any]:
    facts = {"claim": c.claim, "sentence": c.sentence, "contrast": c.comparison, "setup": c.setup}
    return facts | {
        "unit": c.unit.name,
        "interval": c.estimator.name,
        "delta": c.sesoi,
        "n": list(c.looks),
    }


def _reads_text(setup: Setup, cache: ConfigCache) -> bool:
    _, config = cache.look_up(setup, setup.arms[0].settings)
    return DATASETS[config["data.name"]].kind == "text"


def _setup_seeds(claim: Claim) -> dict[str, int]:
    return {"seeds of its setup": claim.setup_seeds} if claim.setup_seeds else {}


def setup_content(setup: Setup, cache: ConfigCache) -> dict[str, Any]:
    """Return the arms with their resolved settings, those of all arms once, and the protocol."""

    def settings(more: Config) -> Config:
        config = identity(cache.look_up(setup, more)[1])
        return {name: value for name, value in config.items() if name not in DRAWN}

    arms = {a.name: settings(a.settings) for a in setup.arms}
    shared = {
        name: value
        for name, value in next(iter(arms.values())).items()
        if all(name in config and config[name] == value for config in arms.values())
    }
    return {
        "settings": shared,
        "arms": {
            arm.name: {n: v for n, v in arms[arm.name].items() if n not in shared}
            | {"is primary": arm.is_primary, "tuned with": arm.group}
            for arm in setup.arms
        },
        # rules that were kept before further settings were tuned have no such part
        "protocol": content_of(setup.protocol, *(() if setup.protocol.also else ("also",)))
        | _fixed(setup.protocol),
        "screening seeds": setup.screening_seeds,
        **({"first seed": setup.first_seed} if setup.first_seed != Setup.first_seed else {}),
        "data orders": setup.data_orders,
        "target": setup.target,
        "tuning stops at": setup.stop_at or setup.target,
        "settings of reports": dict(setup.report_settings),
        "follow-ups": {f.name: content_of(f, "name", "is_secondary") for f in setup.follows},
    }


def _fixed(protocol: Tuning | Edges) -> dict[str, Any]:
    """Return the facts of a protocol that are not among its fields."""
    facts: dict[str, Any] = {"kind": protocol.kind}
    return facts | {"cap": protocol.cap} if isinstance(protocol, Tuning) else facts


def content_of(part: Any, *left_out: str) -> dict[str, Any]:
    """Return the fields of a protocol or of a follow-up, with the names that kept rules have."""
    facts = {name: value for name, value in asdict(part).items() if name not in left_out}
    return {"tuned" if n == "metric" else n.replace("_", " "): v for n, v in facts.items()}


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Yield a line for each value that differs between two rules.

    >>> list(differences({"C1a": {"sesoi": 0.32}}, {"C1a": {"sesoi": 0.5}, "C1b": {}}))
    ['C1a, sesoi: 0.32 → 0.5', 'C1b: none → {}']
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({**before, **after}):
            place = f"{where}, {name}" if where else name
            if name in before and name in after:
                yield from differences(before[name], after[name], place)
            else:
                old, new = (_cut(rule.get(name, "none")) for rule in (before, after))
                yield f"{place}: {old} → {new}"
    elif before != after:
        yield f"{where}: {_cut(before)} → {_cut(after)}"


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def write_rule(store: Store, study: Study, profile: str, cache: ConfigCache) -> None:
    """Keep the rule of a study as it is before its first run; a kept one is never replaced. Where
    the file of a study of your own is, and what it holds, is kept as of today."""
    path = make_folder(store.root, "studies") / f"{study.name}-{profile}.json"
    place = place_of(study)
    if not path.exists():
        rule = rule_of(study, profile, cache)
        write_json(path, {"rule": rule, "written": now()} | place)
    elif study.is_own and not place.items() <= (kept := read_json(path)).items():
        write_json(path, kept | place)


def read_rule(
    store: Store, study: Study, profile: str, cache: ConfigCache | None = None
) -> KeptRule | None:
    """Return the rule that was kept before the first run and what has changed since; None where
    none was kept."""
    path = store.root / "studies" / f"{study.name}-{profile}.json"
    if not path.exists():
        return None
    kept, today = read_json(path), rule_of(study, profile, cache)
    changes = tuple(differences(kept["rule"], today)) if "rule" in kept else (UNKNOWN,)
    return KeptRule(str(kept.get("written")), changes)


def place_of(study: Study) -> dict[str, str]:
    """Return where the file of a study is, and if it is your own what it holds."""
    own = {"file_sha256": sha256_of(study.file)} if study.is_own else {}
    return {"file": study.file} | own


def sha256_of(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def started_studies(store: Store) -> tuple[list[tuple[Study, str]], dict[str, str]]:
    """Return (study, profile) of all that were started as planned, and why others are left out.

    The file of a study of your own is code, and results may be somebody else's. So it is run only
    where `check_started` finds nothing against it.
    """
    found: list[tuple[Study, str]] = []
    left_out: dict[str, str] = {}
    for path in sorted((store.root / "studies").glob("*.json")):
        name, _, profile = path.stem.rpartition("-")
        if name in study_names():
            found.append((load_study(name), profile))
            continue
        try:
            kept = read_json(path)
            found.append((load_started(store, kept), profile))
        except LabError as error:
            why = f"the study {path.stem!r:.200} is left out: {error}"
            left_out[path.stem] = f"{why}; name its file with --study=FILE"
    return found, left_out


def load_started(store: Store, kept: Mapping[str, Any]) -> Study:
    """Return the study of a place that `place_of` returned; raises ConfigError."""
    file = str(kept.get("file"))
    if file not in study_names():
        check_started(store, file, kept.get("file_sha256"))
    return load_study(file)


def check_started(store: Store, file: str, sha256: object) -> None:
    """Raise ConfigError where the file that a started study names should not be run.

    It must be a study by its text, hold what was started, lie outside of the results, and belong to
    the user.
    """
    path, name = Path(file), f"its file {file!r:.200}"
    if not sha256:
        raise ConfigError(f"{name} was started by an older normlab")
    try:
        content, owner = path.read_bytes(), path.stat().st_uid
        lines = ast.parse(content).body
    except (OSError, ValueError, SyntaxError) as error:
        raise ConfigError(f"{name} is gone, or cannot be read") from error
    if sha256 != hashlib.sha256(content).hexdigest():
        raise ConfigError(f"{name} has changed since it was started")
    names = [getattr(to, "id", "") for line in lines for to in getattr(line, "targets", ())]
    if "STUDY" not in names or path.resolve().is_relative_to(store.root.resolve()):
        raise ConfigError(f"{name} is no study outside of the results")
    if owner != os.getuid():
        raise ConfigError(f"{name} is another user's")
