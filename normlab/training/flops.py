"""What a training step is made of: the operations of its matrix products, and the machine's rate.

Counted in the trace of the network's gradient, so that no layer has a formula of its own here.
"""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from normlab.models.build import build_model
from normlab.settings import Config, defaults, program_key
from normlab.training.program import has_text, input_shape

REPEATS = 5


def step_flops(config: Config, shape: tuple[int, ...], classes: int) -> int:
    """Return the operations of one member's step in the products of its layers.

    A product of an n x k and a k x m matrix is 2 n k m of them. Forward, kernel gradient and, but
    for the first layer, input gradient are counted. What the norm adds and evaluation are not, so
    all norms of a network have the same. `shape` is that of an image, [H, W, C].
    """
    plain = {k: v for k, v in defaults().items() if k.startswith("norm.")} | {"norm.name": "none"}
    return _step_flops(program_key(config | plain), shape, classes)


@functools.cache
def _step_flops(key: tuple, shape: tuple[int, ...], classes: int) -> int:
    config = dict(key)
    net = build_model(config, classes, "lax")  # the other forms multiply zeros
    size = (config["data.batch"], *input_shape(config, shape))
    x = jax.ShapeDtypeStruct(size, jnp.int32 if has_text(config) else jnp.float32)
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=True), x)

    def total(variables: Any, x: jax.Array) -> jax.Array:
        logits: Any = net.apply(variables, x, train=True)
        return logits.sum()

    return count_flops(jax.make_jaxpr(jax.grad(total))(variables, x).jaxpr)


def count_flops(jaxpr: Jaxpr) -> int:
    """Return the operations of the products in `jaxpr`: of a loop of known length, all its rounds;
    of other loops one; of branches, each."""
    counters = {"dot_general": _dot_flops, "conv_general_dilated": _conv_flops}
    flops = 0
    for equation in jaxpr.eqns:
        if counter := counters.get(equation.primitive.name):
            flops += counter(equation)
        inner = sum(count_flops(j) for j in map(_jaxpr, jax.tree.leaves(equation.params)) if j)
        flops += inner * equation.params.get("length", 1) if inner else 0
    return flops


def _jaxpr(value: object) -> Jaxpr | None:
    if isinstance(value, ClosedJaxpr):
        return value.jaxpr
    return value if isinstance(value, Jaxpr) else None


def _dot_flops(equation: Any) -> int:
    left, out = equation.invars[0].aval, equation.outvars[0].aval
    (contracted, _), _ = equation.params["dimension_numbers"]
    return 2 * out.size * math.prod(left.shape[axis] for axis in contracted)


def _conv_flops(equation: Any) -> int:
    """Return twice the products of a value with a weight, those with padding too. An output has one
    for each weight of its channel. Where the left side is dilated (the input gradient of a strided
    convolution) most of those are with zeros. There each left value has one for each weight that
    reads its channel."""
    left, right = (v.aval for v in equation.invars)
    out, params = equation.outvars[0].aval, equation.params
    out_axis, in_axis, *_ = params["dimension_numbers"].rhs_spec
    if math.prod(params["lhs_dilation"]) == 1:
        return 2 * out.size * (right.size // right.shape[out_axis])
    groups = params["feature_group_count"] * params["batch_group_count"]
    return 2 * left.size * (right.size // right.shape[in_axis]) // groups


@functools.cache
def matmul_rate() -> float:
    """Return the operations per second of float32 matrix products here, measured once a process.

    The rate is that of the best of REPEATS products. At 1024 x 1024 all take 0.2 s with their
    compilation on one core of a CPU. At 2048 they take 0.8 s and give the same rate. An
    accelerator needs larger ones to be filled.
    """
    size = 1024 if jax.default_backend() == "cpu" else 8192
    x = jnp.full((size, size), 1 / size, jnp.float32)
    multiply = jax.jit(jnp.matmul)
    multiply(x, x).block_until_ready()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        multiply(x, x).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)
