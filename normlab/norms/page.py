"""docs/norms.md, written from the tables: what each scheme computes, keeps and takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from normlab.layers.table import KERNELS, Kernel
from normlab.norms.table import COMMON, NORMS, Norm
from normlab.settings import SETTINGS

INTRODUCTION = """\
# Norms

Every scheme of `norms.build(name, **options)`, from the table `normlab/norms/table.py`. This page
is written by `python scripts/list.py norms --markdown > docs/norms.md`; a test compares the two.

```python
from normlab import norms

layers = norms.build("group", groups=8)
y = layers.norm(name="norm_1")(x, train=True, mask=None)  # inside your own Flax Linen module
```

[examples/own_model.py](examples/own_model.py) is a whole model with a training loop, running
statistics and evaluation. How these layers differ from those of the same name in other libraries
stands in [conventions.md](conventions.md), how to add one in [your_own_norm.md](your_own_norm.md).

Inputs are x [N, ..., C]: N examples, space H, W (or time), channels C last; C/G are the channels of
one of G groups. On dense inputs [N, C] there is no H, W to average over. Statistics are float32 or
wider whatever the type of x; masked positions influence nothing and come out as 0."""

WHAT = """\
over: the axes that one statistic is made of. coupled: whether an example's output in training
depends on the others of its batch. state: "running" are averages for evaluation in the collection
`batch_stats` (for the counters of some options also `norm_state`); the rest is the same in training
and evaluation. not felt: what can be done to the values that share a statistic without a change of
the output (epsilon = 0): adding a constant (shift), multiplying by a positive factor (scale).
exact: errors stay below 2e-6 at any mean and magnitude."""

TAKES = """\
Options are settings of a run too (`--config.norm.epsilon=1e-3`); arguments are for models of your
own. activation: what stands in the place of the network's (`layers.act`); these schemes go before
it only. The docstring of the class says more."""

KERNEL = """\
`norms.build(name, kernel=...)` combines any scheme above with one that acts on the kernels of
hidden layers (`layers.conv`, `layers.dense`). not felt: what can be done to the kernel without a
change of the layer: adding a constant to a unit's weights (shift), a positive factor on them
(scale), on the whole kernel (size)."""


def norms_page(norms: Mapping[str, Norm] | None = None) -> str:
    """Return docs/norms.md: the schemes `norms` (else all), their options, the kernel schemes."""
    norms = NORMS if norms is None else norms
    what = ("name", "scheme", "over", "coupled", "parameters", "state", "not felt", "exact")
    takes = ("name", "options", "arguments", "activation", "passes over x", "source")
    kernel = ("name", "scheme", "parameters", "state", "not felt", "source")
    options = ("option", "default", "values", "meaning")
    parts = (
        INTRODUCTION,
        "## What they compute",
        WHAT,
        _table(what, (_what(name, row) for name, row in norms.items())),
        "## What they take",
        TAKES,
        _table(takes, (_takes(name, row) for name, row in norms.items())),
        "## Options",
        f"{_code(COMMON)} go with every scheme.",
        _table(options, map(_option, _options(norms))),
        "## Kernel schemes",
        KERNEL,
        _table(kernel, (_kernel(name, row) for name, row in KERNELS.items())),
    )
    return "\n\n".join(parts) + "\n"


def _what(name: str, row: Norm) -> list[str]:
    title = f"{row.title}; on [N, C] the same as {row.equals}" if row.equals else row.title
    return [
        f"`{name}`",
        title,
        ", ".join(row.over),
        "no" if row.is_per_sample else "yes",
        _code(row.parameters),
        "running" if row.running_statistics else "",
        ", ".join(row.invariant),
        "yes" if row.exact else "",
    ]


def _takes(name: str, row: Norm) -> list[str]:
    act = f"`{row.act.rpartition(':')[2]}`" if row.act else ""
    return [f"`{name}`", _code(row.options), _code(row.arguments), act, row.cost, row.source]


def _options(norms: Mapping[str, Norm]) -> list[str]:
    """Return the options that any of the schemes takes, in the order of the settings."""
    taken = {*COMMON, *(option for row in norms.values() for option in row.options)}
    names = (name.removeprefix("norm.") for name in SETTINGS if name.startswith("norm."))
    return [name for name in names if name in taken]


def _option(name: str) -> list[str]:
    setting = SETTINGS[f"norm.{name}"]
    values = _code(setting.choices) or _code(KERNELS) * (name == "kernel")
    if setting.low is not None:
        values = f"{'above' if setting.is_open else 'from'} {setting.low:g}"
        values += "" if setting.high is None else f" to {setting.high:g}"
    unit = f" [{setting.unit}]" if setting.unit else ""
    return [f"`{name}`", f"`{setting.default!r}`", values, setting.why + unit]


def _kernel(name: str, row: Kernel) -> list[str]:
    state = "`norm_state`" if row.has_state else ""
    felt = ", ".join(row.invariant)
    return [f"`{name}`", row.title, _code(row.parameters), state, felt, row.source]


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(columns: Iterable[str], rows: Iterable[list[str]]) -> str:
    """Return a Markdown table; an empty cell is a dash."""
    columns = list(columns)
    lines = [columns, ["---"] * len(columns)]
    lines += [[cell.replace("|", "\\|") or "-" for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
