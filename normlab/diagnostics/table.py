"""`PROBES`: what can be observed of a run."""

from __future__ import annotations

from collections.abc import Callable

from normlab.diagnostics import (
    activations,
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
from normlab.diagnostics.inputs import DiagnosticInputs, Memory, Values

Observe = Callable[[DiagnosticInputs, Memory], tuple[Values, Memory]]

PROBES: dict[str, Observe] = {
    "gradients": gradients.observe,
    "activations": activations.observe,
    "drift": drift.observe,
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
"""Name -> observe(scene, memory) -> (values, memory), pure and traceable; all values are float32
scalars, and their names start with that of the probe."""

MEMORIES: dict[str, Callable[[DiagnosticInputs], Memory]] = {"drift": drift.remember}
"""Name -> what the probe remembers before its first probing; the others remember nothing."""
