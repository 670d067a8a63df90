"""The page: one HTML file that opens without a network; and what renders all pages."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from normlab.report.claims import correction, literature_statements, results_of, statements
from normlab.report.formatting import SYMBOLS
from normlab.report.model import StudyReport
from normlab.report.panel import panel, rows_of
from normlab.report.protocol import listed_settings, protocol_facts
from normlab.report.which_norm import EQUAL, columns_of, matrix


def render(
    name: str, filters: dict[str, Callable], finalize: Callable | None = None, **facts: Any
) -> str:
    """Return a page from its template: HTML, or another format whose values `finalize` escapes."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=finalize is None,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name).render(**facts)


def html(reports: Sequence[StudyReport]) -> str:
    """Return the page of the reports, with their figures inside."""
    claims = statements(reports)
    counts = Counter(word for claim in claims for word in claim.words)
    return render(
        "page.html",
        {
            "base64": lambda svg: base64.b64encode(svg.read_bytes()).decode("ascii"),
            "protocol": protocol_facts,
            "settings": listed_settings,
            "matrix": matrix,
            "panel": panel,
        },
        claims=claims,
        correction=correction(results_of(reports)),
        counts=[(word, counts[word]) for word in SYMBOLS if word in counts],
        missing=[t for c in literature_statements(reports) for t in c.parts if not t.results],
        reports=reports,
        symbols=SYMBOLS,
        which=columns_of(reports),
        panel_rows=rows_of(reports),
        equal_mark=EQUAL,
    )
