"""From stored runs to the report: tables, figures, verdicts, one page; without importing jax."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from normlab.report.figures.draw import draw, save
from normlab.report.figures.forest import EFFECTS, draw_effects
from normlab.report.html import render
from normlab.report.markdown import write_ledger
from normlab.report.reproducibility import runs_of
from normlab.report.setup_table import StepTimes, arm_table
from normlab.report.summary import RowView, by_claim, claim_views
from normlab.report.tables import Table, csv_text
from normlab.report.verdict_table import verdict_table
from normlab.runs.config import program_id
from normlab.runs.errors import Damaged
from normlab.runs.files import make_folder, read_json, write_atomic
from normlab.runs.provenance import timing_place
from normlab.runs.record import Record, is_stale
from normlab.runs.store import Records, Store
from normlab.settings import SETTINGS
from normlab.studies.decisions import Verdict, decide, holm_pairs, word_of
from normlab.studies.planning import ConfigCache, SetupRuns, StudyRuns
from normlab.studies.rules import KeptRule, read_rule
from normlab.studies.study import Study

WIDTH = 100
"""Columns of the terminal that the headline fits."""
LONGEST_STEM = 90
"""Characters of a file's name, before its setup and its ending."""


@dataclass(frozen=True)
class StudyReport:
    """One study of one profile with all that is known about it."""

    study: Study
    profile: str
    evidences: Mapping[str, SetupRuns]
    verdicts: Sequence[Verdict]

    @property
    def stem(self) -> str:
        """How the files of this study begin; overrides make a name of their own."""
        told = "".join(c if c.isalnum() or c in ".=" else "-" for c in self.study.variant)
        stem = "-".join(filter(None, [self.study.name, self.profile, *self.study.norms, told]))
        if len(stem) <= LONGEST_STEM:
            return stem
        digest = hashlib.sha256(stem.encode()).hexdigest()[:8]
        return f"{stem[: LONGEST_STEM - 9]}-{digest}"


def collect(
    store: Store,
    studies: Sequence[Study],
    profile: str,
    cache: ConfigCache | None = None,
    records: Mapping[str, Record] | None = None,
) -> list[StudyReport]:
    """Return the reports of those studies that have the profile; raises StorageError."""
    store.recall_norms()
    cache = cache or ConfigCache()
    found = Records(store) if records is None else records
    reports = []
    for study in studies:
        setups = study.setups.get(profile, ())
        if setups:
            found_setups = {s.name: SetupRuns(s, found, cache) for s in setups}
            evidences = evidences_of(store, study, found_setups)
            verdicts = [explained(v, evidences) for v in decide(study.claims(evidences, profile))]
            reports.append(StudyReport(study, profile, evidences, verdicts))
    return judge_overall(reports)


def evidences_of(store: Store, study: Study, setups: Mapping[str, SetupRuns]) -> StudyRuns:
    """Return the setups with what was measured beside their runs: step times, benchmarks."""
    for e in setups.values():
        times = step_times(store, e)
        e.step_seconds = times.seconds if times else {}
    paths = {name: store.root / "bench" / f"{name}.json" for name in study.measured}
    return StudyRuns(setups, {n: read_json(p) for n, p in paths.items() if p.exists()})


def explained(verdict: Verdict, evidences: Mapping[str, SetupRuns]) -> Verdict:
    """Return the verdict, or why a row has no effects although all runs of its setup are done: the
    runs that it asks for follow from a rate that does not exist."""
    e = evidences.get(verdict.contrast.setup)
    if verdict.word != "no data" or e is None or not e.is_complete:
        return verdict
    lost = [f for f in e.setup.follows if f.name not in e.follows]
    if not lost:
        return verdict
    rates = {f.rate_of for f in lost if f.rate_of in e.best}
    note = f"its gate fails: {', '.join(sorted(rates))} reaches the target at no rate"
    return replace(verdict, word="not testable here", notes=(note,)) if rates else verdict


def judge_overall(reports: Sequence[StudyReport]) -> list[StudyReport]:
    """Return the reports with `stands_overall` set: Holm over all decided rows of all of them."""
    decided = [v.contrast for r in reports for v in r.verdicts if v.is_decided]
    tested = [c for c in decided if c.test.has_p]
    adjusted = holm_pairs([c.p_values() for c in tested])
    words = {id(c): word_of(*p) for c, p in zip(tested, adjusted, strict=True)}
    return [replace(r, verdicts=[_with_overall(v, words) for v in r.verdicts]) for r in reports]


def _with_overall(verdict: Verdict, words: Mapping[int, str]) -> Verdict:
    if verdict.word not in ("supported", "refuted") or id(verdict.contrast) not in words:
        return verdict
    return replace(verdict, stands_overall=words[id(verdict.contrast)] == verdict.word)


def step_times(store: Store, e: SetupRuns) -> StepTimes | None:
    """Return the step times of a setup's arms on the machine that made its runs, if measured."""
    programs = {arm: next(iter(runs.values())) for arm, runs in e.reports.items() if runs}
    if not e.times_steps or not programs:
        return None
    origin = next(iter(programs.values())).provenance
    path = store.root / "steptimes.json"
    entry = (read_json(path) if path.exists() else {}).get(timing_place(origin), {})
    names = {arm: program_id(run.config) for arm, run in programs.items()}
    if not isinstance(entry, dict) or not all(isinstance(v, (int, float)) for v in entry.values()):
        raise Damaged(path, "no seconds in it")
    seconds = {arm: entry[name] for arm, name in names.items() if name in entry}
    return StepTimes(seconds, f"{origin['processor']}, 1 core") if seconds else None


def kept_rules(store: Store, reports: Sequence[StudyReport]) -> dict[str, KeptRule]:
    """Return stem -> the rule as it was written before the study's first run, where it was."""
    cache = ConfigCache(needs_data=False)
    rules = {r.stem: read_rule(store, r.study, r.profile, cache) for r in reports}
    return {stem: rule for stem, rule in rules.items() if rule}


def write_report(
    store: Store, reports: Sequence[StudyReport], name: str = "report", ledger: Path | None = None
) -> Path:
    """Write results/<name>: index.html, tables, figures, runs.csv; return the page. With `ledger`,
    also the ledger of claims, as that Markdown file with a folder of figures beside it."""
    reports = by_claim(reports)
    folder = store.root / name
    for part in ("tables", "figures"):
        make_folder(store.root, *name.split("/"), part)
    tables: dict[tuple[str, str], Table] = {}
    for report in reports:
        for setup, e in report.evidences.items():
            tables[report.stem, setup] = table = arm_table(e, step_times(store, e))
            write_table(folder / "tables" / f"{report.stem}-{setup}", table)
    rows = [(r.profile, v) for r in reports for v in r.verdicts]
    write_table(folder / "tables" / "verdicts", verdict_table(rows))
    write_atomic(folder / "runs.csv", runs_csv(reports))
    figures = draw_all(reports, folder / "figures")
    rules = kept_rules(store, reports)
    html = render(reports, tables, figures, rules)
    write_atomic(folder / "index.html", html)
    if ledger:
        changed = sorted(stem for stem, rule in rules.items() if rule.changes)
        write_ledger(ledger, reports, figures, changed)
    return folder / "index.html"


def write_table(path: Path, table: Table) -> None:
    endings = {".md": table.to_markdown(), ".csv": table.to_csv(), ".tex": table.to_latex()}
    for ending, text in endings.items():
        write_atomic(path.with_name(path.name + ending), text)


def draw_all(reports: Sequence[StudyReport], folder: Path) -> dict[tuple[str, int], Path]:
    """Draw every figure that has data; return (stem, place in the study's figures) -> SVG, the
    place of the effects of all its rows being EFFECTS."""
    drawn: dict[tuple[str, int], Path] = {}
    for report in reports:
        effects = draw_effects(report.verdicts)
        if effects:
            drawn[report.stem, EFFECTS] = save(effects, folder / f"{report.stem}-effects")[0]
        for i, figure in enumerate(report.study.figures):
            e = report.evidences.get(figure.setup)
            drawing = draw(figure, e) if e else None
            if drawing:
                name = "-".join(filter(None, [report.stem, figure.setup, figure.kind, figure.key]))
                is_taken = folder / f"{name}.svg" in drawn.values()
                file = folder / (f"{name}-{i}" if is_taken else name)
                drawn[report.stem, i] = save(drawing, file)[0]
    return drawn


def _users(reports: Sequence[StudyReport]) -> dict[str, list[str]]:
    users: dict[str, list[str]] = {}
    for report in reports:
        for name, e in report.evidences.items():
            for run_id, w in e.wanted.items():
                users.setdefault(run_id, []).append(f"{report.stem}/{name}/{w.arm}/{w.stage}")
    return users


def runs_csv(reports: Sequence[StudyReport]) -> str:
    """Return one line for each run: who uses it, every setting, finals, seconds, provenance."""
    runs = {run.run_id: run for r in reports for run in runs_of(r.evidences)}
    finals = sorted({name for run in runs.values() for name in run.final})
    origin = ("git_commit", "training_version", "processor", "cores", "device", "mode", "width")
    head = ["run", "used_by", *SETTINGS, "status", "diverged_at", *finals, "seconds", "stale"]
    users = _users(reports)
    rows: list[list[str | float | None]] = []
    for run_id, run in sorted(runs.items()):
        settings = [run.config.get(name) for name in SETTINGS]
        scores = [run.final.get(name) for name in finals]
        row = [run_id, "; ".join(users[run_id]), *map(_plain, settings), run.status]
        row += [run.diverged_at, *scores, run.seconds, "yes" if is_stale(run) else "no"]
        rows.append([*row, *(_plain(run.provenance.get(name)) for name in origin)])
    return csv_text([*head, *origin], rows)


def _plain(value: object) -> str | float | None:
    return value if isinstance(value, (int, float, str)) or value is None else str(value)


def headline(reports: Sequence[StudyReport], page: Path | None = None) -> str:
    """Return the verdicts under their sentences, in at most 100 columns, and where the page is."""
    claims = claim_views(reports)
    cells = {id(row): _headline_cells(row) for claim in claims for row in claim.rows}
    widths = [max(map(len, column)) for column in zip(*cells.values(), strict=True)]
    lines: list[str] = []
    for claim in claims:
        lines.append(_clip(f"{claim.sentence}{': depends' if claim.word == 'depends' else ''}"))
        for row in claim.rows:
            texts = zip(cells[id(row)], widths, strict=True)
            start = "  ".join(text.ljust(width) for text, width in texts)
            lines.append(_clip(f"  {start}  {row.verdict.contrast.scope}"))
            if row.verdict.n_enough:
                lines.append(f"      n = {row.verdict.n_enough} would decide: {row.command}")
    return "\n".join([*lines, f"page: {page}"] if page else lines)


def _clip(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def _headline_cells(row: RowView) -> list[str]:
    word = row.verdict.word
    told = f"{word}, n differs" if word == "exploratory" else word
    return [row.verdict.contrast.id, told, row.effect, f"n = {row.n}"]
