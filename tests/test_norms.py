"""Rows of NORMS: what they say, what is refused, the way to Flax and back, and docs/norms.md."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from trained_layers import CONV, DENSE, EPSILON, MUTABLE, draw, first, make, start
from workspace import run_script

from normlab import norms
from normlab.layers.table import KERNELS
from normlab.norms import NORMS, build
from normlab.norms.table import COMMON, find_norm
from normlab.settings import SETTINGS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "norms.md"
STARTS = {"bias": 0, "alpha": 0.5, "shift": 0, "response": 0}
"""Where parameters start that do not start at 1."""
NUMBERS = ("alpha", "shift")
"""Parameters that are one number for a layer."""


@pytest.mark.parametrize("name", NORMS)
def test_rows_say_what_their_modules_take(name):
    row, fields = NORMS[name], set(type(make(name)).__dataclass_fields__)
    assert {*row.options, *row.arguments} <= fields
    assert set(row.over) <= {"N", "H", "W", "T", "C", "C/G"}
    assert row.grouped == ("C/G" in row.over) == ("groups" in row.options)
    assert row.running_statistics == ("momentum" in row.options)
    assert all(f"norm.{option}" in SETTINGS for option in row.options)
    assert row.title and (row.source or not row.over)


def started(norm: Any, x: Any) -> Any:
    return jax.jit(functools.partial(norm.init, jax.random.key(0), train=True))(x)


@pytest.mark.parametrize("name", NORMS)
def test_parameters_and_state_are_those_of_the_row_and_start_where_the_paper_says(name):
    row, channels = NORMS[name], CONV[-1]
    variables: Any = started(make(name), draw(CONV))
    params = variables.get("params", {})
    assert set(params) == set(row.parameters)
    for leaf, value in params.items():
        shape = (3,) if leaf.endswith("_weight") else () if leaf in NUMBERS else (channels,)
        assert value.shape == shape and (value == STARTS.get(leaf, 1)).all()
    stats = variables.get("batch_stats", {})
    assert bool(stats) == row.running_statistics
    assert set(stats) <= {"mean", "mean_lo", "var"} and ("mean" in stats) == ("mean_lo" in stats)
    for leaf, value in stats.items():
        np.testing.assert_array_equal(value, np.full(channels, float(leaf == "var")))
        assert value.dtype == np.float32
    if "alpha" in row.parameters:
        assert started(make(name, alpha=1.25), draw(CONV))["params"]["alpha"] == 1.25


@pytest.mark.parametrize("name", [n for n, row in NORMS.items() if row.act])
def test_the_activation_of_a_row_is_at_first_a_relu_or_nothing(name):
    x = draw(CONV)
    y, _ = build(name).act(name="act_1").init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(y, np.maximum(x, 0) if name == "frn" else x)


@pytest.mark.parametrize("name", [n for n, row in NORMS.items() if row.grouped])
def test_groups_are_given_by_number_or_size_and_must_divide_the_channels(name):
    x = draw((*CONV[:-1], 8))
    message = r"norm_1: groups 3 does not divide C = 8; use one of \[1, 2, 4, 8\]"
    with pytest.raises(ValueError, match=message) as error:
        make(name, groups=3).init(jax.random.key(0), x)
    assert "\n" not in str(error.value)
    by_number, by_size, other = (
        first(make(name, **options), x)
        for options in ({"groups": 2}, {"group_size": 4}, {"group_size": 2})
    )
    np.testing.assert_array_equal(by_size, by_number)
    assert not np.allclose(other, by_number)


def test_ghost_batches_must_divide_the_batch_and_exclude_an_axis_name():
    with pytest.raises(ValueError, match="norm_1: stats_batch 4 does not divide the batch of 6"):
        make("batch", stats_batch=4).init(jax.random.key(0), draw(DENSE), train=True)
    with pytest.raises(ValueError, match="norm_1: stats_batch 2 and axis_name 'i' exclude"):
        make("batch", stats_batch=2, axis_name="i").init(jax.random.key(0), draw(DENSE), train=True)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", [n for n, row in NORMS.items() if row.needs_space])
def test_rows_that_need_space_refuse_dense_inputs(name, train):
    with pytest.raises(ValueError, match=r"norm_1: each statistic of .* \(6, 4\) .* 1 value"):
        make(name).init(jax.random.key(0), draw(DENSE), train=train)


def test_unknown_names_and_options_are_refused_with_the_list():
    with pytest.raises(ValueError, match="unknown norm 'bathc'; did you mean 'batch'") as error:
        build("bathc")
    assert all(name in str(error.value) for name in NORMS)
    with pytest.raises(ValueError, match="did you mean 'standardize'"):
        build("none", kernel="standardise")
    with pytest.raises(ValueError, match=r"'layer' takes no option 'groups' \(it takes epsilon, "):
        build("layer", groups=2)
    with pytest.raises(ValueError, match="unknown conv_form 'fft'"):
        build("layer", conv_form="fft")


@pytest.mark.parametrize(
    "name, meant",
    [
        *(
            (n, "'batch'")
            for n in ("BN", "batch_norm", "BatchNorm", "BatchNorm2d", "SyncBatchNorm")
        ),
        *((n, "'layer'") for n in ("LN", "LayerNorm", "LayerNormalization", "layernorm")),
        *((n, "'group'") for n in ("GN", "GroupNorm", "group norm")),
        *((n, "'instance'") for n in ("IN", "InstanceNorm1d")),
        *((n, "'rms'") for n in ("RMSNorm", "rms_norm")),
        ("WeightNorm", "norm.kernel=weight_norm"),
        ("SpectralNorm", "norm.kernel=spectral"),
        ("Identity", "'none'"),
    ],
)
def test_names_of_other_libraries_are_answered_with_the_scheme(name, meant):
    with pytest.raises(
        ValueError, match=re.escape(f"unknown norm {name!r}; did you mean {meant}?")
    ):
        find_norm(name)


def test_noise_moves_training_alone_and_no_masked_position():
    x, mask = draw(CONV), np.arange(4).reshape(-1, 1, 1, 1) < 3
    layers = build("layer", noise=1.0, epsilon=EPSILON), build("layer", epsilon=EPSILON)

    class Net(nn.Module):
        noisy: bool

        @nn.compact
        def __call__(self, x, train):
            norm = layers[0 if self.noisy else 1].norm(name="norm_1")
            return norm(x, train=train, mask=mask)

    net, plain = Net(True), Net(False)
    variables = net.init(jax.random.key(0), x, True)
    rngs = {"noise": jax.random.key(1)}
    y: Any = net.apply(variables, x, True, rngs=rngs)
    still: Any = plain.apply(variables, x, True)
    assert (y[3] == 0).all() and (np.abs(y[:3] - still[:3]) > 1e-3).mean() > 0.9
    np.testing.assert_array_equal(net.apply(variables, x, False), still)
    again = net.apply(variables, np.where(mask, x, np.nan), True, rngs=rngs)
    np.testing.assert_array_equal(again, y)


def test_statistics_go_to_flax_and_back():
    x, ours = draw(CONV, 1e4), make("batch")
    theirs = nn.BatchNorm(use_running_average=True, epsilon=EPSILON)
    variables = start(ours, x)
    variables |= ours.apply(variables, x, train=True, mutable=MUTABLE)[1]
    tree = {"block": {"norm_1": variables["batch_stats"]}}
    released = norms.release(tree)
    assert set(released["block"]["norm_1"]) == {"mean", "var"}
    near = draw(CONV)
    flax = {"params": variables["params"], "batch_stats": released["block"]["norm_1"]}
    expected: Any = theirs.apply(flax, near)
    np.testing.assert_allclose(ours.apply(variables, near), expected, rtol=1e-5, atol=1e-5)
    apart = {"mean": np.float32(1), "mean_lo": np.float32(0.5), "var": np.float32(2)}
    assert norms.release(apart) == {"mean": 1.5, "var": 2}
    assert norms.adopt(apart) == apart
    adopted = norms.adopt(released)
    np.testing.assert_array_equal(adopted["block"]["norm_1"]["mean_lo"], 0)
    jax.tree.map(np.testing.assert_array_equal, norms.release(adopted), released)
    flax["batch_stats"] = adopted["block"]["norm_1"]
    np.testing.assert_allclose(ours.apply(flax, near), expected, rtol=1e-5, atol=1e-5)


def section(page: str, title: str) -> dict[str, list[str]]:
    """First cell without its quotes -> cells of each line of the section's table."""
    text = re.split(r"^## ", page, flags=re.MULTILINE)
    (chosen,) = (part for part in text if part.startswith(title + "\n"))
    lines = [line for line in chosen.splitlines() if line.startswith("|")][2:]
    cells = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in lines]
    return {row[0].strip("`"): row for row in cells}


def test_the_page_of_the_norms_is_what_the_tables_say():
    page = PAGE.read_text(encoding="utf-8")
    what, takes = section(page, "What they compute"), section(page, "What they take")
    assert list(what) == list(takes) == list(NORMS)
    for name, row in NORMS.items():
        assert what[name][2] == (", ".join(row.over) or "-")
        assert what[name][3] == ("no" if row.is_per_sample else "yes")
        assert what[name][5] == ("running" if row.running_statistics else "-")
        assert (what[name][7] == "yes") == row.exact
        named = [re.findall(r"`(\w+)`", cell) for cell in (what[name][4], *takes[name][1:3])]
        assert named == [list(row.parameters), list(row.options), list(row.arguments)]
        assert takes[name][4:] == [row.cost or "-", row.source or "-"]
    assert list(section(page, "Kernel schemes")) == list(KERNELS)
    options = section(page, "Options")
    assert set(options) == {*COMMON, *(o for row in NORMS.values() for o in row.options)}
    assert all(line[1] == f"`{SETTINGS[f'norm.{o}'].default!r}`" for o, line in options.items())
    for link in re.findall(r"\]\((\S+?)\)", page):
        assert (PAGE.parent / link).exists()


def test_the_page_is_written_by_a_script_also_with_a_row_from_outside(tmp_path):
    """Which cannot break its table."""
    done = run_script("list", "norms", "--markdown")
    assert done.stdout == PAGE.read_text(encoding="utf-8"), (
        "write it again: python scripts/list.py norms --markdown > new.md; mv new.md docs/norms.md"
    )
    file = tmp_path / "mine.py"
    row = "Norm('max |x|', 'sample', 'normlab.norms.plain:Identity', over=('C',), source='a|b')"
    file.write_text(f"from normlab.norms import Norm\nNORMS = {{'mine': {row}}}\n")
    page = run_script("list", "norms", "--markdown", f"--norms={file}").stdout
    assert section(page, "What they compute")["mine"][1] == r"max \|x\|"
    assert section(page, "What they take")["mine"][-1] == r"a\|b"
