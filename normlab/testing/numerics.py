"""Errors against float64: on ordinary input, and on input that breaks normalization layers."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from normlab.testing.cases import CASES, FEW, LIMITS, Case, gauss, reference
from normlab.testing.gradients import differences
from normlab.testing.layer import EPSILON, EXACT, GROUPS, SHAPE, LayerUnderTest, compiled, draw
from normlab.testing.result import Result, held, measured, off, skipped

NARROW = (
    "the layer computes in float32 when it is given float64, so no exact value is known: convert "
    "x to jnp.promote_types(x.dtype, jnp.float32), or give the row reference=(x, epsilon) -> y"
)


def right_values(
    subject: LayerUnderTest, x: Any, cotangent: Any, epsilon=EPSILON, variables: Any = None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return y and dx in float64 for the input as it is stored; None where nobody knows.

    They come from the oracle and the closed form where there are such, else from the layer in
    float64, whose slopes `gradients` compares with differences. `variables` are those at the start.
    """
    row, x, c = subject.row, np.asarray(x, np.float64), np.asarray(cotangent, np.float64)
    y = dx = None
    if row.exact and row.standard:
        y, dx = reference(row, x, c, epsilon=epsilon, groups=GROUPS)
    elif subject.is_wide:
        found = subject.step_double(variables or subject.variables, x, c, epsilon)
        y, dx = found.y, found.dx
    oracle = subject.right
    if oracle is not None:
        y = oracle(x, epsilon)
        if dx is None:
            dx = differences(lambda v: float(np.vdot(c, oracle(v, epsilon))), x)
    return y, dx


def compare(
    name: str, subject: LayerUnderTest, x: Any, cotangent: Any, limit: float
) -> list[Result]:
    """Return the errors of output and gradient on ordinary input."""
    found = subject.step(subject.variables, x, cotangent)
    y, dx = right_values(subject, x, cotangent)
    if y is None or dx is None:
        return [Result(f"{name}, against float64", "fail", note=NARROW)]
    return [
        measured(f"{name}, output", off(found.y, y), limit),
        measured(f"{name}, gradient", off(found.dx, dx), limit),
    ]


def check_ordinary(subject: LayerUnderTest) -> list[Result]:
    """Output and gradient on values N(0.5, 1)."""
    return compare("N(0.5,1)", subject, draw(mean=0.5), draw(seed=1), subject.limit)


def check_half(subject: LayerUnderTest) -> list[Result]:
    """The same in half precision at mean 10: statistics in half precision are far off there."""
    results = []
    for dtype in ("bfloat16", "float16"):
        x, cotangent = Case(dtype, gauss(10), dtype).draw(SHAPE)
        results += compare(f"{dtype} N(10,1)", subject, x, cotangent, LIMITS[dtype])
    return results


def check_shapes(subject: LayerUnderTest) -> list[Result]:
    """Dense input, sequences and one row of one image, each with its own variables."""
    results = []

    @compiled
    def run(x):
        variables = dict(subject.layer().init(jax.random.key(0), x, train=True))
        return variables, subject.forward(variables, x)

    for name, shape in (
        ("dense [N, C]", (16, 8)),
        ("sequence [N, T, C]", (4, 6, 8)),
        ("one example of one row [1, 1, W, C]", (1, 1, 3, 8)),
    ):
        x = draw(shape, mean=0.5)
        try:
            variables, y = run(x)
        except ValueError as error:
            if len(shape) > 2 or not {"H", "W"} & set(subject.row.over):
                raise  # dense input has no space to average over
            results.append(skipped(name, "refused: " + str(error).partition("\n")[0]))
            continue
        right = right_values(subject, x, x, variables=variables)[0]
        is_sound = y.shape == shape and np.isfinite(y).all()
        results.append(
            held(name, is_sound, f"the shape is {y.shape}, or y is not finite")
            if right is None
            else measured(name, off(y, right), subject.limit)
        )
    return results


def check_hard_cases(subject: LayerUnderTest) -> list[Result]:
    """Rows that claim to be exact are right on input that breaks layers, the others finite."""
    return [hard_case(subject, case) for case in CASES if case.name in FEW]


def hard_case(subject: LayerUnderTest, case: Case) -> Result:
    row = subject.row
    name = case.name if row.exact else f"{case.name}: finite"
    if case.epsilon != EPSILON and "epsilon" not in row.options:
        return skipped(name, "the row takes no epsilon")
    x, cotangent = case.draw(SHAPE)
    found = subject.step(subject.variables, x, cotangent, epsilon=case.epsilon)
    values = [np.asarray(v, np.float64) for v in (found.y, found.dx)]
    for what, value in zip(("output", "gradient"), values, strict=True):
        if not np.isfinite(value).all():
            return Result(name, "fail", note=f"the {what} is not finite")
    if not row.exact:
        return Result(name, "pass")
    right = right_values(subject, x, cotangent, case.epsilon)
    if right[0] is None or right[1] is None:
        return Result(name, "fail", note=NARROW)
    errors = {
        what: off(value, exact)
        for what, value, exact in zip(("forward", "gradient"), values, right, strict=True)
        if what not in case.unrepresentable
    }
    worst = max(errors, key=lambda what: errors[what])
    return measured(name, errors[worst], LIMITS[case.dtype], f"that is the {worst} error")


def check_large_mean(subject: LayerUnderTest) -> list[Result]:
    """Evaluation is right at mean 1e6 and std 1, where one float32 cannot hold the mean."""
    name = "evaluation at mean 1e6"
    if not (subject.row.exact and subject.row.running_statistics):
        return [skipped(name, "checked for exact rows with running statistics")]
    x = subject.settling(1e6)
    found = subject.evaluate(subject.settled(subject.variables, x), x)[0]
    return [measured(name, off(found, right_values(subject, x, x)[0]), EXACT)]
