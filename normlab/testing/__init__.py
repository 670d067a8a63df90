"""What a normalization layer must show before it is compared with others.

    from normlab.testing import check_norm
    results = check_norm("batch")

Every scheme of the table passes. `scripts/check_norm.py` runs the same checks on an external file.
Each check is a function (LayerUnderTest) -> list of Results, one Result for each measured claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from normlab.testing import (
    claims,
    contract,
    cost,
    degenerate,
    devices,
    gradients,
    masks,
    numerics,
    usage,
)
from normlab.testing.layer import GROUPS, LayerUnderTest, Oracle
from normlab.testing.result import Result, skipped

__all__ = ["CHECKS", "GROUPS", "Result", "LayerUnderTest", "check_norm"]

MODULES = (contract, claims, numerics, gradients, masks, degenerate, usage, devices, cost)
CHECKS: dict[str, list[Callable[[LayerUnderTest], list[Result]]]] = {
    module.__name__.rpartition(".")[2]: [
        check for name, check in vars(module).items() if name.startswith("check_")
    ]
    for module in MODULES
}
"""Name of a group of checks -> its checks, the functions check_* of the module of that name. `cost`
is a measurement: it never fails."""

ABOUT_MASKS = (*CHECKS["masks"], usage.check_masks)
"""Checks that are skipped for a row with takes_masks=False."""


def check_norm(
    name: str, *, oracle: Oracle | None = None, checks: Sequence[str] = tuple(CHECKS)
) -> list[Result]:
    """Return the results of the row `name` of the table, of the groups `checks`, in their order.

    `oracle`: float64 NumPy function (x, epsilon) -> y in training mode at the initial parameters,
    with GROUPS groups; the row's own `reference` if left out. A check that raises has failed.
    """
    subject = LayerUnderTest(name, oracle)
    results = []
    for group in checks:
        for check in CHECKS[group]:
            results += [r._replace(name=f"{group}: {r.name}") for r in attempt(check, subject)]
    return results


def attempt(
    check: Callable[[LayerUnderTest], list[Result]], subject: LayerUnderTest
) -> list[Result]:
    """Return the results of one check; an exception is a failure with its first line as the note.

    It may be external code: anything can go wrong in it.
    """
    what = check.__name__.removeprefix("check_").replace("_", " ")
    if check in ABOUT_MASKS and not subject.row.takes_masks:
        return [skipped(what, "the row says takes_masks=False")]
    try:
        return check(subject)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        return [Result(what, "fail", note=f"{type(error).__name__}: {first}")]
