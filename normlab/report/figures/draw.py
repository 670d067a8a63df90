"""Figures of a study's setups, by kind. SVG and PDF, without dates in them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure as Drawing

from normlab.report.figures.curves import draw_curves, draw_rates
from normlab.report.figures.diagnostics import draw_layers, draw_percentiles, draw_probe
from normlab.report.figures.dose_response import draw_levels
from normlab.report.figures.style import STYLE
from normlab.runs.files import write_atomic
from normlab.studies.planning import SetupRuns
from normlab.studies.study import Figure


class FigureKind(NamedTuple):
    """How figures of one kind are drawn and read."""

    draw: Callable[[Drawing, Figure, SetupRuns], bool]
    """Draws, and returns whether there was anything to draw."""
    reading: str
    """What its lines, bands and points are."""
    height: float = 3.7
    """Inches."""


KINDS = {
    "curves": FigureKind(
        draw_curves, "Lines: mean over n seeds; bands: 95 % percentile bootstrap of that mean."
    ),
    "rates": FigureKind(
        draw_rates,
        "Lines: mean over n seeds; bands: least to largest. Below: share of failed runs.",
        height=4.4,
    ),
    "levels": FigureKind(
        draw_levels,
        "Points: mean over n seeds with 95 % t interval; dashed: arms without that setting.",
    ),
    "probe": FigureKind(draw_probe, "Lines: median over n seeds; bands: 25th to 75th percentile."),
    "layers": FigureKind(
        draw_layers, "Points: median over n seeds; bands: 25th to 75th percentile.", height=3.3
    ),
    "percentiles": FigureKind(
        draw_percentiles,
        "Lines: percentiles of the values within a network, median over n seeds.",
    ),
}


def draw(figure: Figure, e: SetupRuns) -> Drawing | None:
    """Return the figure of a setup, or None while there is no run to draw."""
    kind = KINDS[figure.kind]
    with matplotlib.rc_context(STYLE):
        drawing = Drawing(figsize=(7.4, kind.height), layout="constrained")
        return drawing if kind.draw(drawing, figure, e) else None


def save(drawing: Drawing, path: Path) -> Path:
    """Write path.svg and path.pdf, without dates in them; return the SVG."""
    for kind, date in (("pdf", "CreationDate"), ("svg", "Date")):
        content = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            drawing.savefig(content, format=kind, metadata={date: None})
        write_atomic(path.with_name(f"{path.name}.{kind}"), content.getvalue())
    return path.with_name(f"{path.name}.svg")
