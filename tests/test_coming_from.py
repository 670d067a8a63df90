"""docs/coming_from.md: each row of its tables is compared, each example is run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import pytest
from peer_layers import make_layer
from trained_layers import draw, relative_error

from normlab import norms

PAGE = Path(__file__).resolve().parents[1] / "docs" / "coming_from.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROW = re.compile(r"^\| `((\w+)\.[^`]+)`(.*?) \| `(norms\.build\(.+\))` \|$", re.MULTILINE)
ROWS = [m.groups() for m in ROW.finditer(TEXT) if "kernel=" not in m[4]]
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
LIBRARIES = {"torch", "keras", "haiku", "equinox"}


def test_every_library_has_rows_and_an_example():
    assert {row[1] for row in ROWS} == LIBRARIES and len(ROWS) == 25
    assert {library for block in BLOCKS for library in needed(block)} == LIBRARIES
    for link in re.findall(r"\]\(([^)#]+)", TEXT):
        assert (PAGE.parent / link).exists()


def needed(block: str) -> list[str]:
    return [name for name in LIBRARIES if f"import {name}" in block]


@pytest.mark.parametrize(
    ("call", "on_vectors", "ours"),
    [
        pytest.param(call, bool(note), ours, marks=pytest.mark.peers(library))
        for call, library, note, ours in ROWS
    ],
)
def test_both_layers_of_a_row_compute_the_same(call, on_vectors, ours):
    """New layers, in training and then in evaluation."""
    x = draw((6, 4) if on_vectors else (6, 3, 5, 4), 0.3, 0.3)
    theirs = make_layer(call, x)
    layer: Any = eval(ours, {"norms": norms}).norm()
    if hasattr(theirs, "layer"):
        (options,) = norms.options_of(theirs.layer).values()
        options.pop("name")
        assert {
            option: getattr(layer, option, value) for option, value in options.items()
        } == options
    variables = layer.init(jax.random.key(0), x)
    for train in (True, False):
        y, moved = layer.apply(variables, x, train=train, mutable=["batch_stats", "norm_state"])
        variables = {**variables, **moved}
        if train or not call.startswith("equinox.nn.BatchNorm"):  # see the page: mode "batch"
            assert relative_error(y, theirs(x, train)) < 1e-5


@pytest.mark.parametrize(
    "block", [pytest.param(b, marks=pytest.mark.peers(*needed(b))) for b in BLOCKS]
)
def test_examples_run(block):
    exec(compile(block, str(PAGE), "exec"), {})
