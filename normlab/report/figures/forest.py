"""The figure of a study's paired effects: one small panel for each row of its rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from normlab.report.figures.style import STYLE, wrapped
from normlab.report.formatting import n_text, with_symbol
from normlab.studies.decisions import Verdict
from normlab.studies.hypothesis_tests import PERCENTILE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

READING = "Dots: one seed each; diamonds: mean or median with its interval."
ACROSS = 4
"""Most panels side by side."""
PANEL, LETTER, LINE = (1.85, 2.2), 0.066, 0.18
"""Inches of a panel, and of a letter and a line of the legend."""
CENTRE_AT, PAIR_AT = 0.68, (-0.28, 0.18)
"""Where the centre stands beside the dots; where the two sets of a tail row do."""
DOT: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "color": "#6a6a6a",
    "markersize": 3.6,
    "alpha": 0.75,
}
PAIR_FACES = ("none", "#6a6a6a")
CENTRE: dict[str, Any] = {"color": "#000000", "marker": "D", "markersize": 4.5, "lw": 1.6}
NO_EFFECT: dict[str, Any] = {"color": "#333333", "lw": 0.9, "ls": (0, (5, 2))}
LIMIT: dict[str, Any] = {"color": "#333333", "lw": 1.3, "ls": (0, (1, 1.4))}
GOLDEN = 0.618034
TITLE_WIDTH, UNIT_WIDTH = 24, 26


def draw_effects(verdicts: Sequence[Verdict]) -> Drawing | None:
    """Return the figure of the rows with 2 or more finite effects, or None where there is none."""
    import matplotlib
    from matplotlib.figure import Figure as Drawing

    shown = [v for v in verdicts if finite_count(v) >= 2]
    if not shown:
        return None
    across = min(ACROSS, len(shown))
    down = -(-len(shown) // across)
    with matplotlib.rc_context(STYLE):
        size = (max(3.7, across * PANEL[0]), down * PANEL[1])
        drawing = Drawing(figsize=size, layout="constrained")
        panels = list(drawing.subplots(down, across, squeeze=False).flat)
        for ax, verdict in zip(panels, shown, strict=False):
            draw_row(ax, verdict)
        for ax in panels[len(shown) :]:
            ax.set_axis_off()
        _draw_legend(drawing, shown)
    return drawing


def finite_count(verdict: Verdict) -> int:
    """Return how many seeds have a finite effect, of a tail row two."""
    effects = _effects(verdict)
    return int(np.isfinite(effects).all(axis=1).sum()) if effects.size else 0


def _effects(verdict: Verdict) -> np.ndarray:
    """Return the effects [n, 1], of a tail row [n, 2], in the order of the seeds."""
    effects = verdict.contrast.effects
    return np.array([np.atleast_1d(effects[seed]) for seed in sorted(effects)], float)


def draw_row(ax: Axes, verdict: Verdict) -> None:
    """Draw one row: its effects, their centre and interval, 0 and the smallest effect."""
    row = verdict.contrast
    scale, test = row.unit.scale, row.test
    sets = scale * _effects(verdict)
    base = float(np.percentile(sets[:, 1], PERCENTILE)) if test.has_pairs else 0.0
    limits = [base + scale * limit for limit in test.limits or (row.sesoi,)]
    centre, low, high = (base + scale * v for v in (verdict.effect, *verdict.interval))
    dots = sets if test.shows_seeds else np.empty((len(sets), 0))
    _set_limits(ax, np.array([*dots.ravel(), centre, low, high, *limits, base]))
    edges = [(limit, LIMIT) for limit in limits]
    edges += [(base, NO_EFFECT)] if test.is_difference else []
    for at, style in edges:
        if np.isfinite(at):
            ax.axhline(at, **style, zorder=1)
    places, faces = (PAIR_AT, PAIR_FACES) if test.has_pairs else ((0.0,), (DOT["color"],))
    for at, values, face in zip(places, dots.T, faces, strict=False):
        _draw_dots(ax, at, values, face)
    _draw_centre(ax, centre, (low, high))
    ax.set_xlim(-0.6, 0.95)
    ax.set_xticks([])
    ax.set_ylabel(wrapped(row.unit.axis_label, UNIT_WIDTH))
    word = wrapped(with_symbol(verdict.word), TITLE_WIDTH)
    ax.set_title(
        f"{wrapped(row.id, TITLE_WIDTH)}\n{word}\nn = {n_text(verdict)}", fontsize=8, pad=8
    )


def _set_limits(ax: Axes, values: np.ndarray) -> None:
    """Make room for all finite values; the edges stand for the infinite ones."""
    known = values[np.isfinite(values)]
    low, high = float(known.min()), float(known.max())
    room = 0.1 * ((high - low) or abs(high) or 1.0)
    ax.set_ylim(low - room, high + room)


def _draw_dots(ax: Axes, at: float, values: np.ndarray, face: str) -> None:
    """Draw values side by side, spread by the golden section; infinite ones as arrows at the
    edges."""
    spread = 0.5 if at == 0 else 0.3
    places = at + spread * ((np.arange(len(values)) * GOLDEN + 0.5) % 1 - 0.5)
    style: dict[str, Any] = DOT | {"markerfacecolor": face}
    _draw_arrows(ax, places, values, style | {"markersize": 5})
    shown = np.isfinite(values)
    ax.plot(places[shown], values[shown], **style)


def _draw_arrows(ax: Axes, places: np.ndarray, values: np.ndarray, style: dict[str, Any]) -> None:
    """Draw infinite values as arrows at the edge that they lie beyond."""
    for edge, beyond, marker in zip(ax.get_ylim(), (-np.inf, np.inf), "v^", strict=True):
        out = values == beyond
        if out.any():
            arrow: dict[str, Any] = style | {"marker": marker, "clip_on": False}
            ax.plot(places[out], np.full(out.sum(), edge), **arrow)


def _draw_centre(ax: Axes, centre: float, interval: tuple[float, float]) -> None:
    """Draw the centre with its interval beside the dots."""
    ax.plot([CENTRE_AT] * 2, np.clip(interval, *ax.get_ylim()), color=CENTRE["color"], lw=1.6)
    bare: dict[str, Any] = CENTRE | {"linestyle": "none"}
    places, values = np.full(3, CENTRE_AT), np.array([centre, *interval])
    _draw_arrows(ax, places, values, bare | {"markersize": 6})
    if np.isfinite(centre):
        ax.plot([CENTRE_AT], [centre], **bare)


def _draw_legend(drawing: Drawing, verdicts: Sequence[Verdict]) -> None:
    """Say below the panels what is drawn in them, and nothing else."""
    from matplotlib.lines import Line2D

    tests = [v.contrast.test for v in verdicts]
    has_pairs, has_limits = any(t.has_pairs for t in tests), any(not t.is_difference for t in tests)
    second = " (pairs: 90th percentile of the second)" if has_pairs else ""
    limit = ", or limit" if has_limits else ""
    said: list[tuple[bool, str, dict[str, Any]]] = [
        (any(t.shows_seeds and not t.has_pairs for t in tests), "one seed", DOT),
        (has_pairs, "one seed, first of a pair", DOT | {"markerfacecolor": PAIR_FACES[0]}),
        (has_pairs, "one seed, second of a pair", DOT),
        (True, "centre with its interval", CENTRE),
        (any(t.is_difference for t in tests), f"no effect{second}", NO_EFFECT),
        (True, f"smallest effect of interest{limit}", LIMIT),
    ]
    handles = [Line2D([], [], label=name, **style) for is_used, name, style in said if is_used]
    width = 0.6 + LETTER * max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, int(drawing.get_figwidth() / width))
    lines = -(-len(handles) // columns)
    drawing.set_figheight(drawing.get_figheight() + 0.15 + LINE * lines)
    drawing.legend(handles=handles, loc="outside lower center", ncols=columns)
