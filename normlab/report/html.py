"""The page: one HTML file that opens without a network, from reports, tables and figures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from normlab.report.figures.forest import EFFECTS
from normlab.report.formatting import SYMBOLS, command
from normlab.report.markdown import ledger
from normlab.report.protocol import protocol_facts
from normlab.report.reproducibility import (
    ProvenanceSummary,
    shared_settings,
    summarize_provenance,
    varied_settings,
)
from normlab.report.summary import claim_views, count_words
from normlab.report.tables import Table
from normlab.studies.rules import KeptRule
from normlab.studies.study import Figure, Setup

if TYPE_CHECKING:
    from normlab.report.report import StudyReport

HOW_TO_READ = {
    "curves": "Lines: mean over n seeds; bands: 95 % percentile bootstrap of that mean.",
    "rates": "Lines: mean over n seeds; bands: least to largest. Below: share of failed runs.",
    "levels": "Points: mean over n seeds with 95 % t interval; dashed: arms without that setting.",
    "probe": "Lines: median over n seeds; bands: 25th to 75th percentile.",
    "layers": "Points: median over n seeds; bands: 25th to 75th percentile.",
    "effects": "Dots: one seed each; diamonds: mean or median with its interval.",
    "percentiles": "Lines: percentiles of the values within a network, median over n seeds.",
}


@dataclass(frozen=True)
class SetupView:
    setup: Setup
    table: Table
    files: str
    figures: list[dict[str, str]]
    protocol: list[tuple[str, str]]
    shared: list[tuple[str, str, str]]
    varied: list[tuple[str, str, str]]


@dataclass(frozen=True)
class StudyView:
    report: StudyReport
    anchor: str
    command: str
    setups: list[SetupView]
    origin: ProvenanceSummary
    rule: KeptRule | None
    effects: dict[str, str]
    """The figure of the paired effects, {} without any."""


def render(
    reports: Sequence[StudyReport],
    tables: Mapping[tuple[str, str], Table],
    figures: Mapping[tuple[str, int], Path],
    rules: Mapping[str, KeptRule],
) -> str:
    """Return the page's HTML; the keys of the mappings begin with the stem of a report."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    claims = claim_views(reports)
    return environment.get_template("page.html").render(
        claims=claims,
        counts=count_words(claims),
        missing=[row for claim in ledger(reports) for row in claim.rows if not row.views],
        studies=[study_view(r, tables, figures, rules) for r in reports],
        symbols=SYMBOLS,
    )


def study_view(
    report: StudyReport,
    tables: Mapping[tuple[str, str], Table],
    figures: Mapping[tuple[str, int], Path],
    rules: Mapping[str, KeptRule],
) -> StudyView:
    setups = []
    for name, e in report.evidences.items():
        drawn = [
            figure_view(figure, figures[report.stem, i], e.setup)
            for i, figure in enumerate(report.study.figures)
            if figure.setup == name and (report.stem, i) in figures
        ]
        configs = [w.config for w in e.wanted.values()]
        setups.append(
            SetupView(
                setup=e.setup,
                table=tables[report.stem, name],
                files=f"tables/{report.stem}-{name}",
                figures=drawn,
                protocol=protocol_facts(e),
                shared=shared_settings(configs),
                varied=varied_settings(configs),
            )
        )
    return StudyView(
        report=report,
        anchor=report.stem,
        command=command(report.study, report.profile),
        setups=setups,
        origin=summarize_provenance(report.evidences),
        rule=rules.get(report.stem),
        effects=effects_view(figures.get((report.stem, EFFECTS))),
    )


def effects_view(svg: Path | None) -> dict[str, str]:
    if svg is None:
        return {}
    caption = "The effect of every seed, row by row."
    facts = {"caption": caption, "reading": HOW_TO_READ["effects"], "alt": caption}
    return facts | embedded(svg)


def figure_view(figure: Figure, svg: Path, setup: Setup) -> dict[str, str]:
    return {
        "caption": figure.caption,
        "reading": HOW_TO_READ[figure.kind],
        "alt": f"{figure.caption} {setup.title}; the numbers stand in the table below.",
    } | embedded(svg)


def embedded(svg: Path) -> dict[str, str]:
    data = base64.b64encode(svg.read_bytes()).decode("ascii")
    return {"data": data, "file": f"figures/{svg.stem}"}
