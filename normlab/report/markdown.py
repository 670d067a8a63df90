"""The table of claims: every test of the literature's table, with its verdict and its sources."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from normlab.report.claims import Statement, correction, literature_statements
from normlab.report.formatting import ARXIV
from normlab.report.html import render
from normlab.report.model import StudyReport, provenance
from normlab.report.panel import panel, rows_of
from normlab.report.tables import Markdown, markdown_text
from normlab.report.which_norm import columns_of, matrix
from normlab.runs.errors import StorageError
from normlab.runs.files import write_atomic
from normlab.shipped import ROOT
from normlab.studies.study import Study


def cited(text: str) -> Markdown:
    """Return text with its papers as links.

    >>> cited("see arXiv:1502.03167")
    'see [arXiv:1502.03167](https://arxiv.org/abs/1502.03167)'
    """
    link = r"[\g<0>](https://arxiv.org/abs/\1)"
    return Markdown(ARXIV.sub(link, markdown_text(text)))


def study_link(study: Study, folder: Path) -> Markdown:
    """Return a study's name, as a link where the page lies in the same repository."""
    name, file = markdown_text(study.name), ROOT / "experiments" / f"{study.name}.py"
    if not file.is_file() or not folder.resolve().is_relative_to(ROOT):
        return Markdown(name)
    return Markdown(f"[{name}]({quote(os.path.relpath(file, folder.resolve()))})")


def pictures_of(test: Statement) -> list[tuple[Path, str]]:
    """Return the figures of a test as (file, caption), each once."""
    pictures = [p for r in test.results for p in r.report.pictures_of(r.contrast.setup)]
    return list(dict.fromkeys((picture.svg, picture.caption) for picture in pictures))


def claims_page(claims: Sequence[Statement], reports: Sequence[StudyReport], path: Path) -> str:
    """Return the page that lies at `path`, with its figures in the folder of the same name."""
    planned = [report for report in reports if report.study.is_planned]
    return render(
        "claims.md",
        {
            "cited": cited,
            "study_link": lambda study: study_link(study, path.parent),
            "place": lambda svg: Markdown(quote(f"{path.stem}/{svg.name}")),
            "pictures": pictures_of,
            "matrix": lambda columns: Markdown(matrix(columns).to_markdown()),
            "panel": lambda rows: Markdown(panel(rows).to_markdown()),
        },
        markdown_text,
        claims=claims,
        correction=correction([r for c in claims for test in c.parts for r in test.results]),
        columns=columns_of(planned),
        panel_rows=rows_of(planned),
        provenance=provenance(planned),
    )


def write_claims_page(path: Path, reports: Sequence[StudyReport]) -> None:
    """Write the page, and its figures into the folder of the same name; raises StorageError."""
    if path.suffix != ".md":
        raise StorageError(f"the ledger {str(path)!r} is a Markdown file; give it the ending .md")
    has_verdicts = any(report.verdicts for report in reports)
    claims = literature_statements(reports) if has_verdicts else []
    figures = {svg for claim in claims for test in claim.parts for svg, _ in pictures_of(test)}
    folder = path.with_suffix("") if figures else path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make {str(folder)!r} ({error.strerror}); name another --ledger"
        ) from error
    for svg in figures:
        write_atomic(folder / svg.name, svg.read_bytes())
    write_atomic(path, claims_page(claims, reports, path))
