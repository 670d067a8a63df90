"""How a setup was run, in sentences: rates, seeds, evaluation, target."""

from __future__ import annotations

from normlab.studies.planning import SetupRuns, rate_of
from normlab.studies.study import FollowUp, Sweep, Tuning
from normlab.studies.units import rate_text
from normlab.training.evaluation_steps import eval_steps

GOALS = {
    "steps": "fewest steps to the target on validation",
    "error": "least error on validation",
    "train_error": "least error on the training examples",
}


def protocol_facts(e: SetupRuns) -> list[tuple[str, str]]:
    """Return (name, sentence) of everything that decides what the table means."""
    facts = [("Rates", _rates(e.setup.protocol)), ("Seeds", _seeds(e)), ("Target", _target(e))]
    facts += [("Evaluation", _evaluation(e)), ("Arms", _arms(e))]
    facts += [(f"Also: {f.name}", _follow(e, f)) for f in e.setup.follows]
    return [(name, text) for name, text in facts if text]


def _stride(protocol: Sweep) -> str:
    stride = protocol.screening_stride
    return f" Screening arms: one rate in {stride}." if stride > 1 else ""


def _rates(protocol: Tuning | Sweep) -> str:
    low, high = (rate_text(rate_of(x)) for x in (protocol.exponents[0], protocol.exponents[-1]))
    n, spacing = len(protocol.exponents), protocol.spacing
    grid = f"{n} rates from {low} to {high}, {spacing:g} decades apart"
    if isinstance(protocol, Sweep):
        return (
            f"{grid}, every one with every reporting seed; the grid grows upwards until two rates "
            f"in a row fail, by at most {protocol.extensions}.{_stride(protocol)}"
        )
    goal = GOALS[protocol.metric]
    return (
        f"{grid}; each arm takes its own best one, {goal}, a failed run counting as "
        f"the worst value. While the best rate of any arm lies on an edge, the grid grows there "
        f"for all arms of its group, by at most {protocol.extensions} on a side."
    )


def _seeds(e: SetupRuns) -> str:
    setup = e.setup
    text = f"reported: 0 to {setup.seeds - 1}"
    if any(not arm.is_primary for arm in setup.arms):
        text += f" (screening arms 0 to {setup.screening_seeds - 1})"
    if isinstance(setup.protocol, Tuning):
        tuned = setup.protocol.seeds
        text = f"tuned with {tuned[0]} to {tuned[-1]}, which are not used again; {text}"
    return f"{text[0].upper()}{text[1:]}. Arms share split, initial kernels and data order by seed."


def _target(e: SetupRuns) -> str:
    protocol = e.setup.protocol
    if isinstance(protocol, Tuning) and protocol.metric != "steps":
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


def _follow(e: SetupRuns, follow_up: FollowUp) -> str:
    arm = e.setup.arm(follow_up.arm)
    seeds = follow_up.seeds or (len(e.seeds(arm)) if arm else 0)
    times = "" if follow_up.factor == 1 else f"{follow_up.factor:g} x "
    told = ", ".join(f"{name}={value}" for name, value in follow_up.settings.items())
    text = f"{follow_up.arm} at {times}the rate of {follow_up.rate_of}, {seeds} seeds"
    return f"{text}, {told}." if told else f"{text}."
