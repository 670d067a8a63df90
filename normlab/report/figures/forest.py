"""The figure of a study's paired effects: one small panel for each contrast of its rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from normlab.report.figures.style import LINE, STYLE, WIDTH, panels_of, wrapped
from normlab.report.formatting import n_text, notes_of, with_symbol
from normlab.studies.decisions import Verdict
from normlab.studies.intervals import PERCENTILE

READING = "Dots: one seed each; diamonds: the centre with its 99 % interval, which decides."
ACROSS = 3
"""Most panels side by side."""
PANEL = (WIDTH / ACROSS, 2.2)
"""Inches of a panel."""
CENTRE_AT, PAIR_AT = 0.68, (-0.28, 0.18)
"""Where the centre is drawn, and the two sets of dots where effects are pairs of values."""
GREY = "#6a6a6a"
DOT: dict[str, Any] = {"marker": "o", "color": GREY, "markersize": 3.6, "alpha": 0.75, "ls": "none"}
FIRST: dict[str, Any] = DOT | {"markerfacecolor": "none"}
CENTRE: dict[str, Any] = {"marker": "D", "color": "#000000", "markersize": 4.5, "lw": 1.6}
AT_LEAST: dict[str, Any] = CENTRE | {"marker": "^", "ls": "none"}
NO_EFFECT: dict[str, Any] = {"color": "#333333", "lw": 0.9, "ls": (0, (5, 2))}
LIMIT: dict[str, Any] = {"color": "#333333", "lw": 1.3, "ls": (0, (1, 1.4))}
GOLDEN = 0.618034
TITLE_WIDTH, UNIT_WIDTH = 19, 26


def draw_effects(verdicts: Sequence[Verdict]) -> Drawing | None:
    """Return the figure of the contrasts with 2 or more effects; None where none has."""
    shown = [v for v in verdicts if len(v.contrast.effects) >= 2]
    if not shown:
        return None
    across, down = min(ACROSS, len(shown)), -(-len(shown) // ACROSS)
    with matplotlib.rc_context(STYLE):
        size = (max(3.7, across * PANEL[0]), down * PANEL[1])
        drawing = Drawing(figsize=size, layout="constrained")
        for ax, verdict in zip(panels_of(drawing, len(shown), ACROSS), shown, strict=True):
            draw_contrast(ax, verdict)
        _draw_legend(drawing, shown, columns=2 if across == ACROSS else 1)
    return drawing


def effects_of(verdict: Verdict) -> np.ndarray:
    """Return the effects [n, 1], [n, 2] where they are pairs, in the order of the seeds."""
    effects = [effect for _, effect in sorted(verdict.contrast.effects.items())]
    return np.array(effects, float).reshape(
        len(effects), 2 if verdict.contrast.estimator.has_pairs else 1
    )


def draw_contrast(ax: Axes, verdict: Verdict) -> None:
    """Draw the effects of a contrast, their centre and interval, 0 and the smallest effect."""
    contrast, test = verdict.contrast, verdict.contrast.estimator
    scale = contrast.unit.scale
    sets = scale * effects_of(verdict)
    base = float(np.percentile(sets[:, 1], PERCENTILE)) if test.has_pairs else 0.0
    limit, found = base + scale * contrast.sesoi, verdict.estimate
    centre, *interval = (base + scale * v for v in (found.centre, *found.interval))
    dots = sets if test.shows_seeds else sets[:, :0]
    shown = [limit, base] if test.is_difference else [limit]
    known = np.array([*dots.flat, centre, *interval, *shown])
    known = known[np.isfinite(known)]
    room = 0.1 * (np.ptp(known) or abs(known.max()) or 1.0)
    ax.set_ylim(known.min() - room, known.max() + room)
    ax.axhline(limit, **LIMIT, zorder=1)
    if test.is_difference:
        ax.axhline(base, **NO_EFFECT, zorder=1)
    places = zip(PAIR_AT, (FIRST, DOT), strict=True) if test.has_pairs else [(0.0, DOT)]
    for (at, style), values in zip(places, dots.T, strict=False):
        spread = 0.3 if test.has_pairs else 0.5
        beside = spread * ((np.arange(len(values)) * GOLDEN + 0.5) % 1 - 0.5)
        ax.plot(at + beside, values, label="one seed", **style)
    ax.plot([CENTRE_AT] * 2, interval, color=CENTRE["color"], lw=CENTRE["lw"])
    ax.plot(CENTRE_AT, centre, label="centre", **CENTRE)
    if contrast.is_lower_bound:
        ax.plot(CENTRE_AT, interval[1], **AT_LEAST)
    ax.set_xlim(-0.6, 0.95)
    ax.set_xticks([])
    ax.set_ylabel(wrapped(contrast.unit.axis_label, UNIT_WIDTH))
    title = "\n".join([contrast.id, ", ".join([with_symbol(verdict.word), *notes_of(verdict)])])
    ax.set_title(f"{wrapped(title, TITLE_WIDTH)}\nn = {n_text(verdict)}", fontsize=8.5, pad=8)


def _draw_legend(drawing: Drawing, verdicts: Sequence[Verdict], columns: int) -> None:
    """Say below the panels what is drawn in them, and nothing else."""
    tests = [v.contrast.estimator for v in verdicts]
    has_pairs, has_limits = any(t.has_pairs for t in tests), any(not t.is_difference for t in tests)
    second = " (pairs: 90th percentile of the second)" if has_pairs else ""
    entries: list[tuple[bool, str, dict[str, Any]]] = [
        (any(t.shows_seeds and not t.has_pairs for t in tests), "one seed", DOT),
        (has_pairs, "one seed, first of a pair", FIRST),
        (has_pairs, "one seed, second of a pair", DOT),
        (True, "centre with its 99 % interval", CENTRE),
        (any(v.contrast.is_lower_bound for v in verdicts), "true effect at least this", AT_LEAST),
        (any(t.is_difference for t in tests), f"no effect{second}", NO_EFFECT),
        (True, f"smallest effect of interest{', or limit' if has_limits else ''}", LIMIT),
    ]
    shown = [(wrapped(name), style) for is_used, name, style in entries if is_used]
    handles = [Line2D([], [], label=name, **style) for name, style in shown]
    lines = -(-sum(name.count("\n") + 1 for name, _ in shown) // columns) + 1
    drawing.set_figheight(drawing.get_figheight() + LINE * lines)
    drawing.legend(handles=handles, loc="outside lower center", ncols=columns)
