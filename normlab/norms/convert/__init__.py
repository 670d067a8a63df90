"""Norms of PyTorch, Keras, Haiku and Equinox as Flax variables of ours, and back to PyTorch.

    variables = norms.from_torch(model, paths={"layer1.0.bn1": "block_0.norm_1"})
    norm = norms.build(**norms.options_of(model)["layer1.0.bn1"]).norm(name="norm_1")

Nothing here imports these libraries.
"""

from __future__ import annotations

from typing import Any

from normlab.norms.convert import equinox, keras, torch
from normlab.norms.convert.equinox import from_equinox
from normlab.norms.convert.haiku import from_haiku
from normlab.norms.convert.keras import from_keras
from normlab.norms.convert.torch import from_torch, to_torch

__all__ = ["from_equinox", "from_haiku", "from_keras", "from_torch", "options_of", "to_torch"]


def options_of(model: Any) -> dict[str, dict[str, Any]]:
    """Return name -> options of `norms.build` for the norms of a PyTorch, Keras or Equinox model.

    The names are those of `from_torch`, `from_keras` and `from_equinox`. Checkpoints hold neither
    epsilon nor momentum nor groups, so this needs the model itself. With these options evaluation
    computes what the model does, and so does training, with one exception. Equinox's batch norm of
    mode "ema" trains as none of ours does, so it is frozen: `use_running=True,
    update_running=False`.
    A layer with a weight or spectral norm has the options `name="none"` and `kernel`.
    Raises ValueError as the three functions do.
    """
    roots = {cls.__module__.partition(".")[0] for cls in type(model).__mro__}
    library = torch if "torch" in roots else keras if "keras" in roots else equinox
    return {name: options for name, (options, _) in library.find(model).items()}
