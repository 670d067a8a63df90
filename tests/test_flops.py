"""What a step costs: operations against the formulas by hand, seconds of compilation."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from workspace import run_fresh

from normlab.launch.costs import CompileClock
from normlab.settings import defaults
from normlab.training.flops import count_flops, matmul_rate, step_flops


def test_a_mlp_a_cnn_and_a_resnet_in_numbers():
    forward = [2 * 60 * n for n in (64 * 100, 100 * 100, 100 * 100, 100 * 10)]
    mlp = defaults() | {"data.batch": 60, "model.widths": (100, 100, 100)}
    assert step_flops(mlp, (8, 8, 1), 10) == 3 * sum(forward) - forward[0]
    # Two 3x3 convolutions, the second after a pool, and the head; one channel, then 4, then 6.
    forward = [2 * 5 * n for n in (8 * 8 * 9 * 1 * 4, 4 * 4 * 9 * 4 * 6, 6 * 10)]
    cnn = defaults() | {"data.batch": 5, "model.name": "cnn", "model.widths": (4, 6)}
    assert step_flops(cnn, (8, 8, 1), 10) == 3 * sum(forward) - forward[0]
    # The stem, three blocks of two convolutions with strides over odd sides, and the head.
    products = [49 * 27 * 4, *2 * [49 * 36 * 4], 16 * 36 * 6, 16 * 54 * 6, 4 * 54 * 8, 4 * 72 * 8]
    forward = [2 * 5 * n for n in (*products, 8 * 10)]
    resnet = cnn | {"model.name": "resnet", "model.widths": (4, 6, 8), "model.depth": 8}
    assert step_flops(resnet, (7, 7, 3), 10) == 3 * sum(forward) - forward[0]


def test_norm_and_form_do_not_matter():
    config = defaults() | {"data.batch": 8, "model.name": "cnn", "model.widths": (4, 6)}
    config |= {"norm.noise": 0.1}
    flops = {
        step_flops(config | {"norm.name": norm, "host.conv": conv}, (8, 8, 1), 10)
        for norm in ("none", "batch", "switchable")
        for conv in ("cpu", "lax", "patches")
    }
    assert len(flops) == 1


def flops_of(function: Any, *shapes: tuple[int, ...]) -> int:
    arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    return count_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_products_inside_jit_scan_and_with_batch_axes_count():
    product = jax.jit(jnp.matmul)
    assert flops_of(product, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert flops_of(jax.vmap(product), (2, 3, 5), (2, 5, 7)) == 2 * 2 * 3 * 5 * 7

    def chain(x, w):
        return jax.lax.scan(lambda x, _: (product(x, w), None), x, length=4)[0]

    assert flops_of(chain, (3, 5), (5, 5)) == 4 * 2 * 3 * 5 * 5


@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2)])
def test_all_three_convolutions_of_a_step_cost_the_same(stride, groups):
    def convolve(x, w):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, w, (stride, stride), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )
        return y.sum()

    x, w = (2, 7, 7, 4), (3, 3, 4 // groups, 6)
    rows = (-(-7 // stride)) ** 2
    forward = 2 * 2 * rows * 9 * (4 // groups) * 6
    assert flops_of(convolve, x, w) == forward
    # The gradient traces the forward product too.
    assert flops_of(jax.grad(convolve), x, w) == 2 * forward
    assert flops_of(jax.grad(convolve, (0, 1)), x, w) == 3 * forward


def test_the_rate_is_measured_once():
    first = matmul_rate()
    began = time.perf_counter()
    assert matmul_rate() == first > 1e8
    assert time.perf_counter() - began < 0.01


def test_the_clock_counts_what_is_compiled_and_only_once():
    clock = CompileClock()
    began = time.monotonic()
    x = jnp.ones(3)
    function = jax.jit(lambda x: jax.jit(jnp.tanh)(x) + jnp.asarray(jax.jit(jnp.sin)(2.0)))
    function(x).block_until_ready()
    compiled = clock.seconds
    assert 0 < compiled <= time.monotonic() - began
    for _ in range(5):
        function(x).block_until_ready()
    assert clock.seconds == compiled


def test_the_clock_takes_nested_events_as_one(monkeypatch):
    clock, now = CompileClock(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    compiling = "/jax/core/compile/jaxpr_trace_duration"
    told = [(12, 1, compiling), (14, 1, compiling), (15, 5, compiling), (20, 2, compiling)]
    for end, seconds, event in [*told, (30, 9, "/jax/other")]:
        now[0] = end
        clock.note(event, seconds)
    assert clock.seconds == 5 + 2


def test_peak_memory_is_of_this_process_and_stays_when_memory_is_freed():
    code = """
from normlab.launch.costs import peak_memory
before, block = peak_memory(), bytearray(2**28)
del block
print(before, peak_memory())
"""
    parent = bytearray(2**29)  # must not be taken for the child's
    told = run_fresh(code)
    del parent
    before, after = map(int, told.split())
    assert before < 2**28 and 2**28 < after < before + 1.2 * 2**28
