"""normlab.norms.nnx: the bits of the Linen layers, in what Flax NNX does with modules."""

from __future__ import annotations

import pickle
import runpy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from test_examples import CHANCE, ROOT
from trained_layers import MUTABLE, draw, make, start, training

from normlab import norms
from normlab.norms.outside import add_norms
from normlab.norms.table import NORMS

IMAGES, VECTORS = (8, 4, 2, 8), (16, 8)
RATE = 0.1
MASK = np.arange(8)[:, None, None, None] < 7
every = pytest.mark.parametrize("name", NORMS)


def make_nnx(name: str, **options: Any) -> Any:
    """The module with the options of `make`."""
    linen = make(name)
    given = {o: getattr(linen, o) for o in NORMS[name].options if hasattr(linen, o)}
    return norms.nnx.build(name, **given, **options).norm(8, rngs=nnx.Rngs(0))


def assert_same(found: Any, right: Any) -> None:
    """Equal to the bit, with the same leaves."""
    found, right = (nnx.to_pure_dict(t) if isinstance(t, nnx.State) else t for t in (found, right))
    assert jax.tree.structure(found) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, found, right)


def variables_of(module: nnx.Module) -> Any:
    return {"params": {}, **norms.nnx.to_linen(module)}


@nnx.jit
def gradients(module: Any, x: Any, mask: Any) -> Any:
    """As `training` in trained_layers: the output and the gradients to parameters and x."""

    def value(module, x):
        y = module(x, mask=mask)
        return jnp.sum(draw(x.shape, seed=9) * y), y

    (of_params, of_x), y = nnx.grad(value, argnums=(0, 1), has_aux=True)(module, x)
    return y, (nnx.to_pure_dict(of_params), of_x)


@every
def test_training_and_evaluation_have_the_bits_of_linen(name):
    linen, module, x = make(name), make_nnx(name), draw(IMAGES)
    assert_same(variables_of(module), {"params": {}, **linen.init(jax.random.key(0), x)})
    variables = start(linen, x)
    norms.nnx.from_linen(module, {k: v for k, v in variables.items() if v})
    for i in range(2):
        x = draw(IMAGES, loc=i, seed=i)
        params, state = variables["params"], {k: variables[k] for k in variables if k != "params"}
        y, slopes, moved = training(linen)(params, state, x, MASK)
        assert_same(gradients(module, x, MASK), (y, slopes))
        step = jax.tree.map(lambda p, g: p - RATE * g, params, slopes[0])
        nnx.update(module, nnx.State(step))
        variables = {**moved, "params": step}
        assert_same(variables_of(module), variables)
    module.eval()
    assert_same(module(x), linen.apply(variables, x))
    assert_same(variables_of(module), variables)


@every
def test_modules_can_be_split_and_pickled(name):
    module, x = make_nnx(name), draw(IMAGES)
    module(x)  # moves the running statistics
    for again in (nnx.merge(*nnx.split(module)), pickle.loads(pickle.dumps(module))):
        assert type(again) is type(module)
        assert_same(variables_of(again), variables_of(module))
        assert_same(again(x, train=False), module(x, train=False))
    build = norms.nnx.build(name)
    assert pickle.loads(pickle.dumps(build)) == build == norms.nnx.build(name)


def test_modes_are_those_of_flax():
    x = draw(VECTORS, loc=3)
    ours: Any = norms.nnx.BatchNorm(8, rngs=nnx.Rngs(0), momentum=0.9)
    theirs = nnx.BatchNorm(8, rngs=nnx.Rngs(0), momentum=0.9)
    for set_mode in ("train", "eval", "train"):
        for module in (ours, theirs):
            getattr(module, set_mode)()
        np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)
        np.testing.assert_allclose(ours.mean[...], theirs.mean[...], atol=1e-5)
        np.testing.assert_allclose(ours.var[...], theirs.var[...], atol=1e-5)
    view = nnx.view(ours, use_running_average=True)
    assert_same(view(x), ours(x, train=False))
    assert_same(view(x), ours(x, use_running_average=True))
    assert not ours.use_running_average
    with pytest.raises(ValueError, match="both True; pass one"):
        ours(x, train=True, use_running_average=True)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("batch", nnx.BatchNorm),
        ("layer_channels", nnx.LayerNorm),
        ("rms", nnx.RMSNorm),
        ("group", nnx.GroupNorm),
        ("instance", nnx.InstanceNorm),
    ],
)
def test_the_preset_has_the_defaults_of_flax(name, theirs):
    x, rngs = draw((4, 4, 2, 64), std=0.01), nnx.Rngs(0)
    ours = norms.nnx.build(name, preset="flax").norm(64, rngs=rngs)
    np.testing.assert_allclose(ours(x), theirs(64, rngs=rngs)(x), atol=1e-5)


def test_evaluation_and_frozen_statistics_write_nothing():
    """A variable that is written cannot be closed over in a transformation."""
    x = draw(VECTORS)
    frozen: Any = norms.nnx.BatchRenorm(
        8, rngs=nnx.Rngs(0), use_running=True, update_running=False, use_running_average=False
    )
    frozen(x)
    assert (frozen.mean[...] == 0).all() and frozen.count[...] == 0
    evaluated: Any = norms.nnx.BatchNorm(8, rngs=nnx.Rngs(0), use_running_average=True)
    before = evaluated.mean.get_value()
    assert_same(jax.jit(jax.vmap(evaluated))(x), evaluated(x))
    assert evaluated.mean.get_value() is before


@pytest.mark.parametrize("kind", ["ref", "hijax"])
def test_variables_may_be_references(kind):
    """They take no value that carries a derivative."""
    x = draw(VECTORS, loc=3)
    with nnx.var_defaults(**{kind: True}):
        norm: Any = norms.nnx.BatchNorm(8, rngs=nnx.Rngs(0), momentum=0.0)
        jax.jit(jax.grad(lambda x: (norm(x) ** 2).sum()))(x)
        np.testing.assert_allclose(norm.mean[...], x.mean(0), rtol=1e-5)


def test_variables_have_the_types_that_filters_ask_for():
    state = nnx.state(norms.nnx.BatchRenorm(8, rngs=nnx.Rngs(0)))
    params, stats, counters = nnx.split_state(state, nnx.Param, nnx.BatchStat, norms.nnx.NormState)
    assert set(params) == {"scale", "bias"}
    assert set(stats) == {"mean", "mean_lo", "var"} and set(counters) == {"count"}


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(8, 8, rngs=rngs)
        self.norm = norms.nnx.BatchRenorm(8, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return nnx.relu(self.norm(self.dense(x)))


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.relu(norms.BatchRenorm(name="norm")(nn.Dense(8, name="dense")(x), train=True))


@nnx.split_rngs(splits=3)
@nnx.vmap
def create(rngs):
    return Block(rngs)


def test_vmap_over_seeds_and_scan_over_layers():
    blocks, x = create(nnx.Rngs(0)), draw(VECTORS)
    singles: Any = [jax.tree.map(lambda v, i=i: v[i], norms.nnx.to_linen(blocks)) for i in range(3)]
    y = nnx.jit(nnx.vmap(lambda block, x: block(x), in_axes=(0, None)))(blocks, x)
    h = x
    for i, variables in enumerate(singles):
        alone, _ = LinenBlock().apply(variables, x, mutable=MUTABLE)
        np.testing.assert_allclose(y[i], alone, atol=1e-5)
        h, moved = LinenBlock().apply(variables, h, mutable=MUTABLE)
        singles[i] = {**variables, **moved}
    assert (blocks.norm.count[...] == 1).all()
    layers = create(nnx.Rngs(0))
    carried = nnx.scan(lambda block, x: block(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    np.testing.assert_allclose(nnx.jit(carried)(layers, x), h, atol=1e-5)
    for i, variables in enumerate(singles):
        np.testing.assert_allclose(
            layers.norm.mean[i], variables["batch_stats"]["norm"]["mean"], atol=1e-6
        )
    assert (layers.norm.count[...] == 1).all()


def test_a_model_trains_with_an_optimizer_and_donated_state():
    block, x = Block(nnx.Rngs(0)), draw(VECTORS)
    optimizer = nnx.Optimizer(block, optax.sgd(RATE), wrt=nnx.Param)
    variables: Any = jax.tree.map(np.array, norms.nnx.to_linen(block))

    def step(block, optimizer, x):
        optimizer.update(block, nnx.grad(lambda block: (block(x) ** 2).mean())(block))

    jitted = nnx.jit(step, donate_argnums=0)
    for _ in range(2):
        jitted(block, optimizer, x)

        def loss(params, variables=variables):
            y, moved = LinenBlock().apply({**variables, "params": params}, x, mutable=MUTABLE)
            return (y**2).mean(), moved

        slopes, moved = jax.grad(loss, has_aux=True)(variables["params"])
        stepped = jax.tree.map(lambda p, g: p - RATE * g, variables["params"], slopes)
        variables = {**moved, "params": stepped}
    for found, right in zip(
        jax.tree.leaves(norms.nnx.to_linen(block)), jax.tree.leaves(variables), strict=True
    ):
        np.testing.assert_allclose(found, right, atol=1e-5)


@pytest.mark.parametrize("name", ["switchable", "batch_instance"])
def test_ndim_says_which_parameters_there_are(name):
    build, x = norms.nnx.build(name), draw(VECTORS)
    dense = build.norm(8, rngs=nnx.Rngs(0), ndim=2)
    linen = make(name)
    assert_same(variables_of(dense), {"params": {}, **linen.init(jax.random.key(0), x)})
    with pytest.raises(ValueError, match="num_features=8, ndim=2 made; pass those"):
        dense(draw(IMAGES))
    with pytest.raises(ValueError, match=r"an input of shape \(16, 8\)"):
        build.norm(8, rngs=nnx.Rngs(0))(x)


@pytest.mark.parametrize(
    ("name", "features", "options"),
    [
        ("batch", 4, {"axis": 1, "use_bias": False, "scale_init": nn.initializers.zeros}),
        ("group", 4, {"axis": 1, "param_dtype": jnp.bfloat16}),
        ("layer", (4, 2, 8), {"per_element": True}),
    ],
)
def test_options_of_every_scheme_arrive(name, features, options):
    x, outer = draw(IMAGES), {"scale": draw((8, 1, 1, 1)), "bias": draw((8, 1, 1, 1))}
    linen: Any = norms.build(name, **options).norm(name="norm_1")
    module = norms.nnx.build(name, **options).norm(features, rngs=nnx.Rngs(0))
    right, variables = linen.init_with_output(jax.random.key(0), x, train=True, **outer)
    assert_same(variables_of(module), variables)
    assert_same(module(x, **outer), right)


def test_the_activation_of_a_row_has_the_axis_of_its_norm():
    layers, x = norms.nnx.build("frn", axis=1), draw(IMAGES)
    act = layers.act(4, rngs=nnx.Rngs(0))
    tau = np.array([-1.0, 0.0, 1.0, 2.0], np.float32)
    act.tau[...] = jnp.array(tau)
    assert_same(act(x), np.maximum(x, tau[:, None, None]))


def test_linen_variables_that_do_not_fit_are_refused():
    block: Any = Block(nnx.Rngs(0))
    variables = norms.nnx.to_linen(block)
    del variables["batch_stats"]["norm"]["var"]
    variables["params"]["dense"]["bias"] += 1
    with pytest.raises(ValueError, match="batch_stats/norm/var has shape None in the Linen"):
        norms.nnx.from_linen(block, variables)
    assert (block.dense.bias[...] == 0).all()


@pytest.mark.parametrize(
    "option", ["kernel", "kernel_start", "noise", "branches", "conv_form", "epsilom"]
)
def test_unknown_options_are_refused(option):
    options: Any = {option: 1}
    with pytest.raises(ValueError, match=f"takes no option '{option}'"):
        norms.nnx.build("batch", **options)
    with pytest.raises(AttributeError, match="no attribute 'BachNorm'"):
        norms.nnx.BachNorm  # noqa: B018


def test_norms_from_outside_are_built():
    (name,) = add_norms([str(ROOT / "docs" / "examples" / "my_norm.py")])
    try:
        module, x = norms.nnx.build(name, epsilon=1e-3).norm(8, rngs=nnx.Rngs(0)), draw(IMAGES)
        assert type(pickle.loads(pickle.dumps(module))) is norms.nnx.PeakNorm
        linen: Any = norms.build(name, epsilon=1e-3).norm(name="norm_1")
        assert_same(module(x), linen.init_with_output(jax.random.key(0), x)[0])
    finally:
        del NORMS[name]


@pytest.mark.parametrize("linen", [norms.BatchNorm(), norms.BatchRenorm()])
def test_the_bridge_of_flax_moves_statistics_where_they_are_mutable(linen):
    x = draw(VECTORS, loc=3)
    module: Any = nnx.bridge.ToNNX(linen, rngs=nnx.Rngs(0)).lazy_init(x)
    variables = linen.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="training moves .* pass mutable="):
        module(x, train=True)
    for i in range(3):
        y = module(x + i, train=True, mutable=MUTABLE)
        right, moved = linen.apply(variables, x + i, train=True, mutable=MUTABLE)
        variables = {**variables, **moved}
        assert_same(y, right)
    assert_same(module.mean[...], variables["batch_stats"]["mean"])
    assert_same(module.var[...], variables["batch_stats"]["var"])
    assert_same(module(x), linen.apply(variables, x))


def test_the_other_bridge_makes_linen_modules():
    linen = nnx.bridge.ToLinen(norms.nnx.BatchRenorm, args=(8,))
    x = draw(VECTORS)
    variables = linen.init(jax.random.key(0), x)
    assert_same(
        linen.apply(variables, x, mutable=MUTABLE)[1],
        norms.BatchRenorm().apply(variables, x, train=True, mutable=MUTABLE)[1],
    )


@pytest.mark.filterwarnings("error")
def test_the_example_trains_with_a_scheme_that_has_statistics_and_an_activation():
    path = ROOT / "docs" / "examples" / "own_nnx_model.py"
    assert runpy.run_path(str(path))["main"]("evonorm_b0") > 3.5 * CHANCE
