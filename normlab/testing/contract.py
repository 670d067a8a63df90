"""How a layer is called, what it keeps and when that moves."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normlab.testing.layer import (
    MOMENTUM,
    ORDINARY,
    SHAPE,
    STATE,
    LayerUnderTest,
    compiled,
    draw,
)
from normlab.testing.result import Result, held, measured, off, skipped, worst

SMALL = 1e-3
"""What moves less holds the rounding of another leaf."""
DTYPES = ("float32", "bfloat16", "float16")


def same(one: Any, two: Any) -> bool:
    """Whether two trees have the same leaves, bit for bit; NaN equals NaN."""
    left, right = jax.tree.leaves(one), jax.tree.leaves(two)
    pairs = zip(left, right, strict=False)
    return len(left) == len(right) and all(
        np.array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64), equal_nan=True)
        for a, b in pairs
    )


def state_of(variables: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in variables.items() if k in STATE}


def check_signature(subject: LayerUnderTest) -> list[Result]:
    """norm(name=...)(x, train=..., mask=None): shape, parameters and collections."""
    variables, x = subject.variables, draw(mean=0.5)
    params = variables.get("params", {})
    y = subject.step(subject.moved, x, draw(seed=1)).y
    strange = sorted(set(variables) - {"params", *STATE})
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(params)}
    wanted = set(subject.row.parameters)
    return [
        held("the output has the input's shape", y.shape == x.shape, f"{y.shape}, not {x.shape}"),
        held("the output is finite", np.isfinite(y).all(), "not for values N(0.5, 1)"),
        held(
            "the parameters are the row's",
            set(params) == wanted,
            f"{sorted(params)}; the row says parameters={subject.row.parameters}",
        ),
        held("the parameters are float32", kinds <= {"float32"}, f"{sorted(kinds)}"),
        held("state is in batch_stats and norm_state", not strange, f"also in {strange}"),
    ]


def check_dtypes(subject: LayerUnderTest) -> list[Result]:
    """The output has the dtype of the input, the running statistics are float32 or wider."""
    results = []
    for dtype in DTYPES:
        x = jnp.asarray(draw(), dtype)
        found = subject.step(subject.variables, x, x)
        results.append(held(f"{dtype} stays {dtype}", found.y.dtype == dtype, f"{found.y.dtype}"))
        kept = {str(v.dtype) for v in jax.tree.leaves(found.state.get("batch_stats", {}))}
        if kept:
            is_wide = not kept & {"bfloat16", "float16"}
            name = f"statistics of {dtype} are float32"
            results.append(held(name, is_wide, f"{sorted(kept)}; convert x to float32 before"))
    return results


def check_initialising(subject: LayerUnderTest) -> list[Result]:
    """The state after `init` does not depend on the data."""
    name, far = "initialising moves no statistics", subject.init(draw(seed=4, mean=1e3))
    is_same = same(state_of(subject.variables), state_of(far))
    note = "the state after init depends on the data; leave it where self.is_initializing()"
    return [held(name, is_same, note)]


def check_state(subject: LayerUnderTest) -> list[Result]:
    """Running statistics move in training, by the share that the momentum leaves, and only then."""
    x, variables = draw(mean=3.0), subject.moved
    first = state_of(variables)
    second = subject.step(variables, x, x).state
    third = subject.step({**variables, **second}, x, x).state
    _, after = subject.evaluate({**variables, **second}, x)
    stats = [state.get("batch_stats", {}) for state in (first, second, third)]
    moves, says = not same(stats[0], stats[1]), subject.row.running_statistics
    results = [
        held("evaluating moves nothing", same(after, second), "the state changed"),
        held(
            "training moves running statistics" if says else "there are no running statistics",
            moves == says,
            f"batch_stats {'moved' if moves else 'did not move'}, row.running_statistics={says}",
        ),
    ]
    name = "momentum weighs the old statistics"
    if not (says and moves) or "momentum" not in subject.row.options:
        return [*results, skipped(name, "the row takes no momentum, or nothing moves")]
    # For the same batch twice, the second step is `momentum` times the first.
    pairs = zip(stats, stats[1:], strict=False)
    steps = [jax.tree.leaves(jax.tree.map(np.subtract, new, old)) for old, new in pairs]
    sizes = [[float(np.linalg.norm(leaf)) for leaf in step] for step in steps]
    ratios = [two / one for one, two in zip(*sizes, strict=True) if one > SMALL]
    ratio = max(ratios, key=lambda ratio: abs(ratio - MOMENTUM))
    note = f"a step on the same batch is {ratio:.3g} of the one before, momentum is {MOMENTUM}"
    return [*results, measured(name, abs(ratio - MOMENTUM), 1e-3, note)]


def check_modes(subject: LayerUnderTest) -> list[Result]:
    """Training and evaluation agree: at once, or once the running statistics are the batch's."""
    x, variables = subject.settling(), subject.moved
    if not subject.row.running_statistics:
        found = subject.step(variables, x, x).y
        name = "training and evaluation agree"
        return [measured(name, off(subject.evaluate(variables, x)[0], found), 1e-6)]
    variables = subject.settled(variables, x)
    y, trained = subject.evaluate(variables, x)[0], subject.step(variables, x, x).y
    # An unbiased running variance is n / (n - 1) times the batch's: 1.6 % for n = 64.
    limit = ORDINARY if subject.row.exact else 2e-2
    note = "after 200 steps on one batch evaluation still differs from training"
    return [measured("evaluation uses the running statistics", off(y, trained), limit, note)]


def check_jit(subject: LayerUnderTest) -> list[Result]:
    """The same numbers without compilation."""
    x = draw(mean=0.5)
    y = subject.step(subject.moved, x, x).y
    plain = subject.forward(subject.moved, jnp.asarray(x))
    return [measured("the same under jit and without", off(plain, y), ORDINARY)]


def check_vmap(subject: LayerUnderTest) -> list[Result]:
    """vmap over whole batches is a loop over them, outputs, slopes and state."""
    xs, cotangents = draw((2, *SHAPE), mean=0.5), draw((2, *SHAPE), seed=1)
    mapped = compiled(jax.vmap(subject.make_step(), (None, 0, 0)))
    together = mapped(subject.moved, xs, cotangents)
    alone = [subject.step(subject.moved, xs[i], cotangents[i]) for i in range(2)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    return [measured("vmap is a loop", worst(together, stacked), ORDINARY)]
