"""`NAMES`: the diagnostics by name, readable without importing jax."""

from __future__ import annotations

from normlab.lookup import find_row

NAMES: dict[str, str] = {
    "gradients": "size of the gradients of layers' inputs and kernels, and its slope over depth",
    "activations": "mean and spread of what enters the activations, percentiles of one unit",
    "drift": "how far the distribution of what enters the last activation moves between probings",
    "shift": "how much a layer's gradient turns when the layers before it take their step",
    "landscape": "loss and gradient along the gradient's direction, live and frozen statistics",
    "curvature": "largest eigenvalue and trace of the Hessian of the training loss",
    "rank": "stable rank of layers' inputs and the cosine between different examples",
    "dead": "share of units that are 0 for all examples",
    "rotation": "angle by which the next step turns kernels, and their effective rate",
    "statistics": "gap between running statistics and re-estimated ones",
    "health": "largest mean over standard deviation of a channel that enters a norm",
    "moments": "share of channels with mean 0 and standard deviation 1",
}
"""Name -> what it measures, in one line."""


def probe_names(text: str) -> tuple[str, ...]:
    """Return the names in `text`, which are joined by +; none in an empty one.

    Raises ValueError for an unknown name and for one given twice.

    >>> probe_names("drift+rank"), probe_names("")
    (('drift', 'rank'), ())
    """
    names = tuple(text.split("+")) if text else ()
    for name in names:
        find_row("probe", NAMES, name)
        if names.count(name) > 1:
            raise ValueError(f"the probe {name!r} stands {names.count(name)} times; name it once")
    return names
