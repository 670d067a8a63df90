"""The version of what decides a run's numbers; readable without importing jax."""

from __future__ import annotations

from typing import Any

TRAINING_VERSION = 3
"""Raise it by one when a change is meant to change the numbers of a run, and add a line below.
Results of an older version are shown as stale, and `--rerun=stale` repeats them. The tests of short
runs (tests/test_golden.py) fail where numbers moved without that.

1: the first version. Before it, results kept a hash of the source files instead.
2: group norm of dense inputs rounds differently. Weight norm starts otherwise from one example and
from units that are constant over the batch. In the quick study of convergence, the runs of all
other schemes have the same bits.
3: every mean and variance rounds differently: by two plain sums, and about the mean where it is
large.
"""
HASHES_BEFORE_VERSIONS = {"33efc71d495d94d3": 1}
"""Hash of the source files that older results keep as `code` -> the version that equals it."""


def training_version_of(facts: dict[str, Any]) -> int:
    """Return the training version in the provenance of a result, 0 for an unknown one."""
    if "training_version" in facts:
        return facts["training_version"]
    return HASHES_BEFORE_VERSIONS.get(str(facts.get("code")), 0)
