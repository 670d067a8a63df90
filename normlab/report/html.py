"""The page: one HTML file that opens without a network; and what renders all pages."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from normlab.layers.table import KERNELS, Kernel
from normlab.norms.row import Norm
from normlab.norms.table import NORMS
from normlab.report.claims import (
    Statement,
    correction,
    literature_statements,
    results_of,
    statements,
)
from normlab.report.formatting import ARXIV, SYMBOLS
from normlab.report.model import StudyReport, provenance
from normlab.report.panel import panel, rows_of
from normlab.report.protocol import listed_settings, protocol_facts
from normlab.report.which_norm import EQUAL, columns_of, matrix
from normlab.shipped import as_called

TEMPLATES = Path(__file__).with_name("templates")
SCRIPT = TEMPLATES / "page.js"
COLOURS = {
    "#000000": "var(--text)",
    "#ffffff": "var(--back)",
    "#e4e4e4": "var(--rule)",
    **dict.fromkeys(("#333333", "#555555", "#6a6a6a"), "var(--quiet)"),
}
"""Colours of figures that follow the page into the dark; those of the schemes stay."""


def render(
    name: str, filters: dict[str, Callable], finalize: Callable | None = None, **facts: Any
) -> str:
    """Return a page from its template: HTML, or another format whose values `finalize` escapes."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=finalize is None,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters)
    return as_called(environment.get_template(name).render(**facts))


def cited(text: str) -> Markup:
    """Return text with its papers as links.

    >>> str(cited("see arXiv:1502.03167, <1>"))
    'see <a href="https://arxiv.org/abs/1502.03167">arXiv:1502.03167</a>, &lt;1&gt;'
    """
    link = r'<a href="https://arxiv.org/abs/\1">\g<0></a>'
    return Markup(ARXIV.sub(link, str(escape(text))))


def inline(file: Path, alt: str) -> Markup:
    """Return an SVG as a part of the page: with ids of its own and the colours of the page."""
    text = file.read_text(encoding="utf-8")
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    used, prefix = set(re.findall(r'#([\w.-]+)["\)]', svg)), hashlib.sha256(str(file).encode())
    name = f"f{prefix.hexdigest()[:6]}-"
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}", svg)
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r' width="([\d.]+)pt"', r' style="max-width: calc(\1 * 1.65px)"', svg, count=1)
    svg = re.sub(r' height="[\d.]+pt"', "", svg, count=1)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1))


def anchors(claims: Sequence[Statement]) -> list[str]:
    """Return an id for each claim: its number, and for a second sentence of it a suffix."""
    seen: Counter[str] = Counter()
    ids = []
    for claim in claims:
        seen[claim.id] += 1
        ids.append(claim.id if seen[claim.id] == 1 else f"{claim.id}-{seen[claim.id]}")
    return ids


def schemes_of(reports: Sequence[StudyReport]) -> list[tuple[str, str]]:
    """Return the schemes of these pages as (name, what they are)."""
    settings = [a.settings for r in reports for s in r.study.setups[r.profile] for a in s.arms]
    found = []
    for key, rows in (("norm.name", NORMS), ("norm.kernel", KERNELS)):
        used = {s.get(key) for s in settings} - {"none"}
        found += [(name, scheme_text(row)) for name, row in rows.items() if name in used]
    return found


def scheme_text(row: Norm | Kernel) -> str:
    """Return what a scheme is, what its statistics are taken over, and its source."""
    over = ", ".join(row.over) if isinstance(row, Norm) else ""
    return "; ".join(filter(None, [row.title, over and f"statistics over {over}", row.source]))


def html(reports: Sequence[StudyReport], others: Sequence[tuple[str, str]] = ()) -> str:
    """Return the page of the reports, with their figures inside. `others` are pages next to it, as
    (stem or empty for that of the verdicts, link)."""
    claims = statements(reports)
    counts = Counter(word for claim in claims for word in claim.words)
    script = SCRIPT.read_text(encoding="utf-8")
    return render(
        "page.html",
        {
            "cited": cited,
            "inline": inline,
            "protocol": protocol_facts,
            "settings": listed_settings,
            "matrix": matrix,
            "panel": panel,
        },
        claims=list(zip(anchors(claims), claims, strict=True)),
        correction=correction(results_of(reports)),
        counts=[(word, counts[word]) for word in SYMBOLS if word in counts],
        missing=[t for c in literature_statements(reports) for t in c.parts if not t.results],
        origin=dict(provenance(reports)),
        others=others,
        reports=reports,
        schemes=schemes_of(reports),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        symbols=SYMBOLS,
        which=columns_of(reports),
        panel_rows=rows_of(reports),
        equal_mark=EQUAL,
    )
