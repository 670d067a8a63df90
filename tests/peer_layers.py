"""Layers of other libraries from an expression such as `torch.nn.BatchNorm2d(C)`."""

from __future__ import annotations

import ast
import importlib
from typing import Any

import numpy as np

from benchmarks.reference_libraries import LIBRARIES, Peer


def names_for(call: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """What the expression `call` may speak of: its library and H, W, C."""
    root = call.split(".")[0]
    if root == "flax":
        importlib.import_module("flax.linen")
    module = importlib.import_module("normlab.norms" if root == "norms" else root)
    return {root: module, **dict(zip("HWC"[1 - len(shape) :], shape[1:], strict=True))}


def make_layer(call: str, x: np.ndarray, **arguments: Any) -> Peer:
    """Return the layer that the expression `call` makes for x [N, H, W, C], with `arguments` in
    place of those it has."""
    tree = ast.parse(call, mode="eval")
    assert isinstance(tree.body, ast.Call), call
    kept = [keyword for keyword in tree.body.keywords if keyword.arg not in arguments]
    added = [ast.keyword(name, ast.Constant(value)) for name, value in arguments.items()]
    tree.body.keywords = kept + added
    code = compile(ast.fix_missing_locations(tree), call, "eval")
    names = names_for(call, x.shape)
    library = call.split(".")[0].replace("norms", "normlab")
    return LIBRARIES[library][1](lambda: eval(code, names), x)
