"""The files of a report: the page, tables, figures, one line for each run, the table of claims."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from normlab.report.claims import claim_order, verdict_table
from normlab.report.exports import runs_csv
from normlab.report.figures.draw import KINDS, draw, save
from normlab.report.figures.forest import READING, draw_effects
from normlab.report.html import html
from normlab.report.markdown import write_claims_page
from normlab.report.model import Picture, StudyReport
from normlab.report.panel import panel, rows_of
from normlab.report.setup_table import setup_table
from normlab.report.which_norm import columns_of, matrix
from normlab.runs.files import make_folder, write_atomic
from normlab.runs.record import Record
from normlab.runs.store import Store
from normlab.studies.planning import ConfigCache
from normlab.studies.rules import read_rule


def write_report(
    store: Store,
    reports: Sequence[StudyReport],
    name: str = "report",
    ledger: Path | None = None,
    *,
    out: Path | None = None,
    others: Iterable[Record] = (),
) -> Path:
    """Write results/<name>, or `out`: index.html, tables, figures, runs.csv; return the page.

    runs.csv also has the runs `others`. With `ledger`, also write the table of claims as that
    Markdown file, with a folder of figures next to it.
    """
    folder = out or store.root / name
    for part in ("tables", "figures"):
        make_folder(out or store.root, *([] if out else name.split("/")), part)
    cache = ConfigCache(needs_data=False)
    done = [complete(store, report, folder, cache) for report in sorted(reports, key=_order)]
    tables = {f"{report.stem}-{name}": t for report in done for name, t in report.tables.items()}
    tables |= {"verdicts": verdict_table(done)}
    columns = columns_of(done)
    tables |= {"which-norm": matrix(columns)} if columns else {}
    rows = rows_of(done)
    tables |= {"transfer": panel(rows)} if rows else {}
    for name, table in tables.items():
        texts = {"md": table.to_markdown(), "csv": table.to_csv(), "tex": table.to_latex()}
        for ending, text in texts.items():
            write_atomic(folder / "tables" / f"{name}.{ending}", text)
    write_atomic(folder / "runs.csv", runs_csv(done, others))
    write_atomic(folder / "index.html", html(done, () if out else other_pages(store, folder)))
    if ledger:
        write_claims_page(ledger, done)
    return folder / "index.html"


def other_pages(store: Store, folder: Path) -> list[tuple[str, str]]:
    """Return the exploratory pages as (stem, link) seen from that of the verdicts; from one of them
    that of the verdicts, without a stem."""
    main = store.root / "report" / "index.html"
    if folder != main.parent:
        return [("", quote(os.path.relpath(main, folder)))] if main.is_file() else []
    pages = sorted(store.root.glob("report-exploratory/*/index.html"))
    return [(page.parent.name, quote(os.path.relpath(page, folder))) for page in pages]


def _order(report: StudyReport) -> tuple[int, str]:
    """Order studies by the first claim that they decide."""
    return min((claim_order(v.contrast.claim) for v in report.verdicts), default=(0, ""))


def complete(store: Store, report: StudyReport, folder: Path, cache: ConfigCache) -> StudyReport:
    """Return the report with its tables, its figures, which are drawn and saved, and its rule."""
    effects = draw_effects(report.verdicts)
    if effects:
        svg = save(effects, folder / "figures" / f"{report.stem}-effects")
        effects = Picture(svg, "The effect of every seed, test by test.", READING)
    return replace(
        report,
        tables={name: setup_table(runs) for name, runs in report.evidences.items()},
        pictures=draw_all(report, folder / "figures"),
        effects=effects,
        rule=read_rule(store, report.study, report.profile, cache),
    )


def draw_all(report: StudyReport, folder: Path) -> dict[str, list[Picture]]:
    """Draw every figure of a study that has data; return setup -> figures."""
    drawn: dict[str, list[Picture]] = {name: [] for name in report.evidences}
    names: set[str] = set()
    for i, figure in enumerate(report.study.figures):
        runs = report.evidences.get(figure.setup)
        drawing = draw(figure, runs) if runs else None
        if drawing:
            name = "-".join(filter(None, [report.stem, figure.setup, figure.kind, figure.key]))
            name = f"{name}-{i}" if name in names else name
            names.add(name)
            svg = save(drawing, folder / name)
            drawn[figure.setup].append(Picture(svg, figure.caption, KINDS[figure.kind].reading))
    return drawn
