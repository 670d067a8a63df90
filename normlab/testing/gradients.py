"""Derivatives against central differences in float64, and against each other."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from normlab.testing.layer import LayerUnderTest, as_double, compiled, draw
from normlab.testing.result import Result, held, is_finite, measured, off, skipped

STEP = 1e-5
"""Central differences are off by about STEP^2 + 1e-16 / STEP = 1e-10 here."""
AGREES = 1e-6
APPROXIMATE = "the row says that its gradient is an approximation"
EVERY = 7
"""Every 7th value of the input is moved, and every value of a parameter."""

PLACES = {
    "0 in all examples": (...,),
    "0 in an example": (2,),
    "0 in a channel": (..., 3),
    "0 at a position": (slice(None), 1),
    "0 in a channel of an example": (2, ..., 3),
}
"""Where a network gives blank values: padding, borders of images, units that are off."""


def differences(value: Callable[[np.ndarray], float], x: np.ndarray, every: int = 1) -> np.ndarray:
    """Return the slopes of `value` for one entry of x in `every`, flat unless that is all."""
    x = np.array(x, np.float64)
    flat, slopes = x.reshape(-1), []
    for i in range(0, x.size, every):
        start = flat[i]
        flat[i] = start + STEP
        above = value(x)
        flat[i] = start - STEP
        slopes.append((above - value(x)) / (2 * STEP))
        flat[i] = start
    return np.array(slopes).reshape(x.shape if every == 1 else -1)


def check_first(subject: LayerUnderTest) -> list[Result]:
    """The slopes of the input and of every parameter."""
    names = [f"slope of {name}" for name in ("the input", *subject.row.parameters)]
    if not subject.is_wide:
        return [skipped(name, "the layer does not compute in float64") for name in names]
    x, cotangent = as_double(draw(mean=0.5)), as_double(draw(seed=1))
    variables = as_double(subject.moved)
    found = subject.step_double(variables, x, cotangent)

    def value(params, x) -> float:
        given = {**variables, "params": params}
        return float(np.vdot(cotangent, subject.step_double(given, x, cotangent).y))

    params = variables["params"]
    note = "a term is missing, or too much"
    if subject.row.approximate_gradient:
        results = [skipped(names[0], APPROXIMATE)]
    else:
        expected = differences(lambda x: value(params, x), x, EVERY)
        results = [measured(names[0], off(found.dx.reshape(-1)[::EVERY], expected), AGREES, note)]
    leaves, tree = jax.tree.flatten(params)
    for i, (path, slope) in enumerate(jax.tree.leaves_with_path(found.slopes)):

        def moved(leaf, i=i):
            return value(jax.tree.unflatten(tree, [*leaves[:i], leaf, *leaves[i + 1 :]]), x)

        expected = differences(moved, leaves[i])
        name = "slope of " + "/".join(str(key.key) for key in path)
        results.append(measured(name, off(slope, expected), AGREES, note))
    return results


def ordinary_inputs() -> dict[str, np.ndarray]:
    """Return float32 inputs that networks give sooner or later, by what is special in them."""
    found = {}
    for name, place in PLACES.items():
        for words, value in ((name, 0), (f"the same value{name[1:]}", 1.5)):
            found[words] = x = draw(mean=0.5)
            x[place] = value
    found["outputs of a ReLU"] = np.maximum(draw(), 0)
    for value in (1e6, 1e30):
        found[f"a value of {value:g}"] = x = draw(mean=0.5)
        x[2, 1, 0, 3] = value
    return found


def check_finite(subject: LayerUnderTest) -> list[Result]:
    """Outputs, state and slopes are finite for inputs at which a root or a quotient has none.

    One step on slopes that are not finite ends the training of a network.
    """
    results = []
    for name, x in ordinary_inputs().items():
        found = subject.step(subject.variables, x, draw(seed=1))
        wrong = [part for part in found._fields if not is_finite(getattr(found, part))]
        note = f"{', '.join(wrong)} not finite; guard roots and quotients against 0"
        results.append(held(f"finite: {name}", not wrong, note))
    return results


def check_second(subject: LayerUnderTest) -> list[Result]:
    """Forward mode agrees with reverse mode, and Hessian-vector products with differences."""
    names = "jvp agrees with vjp", "Hessian-vector product"
    x, t, c = (as_double(draw(seed=seed)) for seed in (0, 1, 2))
    if not subject.is_wide:
        return [skipped(name, "the layer does not compute in float64") for name in names]
    variables = as_double(subject.moved)

    def products(x, t, c):
        def dx(x):
            return jax.vjp(lambda x: subject.forward(variables, x), x)[1](c)[0]

        forward = jax.jvp(lambda x: subject.forward(variables, x), (x,), (t,))[1]
        return forward, jax.jvp(dx, (x,), (t,))[1]

    with jax.enable_x64(True):
        forward, second = jax.tree.map(np.asarray, compiled(products)(x, t, c))
    around = [subject.step_double(variables, x + h * t, c).dx for h in (0.0, STEP, -STEP)]
    expected = (around[1] - around[2]) / (2 * STEP)
    size = np.linalg.norm(c) * np.linalg.norm(forward)
    gap = abs(np.vdot(c, forward) - np.vdot(around[0], t)) / size
    is_derivative = not subject.row.approximate_gradient
    return [
        measured(names[0], float(gap), 1e-9),
        measured(names[1], off(second, expected), AGREES)
        if is_derivative
        else skipped(names[1], APPROXIMATE),
    ]
