"""What must do nothing: printed files in the programs that show them, and calls that would run what
a file holds, which must not stand in the source."""

from __future__ import annotations

import ast
import csv
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from normlab.report.report import collect, write_report
from normlab.runs import files as disk
from normlab.runs.store import Record, Store
from normlab.studies.planning import ConfigCache
from normlab.studies.study import ROOT
from stress.workspace_files import FORMULAS, NASTY, Ground, planted_study

PACKAGE = ROOT / "normlab"
ACTIVE = ("script", "iframe", "object", "embed", "link", "base", "form", "foreignobject", "animate")
ADDRESSES = ("href", "src", "xlink:href", "srcset", "action", "formaction", "data", "poster")
HARMLESS = re.compile(r"#|data:image/svg\+xml;base64,|(tables|figures)/[\w.=-]+$|runs\.csv$")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+|inf)(e[+-]?\d+)?", re.IGNORECASE)
LATEX = re.compile(
    r"\\(begin|end|centering|caption|toprule|midrule|bottomrule|par|smallskip|footnotesize|ldots"
    r"|text(backslash|asciitilde|asciicircum|less|greater))(?![A-Za-z])|\\[\\&%$#_{}]"
    r"|\$(-|\\times|\\infty)\$"
)
"""All that may be a command in a table."""
BANNED_MODULES = ("pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "yaml")
BANNED_CALLS = ("eval", "exec", "__import__")
ALLOWED = ("norms/outside.py: exec",)
"""A norm of somebody's own is run, from the bytes that were hashed."""


class Parsed(HTMLParser):
    """What a page would run, its tags and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.active: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.active += [f"<{tag}>"] if tag in ACTIVE else []
        for name, value in attrs:
            is_bad = name in ADDRESSES and not HARMLESS.match(value or "#")
            self.active += [f"<{tag} {name}={value}>"] if is_bad or name.startswith("on") else []

    def handle_data(self, data: str) -> None:
        self.text += data


def active_parts(file: Path) -> list[str]:
    """Return what a printed file would do in the program that shows it."""
    if file.suffix == ".pdf":
        return []
    text = file.read_text(encoding="utf-8")
    if file.suffix in (".html", ".svg"):
        return Parsed(text).active
    if file.suffix == ".csv":
        cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
        return [c for c in cells if c[:1] in [*"=+-@\t\r"] and not NUMBER.fullmatch(c)]
    if file.suffix == ".tex":
        rest = LATEX.sub("", text.replace("tabular}{" + "l" * text.count("&"), ""))
        return re.findall(r"\\\w*|[$%#~^_]", rest) + re.findall(r"\\\\\s*[\[*]", text)
    return re.findall(r"<[a-zA-Z/!?]|\]\(|`|\$", re.sub(r"\\[\\`*|$\[\]_~]", "", text))


def hostile_records(store: Store, text: str) -> dict[str, Record]:
    """Return the finished runs with `text` wherever they can say something."""

    def spoil(record: Record) -> Record:
        config = {n: text if isinstance(v, str) else v for n, v in record.config.items()}
        config["norm.name"] = record.config["norm.name"]
        origin = {n: text if isinstance(v, str) else v for n, v in record.provenance.items()}
        origin |= {"versions": {text: text}, "restarts": [{"changed": [text]}]}
        final = record.final | {text: 0.5, f"={text}": 0.5}
        return replace(record, config=config, final=final, provenance=origin)

    return {name: spoil(store.read(name)) for name in store.done()}


def printed(ground: Ground, has_figures: bool = False) -> list[str]:
    """Write reports in which every text is hostile and return what of them is active."""
    store, pages, wrong = ground.renew(), [], []
    rule = store.root / "studies" / "planted-quick.json"
    disk.write_json(rule, {"rule_hash": "another", "written": NASTY})
    plain, study = (replace(planted_study(t), file=t, figures=()) for t in ("x", NASTY))
    told = [(plain, "x"), (study, NASTY)]
    told += [(planted_study(NASTY), NASTY)] if has_figures else []
    for study, text in told:
        records = hostile_records(store, text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # letters that no font has
            memory = ConfigCache(needs_data=False)
            page = write_report(store, collect(store, [study], "quick", memory, records))
        pages.append(Parsed(page.read_text(encoding="utf-8")))
    for file in sorted(p for p in (store.root / "report").rglob("*") if p.is_file()):
        wrong += [f"{file.suffix} {file.name[:30]}: {part[:60]}" for part in active_parts(file)]
    if pages[0].tags != pages[1].tags:
        wrong.append(".html: the texts changed its structure")
    if not all(text in pages[1].text for text in ("{{7*7}}", "<script>", FORMULAS[0])):
        wrong.append(".html: the texts are not there as they were given")
    return [*wrong, *ground.escaped()]


def banned(source: str) -> Iterator[str]:
    """Yield what a source does that could run what a file holds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            origin = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules = origin or [alias.name for alias in node.names]
            yield from (m for m in modules if m.partition(".")[0] in BANNED_MODULES)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).removeprefix("builtins.")
            yield from [called] if called in BANNED_CALLS else []
            for keyword in node.keywords:
                is_safe = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in ("allow_pickle", "shell") and not is_safe:
                    yield f"{keyword.arg}={ast.unparse(keyword.value)}"


def banned_in(package: Path) -> list[str]:
    """Return "file: call" of all that stands in a package and must not."""
    files = sorted(package.rglob("*.py"))
    found = [(f.relative_to(package).as_posix(), f.read_text(encoding="utf-8")) for f in files]
    told = [f"{name}: {what}" for name, source in found for what in banned(source)]
    return [line for line in told if line not in ALLOWED]
