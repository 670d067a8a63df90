"""A small study, and runs of it that were never trained: finals and curves are made up."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from normlab.runs.record import Record
from normlab.settings import Config
from normlab.studies.effects import Claim, speedup
from normlab.studies.planning import ConfigCache, SetupRuns
from normlab.studies.protocols import Edges, Tuning
from normlab.studies.setup import PAIR, Arm, FollowUp, Setup, norm_arms
from normlab.studies.study import Figure, Study
from normlab.training.evaluation_steps import eval_steps
from normlab.training.version import TRAINING_VERSION

PROVENANCE = {
    "git_commit": "0123456789ab",
    "git_dirty": False,
    "training_version": 0,
    "python": "3.11.9",
    "platform": "Linux",
    "processor": "A processor",
    "cores": 1,
    "xla_flags": "",
    "versions": {"jax": "0.10.2"},
    "device": "cpu",
    "backend": "cpu",
    "mode": "map",
    "width": 32,
    "conv": "cpu",
    "chunk": 100,
    "config_sha256": "cd" * 32,
    "data_sha256": "ab" * 32,
    "chance": 0.1,
    "chance_loss": 2.3,
    "seed": 0,
    "population": "0123456789abcdef",
    "members": 1,
    "started": "2026-11-20T10:00:00+00:00",
    "ended": "2026-11-20T10:00:01+00:00",
    "restarts": [],
    "attempts": [],
    "bit_exact": True,
    "population_seconds": 1.0,
    "compile_seconds": 0.5,
    "checkpoint_seconds": 0.0,
    "run_steps_per_second": 600.0,
    "matmul_fraction": 0.1,
    "peak_memory_mb": 400.0,
}
BEST = {"none": -1.5, "batch": -0.5, "layer": -1.0, "group": -0.75, "rms": -1.25}
"""log10 of the rate at which a made-up run of each scheme does best; others: -1.5."""


def make_up(run_id: str, config: Config) -> Record:
    """Return a run that does worse the farther its rate is from its scheme's best."""
    luck, origin = random.Random(run_id), PROVENANCE | {"training_version": TRAINING_VERSION}
    best = BEST.get(config["norm.name"], -1.5)
    away = math.log10(config["optim.lr"]) - best
    stats = config["norm.stats_batch"] or config["data.batch"]
    error = 0.02 + 0.02 * away**2 + (0.06 / stats if config["norm.name"] == "batch" else 0)
    error += luck.gauss(0, 0.004)
    modes = ["", "running_"] if config["norm.name"] == "batch" else [""]
    if away > 1.2:
        error = 0.9
    steps = eval_steps(
        config["train.steps"], config["train.eval_every"], config["train.eval_growth"]
    )
    speed = 10 * 1.6 ** abs(away) * 2.0 ** -(best + 1.5) * math.exp(luck.gauss(0, 0.1))
    curve = [_row(step, error, speed, modes) for step in steps]
    if away > 2:
        curve = curve[: len(curve) // 3]
        return Record(run_id, config, "diverged", {}, curve, steps[0], 0.5, origin)
    final = {f"{m}{s}_accuracy": 1 - error for m in modes for s in ("validation", "test")}
    return Record(run_id, config, "trained", final, curve, None, 0.5, origin)


def _row(step: int, error: float, speed: float, modes: list[str]) -> dict[str, float]:
    row = {"step": step, "train_loss": math.exp(-step / speed)}
    for mode in modes:
        slow = 2 if mode else 1
        row[f"{mode}accuracy"] = 0.1 + (0.9 - error) * (1 - math.exp(-step / (3 * slow * speed)))
    return row


def runs_for(studies: list[Study], profile: str) -> dict[str, Record]:
    """Return made-up runs for everything the studies ask for, stage after stage."""
    records: dict[str, Record] = {}
    cache = ConfigCache()
    for setup in (setup for study in studies for setup in study.setups[profile]):
        while not (runs := SetupRuns(setup, records, cache)).is_complete:
            missing = [w for name, w in runs.wanted.items() if name not in records]
            records |= {w.run_id: make_up(w.run_id, w.config) for w in missing}
    return records


NASTY = '<script>alert(1)</script> | $x$ =cmd() "><img src=x onerror=alert(1)>'
STEPS = Setup(
    name="steps",
    title="MLP, steps",
    base="digits_mlp",
    settings={"train.steps": 300, "train.eval_every": 5, "train.eval_growth": 1.1},
    arms=norm_arms(*PAIR, "group", primary=PAIR),
    protocol=Tuning((-2.0, -1.5, -1.0, -0.5), 0.5, "steps"),
    seeds=6,
    screening_seeds=3,
    target=0.9,
    follows=(FollowUp("batch at none's rate", "batch", "none", seeds=4),),
)
LEVELS = replace(
    STEPS,
    name="levels",
    title="MLP, levels",
    arms=(
        *(
            Arm(f"batch/{b}", {"norm.stats_batch": b}, b != 16, float(b), "batch norm")
            for b in (4, 16, 64)
        ),
        Arm("none", {"norm.name": "none"}),
    ),
    protocol=Tuning((-1.5, -1.0, -0.5), 0.5, "error"),
    follows=(),
)
RATES = replace(
    STEPS, name="rates", title="MLP, rates", protocol=Edges((-2.0, -1.0, 0.0), 1.0), follows=()
)
FIGURES = (
    Figure("curves", "steps", f"{NASTY} curves."),
    Figure("levels", "levels", f"{NASTY} levels."),
    Figure("rates", "rates", f"{NASTY} rates."),
)


FASTER = Claim(
    "C1a",
    f"Faster {NASTY}",
    "steps",
    replace(speedup("none", "batch"), comparison="log2 ratio"),
    sesoi=0.3,
    looks=(6,),
    scope="a multilayer perceptron with a name that is longer than a terminal is wide",
)
CLAIMS = (FASTER, replace(FASTER, id="C1b", sesoi=99.0), replace(FASTER, id="C1c", looks=(7,)))
TEXTS = ("title", "fair_test", "expect", "refuted_if", "cost")

STUDY = Study(
    name="made_up",
    question=f"{NASTY}?",
    source="https://example.org/paper",
    **dict.fromkeys(TEXTS, NASTY),
    setups={"quick": (STEPS, LEVELS, RATES)},
    claims=CLAIMS,
    figures=FIGURES,
)
