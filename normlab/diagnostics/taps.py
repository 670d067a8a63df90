"""Runs of a network that also return what its layers received and its norms put out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from normlab.diagnostics.inputs import DiagnosticInputs
from normlab.layers.linear import Conv, Dense
from normlab.norms.noise import Noise

MUTABLE = ("batch_stats", "norm_state")
SMALLEST_SCALE = 1e-4
"""Below it float32 cannot recover the value before the scale."""

Path = tuple[str, ...]


class Layer(NamedTuple):
    """One conv or dense layer, the head included, in one run."""

    path: Path
    x: Any
    """What it receives, [B, ..., C]."""
    y: Any


class Norm(NamedTuple):
    """One norm in one run."""

    path: Path
    x: Any
    y: Any
    """What it puts out, before noise."""
    noisy: Any
    """After noise; y itself where there is none."""
    x_hat: Any
    """Before its own scale and bias."""
    is_known: Any
    """[C] whether x_hat can be recovered from y: False where the scale is next to 0."""


class Taps(NamedTuple):
    """One run, layers and norms in the order in which they ran."""

    layers: list[Layer]
    norms: list[Norm]
    owners: dict[Path, int]
    """Path of a module -> number of the layer with which its parameters move: the last that ran
    when it returned. A norm moves with the layer before it, a block's own scalars with its last,
    those of the network itself with the head."""
    logits: Any


def name_of(tap: Layer | Norm) -> str:
    """Return the name of a layer or norm in the keys of values: stage_1_block_1/conv_1."""
    return "/".join(tap.path)


def inside(tree: Any, path: Path) -> Any:
    """Return the entry of a nested dict at `path`, {} where there is none."""
    for key in path:
        tree = tree.get(key, {})
    return tree


def _norm_of(module: nn.Module, x: jax.Array, y: jax.Array) -> Norm:
    own = module.variables.get("params", {})
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    scale = jnp.broadcast_to(own.get("scale", 1.0), y.shape[-1:])
    is_known = jnp.abs(scale) >= SMALLEST_SCALE
    x_hat = (y - own.get("bias", 0.0)) / jnp.where(is_known, scale, 1.0)
    return Norm(module.path, x, y, y, x_hat, is_known)


def run(
    inputs: DiagnosticInputs,
    params: Any,
    *,
    x: jax.Array | None = None,
    train: bool = True,
    batch_stats: Any = None,
    added: Sequence[jax.Array] | None = None,
) -> Taps:
    """Return one run of the network on `x` (None: the diagnostic batch); its state stays.

    `batch_stats`: other running statistics than those of `inputs`. `added`: one array for each
    layer, added to what it receives, to differentiate with respect to that.
    """
    taps = Taps([], [], {}, None)

    def listen(call, args, kwargs, context):
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if isinstance(module, (Conv, Dense)):
            i = len(taps.layers)
            received = args[0] if added is None else args[0] + added[i]
            taps.layers.append(Layer(module.path, received, None))  # what runs inside belongs to it
            y = call(received, *args[1:], **kwargs)
            taps.layers[i] = taps.layers[i]._replace(y=y)
        else:
            y = call(*args, **kwargs)
            if isinstance(module, Noise):
                taps.norms[-1] = taps.norms[-1]._replace(noisy=jnp.asarray(y, jnp.float32))
            elif (module.name or "").startswith("norm_"):
                taps.norms.append(_norm_of(module, args[0], y))
        taps.owners[module.path] = max(len(taps.layers) - 1, 0)
        return y

    state = inputs.state if batch_stats is None else inputs.state | {"batch_stats": batch_stats}
    variables, x = {"params": params, **state}, inputs.x if x is None else x
    with nn.intercept_methods(listen):
        if train:
            rngs = {"noise": inputs.key}
            logits, _ = inputs.net.apply(variables, x, train=True, mutable=MUTABLE, rngs=rngs)
        else:
            logits = inputs.net.apply(variables, x, train=False)
    return taps._replace(logits=logits)


def outline(inputs: DiagnosticInputs) -> Taps:
    """Return a training run of shapes alone, which costs the program nothing."""
    found: list[Taps] = []

    def trace(params: Any) -> Any:
        taps = run(inputs, params)
        found.append(taps)
        return [leaf[1:] for leaf in (*taps.layers, *taps.norms)], taps.logits

    leaves, logits = jax.eval_shape(trace, inputs.params)
    taps, count = found[0], len(found[0].layers)
    return taps._replace(
        layers=[Layer(t.path, *v) for t, v in zip(taps.layers, leaves, strict=False)],
        norms=[Norm(t.path, *v) for t, v in zip(taps.norms, leaves[count:], strict=True)],
        logits=logits,
    )


def activation_inputs(inputs: DiagnosticInputs, taps: Taps) -> list[jax.Array]:
    """Return for each norm the input of the activation next to it.

    It is the output of the norm, with noise. Where the norm follows the activation (placement
    post), it is the output of the layer before. The second norm of a residual block of order post
    is followed by a sum. There the activation gets the shortcut too, which is left out.
    """
    if getattr(inputs.net, "placement", "pre") == "post":
        return [jnp.asarray(taps.layers[taps.owners[n.path]].y, jnp.float32) for n in taps.norms]
    return [n.noisy for n in taps.norms]


def cross_entropy(inputs: DiagnosticInputs, logits: jax.Array) -> jax.Array:
    """Return the mean cross-entropy of the diagnostic batch, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, inputs.y).mean()


def live_loss(inputs: DiagnosticInputs, params: Any) -> jax.Array:
    """Return the loss of the diagnostic batch in training mode, with the batch's own statistics."""
    return cross_entropy(inputs, run(inputs, params).logits)


def statistics_of(inputs: DiagnosticInputs, x: jax.Array) -> Any:
    """Return as running statistics exactly those of the images `x`; the inputs's own where the
    scheme has none."""
    if inputs.whole is None:
        return inputs.state["batch_stats"]
    rngs = {"noise": inputs.key}
    variables = {"params": inputs.params, **inputs.state}
    _, moved = inputs.whole.apply(variables, x, train=True, mutable=MUTABLE, rngs=rngs)
    return moved.get("batch_stats", {})
