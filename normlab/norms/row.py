"""What a row of the tables says of a scheme; readable without importing jax."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Norm:
    """One scheme: where its module is, what it averages over, what it takes and claims."""

    title: str
    family: str
    module: Any
    """Where the Linen module is found, "package.file:Class"; or the class itself."""
    over: tuple[str, ...]
    """Axis letters that one statistic averages over; () where there is no statistic."""
    spatial: bool = False
    """Whether a further statistic is over H, W alone, so that dense inputs [N, C] are refused."""
    options: tuple[str, ...] = ()
    """Settings `norm.*` that the scheme takes; the others are reset to their defaults."""
    arguments: tuple[str, ...] = ()
    """Further arguments of the module, for people's own models."""
    fixed: dict[str, Any] = field(default_factory=dict)
    """Arguments of the module by which this row differs from others with the same module."""
    parameters: tuple[str, ...] = ("scale", "bias")
    act: str = ""
    """The module "package.file:Class" in the place of the network's activation, for schemes that
    replace norm and activation together. They are allowed before it only (placement `pre`)."""
    centered: bool = True
    running_statistics: bool = False
    trains_on_averages: bool = False
    """Whether training reads the running statistics, and so depends on their momentum."""
    grouped: bool = False
    """Whether the channels are split into `groups`, which must divide them."""
    invariant: tuple[str, ...] = ()
    """What can be done to the values that share a statistic without a change of the output (in
    training, epsilon = 0). "shift": a constant is added; "scale": a positive factor."""
    standard: bool = False
    """Whether those outputs have mean 0 (if `centered`) and mean square 1 at the initial scale and
    bias."""
    exact: bool = False
    """Whether the error must be below 2e-6 at any mean and magnitude. The others must be finite
    there, and below 1e-5 on ordinary input."""
    approximate_gradient: bool = False
    """Whether the gradient of the input is on purpose not the derivative of the output."""
    reference: Any = None
    """float64 NumPy function (x, epsilon) -> y of a row from outside, in training mode at the
    initial parameters."""
    takes_masks: bool = True
    """Whether the module takes `mask`. A norm without `N` in `over` can do without: it never gets
    one, since masks are only over examples and steps."""
    equals: str = ""
    """The row with the same arithmetic on dense inputs [N, C], if any."""
    cost: str = ""
    """Passes over the input in training, in words."""
    source: str = ""
    version: int = 1

    @property
    def shared(self) -> tuple[str, ...]:
        """Arguments that `Scheme` gives every scheme with such parameters."""
        names = ["axis", "dtype"]
        names += ["param_dtype"] if self.parameters else []
        for name in ("scale", "bias"):
            names += [f"use_{name}", f"{name}_init"] if name in self.parameters else []
        return tuple(names)

    @property
    def is_per_sample(self) -> bool:
        """Whether no example depends on another in training."""
        return "N" not in self.over

    @property
    def needs_space(self) -> bool:
        """Whether the scheme has nothing to average over in a dense input [N, C]."""
        return self.spatial or (bool(self.over) and set(self.over) <= {"H", "W"})
