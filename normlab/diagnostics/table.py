"""`DIAGNOSTICS`: what can be measured in a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from normlab.diagnostics import (
    curvature,
    drift,
    gradients,
    landscape,
    rank,
    rotation,
    shift,
    statistics,
    units,
)
from normlab.diagnostics.inputs import DiagnosticInputs, DiagnosticState, Values

DIAGNOSTICS: dict[str, Callable[[DiagnosticInputs], Values]] = {
    "gradients": gradients.observe,
    "activations": units.observe_activations,
    "shift": shift.observe,
    "landscape": landscape.observe,
    "curvature": curvature.observe,
    "rank": rank.observe,
    "dead": units.observe_dead,
    "rotation": rotation.observe,
    "statistics": statistics.observe,
    "health": units.observe_health,
    "moments": units.observe_moments,
}
"""Name -> observe(inputs) -> values, pure and traceable. All values are float32 scalars, and their
names start with that of the diagnostic."""


class Stateful(NamedTuple):
    initial_state: Callable[[DiagnosticInputs], DiagnosticState]
    observe: Callable[[DiagnosticInputs, Any], tuple[Values, DiagnosticState]]


STATEFUL: dict[str, Stateful] = {"drift": Stateful(drift.initial_state, drift.observe)}
"""The diagnostics that keep something from one measurement to the next."""
