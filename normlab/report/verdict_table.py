"""The table of verdicts, one line each, with every number in a column of its own in CSV."""

from __future__ import annotations

from collections.abc import Iterable

from normlab.report.formatting import effect_text, p_text, sesoi_text
from normlab.report.tables import Cell, Measured, Table
from normlab.studies.decisions import Verdict

COLUMNS = (
    "test",
    "sentence",
    "net, data",
    "profile",
    "contrast",
    "effect",
    "unit",
    "coverage",
    "delta",
    "n",
    "planned n",
    "verdict",
    "p_above_zero",
    "p_below_delta",
    "holds over all tests",
)
NOTE = (
    "p_above_zero: p if the effect were 0 or less (a share: delta or more). p_below_delta: p if it "
    "were delta or more (a share: delta or less). One-sided, Holm over the study's tests, level "
    "0.025. The CSV has the effect, its interval and delta in the unit named."
)


def verdict_table(verdicts: Iterable[tuple[str, Verdict]]) -> Table:
    """Return one line for each (profile, verdict)."""
    return Table("Verdicts", COLUMNS, [_line(*told) for told in verdicts], NOTE)


def _line(profile: str, verdict: Verdict) -> tuple[Cell, ...]:
    row, (low, high) = verdict.contrast, verdict.interval
    has_p = verdict.is_decided and row.test.has_p
    coverage = f"{100 * verdict.coverage:.0f} %" if verdict.coverage else ""
    return (
        row.id,
        row.sentence,
        row.scope,
        profile,
        row.comparison,
        Measured(effect_text(verdict), {"": verdict.effect, "low": low, "high": high}),
        row.unit.name,
        Measured(coverage, {"": verdict.coverage or None}),
        Measured(sesoi_text(verdict), {"": row.sesoi}),
        verdict.n,
        row.n,
        verdict.word,
        *(
            Measured(p_text(p), {"": p}) if has_p else None
            for p in (verdict.p_above_zero, verdict.p_below_sesoi)
        ),
        {True: "yes", False: "no", None: ""}[verdict.stands_overall],
    )
