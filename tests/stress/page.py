"""A campaign as a section of docs/reliability.md."""

from __future__ import annotations

from benchmarks.runner import machine
from stress.campaign import Report


def section(name: str, report: Report, seed: int, scale: str) -> str:
    """Return what a campaign measured, and every broken promise, as Markdown."""
    word = "kept" if report.has_passed else f"**{len(report.failures)} times broken**"
    figures = "; ".join(f"{what}: {figure}" for what, figure in report.figures.items())
    title = f"{report.title[:1].upper()}{report.title[1:]}"
    lines = [
        f"**{title}** (`{name}`). Goal: {report.goal}. Promise {word}.",
        f"Measured: {figures}.",
        f"{machine(['numpy', 'safetensors', 'filelock'])} Seed {seed}, `--scale={scale}`.",
    ]
    return "\n\n".join([*lines, *(f"- {failure}" for failure in report.failures)])
