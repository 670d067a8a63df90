"""How a setup was run, in sentences: rates, seeds, evaluation, target."""

from __future__ import annotations

from normlab.studies.planning import SetupRuns
from normlab.studies.setup import FollowUp
from normlab.training.evaluation_steps import eval_steps


def protocol_facts(e: SetupRuns) -> list[tuple[str, str]]:
    """Return (name, sentence) of everything that decides what the table means."""
    facts = [("Rates", e.setup.protocol.rates_text()), ("Seeds", _seeds(e)), ("Target", _target(e))]
    facts += [("Evaluation", _evaluation(e)), ("Arms", _arms(e))]
    facts += [(f"Also: {f.name}", f.text(_seeds_of(e, f))) for f in e.setup.follows]
    return [(name, text) for name, text in facts if text]


def _seeds(e: SetupRuns) -> str:
    setup = e.setup
    text = f"reported: 0 to {setup.seeds - 1}"
    if any(not arm.is_primary for arm in setup.arms):
        text += f" (screening arms 0 to {setup.screening_seeds - 1})"
    if seeds := setup.protocol.seeds:
        text = f"tuned with {seeds[0]} to {seeds[-1]}, which are not used again; {text}"
    return f"{text[0].upper()}{text[1:]}. Arms share split, initial kernels and data order by seed."


def _target(e: SetupRuns) -> str:
    if not e.setup.protocol.has_target:
        return ""
    return f"{100 * e.setup.target:g} % of the validation examples."


def _evaluation(e: SetupRuns) -> str:
    config = next(iter(e.wanted.values())).config
    points = eval_steps(
        config["train.steps"], config["train.eval_every"], config["train.eval_growth"]
    )
    times = "once, at the end" if len(points) == 1 else f"{len(points)} times, first at {points[0]}"
    text = (
        f"{config['train.steps']} steps, evaluated {times}, on at most "
        f"{config['eval.curve_examples']} validation examples; whole splits at the end."
    )
    momenta = sorted({w.config["norm.momentum"] for w in e.wanted.values() if _has_running(w)})
    if momenta:
        examples = {w.config["eval.stats_examples"] for w in e.wanted.values() if _has_running(w)}
        text += (
            f" Batch statistics are re-estimated on {max(examples)} training examples first; "
            f"running averages (momentum {', '.join(map(str, momenta))}) are secondary."
        )
    return text


def _has_running(wanted) -> bool:
    from normlab.norms.table import NORMS

    row = NORMS.get(wanted.config["norm.name"])
    return row is not None and row.running_statistics


def _arms(e: SetupRuns) -> str:
    primary = [arm.name for arm in e.setup.arms if arm.is_primary]
    others = [arm.name for arm in e.setup.arms if not arm.is_primary]
    text = f"Primary: {', '.join(primary)}."
    return text + (f" Screening, no verdict: {', '.join(others)}." if others else "")


def _seeds_of(e: SetupRuns, follow_up: FollowUp) -> range:
    arm = e.setup.arm(follow_up.arm)
    return e.setup.seeds_of(arm) if arm else range(0)
