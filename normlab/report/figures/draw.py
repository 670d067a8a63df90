"""Figures of a study's setups, by kind. SVG and PDF, without dates in them."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure as Drawing

from normlab.report.figures.curves import draw_curves, draw_rates
from normlab.report.figures.diagnostics import draw_layers, draw_percentiles, draw_probe
from normlab.report.figures.dose_response import draw_levels
from normlab.report.figures.style import STEPS, STYLE, WIDTH
from normlab.runs.files import write_atomic
from normlab.studies.planning import SetupRuns
from normlab.studies.study import Figure


class FigureKind(NamedTuple):
    """How figures of one kind are drawn and read."""

    draw: Callable[[Drawing, Figure, SetupRuns], bool]
    """Draws, and returns whether there was anything to draw."""
    reading: str
    """What its lines, bands and points are."""
    height: float = 3.2
    """Inches."""


KINDS = {
    "curves": FigureKind(
        draw_curves, "Lines: mean over n seeds; bands: 95 % percentile bootstrap of that mean."
    ),
    "rates": FigureKind(
        draw_rates,
        "Lines: mean over n seeds; bands: least to largest. Below: share of failed runs.",
        height=3.9,
    ),
    "levels": FigureKind(
        draw_levels,
        "Points: mean over n seeds with 95 % t interval. Dashed, with the interval at the right: "
        "an arm without that setting.",
    ),
    "probe": FigureKind(draw_probe, "Lines: median over n seeds; bands: 25th to 75th percentile."),
    "layers": FigureKind(
        draw_layers, "Points: median over n seeds; bands: 25th to 75th percentile.", height=2.9
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
        drawing = Drawing(figsize=(WIDTH, kind.height), layout="constrained")
        return drawing if kind.draw(drawing, figure, e) else None


def save(drawing: Drawing, path: Path) -> Path:
    """Write path.svg and path.pdf, without dates in them; return the SVG."""
    name_lines(drawing)
    for kind, date in (("pdf", "CreationDate"), ("svg", "Date")):
        content = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            drawing.savefig(content, format=kind, metadata={date: None})
            drawing.set_layout_engine("none")  # the places stay: finding them takes a third
        text = content.getvalue()
        if kind == "svg":
            text = with_scales(text.decode(), drawing).encode()
        write_atomic(path.with_name(f"{path.name}.{kind}"), text)
    return path.with_name(f"{path.name}.svg")


def name_lines(drawing: Drawing) -> None:
    """Give each line with a name an id that says its axes and its name."""
    for i, ax in enumerate(drawing.axes):
        names = {line: str(line.get_label()) for line in ax.get_lines()}
        bars = [c for c in ax.containers if isinstance(c, ErrorbarContainer)]
        names |= {bar.lines[0]: str(bar.get_label()) for bar in bars}
        for line, name in names.items():
            if not name.startswith("_"):
                line.set_gid(f"line {i} {name.replace(chr(10), ', ')}")


def with_scales(svg: str, drawing: Drawing) -> str:
    """Return the SVG with what it takes to read values from it.

    Each axes gives its box and the ends of both scales, of a logarithmic one as logarithms. Each
    line gives its axes and its name.
    """
    width, height = 72 * drawing.get_size_inches()
    scales = []
    for ax in drawing.axes:
        box, ends = ax.get_position(), []
        for limits, scale in ((ax.get_xlim(), ax.get_xscale()), (ax.get_ylim(), ax.get_yscale())):
            is_log = scale == "log"
            ends.append([*(math.log10(v) if is_log else v for v in limits), int(is_log)])
        places = [box.x0 * width, (1 - box.y0) * height, box.x1 * width, (1 - box.y1) * height]
        scales.append([*places, *ends, ax.get_xlabel() == STEPS])
    svg = re.sub(r'id="line (\d+) ([^"]*)"', r'data-axes="\1" data-name="\2"', svg)
    return svg.replace("<svg ", f"<svg data-scales='{json.dumps(scales)}' ", 1)
