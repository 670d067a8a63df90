"""How a setup was run: rates, seeds, evaluation and target in sentences, and all settings."""

from __future__ import annotations

from normlab.norms.table import NORMS
from normlab.settings import SETTINGS
from normlab.studies.planning import SetupRuns
from normlab.training.evaluation_steps import eval_steps

LONGEST_LIST = 12
"""Values of a setting that are listed; of more, the first and the last."""
SettingLine = tuple[str, str, str]
"""Name, value or values, and why they are what they are."""


def protocol_facts(e: SetupRuns) -> list[tuple[str, str]]:
    """Return (name, sentence) of everything that decides what the table means."""
    setup, protocol = e.setup, e.setup.protocol
    primary = ", ".join(arm.name for arm in setup.arms if arm.is_primary)
    others = ", ".join(arm.name for arm in setup.arms if not arm.is_primary)
    tuning, seeds = protocol.seeds, f"reported: {setup.seeds} from {setup.first_seed} on"
    if others:
        seeds += f" (screening arms: {setup.screening_seeds})"
    if tuning:
        seeds = f"tuned with {tuning[0]} to {tuning[-1]}, which are not used again; {seeds}"
    shared = "Arms share split, initial kernels and data order by seed."
    if setup.data_orders:
        shared = (
            f"A seed draws the initial weights; {setup.data_orders} splits and data orders take "
            "turns. Arms share all of it by seed."
        )
    target = f"{100 * setup.target:g} % of the validation examples." if protocol.has_target else ""
    screened = f" Screening, no verdict: {others}." if others else ""
    facts = [
        ("Rates", protocol.rates_text()),
        ("Tuned with the rate", _also(e)),
        ("Seeds", f"{seeds[0].upper()}{seeds[1:]}. {shared}"),
        ("Target", target),
        ("Evaluation", _evaluation(e)),
        ("Arms", f"Primary: {primary}.{screened}"),
    ]
    for follow_up in setup.follows:
        arm = setup.arm(follow_up.arm)
        text = follow_up.text(setup.seeds_of(arm) if arm else range(0))
        facts.append((f"Also: {follow_up.name}", text))
    return [(name, text) for name, text in facts if text]


def _also(e: SetupRuns) -> str:
    """Return which further settings were tuned and what each arm took; empty: none were."""
    also = e.setup.protocol.also
    if not also:
        return ""
    values = "; ".join(f"{name} of {', '.join(map(str, tried))}" for name, tried in also)
    found = []
    for arm in (arm.name for arm in e.setup.arms if arm.name in e.best):
        edges = [n for n, tried in also if e.also[arm][n] in (tried[0], tried[-1])]
        taken = ", ".join(f"{name}={value}" for name, value in e.also[arm].items())
        found.append(f"{arm} {taken}" + (f" ({', '.join(edges)} at the edge)" if edges else ""))
    text = f"{values}, in every combination with the whole grid of rates, on validation."
    return f"{text} Taken: {'; '.join(found)}." if found else text


def _evaluation(e: SetupRuns) -> str:
    configs = [wanted.config for wanted in e.wanted.values()]
    first = configs[0]
    steps = first["train.steps"]
    own = {w.config["train.steps"] for w in e.wanted.values() if not w.stage.startswith("follow")}
    others = ", ".join(map(str, sorted(own - {steps})))
    points = eval_steps(steps, first["train.eval_every"], first["train.eval_growth"])
    times = "once, at the end" if len(points) == 1 else f"{len(points)} times, first at {points[0]}"
    text = (
        f"{steps} steps{f' (some arms: {others})' if others else ''}, evaluated {times}, on at "
        f"most {first['eval.curve_examples']} validation examples; whole splits at the end."
    )
    rows = [(NORMS.get(config["norm.name"]), config) for config in configs]
    running = [config for row, config in rows if row and row.running_statistics]
    if running:
        momenta = sorted({config["norm.momentum"] for config in running})
        text += (
            f" Batch statistics are re-estimated on "
            f"{max(config['eval.stats_examples'] for config in running)} training examples first; "
            f"running averages (momentum {', '.join(map(str, momenta))}) are secondary."
        )
    return text


def listed_settings(e: SetupRuns) -> dict[str, list[SettingLine]]:
    """Return heading -> settings on which the runs differ, and those that they share.

    Settings that only say how runs are carried out are left out.
    """
    varied: list[SettingLine] = []
    shared: list[SettingLine] = []
    for name, setting in SETTINGS.items():
        found = {wanted.config[name] for wanted in e.wanted.values()}
        values = sorted(found, key=lambda v: (str(type(v)), v))
        text = ", ".join(map(str, values))
        if len(values) > LONGEST_LIST:
            text = f"{values[0]} to {values[-1]}, {len(values)} values"
        if setting.kind != "execution" and values:
            (shared if len(values) == 1 else varied).append((name, text, setting.why))
    return {"Settings that differ between runs": varied, "Settings that all runs share": shared}
