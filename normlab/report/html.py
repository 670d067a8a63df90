"""The page: one HTML file that opens without a network."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence

from normlab.report.claims import literature_statements, statements
from normlab.report.formatting import SYMBOLS
from normlab.report.model import StudyReport
from normlab.report.protocol import listed_settings, protocol_facts
from normlab.report.templates import render


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
        },
        claims=claims,
        counts=[(word, counts[word]) for word in SYMBOLS if word in counts],
        missing=[t for c in literature_statements(reports) for t in c.parts if not t.results],
        reports=reports,
        symbols=SYMBOLS,
    )
