"""What a kernel scheme must show before it is compared with others.

    from normlab.testing.kernels import check_kernel
    results = check_kernel("weight_norm")

Every row of KERNELS passes. The scheme is checked around a dense layer of Flax, by KernelNorm.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from normlab.layers.kernel_norm import KernelNorm
from normlab.layers.table import find_kernel
from normlab.testing import attempt
from normlab.testing.contract import same
from normlab.testing.gradients import AGREES, differences
from normlab.testing.layer import ORDINARY, as_double, compiled, draw
from normlab.testing.result import Result, held, measured, off, worst
from normlab.testing.usage import compilations

INPUT, OUT, STATE = draw((64, 6), mean=0.5), 4, ["norm_state"]
CHANGES = {
    "shift": lambda kernel: kernel + np.array([[1.0, -2.0, 0.5, 3.0]], np.float32),
    "scale": lambda kernel: kernel * np.array([[0.5, 2.0, 3.0, 4.0]], np.float32),
    "size": lambda kernel: kernel * np.float32(3.0),
}


def check_kernel(name: str) -> list[Result]:
    """Return the results of the row `name` of KERNELS. A check that raises has failed."""
    checks: Any = check_row, check_invariances, check_slopes, check_state, check_types, check_calls
    subject: Any = name
    return [result for check in checks for result in attempt(check, subject)]


def make(name: str, x: Any = INPUT, dtype: Any = jnp.float32) -> tuple[KernelNorm, dict[str, Any]]:
    """Return the layer and its variables."""
    layer = KernelNorm(nn.Dense(OUT, param_dtype=dtype), name)
    return layer, dict(compiled(layer.init)(jax.random.key(0), x))


def check_row(name: str) -> list[Result]:
    """The parameters and the state are the row's, in float32."""
    row, (_, variables) = find_kernel(name), make(name)
    own = variables["params"].get("reparam", {})
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(variables)}
    return [
        held("the parameters are the row's", set(own) == set(row.parameters), f"{sorted(own)}"),
        held("state as the row says", ("norm_state" in variables) == row.has_state, "it differs"),
        held("parameters and state are float32", kinds == {"float32"}, f"{sorted(kinds)}"),
    ]


def check_invariances(name: str) -> list[Result]:
    """Exactly those changes of the kernel that the row names leave the outputs as they are."""
    says, (layer, variables), results = find_kernel(name).invariant, make(name), []
    params, run = variables["params"], compiled(layer.apply)
    for change, by in CHANGES.items():
        moved = variables | {"params": params | {"kernel": by(params["kernel"])}}
        error = off(run(moved, INPUT), run(variables, INPUT))
        note = f"the outputs move by {error:.1g}, the row says invariant={says}"
        results.append(
            held(f"{change} of the kernel", (error < ORDINARY) == (change in says), note)
        )
    return results


def check_slopes(name: str) -> list[Result]:
    """The slopes of every parameter, against differences in float64."""
    with jax.enable_x64(True):
        layer, variables = make(name, as_double(INPUT), jnp.float64)
        variables, x, c = as_double(variables), as_double(INPUT), as_double(draw((64, OUT)))

        def total(params):
            y: Any = layer.apply(variables | {"params": params}, x)
            return jnp.vdot(c, y)

        value, (leaves, tree) = compiled(total), jax.tree.flatten(variables["params"])
        results = []
        slopes = compiled(jax.grad(total))(variables["params"])
        for i, (path, slope) in enumerate(jax.tree.leaves_with_path(slopes)):

            def moved(leaf, i=i):
                return float(value(jax.tree.unflatten(tree, [*leaves[:i], leaf, *leaves[i + 1 :]])))

            claim = "slope of " + "/".join(str(key.key) for key in path)
            results.append(measured(claim, off(slope, differences(moved, leaves[i])), AGREES))
    return results


def check_state(name: str) -> list[Result]:
    """State moves in training only: with train=True, or without `train` where it is mutable."""
    says, (layer, variables), results = find_kernel(name).has_state, make(name), []
    for train in (True, False, None):
        run = compiled(lambda v, train=train: layer.apply(v, INPUT, train, mutable=STATE)[1])
        moves = not same(run(variables), {k: v for k, v in variables.items() if k in STATE})
        claim = f"state moves in training only: train={train}"
        results.append(held(claim, moves == (says and train is not False), f"moves: {moves}"))
    refusal = ""
    try:
        jax.eval_shape(lambda: layer.apply(variables, INPUT, True))
    except ValueError as error:
        refusal = str(error)
    claim = "training without mutable state is refused where there is state"
    return [*results, held(claim, ("mutable=" in refusal) == says, refusal or "not refused")]


def check_types(name: str) -> list[Result]:
    """Inputs of any type give what float32 gives; float64 leaves parameters and state float32."""
    (layer, variables), x, results = make(name), np.round(4 * INPUT) + 8, []
    run = compiled(layer.apply)
    for dtype in ("int32", "float16", "bfloat16"):
        error = off(run(variables, jnp.asarray(x, dtype)), run(variables, x))
        results.append(measured(f"inputs of {dtype}", error, ORDINARY))
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        layer, found = make(name, as_double(INPUT))
        state = jax.eval_shape(lambda: layer.apply(found, as_double(INPUT), True, mutable=STATE))[1]
        kinds = {str(leaf.dtype) for leaf in jax.tree.leaves([found, state])}
    return [*results, held("float64 leaves all leaves float32", kinds == {"float32"}, f"{kinds}")]


def check_calls(name: str) -> list[Result]:
    """vmap over kernels is a loop, jit is as eager calls, a second eager call compiles nothing."""
    (layer, variables), x = make(name), jnp.asarray(INPUT)
    other = jax.tree.map(lambda leaf: leaf * 0.5, variables)

    def step(variables):
        return layer.apply(variables, x, True, mutable=STATE)

    def stack(*trees):
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

    expected = stack(step(variables), step(other))
    error = worst(compiled(jax.vmap(step))(stack(variables, other)), expected)
    layer.init(jax.random.key(0), x)
    again = compilations(lambda: (step(variables), layer.init(jax.random.key(0), x)))
    return [
        measured("vmap is a loop, jit is eager", error, ORDINARY),
        held("a second eager call compiles nothing", not again, f"{again} programs"),
    ]
