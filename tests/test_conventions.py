"""docs/conventions.md: every cell of its tables is measured here on its library.

`python tests/test_conventions.py` writes the tables anew from the same measurements. The row
"layer", the code that is measured, is written by hand.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peer_layers import make_layer, names_for

from benchmarks.reference_libraries import Peer

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "conventions.md"
SHAPE = (6, 4, 2, 64)
LETTERS = {4: "H", 2: "W", 64: "C"}


def draw(shape=SHAPE, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def number(value: float) -> str:
    return f"{value:.3g}"


def listed(shapes: dict[str, tuple[int, ...]]) -> str:
    texts = [
        f"{name} [{', '.join(LETTERS.get(d, str(d)) for d in shape)}]"
        for name, shape in shapes.items()
    ]
    return ", ".join(texts) or "none"


def signature_of(call: str) -> dict[str, inspect.Parameter]:
    made = cast(ast.Call, ast.parse(call, mode="eval").body).func
    return dict(inspect.signature(eval(ast.unparse(made), names_for(call, SHAPE))).parameters)


def argument_of(call: str, *names: str) -> inspect.Parameter:
    return next(p for name, p in signature_of(call).items() if name in names)


def default_of(parameter: inspect.Parameter) -> str:
    return "required" if parameter.default is parameter.empty else f"{parameter.default}"


def groups_of(call: str) -> str:
    argument = argument_of(call, "groups", "num_groups")
    return f"`{argument.name}`, {default_of(argument)}"


def required(call: str) -> str:
    names = [
        name
        for name, p in signature_of(call).items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    return ", ".join(f"`{name}`" for name in names) or "none"


@cache
def epsilon_of(call: str) -> float:
    """The epsilon of 1/sqrt(var + epsilon), from two inputs of known variance."""
    found = []
    for spread in (1e-3, 1e-2):
        x = np.float32(spread) * (-1.0) ** np.indices(SHAPE).sum(0).astype(np.float32)
        y = float(np.abs(make_layer(call, x)(x)).mean())
        found.append(spread**2 * (1 / y**2 - 1))
    assert abs(found[0] / found[1] - 1) < 1e-2, f"{call}: epsilon is not inside the root"
    return found[0]


@cache
def reach(call: str) -> np.ndarray:
    """Where the output moves when the value at [0, 0, 0, 0] does."""
    x = draw()
    moved = x.copy()
    moved[0, 0, 0, 0] += 1
    y, other = (np.asarray(make_layer(call, x)(v)) for v in (x, moved))
    return np.abs(other - y) > 1e-6


def axes_of(call: str) -> str:
    """The letters of the axes along which a value reaches others; C/G: a part of the channels."""
    where = reach(call)
    channels = {1: "", 64: "C"}.get(int(where[0, 0, 0].sum()), "C/G")
    found = [where[1, 0, 0, 0], where[0, 1, 0, 0], where[0, 0, 1, 0], channels]
    letters = ("N", "H", "W", channels)
    return ", ".join(letter for letter, is_there in zip(letters, found, strict=True) if is_there)


def half(call: str) -> str:
    """Squares of 1000 are beyond float16."""
    x = (1000 * draw()).astype(np.float16)
    wide = x.astype(np.float32)
    try:
        y = np.asarray(make_layer(call, x)(x), np.float32)
    except TypeError as error:
        return f"`{type(error).__name__}`"
    return "float32" if np.allclose(y, make_layer(call, wide)(wide), atol=2e-2) else "float16"


def one_value(call: str) -> str:
    x = draw((1, 1, 1, 64 // int(reach(call)[0, 0, 0].sum())))
    try:
        y = np.asarray(make_layer(call, x)(x))
    except Exception as error:
        return f"`{type(error).__name__}`"
    return "NaN" if np.isnan(y).any() else "0" if not y.any() else "other"


def average(call: str, layer: Peer) -> tuple[float, float]:
    """Running mean and variance of channel 0, from what evaluation makes of 0 and of 1."""
    zero, one = (float(layer(np.full(SHAPE, v, np.float32), False)[0, 0, 0, 0]) for v in (0.0, 1.0))
    spread = 1 / (one - zero)
    return -zero * spread, spread**2 - epsilon_of(call)


def batch_of(mean: float, variance: float) -> np.ndarray:
    """Five values in each channel; `variance` is the biased one."""
    x = np.array([-2, -1, 0, 1, 2], np.float32) * np.sqrt(variance / 2) + mean
    return np.tile(x[:, None, None, None], (1, 1, 1, 64)).astype(np.float32)


def momentum_of(call: str) -> inspect.Parameter:
    return argument_of(call, "momentum", "decay_rate")


def weighs(call: str) -> str:
    """Which part of the average the argument weighs, from a batch after many others."""
    x = batch_of(1.0, 4.0)
    layer = make_layer(call, x, **{momentum_of(call).name: 0.75})
    for mean in [1.0] * 25 + [0.0]:
        layer(batch_of(mean, 4.0))
    return {"0.75": "old", "0.25": "new"}[f"{average(call, layer)[0]:.2f}"]


def running_variance(call: str) -> str:
    x = batch_of(0.0, 4.0)
    layer = make_layer(call, x, **{momentum_of(call).name: 0.5})
    for _ in range(20):
        layer(x)
    return {"4.00": "biased", "5.00": "unbiased"}[f"{average(call, layer)[1]:.2f}"]


def after_one_batch(call: str) -> str:
    x = batch_of(1.0, 4.0)
    layer = make_layer(call, x)
    layer(x)
    return " and ".join(number(v) for v in average(call, layer))


def trains_with(call: str) -> str:
    x = draw()
    layer = make_layer(call, x)
    for _ in range(3):
        layer(batch_of(1.0, 4.0))
    standard = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + epsilon_of(call))
    return "the batch" if np.allclose(layer(x), standard, atol=1e-3) else "running average"


def without_switch(call: str) -> str:
    x = 3 + 2 * draw()

    def run(train):
        layer = make_layer(call, x)
        layer(batch_of(1.0, 4.0))
        return layer(x, train)

    try:
        y = run(None)
    except Exception as error:
        return f"`{type(error).__name__}`"
    matches = {text: np.allclose(y, run(t)) for text, t in (("trains", True), ("evaluates", False))}
    assert sum(matches.values()) == 1
    return max(matches, key=lambda text: matches[text])


MASK = np.arange(6)[:, None, None, None] < np.full((6, 4, 2, 1), 4)


def if_masked(measure: Callable[[str, Peer], str]) -> Callable[[str], str]:
    """Return what measures a layer that takes a mask; the others have no cell."""

    def cell(call: str) -> str:
        layer = make_layer(call, draw())
        return measure(call, layer) if layer.has_mask else "-"

    return cell


def masked_come_out(call: str, layer: Peer) -> str:
    y = np.asarray(layer(jnp.asarray(draw()), mask=MASK))
    return "0" if not y[4:].any() else "normalized too"


def masked_nan(call: str, layer: Peer) -> str:
    x = jnp.where(MASK, draw(), jnp.nan)
    slope = jax.grad(lambda x: jnp.sum(jnp.where(MASK, layer(x, mask=MASK) ** 3, 0)))(x)
    finite = [bool(np.isfinite(v[:4]).all()) for v in (layer(x, mask=MASK), slope)]
    return "output {}, gradient {}".format(*("finite" if f else "NaN" for f in finite))


def all_masked(call: str, layer: Peer) -> str:
    layer(draw())
    before = average(call, layer)
    layer(jnp.asarray(draw()), mask=np.zeros_like(MASK))
    after = average(call, layer)
    moved = "unmoved" if np.allclose(before, after) else "NaN" if np.isnan(after[0]) else "moved"
    return f"running statistics {moved}"


def version_of(call: str) -> str:
    package = call.split(".")[0].replace("haiku", "dm-haiku")
    return "this one" if package == "norms" else version(package).split("+")[0]


COMMON: dict[str, Callable[[str], str]] = {
    "required arguments": required,
    "averages over": axes_of,
    "epsilon": lambda call: number(epsilon_of(call)),
    "parameters": lambda call: listed(make_layer(call, draw()).shapes()[0]),
    "statistics of float16": half,
}
ONE: dict[str, Callable[[str], str]] = {"one value in a statistic": one_value}
TABLES: dict[str, dict[str, Callable[[str], str]]] = {
    "Batch norm": {"version": version_of}
    | COMMON
    | ONE
    | {
        "momentum is called": lambda call: f"`{momentum_of(call).name}`",
        "it weighs the value that is": weighs,
        "its default": lambda call: default_of(momentum_of(call)),
        "running variance": running_variance,
        "running mean and variance after one batch of mean 1, variance 4": after_one_batch,
        "state": lambda call: listed(make_layer(call, draw()).shapes()[1]),
        "training is switched by": lambda call: f"`{make_layer(call, draw()).switch}`",
        "called without it": without_switch,
        "training normalizes with": trains_with,
        "mask": lambda call: "`mask`" if make_layer(call, draw()).has_mask else "none",
        "output at masked positions": if_masked(masked_come_out),
        "NaN in masked positions": if_masked(masked_nan),
        "everything masked": if_masked(all_masked),
    },
    "Layer norm": COMMON | ONE,
    "Instance norm": COMMON | ONE,
    "Group norm": COMMON | ONE | {"groups": groups_of},
    "RMS norm": COMMON,
}
"""Heading of a table -> its rows -> how a cell is measured from the code in the row "layer"."""


def parse(text: str) -> dict[str, tuple[list[str], dict[str, list[str]]]]:
    """Heading -> (column heads, row title -> cells) of every table below a "## " heading."""
    tables = {}
    for section in text.split("\n## ")[1:]:
        heading, *lines = section.splitlines()
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in lines
            if line.startswith("|")
        ]
        if rows:
            tables[heading] = (rows[0][1:], {row[0]: row[1:] for row in rows[2:]})
    return tables


def columns() -> list[Any]:
    """(heading, column, call) of every column of the document's tables."""
    return [
        pytest.param(
            heading,
            head,
            rows["layer"][i].strip("`"),
            id=f"{heading}-{head}",
            marks=[pytest.mark.peers(root)] if root not in ("flax", "norms") else [],
        )
        for heading, (heads, rows) in parse(DOCUMENT.read_text()).items()
        if heading in TABLES
        for i, head in enumerate(heads)
        for root in [rows["layer"][i].strip("`").split(".")[0]]
    ]


def test_the_document_has_every_table_and_row():
    found = {
        heading: list(rows)
        for heading, (_, rows) in parse(DOCUMENT.read_text()).items()
        if heading in TABLES
    }
    assert found == {heading: ["layer", *rows] for heading, rows in TABLES.items()}


@pytest.mark.parametrize(("heading", "head", "call"), columns())
def test_every_cell_is_what_is_measured(heading, head, call):
    heads, rows = parse(DOCUMENT.read_text())[heading]
    column = heads.index(head)
    written = {row: rows[row][column] for row in TABLES[heading]}
    assert written == {row: measure(call) for row, measure in TABLES[heading].items()}


def rewritten(text: str) -> str:
    """The document with every cell measured anew."""
    lines, heading = [], ""
    for line in text.splitlines():
        heading = line.removeprefix("## ") if line.startswith("## ") else heading
        title = line.strip("|").split("|")[0].strip()
        if line.startswith("|") and title in TABLES.get(heading, {}):
            calls = [cell.strip("`") for cell in parse(text)[heading][1]["layer"]]
            cells = [TABLES[heading][title](call) for call in calls]
            line = f"| {' | '.join([title, *cells])} |"
        lines.append(line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text()))
