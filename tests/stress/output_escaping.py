"""Printed files must do nothing in the programs that show them."""

from __future__ import annotations

import csv
import io
import re
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from normlab.report.html import SCRIPT
from normlab.report.model import collect
from normlab.report.write import write_report
from normlab.runs import files
from normlab.runs.store import Record, Store
from normlab.studies.planning import ConfigCache
from stress.hostile import FORMULAS, NASTY, Target, planted_study

ACTIVE_TAGS = (
    *("script", "iframe", "object", "embed", "link", "base", "form"),
    *("foreignobject", "animate"),
)
ADDRESSES = ("href", "src", "xlink:href", "srcset", "action", "formaction", "data", "poster")
ARXIV = r"https://arxiv\.org/abs/\d{4}\.\d{5}$"
HARMLESS = re.compile(rf"#|{ARXIV}|(tables|figures)/[\w.=-]+$|runs\.csv$")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+|inf)(e[+-]?\d+)?", re.IGNORECASE)
ACTIVE_TEXT = {
    ".tex": re.compile(r"\\input|(?<!\\)[%#_]|(?<!\\)\$x|\^\^"),
    ".md": re.compile(r"<script|<img|(?<!\\)\]\(|(?<!\\)`|(?<!\\)\$"),
}
"""What of NASTY would do something where it is not escaped."""


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
        self.active += [f"<{tag}>"] if tag in ACTIVE_TAGS else []
        for name, value in attrs:
            is_bad = name in ADDRESSES and not HARMLESS.match(value or "#")
            self.active += [f"<{tag} {name}={value}>"] if is_bad or name.startswith("on") else []

    def handle_data(self, data: str) -> None:
        self.text += data


def active_parts(file: Path) -> list[str]:
    """Return what a printed file would do in the program that shows it."""
    text = file.read_text(encoding="utf-8", errors="replace")
    if file.suffix in (".html", ".svg"):
        own = f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>"  # the policy admits no other
        return Parsed(text.replace(own, "", 1)).active
    if file.suffix == ".csv":
        cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
        return [c for c in cells if c[:1] in [*"=+-@\t\r"] and not NUMBER.fullmatch(c)]
    return ACTIVE_TEXT[file.suffix].findall(text) if file.suffix in ACTIVE_TEXT else []


def hostile_records(store: Store, text: str) -> dict[str, Record]:
    """Return the finished runs with `text` wherever they have a text."""

    def spoil(record: Record) -> Record:
        config = {n: text if isinstance(v, str) else v for n, v in record.config.items()}
        config["norm.name"] = record.config["norm.name"]
        origin = {n: text if isinstance(v, str) else v for n, v in record.provenance.items()}
        origin |= {"versions": {text: text}, "restarts": [{"changed": [text]}]}
        final = record.final | {text: 0.5, f"={text}": 0.5}
        return replace(record, config=config, final=final, provenance=origin)

    return {name: spoil(store.read(name)) for name in store.done()}


def printed(target: Target, has_figures: bool = False) -> list[str]:
    """Write reports in which every text is hostile and return what of them is active."""
    store, pages, wrong = target.renew(), [], []
    rule = store.root / "studies" / "planted-quick.json"
    files.write_json(rule, {"rule_hash": "another", "written": NASTY})  # on every page, it differs
    plain, nasty = (replace(planted_study(t), file=t, figures=()) for t in ("x", NASTY))
    studies = [(plain, "x"), (nasty, NASTY)]
    studies += [(planted_study(NASTY), NASTY)] if has_figures else []
    for study, text in studies:
        records = hostile_records(store, text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # letters that no font has
            cache = ConfigCache(needs_data=False)
            page = write_report(store, collect(store, [study], "quick", cache, records))
        pages.append(Parsed(page.read_text(encoding="utf-8")))
    for file in sorted(p for p in (store.root / "report").rglob("*") if p.is_file()):
        wrong += [f"{file.suffix} {file.name[:30]}: {part[:60]}" for part in active_parts(file)]
    if pages[0].tags != pages[1].tags:
        wrong.append(".html: the texts changed its structure")
    if not all(text in pages[1].text for text in ("{{7*7}}", "<script>", FORMULAS[0])):
        wrong.append(".html: the texts are not there in full")
    return [*wrong, *target.escaped()]
