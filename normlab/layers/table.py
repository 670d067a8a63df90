"""The schemes that act on kernels, a row each; readable without importing jax."""

from __future__ import annotations

from dataclasses import dataclass

from normlab.lookup import find_row


@dataclass(frozen=True)
class Kernel:
    """One scheme that acts on the kernels of the hidden layers instead of their outputs."""

    title: str
    module: str
    """Where the Linen module is found, "package.file:Class"; "" where the kernel stays as it is."""
    parameters: tuple[str, ...] = ()
    """Its own parameters, next to `kernel` under the name `reparam`."""
    moved: tuple[str, ...] = ()
    """Parameters shared with other arms that it starts elsewhere, from the first batch."""
    invariant: tuple[str, ...] = ()
    """What can be done to the kernel without a change of the layer (epsilon = 0). "shift": a
    constant is added to the weights of a unit; "scale": a positive factor on them; "size": a
    positive factor on the whole kernel."""
    has_state: bool = False
    """Whether it keeps state in the collection `norm_state`."""
    source: str = ""


KERNELS: dict[str, Kernel] = {
    "none": Kernel(title="kernels as they are", module=""),
    "weight_norm": Kernel(
        title="weight norm, started from the first batch",
        module="normlab.layers.reparam:WeightNorm",
        parameters=("gain",),
        moved=("bias",),  # the paper's initialization is one of gain and bias together
        invariant=("scale", "size"),
        source="arXiv:1602.07868",
    ),
    "standardize": Kernel(
        title="weight standardization",
        module="normlab.layers.reparam:Standardize",
        invariant=("shift", "scale", "size"),
        source="arXiv:1903.10520",
    ),
    "scaled_standardize": Kernel(
        title="scaled weight standardization",
        module="normlab.layers.reparam:ScaledStandardize",
        parameters=("gain",),
        invariant=("shift", "scale", "size"),
        source="arXiv:2101.08692 with the gain of arXiv:2102.06171",
    ),
    "spectral": Kernel(
        title="spectral norm",
        module="normlab.layers.reparam:Spectral",
        invariant=("size",),
        has_state=True,
        source="arXiv:1802.05957",
    ),
}


def find_kernel(name: str) -> Kernel:
    """Return the kernel scheme `name`; raises ValueError with the list and the nearest name."""
    return find_row("norm.kernel", KERNELS, name)
