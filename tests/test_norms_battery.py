"""Every row of NORMS passes the whole battery, with the float64 oracle written from its paper."""

from __future__ import annotations

import pytest
from oracles import ORACLES

from normlab.norms import NORMS
from normlab.testing import CHECKS, GROUPS, check_norm
from normlab.testing.result import table

MEASURED = [group for group in CHECKS if group != "cost"]


@pytest.mark.parametrize("name", NORMS)
def test_every_row_passes_every_check(name):
    results = check_norm(
        name, oracle=lambda x, epsilon: ORACLES[name](x, epsilon, GROUPS), checks=MEASURED
    )
    failed = [r for r in results if r.status == "fail"]
    assert not failed, f"\n{table(failed)}"
    assert not [r for r in results if r.status == "skip" and not r.note]
