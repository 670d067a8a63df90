"""`from_keras`, `from_haiku`, `from_equinox`: outputs equal to those of the installed library."""

from __future__ import annotations

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trained_layers import draw, relative_error

from benchmarks.reference_libraries import import_keras
from normlab import norms

IMAGES, LIMIT = (4, 5, 6, 8), 1e-5
MUTABLE = ["batch_stats", "norm_state"]


def refused(words: str, run: Any, *arguments: Any, **options: Any) -> None:
    with pytest.raises(ValueError, match=words) as error:
        run(*arguments, **options)
    assert "\n" not in str(error.value)


def nudged(tree: Any) -> Any:
    """Arrays of the same shapes, away from their start."""
    leaves, shape = jax.tree.flatten(tree)
    return jax.tree.unflatten(shape, [draw(v.shape, 1.0, 0.3, i) for i, v in enumerate(leaves)])


def agree(options: Any, variables: Any, theirs: Any, *path: str) -> Any:
    """Compare the evaluation of theirs(x) and return our layer with its variables."""
    for name in path:
        variables = {c: tree[name] for c, tree in variables.items() if name in tree}
    layer, x = norms.build(**options).norm(), draw(IMAGES, 1.0, seed=7)
    assert relative_error(layer.apply(variables, x), theirs(x)) < LIMIT
    return layer, variables


KERAS = {
    "BatchNormalization()": {"name": "batch", "epsilon": 1e-3, "momentum": 0.99},
    "BatchNormalization(momentum=0.7, epsilon=0.1)": {"momentum": 0.7, "epsilon": 0.1},
    "LayerNormalization()": {"name": "layer_channels", "epsilon": 1e-3},
    "GroupNormalization(2, epsilon=0.1)": {"name": "group", "groups": 2, "epsilon": 0.1},
    "GroupNormalization(-1)": {"name": "group", "groups": 8},
    "RMSNormalization()": {"name": "rms", "epsilon": 1e-6},
    "BatchNormalization(scale=False)": {"use_scale": False},
    "LayerNormalization(center=False, scale=False)": {"use_scale": False, "use_bias": False},
}


@pytest.mark.peers("keras")
@pytest.mark.parametrize("call", KERAS)
def test_keras(call):
    keras = import_keras()
    layer = eval(f"keras.layers.{call}", {"keras": keras})
    inner = keras.Sequential([layer], name="inner")
    model = keras.Sequential([keras.layers.Conv2D(8, 1), inner])
    model.build(IMAGES)
    for i, v in enumerate(layer.variables):
        v.assign(draw(v.shape, 2.0, 0.3, i))
    path = f"inner.{layer.name}"
    options = norms.options_of(model)[path]
    assert KERAS[call].items() <= options.items()
    ours, variables = agree(options, norms.from_keras(model), layer, "inner", layer.name)
    same = norms.from_keras(layer)
    jax.tree.map(np.testing.assert_array_equal, same, variables)
    if options["name"] == "batch":
        x = draw(IMAGES)
        right = layer(x, training=True)
        y, moved = ours.apply(variables, x, train=True, mutable=MUTABLE)
        assert relative_error(y, right) < LIMIT
        agree(options, variables | moved, layer)


@pytest.mark.peers("keras")
def test_keras_refuses_by_name():
    layers = import_keras().layers
    for words, layer in (
        ("spectral_normalization.*: SpectralNormalization has", layers.SpectralNormalization),
        ("unit_normalization.*: UnitNormalization has", lambda _: layers.UnitNormalization()),
        ("n: renorm=True has", lambda _: layers.BatchNormalization(renorm=True, name="n")),
        (r"n: .* axis \[1, 2\]", lambda _: layers.LayerNormalization(axis=(1, 2), name="n")),
        (r"n: .* axis \[1\]", lambda _: layers.RMSNormalization(axis=1, name="n")),
    ):
        made = layer(layers.Dense(3))
        refused("build the model first" if not made.built else words, norms.from_keras, made)
        made.build(IMAGES)
        refused(words, norms.from_keras, made)

    class Twins(layers.Layer):
        def __init__(self):
            super().__init__()
            self.norms = [layers.BatchNormalization(name="n") for _ in range(2)]

        def call(self, x):
            return self.norms[1](self.norms[0](x))

    twins = Twins()
    twins(np.ones(IMAGES, np.float32))
    refused("n: two norms of this name", norms.from_keras, twins)
    sequential = import_keras().Sequential([layers.BatchNormalization(name="n")])
    sequential.build(IMAGES)
    assert norms.from_keras(sequential, paths={"n": "m"})["params"].keys() == {"m"}
    refused("no module 'm'", norms.from_keras, sequential, modules="m")
    inputs = import_keras().Input((3,), name="x")
    outputs = layers.BatchNormalization(name="net_norm")(inputs)
    net = import_keras().Model(inputs, outputs, name="net")
    assert set(norms.options_of(net)) == {"net_norm"}


HAIKU = {
    "BatchNorm(True, True, decay_rate=0.8, eps=0.1)": {
        "name": "batch",
        "momentum": 0.8,
        "epsilon": 0.1,
        "average": "debiased",
    },
    "LayerNorm(-1, True, True)": {"name": "layer_channels"},
    "LayerNorm((1, 2, 3), True, True, param_axis=-1)": {"name": "layer"},
    "InstanceNorm(True, True)": {"name": "instance"},
    "GroupNorm(2)": {"name": "group", "groups": 2},
    "RMSNorm(-1)": {"name": "rms"},
}


@pytest.mark.peers("haiku")
@pytest.mark.parametrize("call", HAIKU)
def test_haiku(call):
    hk = importlib.import_module("haiku")

    class Net(hk.Module):
        def __init__(self):
            super().__init__(name="net")
            self.norm = eval(f"hk.{call[:-1]}, name='norm_1')", {"hk": hk})

        def __call__(self, x, train):
            return self.norm(x, **({"is_training": train} if "Batch" in call else {}))

    net = hk.transform_with_state(lambda x, train: (hk.Conv2D(8, 1)(x), Net()(x, train))[1])
    params, state = net.init(jax.random.key(0), draw(IMAGES), True)
    params = nudged(params)
    run = jax.jit(net.apply, static_argnums=4)
    for i in range(2):
        state = run(params, state, None, draw(IMAGES, 0.5, seed=i), True)[1]

    def theirs(state):
        return lambda x: run(params, state, None, x, False)[0]

    options = {"epsilon": 1e-5} | HAIKU[call]
    variables = norms.from_haiku(params, state, paths={"net.norm_1": "norm"})
    ours, variables = agree(options, variables, theirs(state), "norm")
    if "Batch" in call:
        assert variables["norm_state"]["count"] == 2
        x = draw(IMAGES, seed=4)
        moved = ours.apply(variables, x, train=True, mutable=MUTABLE)[1]
        state = run(params, state, None, x, True)[1]
        agree(options, variables | moved, theirs(state))


def test_haiku_refuses_by_name():
    pair = {"scale": np.ones(3), "offset": np.ones(3)}
    spectral = {"net/sn/w": {"u0": np.ones((1, 3)), "sigma": np.ones(())}}
    refused("net.sn.w: a spectral norm has no", norms.from_haiku, {}, spectral)
    refused("n: a norm with v has no", norms.from_haiku, {"n": {**pair, "v": np.ones(3)}})
    refused("'n.m'|n/~/m and n/m would both be", norms.from_haiku, {"n/m": pair, "n/~/m": pair})
    refused(r"n: scale has shape \(2, 3\)", norms.from_haiku, {"n": {"scale": np.ones((2, 3))}})
    linear = {"linear": {"w": np.ones((3, 3)), "b": np.ones(3)}}
    assert norms.from_haiku({**linear, "n": pair}, spectral, modules="n")["params"].keys() == {"n"}


EQUINOX = {
    'BatchNorm(8, "batch", mode="batch", eps=0.1, momentum=0.8)': {
        "momentum": 0.8,
        "epsilon": 0.1,
        "average": "debiased",
    },
    'BatchNorm(8, "batch", mode="ema")': {"use_running": True, "update_running": False},
    "GroupNorm(2, 8, eps=0.1)": {"name": "group", "groups": 2, "epsilon": 0.1},
    "LayerNorm(8)": {"name": "layer_channels"},
    "RMSNorm(8, use_bias=False)": {"name": "rms"},
    "RMSNorm(8)": {"name": "rms", "use_bias": True},
    "LayerNorm((8, 5, 6))": {"name": "layer", "per_element": True},
    "LayerNorm(8, use_weight=False)": {"use_scale": False},
}


def channels_first(run: Any) -> Any:
    """Apply a function of [N, C, H, W] to [N, H, W, C]."""
    return lambda x: jnp.moveaxis(run(jnp.moveaxis(jnp.asarray(x), -1, 1)), 1, -1)


@pytest.mark.peers("equinox")
@pytest.mark.parametrize("call", EQUINOX)
def test_equinox(call):
    eqx = importlib.import_module("equinox")
    make = lambda: [eqx.nn.Identity(), {"norm": eval(f"eqx.nn.{call}", {"eqx": eqx})}]  # noqa: E731
    model, state = eqx.nn.make_with_state(make)()
    where = lambda m: [v for v in (m[1]["norm"].weight, m[1]["norm"].bias) if v is not None]  # noqa: E731
    model = eqx.tree_at(where, model, nudged(where(model)))
    layer = model[1]["norm"]
    by_pixel = call.startswith(("LayerNorm(8", "RMS"))

    def theirs(state, inference=True):
        if by_pixel:
            return jax.vmap(jax.vmap(jax.vmap(layer)))
        if "Batch" not in call:
            return channels_first(jax.vmap(layer))
        run = jax.vmap(
            lambda x, s: layer(x, s, inference=inference), (0, None), (0, None), axis_name="batch"
        )
        return channels_first(lambda x: run(x, state)[0])

    def trained(state, x):
        run = jax.vmap(layer, (0, None), (0, None), axis_name="batch")
        leaves, shape = jax.tree.flatten(state)
        return run(jnp.moveaxis(jnp.asarray(x), -1, 1), jax.tree.unflatten(shape, leaves))[1]

    if "Batch" in call:
        for i in range(2):
            state = trained(state, draw(IMAGES, 0.5, seed=i))
        refused("1.norm: BatchNorm has state", norms.from_equinox, model)
    options = norms.options_of(model)["1.norm"]
    assert EQUINOX[call].items() <= options.items()
    variables = norms.from_equinox(model, state)
    ours, variables = agree(options, variables, theirs(state), "1", "norm")
    if options.get("average") == "debiased":
        x = draw(IMAGES, seed=4)
        moved = ours.apply(variables, x, train=True, mutable=MUTABLE)[1]
        agree(options, variables | moved, theirs(trained(state, x)))


@pytest.mark.peers("equinox")
def test_equinox_kernels_and_refusals():
    eqx = importlib.import_module("equinox")
    key = jax.random.key(0)

    def make():
        conv = eqx.nn.Conv2d(8, 3, 3, padding=1, key=key)
        return [
            eqx.nn.WeightNorm(conv),
            eqx.nn.SpectralNorm(conv, "weight", key=key),
            eqx.nn.WeightNorm(eqx.nn.Linear(8, 3, use_bias=False, key=key)),
        ]

    model, state = eqx.nn.make_with_state(make)()
    model = eqx.tree_at(lambda m: m[0].g, model, draw((3, 1, 1, 1)))
    variables, x = norms.from_equinox(model, state), draw(IMAGES)
    right = [
        channels_first(jax.vmap(model[0]))(x),
        channels_first(jax.vmap(lambda x: model[1](x, state, inference=True)[0]))(x),
        jax.vmap(model[2])(x[:, 0, 0]),
    ]
    for i, value in enumerate(right):
        layers = norms.build(**norms.options_of(model)[f"{i}"])
        make_layer = layers.dense if i == 2 else layers.conv
        layer = make_layer(3, kernel_init=jax.nn.initializers.zeros)
        mine = {c: tree[f"{i}"] for c, tree in variables.items() if f"{i}" in tree}
        given = x[:, 0, 0] if i == 2 else x
        assert relative_error(layer.apply(mine, given), value) < LIMIT
    turned = eqx.nn.ConvTranspose2d(3, 3, 3, key=key)
    refused("0: WeightNorm of ConvTranspose2d", norms.from_equinox, [eqx.nn.WeightNorm(turned)])
    per_bias = eqx.nn.WeightNorm(eqx.nn.Linear(3, 3, key=key), "bias")
    refused("0: WeightNorm of Linear.bias", norms.from_equinox, [per_bias])
    whole = eqx.nn.WeightNorm(eqx.nn.Linear(3, 3, key=key), axis=None)
    refused("the model: a weight norm with gains of shape", norms.from_equinox, whole)
    refused("the model: weight has shape", norms.from_equinox, eqx.nn.LayerNorm((3, 4)))
    refused("the model: an RMS norm over", norms.from_equinox, eqx.nn.RMSNorm((3, 4)))
    fresh = eqx.nn.make_with_state(lambda: eqx.nn.BatchNorm(3, "b", mode="ema"))()
    refused("the model: this batch norm has no statistics", norms.from_equinox, *fresh)
