"""The campaigns as a section of docs/reliability.md."""

from __future__ import annotations

from collections.abc import Mapping

from normlab.bench.page import Table, machine
from normlab.torture.campaign import Report


def section(reports: Mapping[str, Report], seed: int, scale: str) -> str:
    """Return a Markdown table of what every campaign measured, and every broken promise."""
    rows = []
    for name, report in reports.items():
        figures = "; ".join(f"{what}: {figure}" for what, figure in report.figures.items())
        verdict = "kept" if report.has_passed else f"**{len(report.failures)} broken**"
        rows.append([f"`{name}`", report.title, report.goal, figures, verdict])
    table = Table(
        "What was measured",
        ("campaign", "what is done", "goal", "measured", "promise"),
        rows,
        f"{machine(['numpy', 'safetensors', 'filelock'])} Seed {seed}, `--scale={scale}`.",
    )
    failures = [f"- `{n}`: {line}" for n, report in reports.items() for line in report.failures]
    return "\n".join([table.markdown(), *([""] if failures else []), *failures])
