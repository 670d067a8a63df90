"""Layers exported to ONNX by jax2onnx, run by onnxruntime, against float64 NumPy.

jax2onnx 0.17.1 needs an orbax-checkpoint below 0.11.37, older than the locked one, so no script
installs it. In an environment of its own: pip install jax2onnx==0.17.1 onnxruntime==1.32.0
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec

import jax
import numpy as np
import pytest
from oracles import oracle

from normlab.norms import build

pytestmark = [
    pytest.mark.skipif(
        not (find_spec("jax2onnx") and find_spec("onnxruntime")),
        reason="needs jax2onnx and onnxruntime, see this file's docstring",
    ),
    pytest.mark.filterwarnings("ignore:Explicitly requested dtype:UserWarning"),  # of jax2onnx
]
SIZES = [(5, 8), (3, 6, 6, 8)]
CASES = [(name, shape) for name in ("layer", "group", "rms") for shape in SIZES]


def exported(norm, variables, x):
    """Return what the exported layer gives for x; its number of examples is symbolic."""
    to_onnx = importlib.import_module("jax2onnx").to_onnx
    runtime = importlib.import_module("onnxruntime")
    model = to_onnx(lambda x: norm.apply(variables, x), [("B", *x.shape[1:])])
    session = runtime.InferenceSession(model.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize(("name", "shape"), [*CASES, ("instance", SIZES[1])])
@pytest.mark.parametrize("unit", [1.0, 1e30])
def test_exported_layers_are_those_of_the_equation(name, shape, unit):
    norm = build(name).norm()
    x = (unit * np.random.default_rng(0).normal(2, 3, shape)).astype(np.float32)
    y = exported(norm, norm.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(y, oracle(name, x, groups=4), atol=1e-5)


def test_exported_batch_norm_evaluates_with_its_running_statistics():
    norm, x = (
        build("batch").norm(),
        np.random.default_rng(0).normal(2, 3, (5, 8)).astype(np.float32),
    )
    variables = norm.init(jax.random.key(0), x)
    kept = {"mean": np.full(8, 1.5, np.float32), "mean_lo": np.zeros(8, np.float32)}
    kept["var"] = np.full(8, 4.0, np.float32)
    y = exported(norm, {**variables, "batch_stats": kept}, x)
    np.testing.assert_allclose(y, (x.astype(np.float64) - 1.5) / np.sqrt(4 + 1e-5), atol=1e-5)
