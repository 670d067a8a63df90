"""Plain technical English: no banned word, no long sentence, a short README (tests/prose.toml).

python tests/test_prose.py FILE ...      shows what any Markdown or Python file would fail for
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
RULES = tomllib.loads((ROOT / "tests" / "prose.toml").read_text(encoding="utf-8"))
BANS = [
    (re.compile(rf"(?<![\w-])(?:{ban['pattern']})(?!\w)", re.I), ban["use"], ban.get("allow"))
    for ban in RULES["ban"]
]
QUOTED = re.compile(r"``.+?``|`[^`]*`|\$[^$]+\$|\[[^\]]*\]")
"""Code spans, formulas and shapes such as [N, H, W, C]: one word each."""
CODE = re.compile(r"\S*\w[_=/(]\S*|--\w[\w-]*|\b\w+(?:\.\w+)+\b|[\w.]+\(")
"""Code without quotes: names with _ . ( = or / inside, options."""
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|vs|cf|al|Fig|Sec|approx)\.", re.I)
DIRECTIVE = re.compile(r"#\s*(?:!|noqa|type:|pyright:|ruff:|fmt:)")
ITEM = re.compile(r"^\s*(?:[-*+] |\d+\. |#+ |\||> )")
"""A Markdown line that begins a block: list, heading, table, quotation."""
LABEL = re.compile(r"^(?:\s*[-*+] |(?=[A-Z][\w ]{0,20}: |Raises ))")
"""A line of a docstring that begins a block: a list, or a label such as "Shapes:"."""


class Block(NamedTuple):
    """Text that is read together; only sentences of `is_prose` have a limit."""

    line: int
    text: str
    is_prose: bool = True


def plain(text: str) -> str:
    """Without links, images, HTML and emphasis; every piece of code is one word."""
    text = re.sub(r"</?[a-z][^>]*>", " ", text)
    text = re.sub(r"!?\[((?:[^\[\]]|\\.)*)\]\([^)]*\)", r"\1", text)
    text = QUOTED.sub("code", text).replace("**", "")
    return CODE.sub(lambda m: "code" + m[0][len(m[0].rstrip(".,;:!?")) :], text)


def paragraphs(first: int, lines: list[str], begins: re.Pattern[str]) -> Iterator[Block]:
    """Join lines up to a blank one or one that begins a block; lists of sources and figures are
    no prose."""
    held: list[str] = []
    for number, line in enumerate([*lines, ""], first):
        if held and (not line.strip() or begins.match(line)):
            text = " ".join(held)
            yield Block(
                number - len(held), text, is_prose=not text.startswith(("Source", "Measured: "))
            )
            held = []
        if line.strip().startswith("|"):
            yield from (Block(number, cell) for cell in re.split(r"(?<!\\)\|", line))
        elif line.strip():
            held.append(begins.sub("", line, count=1).strip())


def markdown(text: str) -> Iterator[Block]:
    hidden = r"^```.*?^```|<!--.*?-->"
    without = re.sub(hidden, lambda m: "\n" * m[0].count("\n"), text, flags=re.S | re.M)
    return paragraphs(1, without.splitlines(), ITEM)


def docstring(first: int, text: str) -> Iterator[Block]:
    """Paragraphs without doctests; lines that are further in are examples, tables or lists."""
    lines = text.splitlines()
    inner = [line for line in lines[1:] if line.strip()]
    margin = min((len(line) - len(line.lstrip()) for line in inner), default=0)
    is_doctest = False
    flow = []
    for number, line in enumerate(lines, first):
        is_doctest = bool(line.strip()) and (is_doctest or line.lstrip().startswith(">>>"))
        is_inside = number > first and len(line) - len(line.lstrip()) > margin
        if is_inside and not is_doctest:
            yield Block(number, line, is_prose=False)
        flow.append("" if is_doctest or is_inside else line)
    yield from paragraphs(first, flow, LABEL)


def python(text: str) -> Iterator[Block]:
    """Docstrings and comments; messages (strings of three words) for the ban list alone."""
    tree = ast.parse(text)
    alone = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if id(node) in alone:
            yield from docstring(node.lineno, node.value)
        elif len(node.value.split()) >= 3:
            yield Block(node.lineno, node.value, is_prose=False)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and not DIRECTIVE.match(token.string)
    }
    for line in comments:
        if line - 1 not in comments:
            held = [comments[line]]
            while line + len(held) in comments:
                held.append(comments[line + len(held)])
            yield from paragraphs(line, held, LABEL)


def sentences(text: str) -> list[str]:
    return re.split(r"[.!?][\"')\]]*\s+", ABBREVIATION.sub(r"\1", text))


def words(text: str) -> int:
    return sum(any(c.isalnum() for c in word) for word in text.split())


def complaints(name: str, text: str) -> list[str]:
    found = []
    for block in markdown(text) if name.endswith(".md") else python(text):
        seen = plain(block.text)
        for pattern, use, allow in BANS:
            hit = pattern.search(re.sub(allow, " ", seen, flags=re.I) if allow else seen)
            if hit:
                found.append(f"{name}:{block.line}: {hit[0].strip()!r}; write: {use}")
        for sentence in sentences(seen) if block.is_prose else ():
            if words(sentence) > RULES["sentence_words"]:
                found.append(f"{name}:{block.line}: {words(sentence)} words: {sentence[:60]} ...")
    return found


def files(globs: list[str]) -> list[str]:
    return sorted({str(p.relative_to(ROOT)) for g in globs for p in ROOT.glob(g) if p.is_file()})


@pytest.mark.parametrize("name", files([*RULES["pages"], *RULES["code"]]))
def test_prose(name: str):
    found = complaints(name, (ROOT / name).read_text(encoding="utf-8"))
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("glob", [*RULES["pages"], *RULES["code"]])
def test_every_name_of_the_list_is_a_file(glob: str):
    assert files([glob])


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("a.md", "The figure stands in `a.md`.", 1),
        ("a.md", "It stands for a mean. `eval.probes` and the code `it stands` are left out.", 0),
        ("a.md", "```\nit stands\n```\n\n| a | it was\nmended |", 1),
        ("a.md", "one " * 26, 1),
        ("a.md", "one " * 24 + "end. " + "one " * 24, 0),
        ("a.md", "- " + "one " * 20 + "\n- " + "one " * 20, 0),
        ("a.md", "one " * 20 + "in 2026. " + "one " * 20, 0),
        ("a.md", "one " * 20 + "(`a=1`). " + "one " * 20 + "[N, H, W, C].", 0),
        ("a.md", "![" + "one " * 26 + "](a.svg)", 1),
        ("a.py", '"""Told.\n\n    >>> told\n    1\n"""\nx = "what was told here"  # told', 3),
        ("a.py", "# " + "one " * 13 + "\n# " + "one " * 13 + "\n#\n# one", 1),
        ("a.py", "# noqa: it stands\nx = stands\ny = 'stands'", 0),
    ],
)
def test_the_check_sees_text_and_no_code(name: str, text: str, count: int):
    assert len(complaints(name, text)) == count, complaints(name, text)


if __name__ == "__main__":
    for path in sys.argv[1:]:
        for complaint in complaints(path, Path(path).read_text(encoding="utf-8")):
            print(complaint)
