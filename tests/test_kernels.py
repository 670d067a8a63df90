"""Kernel schemes: arithmetic against float64, identities, the start from data, equal footing."""

from __future__ import annotations

import functools
import inspect
import math
import pkgutil
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import GAIN, KERNEL_ORACLES, differences, length_of
from small_runs import leaves_of, small
from trained_layers import draw, relative_error

from normlab.layers.linear import kernel_scheme
from normlab.layers.reparam import act_gain
from normlab.models.build import build_model
from normlab.norms import KERNELS, Standardize, WeightNorm, build
from normlab.training.program import CPU_OPTIONS, RUNS_ONCE
from normlab.training.state import Hyper, TrainState, init_state

fast_jit = functools.partial(jax.jit, compiler_options=CPU_OPTIONS)
once_jit = functools.partial(jax.jit, compiler_options=CPU_OPTIONS | RUNS_ONCE)
SHAPES = [(6, 4), (3, 3, 2, 4)]
SCHEMES = [name for name, row in KERNELS.items() if row.module]


def make(name: str, act=jax.nn.relu) -> Any:
    """The module of a scheme."""
    scheme: Any = kernel_scheme(name, act)
    return scheme(name="reparam")


def variables_of(name: str, channels: int, seed=5) -> dict[str, Any]:
    """Parameters and state away from their initial values."""
    row, u = KERNELS[name], draw(channels, seed=seed + 1)
    params = {leaf: draw(channels, 1.0, seed=seed) for leaf in row.parameters}
    state = {"norm_state": {"u": u / np.linalg.norm(u)}} if row.has_state else {}
    return {"params": params} | state


def kernel_of(name: str):
    """(variables, kernel) -> the kernel in its place, in evaluation."""
    return lambda variables, kernel: make(name).apply(variables, kernel, None)[0]


def oracle(name, variables, kernel) -> np.ndarray:
    gain = np.asarray(variables.get("params", {}).get("gain", 1.0), np.float64)
    u = np.asarray(variables.get("norm_state", {}).get("u", 1.0), np.float64)
    return KERNEL_ORACLES[name](np.asarray(kernel, np.float64), gain, u)


def test_every_row_has_an_oracle_and_a_documented_module():
    assert set(KERNEL_ORACLES) == set(SCHEMES)
    for name in SCHEMES:
        text = inspect.getdoc(pkgutil.resolve_name(KERNELS[name].module)) or ""
        source = KERNELS[name].source.split()[0]
        parts = ("w = ", "Shapes:", "State:", f"Source: {source}", "Deviation", ">>> ")
        assert [part for part in parts if part not in text] == []


@functools.cache
def trained(name: str) -> Any:
    """Compiled (variables, kernel, cotangent) -> gradients to parameters and kernel, and the kernel
    in its place."""

    def value(params, kernel, variables, cotangent):
        w = kernel_of(name)({**variables, "params": params}, kernel)
        return jnp.sum(cotangent * w), w

    slopes = jax.grad(value, (0, 1), has_aux=True)
    return fast_jit(
        lambda variables, *rest: slopes(variables["params"], rest[0], variables, rest[1])
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SCHEMES)
def test_kernel_and_its_gradient_are_those_of_the_paper(name, shape):
    """Also of kernels times a factor, by unit where the row says so: 1e20 has squares that
    overflow. And with a constant on all weights where the row says that it changes nothing."""
    kernel, cotangent, variables = draw(shape), draw(shape, seed=1), variables_of(name, shape[-1])
    invariant, run = KERNELS[name].invariant, trained(name)

    def reference(v):
        return float((cotangent * oracle(name, variables, v)).sum())

    by_kernel, right = differences(reference, kernel), oracle(name, variables, kernel)
    of_unit = oracle(name, {**variables, "params": {}}, kernel)  # the kernel is linear in gain
    sums = (cotangent * of_unit).sum(tuple(range(len(shape) - 1)))
    by_unit = np.array([1e-3, 0.5, 2.0, 1e3], np.float32) if "scale" in invariant else 3
    for factor in (1, 1e20, 1e30, by_unit):
        limit = 2e-6 if np.ndim(factor) == 0 else 1e-3  # epsilon counts at 1e-3
        (of_params, of_kernel), w = run(variables, kernel * np.float32(factor), cotangent)
        assert relative_error(w, right) < limit
        slope = np.asarray(of_kernel, np.float64) * factor
        assert relative_error(slope, by_kernel) < limit
        for leaf in KERNELS[name].parameters:
            assert relative_error(of_params[leaf], sums) < limit
    if "shift" in invariant:
        shifted = kernel + np.float32(1024)
        _, w = run(variables, shifted, cotangent)
        assert relative_error(w, oracle(name, variables, shifted)) < 2e-6
        assert relative_error(w, right) < 1e-3  # float32 at 1024


@pytest.mark.parametrize("name", SCHEMES)
def test_vmap_and_forward_mode(name):
    kernels, variables = draw((3, 3, 3, 2, 4)), variables_of(name, 4)
    tangent, step = draw(kernels[0].shape, seed=1), 1e-4

    @fast_jit
    def run(kernels):
        output = functools.partial(kernel_of(name), variables)
        return jax.vmap(output)(kernels), jax.jvp(output, (kernels[0],), (tangent,))[1]

    def right(kernel):
        return oracle(name, variables, kernel)

    found, forward = run(kernels)
    assert relative_error(found, [right(k) for k in kernels]) < 2e-6
    exact, moved = kernels[0].astype(np.float64), step * tangent.astype(np.float64)
    slope = (right(exact + moved) - right(exact - moved)) / (2 * step)
    assert relative_error(forward, slope) < 1e-5


@pytest.mark.parametrize("name", SCHEMES)
def test_a_kernel_of_zeros_gives_zeros_and_finite_gradients(name):
    variables, cotangent = variables_of(name, 4), np.ones((6, 4), np.float32)
    (_, slope), w = trained(name)(variables, 0 * cotangent, cotangent)
    np.testing.assert_array_equal(w, 0)
    assert np.isfinite(slope).all()
    _, w = trained(name)(variables, np.eye(6, 4, dtype=np.float32), cotangent)
    assert np.isfinite(w).all()


@pytest.mark.parametrize("name", SCHEMES)
def test_a_fan_in_of_one_value_is_refused_where_it_would_be_standardized(name):
    layer = build("none", kernel=name).dense(4, kernel_init=jax.nn.initializers.ones, name="dense")
    arguments = layer.init_with_output, jax.random.key(0), jnp.ones((32, 1))
    if "shift" not in KERNELS[name].invariant:
        assert jax.eval_shape(*arguments)[0].shape == (32, 4)
        return
    with pytest.raises(ValueError, match=r"\(1, 4\) has one value .* at least 2 .* norm\.kernel"):
        jax.eval_shape(*arguments)


@pytest.mark.parametrize(
    ("act", "variance"),
    [
        (jax.nn.relu, (1 - 1 / math.pi) / 2),
        (jnp.abs, 1 - 2 / math.pi),
        (lambda z: z, 1.0),
        (jnp.square, 2.0),
        (jnp.exp, math.e**2 - math.e),
        (lambda z: jnp.where(z > 0, 1.0, 0.0), 0.25),
    ],
)
def test_the_gain_of_an_activation_is_exact(act, variance):
    assert act_gain(act) == pytest.approx(1 / math.sqrt(variance), rel=1e-12)


def test_the_gain_of_an_activation_within_a_trace_and_of_a_constant():
    found = []
    jax.jit(jax.vmap(lambda x: found.append(act_gain(lambda z: jnp.maximum(z, 0))) or x))(draw(3))
    assert found == pytest.approx([GAIN], rel=1e-12)
    with pytest.raises(ValueError, match=r"variance 0\.0 under N\(0, 1\).*norm\.kernel"):
        act_gain(jnp.zeros_like)


def layer_of(kind: str, name: str) -> Any:
    make: Any = getattr(build("none", kernel=name), kind)
    return make(4, kernel_init=jax.nn.initializers.he_normal(), name=f"{kind}_1")


INPUTS = {"dense": (32, 6), "conv": (8, 5, 4, 3)}


@functools.cache
def begin_layer(kind: str, name: str) -> Any:
    """Compiled x -> output and variables of a new layer."""
    return once_jit(lambda x: layer_of(kind, name).init_with_output(jax.random.key(0), x))


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", SCHEMES)
def test_a_layer_is_the_plain_layer_with_the_kernel_in_its_place(name, kind):
    layer, plain, x = layer_of(kind, name), layer_of(kind, "none"), draw(INPUTS[kind], 2.0)
    _, start = begin_layer(kind, name)(x)
    params = dict(start["params"], bias=draw(4, seed=3))
    own = {c: leaves.pop("reparam") for c in start if "reparam" in (leaves := dict(start[c]))}

    @fast_jit
    def run(variables, own, x):
        params = variables["params"]
        w = make(name).apply(own, params["kernel"], None)[0]
        expected = plain.apply({"params": {"kernel": w, "bias": params["bias"]}}, x)
        return expected, *(layer.apply(variables, x.astype(t)) for t in ("float32", "bfloat16"))

    expected, y, half = run({**start, "params": params}, own, x)
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=2e-6)
    assert half.dtype == jnp.bfloat16
    assert relative_error(half, np.asarray(expected, np.float64)) < 1e-2


@pytest.mark.parametrize("loc", [0.0, 1e3])
@pytest.mark.parametrize("kind", INPUTS)
def test_weight_norm_starts_with_outputs_of_mean_0_and_variance_1(kind, loc):
    x = draw(INPUTS[kind], loc)
    y, variables = begin_layer(kind, "weight_norm")(x)
    y = np.asarray(y, np.float64).reshape(-1, 4)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-6 * (1 + 3 * loc))
    np.testing.assert_allclose(y.var(0), 1, rtol=1e-5 if loc == 0 else 1e-2)
    kernel = np.asarray(variables["params"]["kernel"], np.float64)
    plain = {"kernel": np.float32(kernel / length_of(kernel)), "bias": np.zeros(4, np.float32)}
    t = layer_of(kind, "none").apply({"params": plain}, x)
    t = np.asarray(t, np.float64).reshape(-1, 4)
    gain, bias = variables["params"]["reparam"]["gain"], variables["params"]["bias"]
    limit = 1e-5 if loc == 0 else 1e-2  # t itself is rounded, to 6e-8 of its mean
    np.testing.assert_allclose(gain, 1 / t.std(0), rtol=limit)
    np.testing.assert_allclose(bias, -t.mean(0) / t.std(0), rtol=limit, atol=1e-6)


def constant(*shape, noise=0.0):
    """Examples that differ by `noise` times their size."""
    return draw(shape[1:], seed=4)[None] * (1 + noise * draw(shape, seed=5))


@pytest.mark.parametrize(
    ("kind", "x"),
    [
        ("dense", np.zeros((64, 6), np.float32)),
        ("dense", np.full((64, 6), 3.3, np.float32)),
        ("dense", constant(64, 6, noise=1e-6)),
        ("dense", constant(64, 6, noise=1e-5)),
        ("dense", 1e-6 * constant(64, 6, noise=1e-5)),
        ("dense", 1e20 * constant(64, 6, noise=1e-5)),
        ("dense", jnp.asarray(constant(64, 6, noise=1e-3), jnp.bfloat16)),
        ("dense", draw((1, 6))),
        ("conv", draw((1, 5, 4, 3), 2.0)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight norm starts from 1 examples")
def test_weight_norm_starts_as_the_plain_layer_where_the_first_batch_is_constant(kind, x):
    y, variables = begin_layer(kind, "weight_norm")(x)
    expected, plain = begin_layer(kind, "none")(x)
    assert relative_error(y, np.asarray(expected, np.float64)) < (1e-6 if x.dtype == "f" else 1e-2)
    np.testing.assert_array_equal(variables["params"]["bias"], 0)
    gain = variables["params"]["reparam"]["gain"]
    np.testing.assert_allclose(gain, length_of(plain["params"]["kernel"]), rtol=1e-6)


@pytest.mark.parametrize("first", [np.nan, np.inf, None])
@pytest.mark.filterwarnings("ignore:.*weight norm starts from 0 examples")
def test_weight_norm_starts_as_the_plain_layer_where_the_first_batch_has_no_statistics(first):
    x = draw((64 if first else 0, 6))
    x[:1, :1] = first
    params: Any = begin_layer("dense", "weight_norm")(x)[1]["params"]
    np.testing.assert_allclose(params["reparam"]["gain"], length_of(params["kernel"]), rtol=1e-6)
    np.testing.assert_array_equal(params["bias"], 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weight_norm_starts_in_float32_from_half_precision(dtype):
    x = jnp.asarray(draw((64, 6), 0.5), dtype)
    params: Any = begin_layer("dense", "weight_norm")(x)[1]["params"]
    v = np.asarray(params["kernel"], np.float64)
    t = np.asarray(x, np.float64) @ (v / length_of(v))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    np.testing.assert_allclose(params["reparam"]["gain"], 1 / t.std(0), rtol=1e-2)


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e-3, 1e6, 1e20])
def test_weight_norm_starts_from_inputs_of_any_size(size):
    x = draw((64, 6), 0.5) * np.float32(size)
    y, variables = begin_layer("dense", "weight_norm")(x)
    v = np.asarray(variables["params"]["kernel"], np.float64)
    t = x.astype(np.float64) @ (v / length_of(v))
    np.testing.assert_allclose(variables["params"]["reparam"]["gain"], 1 / t.std(0), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(y).std(0), 1, rtol=1e-5)


@pytest.mark.parametrize(("shape", "is_few"), [((2, 6), True), ((31, 6), True), ((32, 6), False)])
def test_weight_norm_warns_of_a_start_from_few_examples(shape, is_few):
    layer, x = layer_of("dense", "weight_norm"), draw(shape)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        jax.eval_shape(jax.jit(layer.init), jax.random.key(0), x)
    messages = [str(warning.message) for warning in found]
    wanted = f"reparam: weight norm starts from {shape[0]} examples"
    assert [m.startswith(wanted) and "kernel_start='norm'" in m for m in messages] == [
        True
    ] * is_few


def test_weight_norm_may_start_as_pytorch_does():
    """gain = |v|, from any batch and without a warning."""
    layers, init = (
        build("none", kernel="weight_norm", kernel_start="norm"),
        layer_of("dense", "none"),
    )
    layer = layers.dense(4, kernel_init=init.kernel_init, name="dense_1")
    params: Any = layer.init(jax.random.key(0), draw((1, 6)))["params"]
    np.testing.assert_allclose(params["reparam"]["gain"], length_of(params["kernel"]), rtol=1e-6)
    np.testing.assert_array_equal(params["bias"], 0)
    for kernel, said in (("spectral", "takes no start 'norm'"), ("none", "takes no start 'norm'")):
        with pytest.raises(ValueError, match=said):
            build("none", kernel=kernel, kernel_start="norm")
    with pytest.raises(ValueError, match="start 'zero' of weight norm is not one of data, norm"):
        WeightNorm(start="zero").init(jax.random.key(0), jnp.ones((6, 4)), None)


@pytest.mark.parametrize("kind", INPUTS)
def test_conv_and_dense_move_state_in_training_only(kind):
    layer, x = layer_of(kind, "spectral"), draw(INPUTS[kind])
    _, variables = begin_layer(kind, "spectral")(x)
    for train in (True, False, None):
        _, after = layer.apply(variables, x, train=train, mutable=["norm_state"])
        moved = after["norm_state"]["reparam"]["u"] != variables["norm_state"]["reparam"]["u"]
        assert moved.any() == (train is not False)
    with pytest.raises(ValueError, match="reparam: training moves .* pass mutable="):
        layer.apply(variables, x, train=True)


def test_networks_pass_train_to_their_layers():
    for model in MODELS:
        net, begin, x = start("spectral", model)
        variables = begin(1.0, 3).variables
        for train in (True, False):
            state = net.apply(variables, x, train=train, mutable=["norm_state"])[1]["norm_state"]
            old, new = (leaves_of(s) for s in (variables["norm_state"], state))
            assert all((new[path] != leaf).any() == train for path, leaf in old.items())


MODELS = {"mlp": ((8, 4), (32, 6)), "cnn": ((4, 8), (8, 6, 6, 1))}


@functools.cache
def start(kernel: str, model: str) -> tuple[Any, Any, jax.Array]:
    """A network, its state at step 0 as a compiled function of gain and seed, and the batch."""
    widths, shape = MODELS[model]
    config = small({"norm.kernel": kernel, "model.name": model, "model.widths": widths})
    net, x = build_model(config, 10, "patches"), jnp.asarray(draw(shape, 1.0))

    def begin(gain, seed) -> TrainState:
        hyper = Hyper(seed=seed, lr=0.1, momentum=0.9, weight_decay=0.0, gain=gain)
        return init_state(net, "sgd", hyper, x)

    return net, fast_jit(begin), x


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", SCHEMES)
def test_arms_share_the_bits_of_every_parameter_they_share(name, model):
    row = KERNELS[name]
    plain, found = (leaves_of(start(k, model)[1](1.0, 3).params) for k in ("none", name))
    hidden = {path.split("/")[0] for path in plain} - {"head"}
    own = {f"{layer}/reparam/{leaf}" for layer in hidden for leaf in row.parameters}
    assert set(found) == set(plain) | own
    moved = {f"{layer}/{leaf}" for layer in hidden for leaf in row.moved}
    for path, leaf in plain.items():
        assert np.array_equal(found[path], leaf) == (path not in moved), path


@pytest.mark.parametrize("name", SCHEMES)
def test_the_initial_gain_of_kernels_only_divides_their_gradients(name):
    """f(a W) = f(W) and gradient(a W) = gradient(W) / a."""
    net, begin, x = start(name, "cnn")
    one, four = begin(1.0, 3), begin(4.0, 3)

    @fast_jit
    def run(state: TrainState):
        def value(params):
            y: Any = net.apply(state.variables | {"params": params}, x, train=False)
            return jnp.sum(jnp.sin(y)), y

        grads, y = jax.grad(value, has_aux=True)(state.params)
        return y, grads

    (y, grads), (scaled_y, scaled) = run(one), run(four)
    np.testing.assert_allclose(scaled_y, y, rtol=1e-4, atol=1e-5)
    smaller = leaves_of(scaled)
    for path, slope in leaves_of(grads).items():
        is_hidden = path.endswith("kernel") and not path.startswith("head")
        assert relative_error(smaller[path] * (4 if is_hidden else 1), slope) < 1e-4


@pytest.mark.parametrize("name", ["weight_norm", "spectral"])
def test_members_of_a_population_start_as_they_do_alone(name):
    _, begin, _ = start(name, "mlp")
    members = once_jit(jax.vmap(begin.__wrapped__, (None, 0)))
    together = members(1.0, jnp.arange(2))
    for i in range(2):
        alone, member = begin(1.0, i), jax.tree.map(lambda leaf, i=i: leaf[i], together)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, member.variables, alone.variables)


def test_weight_norm_starts_every_layer_of_a_network_from_the_first_batch():
    net, begin, x = start("weight_norm", "cnn")
    variables = begin(1.0, 3).variables
    see = functools.partial(net.apply, train=False, capture_intermediates=True)
    outputs = fast_jit(see)(variables, x)[1]["intermediates"]
    for layer in ("conv_1", "conv_2"):
        y = np.asarray(outputs[layer]["__call__"][0], np.float64)
        np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(y.var((0, 1, 2)), 1, rtol=1e-4)


def power(v, u, times):
    for _ in range(times):
        u = v.T @ (v @ u)
        u = u / np.linalg.norm(u)
    return u


def test_the_vector_of_the_spectral_norm_moves_in_training_only():
    layer, x = layer_of("conv", "spectral"), draw(INPUTS["conv"])
    variables: Any = layer.init(jax.random.key(0), x)
    kernel = np.asarray(variables["params"]["kernel"], np.float64).reshape(-1, 4)
    u = np.asarray(variables["norm_state"]["reparam"]["u"], np.float64)
    sigma = np.linalg.svd(kernel, compute_uv=False)[0]
    assert np.linalg.norm(kernel @ u) == pytest.approx(sigma, rel=0.1)
    assert np.linalg.norm(u) == pytest.approx(1, rel=1e-6)
    y, moved = layer.apply(variables, x, mutable=["norm_state"])
    after = np.asarray(moved["norm_state"]["reparam"]["u"], np.float64)
    np.testing.assert_allclose(after, power(kernel, u, 1), atol=1e-6)
    evaluated = layer.apply({**variables, **moved}, x)
    np.testing.assert_allclose(y, evaluated, rtol=1e-6, atol=1e-6)
    state = {"norm_state": {"u": power(kernel, u, 100).astype(np.float32)}}
    w = kernel_of("spectral")(state, jnp.float32(kernel))
    assert np.linalg.svd(w, compute_uv=False)[0] == pytest.approx(1, rel=1e-5)


def test_the_vector_of_the_spectral_norm_starts_after_15_iterations():
    def started(kernel):
        state: Any = make("spectral").init(jax.random.key(0), kernel, None)
        return np.asarray(state["norm_state"]["u"], np.float64)

    drawn = started(np.eye(4, dtype=np.float32))  # which iterations do not move
    kernel = np.diag([1.0, 0.95, 0.9, 0.85]).astype(np.float32)
    np.testing.assert_allclose(started(kernel), power(kernel, drawn, 15), atol=1e-6)


def test_no_gradient_flows_through_the_vector_of_the_spectral_norm():
    """The gradient in training is that of v / |v u| with the new u held fixed."""
    kernel, cotangent, variables = draw((6, 4)), draw((6, 4), seed=1), variables_of("spectral", 4)

    def value(mutable):
        def of(v):
            out: Any = make("spectral").apply(variables, v, None, mutable=mutable)
            return jnp.sum(cotangent * out[0][0])

        return of

    slope = jax.grad(value(["norm_state"]))(kernel)
    u = power(kernel.astype(np.float64), variables["norm_state"]["u"], 1)
    sigma = np.linalg.norm(kernel @ u)
    inner = (cotangent * kernel).sum() / sigma**2
    expected = cotangent / sigma - inner * np.outer(kernel @ u / sigma, u)
    assert relative_error(slope, expected) < 2e-6


def test_the_vector_survives_a_kernel_of_zeros():
    variables, kernel = variables_of("spectral", 4), np.zeros((6, 4), np.float32)
    _, moved = make("spectral").apply(variables, kernel, None, mutable=["norm_state"])
    np.testing.assert_array_equal(moved["norm_state"]["u"], variables["norm_state"]["u"])
    state: Any = make("spectral").init(jax.random.key(0), kernel, None)
    assert np.linalg.norm(state["norm_state"]["u"]) == pytest.approx(1, rel=1e-6)


def test_epsilon_stands_where_the_docstrings_say():
    v = np.array([[1e-5], [-1e-5]], np.float32)
    w = Standardize().apply({}, v, None)[0]
    np.testing.assert_allclose(w, [[math.sqrt(0.5)], [-math.sqrt(0.5)]], rtol=1e-6)
    tiny = np.float32(1e-12) * np.array([[3.0], [4.0]], np.float32)
    w = WeightNorm().apply({"params": {"gain": jnp.ones(1)}}, tiny, None)[0]
    np.testing.assert_allclose(w, [[0.6], [0.8]], rtol=1e-6)
