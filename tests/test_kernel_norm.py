"""KernelNorm: kernel schemes around layers of Flax, against float64 formulas and PyTorch."""

from __future__ import annotations

import dataclasses
import importlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from oracles import KERNEL_ORACLES
from trained_layers import draw, relative_error

from normlab.norms import KERNELS, KernelNorm
from normlab.testing import kernels
from normlab.testing.kernels import check_kernel
from normlab.testing.result import table

SCHEMES = [name for name, row in KERNELS.items() if row.module]
MUTABLE = ["norm_state"]
CASES: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "dense": (nn.Dense(4), {}, draw((64, 6))),
    "groups": (nn.Conv(8, (3, 3), feature_group_count=4), {}, draw((8, 4, 4, 8))),
    "depthwise": (nn.Conv(8, (3, 2), strides=2, feature_group_count=8), {}, draw((8, 5, 4, 8))),
    "dilated 1-D": (nn.Conv(5, (3,), kernel_dilation=2), {}, draw((8, 9, 3))),
    "3-D": (nn.Conv(5, (2, 3, 3), padding="VALID"), {}, draw((8, 3, 4, 4, 3))),
    "transposed": (nn.ConvTranspose(5, (3, 3), strides=(2, 2)), {}, draw((8, 3, 4, 3))),
    "transposed kernel": (
        nn.ConvTranspose(5, (3, 3), strides=(2, 2), transpose_kernel=True),
        {"axis": -2},
        draw((8, 3, 4, 3)),
    ),
    "two features": (nn.DenseGeneral((4, 5)), {"axis": (-2, -1)}, draw((64, 6))),
    "two inputs": (nn.DenseGeneral(4, axis=(1, -1)), {}, draw((64, 3, 2))),
    "einsum": (nn.Einsum((6, 5, 2), "abce,dce->abd"), {"axis": 0}, draw((8, 9, 5, 2))),
    "local": (nn.ConvLocal(3, (3,), use_bias=False), {"axis": (0, 2)}, draw((40, 5, 2))),
    "embedding": (nn.Embed(10, 4), {"kernel": "embedding"}, np.arange(64) % 10),
    "rows": (nn.Embed(10, 4), {"kernel": "embedding", "axis": 0}, np.arange(64) % 10),
}
"""Layer, options of KernelNorm, input."""


def units_last(kernel: np.ndarray, axis: Any) -> tuple[np.ndarray, Any]:
    """A kernel in float64 as [fan-in, C], and the way back."""
    axes = [a % kernel.ndim for a in np.atleast_1d(axis)]
    front = np.moveaxis(np.asarray(kernel, np.float64), axes, range(len(axes)))
    units = math.prod(front.shape[: len(axes)])

    def back(w: np.ndarray) -> np.ndarray:
        return np.moveaxis(w.T.reshape(front.shape), range(len(axes)), axes)

    return front.reshape(units, -1).T, back


@pytest.mark.parametrize("name", SCHEMES)
def test_every_row_passes_the_checks(name):
    results = check_kernel(name)
    assert [result for result in results if result.status != "pass"] == [], table(results)


def test_a_row_that_says_what_is_not_so_fails(monkeypatch):
    """Also a scheme whose state moves in evaluation, and one that raises."""
    wrong = dataclasses.replace(KERNELS["spectral"], invariant=("shift",), has_state=False)
    monkeypatch.setitem(KERNELS, "spectral", wrong)
    as_before = lambda self, train: self.is_mutable_collection("norm_state")  # noqa: E731
    monkeypatch.setattr("normlab.layers.reparam.Spectral.moves", as_before)
    checks = kernels.check_row, kernels.check_invariances, kernels.check_state
    failed = [r.name for c in checks for r in c("spectral") if r.status == "fail"]
    assert "state as the row says" in failed and "shift of the kernel" in failed
    assert "size of the kernel" in failed and "state moves in training only: train=False" in failed
    monkeypatch.setitem(KERNELS, "spectral", dataclasses.replace(wrong, module="normlab:Nothing"))
    assert {result.status for result in check_kernel("spectral")} == {"fail"}


@pytest.mark.parametrize("case", CASES)
def test_a_layer_with_the_kernel_of_the_equation(case):
    layer, options, x = CASES[case]
    name, start = options.get("kernel", "kernel"), "norm" if case == "rows" else "data"
    wrapped = {scheme: KernelNorm(layer, scheme, **options) for scheme in SCHEMES}
    begun = KernelNorm(layer, "weight_norm", **options, start=start).init_with_output
    y, variables = jax.jit(begun)(jax.random.key(0), x)
    params = dict(variables["params"])
    units = params.pop("reparam")["gain"].shape
    plain = jax.jit(layer.init)(jax.random.key(0), x)["params"]
    np.testing.assert_allclose(params[name], plain[name], rtol=1e-6)
    matrix, back = units_last(params[name], options.get("axis", -1))
    if case == "rows":
        gain = variables["params"]["reparam"]["gain"]
        np.testing.assert_allclose(gain, np.linalg.norm(matrix, axis=0), rtol=1e-6)
    else:
        outputs = np.asarray(y, np.float64).reshape(-1, *units)
        np.testing.assert_allclose(outputs.std(0), 1, rtol=1e-5)
        np.testing.assert_allclose(outputs.mean(0) * ("bias" in params), 0, atol=1e-6)
    params = {leaf: draw(value.shape, seed=2) for leaf, value in params.items()}
    gain, u = draw(units, 1.0, seed=3), draw(units, seed=4)
    u = u / np.linalg.norm(u)
    matrix, back = units_last(params[name], options.get("axis", -1))
    exact = [params | {name: np.float32(back(o(matrix, gain, u)))} for o in KERNEL_ORACLES.values()]

    @jax.jit
    def run(params, exact):
        found = []
        for scheme in KERNEL_ORACLES:
            row = KERNELS[scheme]
            given: Any = {
                "params": params | ({"reparam": {"gain": gain}} if row.parameters else {})
            }
            given |= {"norm_state": {"reparam": {"u": u}}} if row.has_state else {}
            found.append(wrapped[scheme].apply(given, x))
        return found, [layer.apply({"params": one}, x) for one in exact]

    for found, right in zip(*run(params, exact), strict=True):
        assert relative_error(found, np.asarray(right, np.float64)) < 2e-6


TORCH: dict[str, tuple[Any, Any, dict[str, Any], tuple[int, ...]]] = {
    "Linear": (lambda nn, f64: nn.Linear(6, 4, **f64), CASES["dense"][0], {}, (5, 6)),
    "Conv1d": (
        lambda nn, f64: nn.Conv1d(6, 4, 3, groups=2, dilation=2, **f64),
        nn.Conv(4, (3,), feature_group_count=2, kernel_dilation=2, padding="VALID"),
        {},
        (5, 9, 6),
    ),
    "Conv2d": (
        lambda nn, f64: nn.Conv2d(4, 4, 3, groups=4, stride=2, padding=1, **f64),
        nn.Conv(4, (3, 3), feature_group_count=4, strides=2, padding=1),
        {},
        (5, 6, 6, 4),
    ),
    "Conv3d": (
        lambda nn, f64: nn.Conv3d(2, 4, (2, 3, 3), **f64),
        nn.Conv(4, (2, 3, 3), padding="VALID"),
        {},
        (2, 4, 4, 5, 2),
    ),
    "ConvTranspose2d": (
        lambda nn, f64: nn.ConvTranspose2d(3, 4, 3, stride=2, **f64),
        nn.ConvTranspose(4, (3, 3), strides=(2, 2), padding="VALID", transpose_kernel=True),
        {"axis": -2},
        (2, 3, 4, 3),
    ),
}
"""Class -> how PyTorch makes it, the layer of Flax, options of KernelNorm, the shape of x."""


@pytest.mark.peers("torch")
@pytest.mark.parametrize("scheme", ["weight_norm", "spectral"])
@pytest.mark.parametrize("kind", TORCH)
def test_outputs_and_slopes_are_those_of_pytorch(kind, scheme):
    """In training: the power iteration of PyTorch starts from the side of the inputs."""
    torch = importlib.import_module("torch")
    make, layer, options, shape = TORCH[kind]
    other, dim = make(torch.nn, {"dtype": torch.float64}), 1 if "Transpose" in kind else 0
    x, weight, bias, gain = draw(shape), draw(other.weight.shape), draw(4, seed=1), draw(4, 1.0)
    u = draw(4, seed=2) / np.linalg.norm(draw(4, seed=2))
    other.weight.data, other.bias.data = torch.tensor(weight).double(), torch.tensor(bias).double()
    wrap = {"weight_norm": "weight_norm", "spectral": "spectral_norm"}[scheme]
    getattr(torch.nn.utils.parametrizations, wrap)(other, dim=dim)
    held = other.parametrizations["weight"]
    if scheme == "weight_norm":
        held.original0.data = torch.tensor(gain).double().reshape(held.original0.shape)
    else:
        matrix = np.moveaxis(weight, dim, 0).reshape(4, -1).astype(np.float64)
        held[0]._v.data = torch.tensor(u @ matrix / np.linalg.norm(u @ matrix))
    right = torch.moveaxis(other(torch.tensor(np.moveaxis(x, -1, 1)).double()), 1, -1)
    cotangent = draw(right.shape, seed=5)
    (right * torch.tensor(cotangent)).sum().backward()
    slope = (held.original1 if scheme == "weight_norm" else held.original).grad.numpy()

    def total(kernel):
        params = {"kernel": kernel, "bias": bias}
        params |= {"reparam": {"gain": gain}} if scheme == "weight_norm" else {}
        given: Any = {"params": params, "norm_state": {"reparam": {"u": u}}}
        y: Any = KernelNorm(layer, scheme, **options).apply(given, x, True, mutable=MUTABLE)[0]
        return jnp.sum(y * cotangent), y

    found, y = jax.jit(jax.grad(total, has_aux=True))(np.moveaxis(weight, (0, 1), (-1, -2)))
    assert relative_error(y, right.detach().numpy()) < 2e-6
    assert relative_error(found, np.moveaxis(slope, (0, 1), (-1, -2))) < 5e-6


class Net(nn.Module):
    """Layers of every kind of construction."""

    wrapped: bool = True

    def setup(self):
        conv = nn.Conv(6, (3,))
        self.first: Any = KernelNorm(conv, "weight_norm") if self.wrapped else conv

    @nn.compact
    def __call__(self, x, train: bool = False):
        if not self.wrapped:
            return nn.Dense(6, name="second")(self.first(x))
        x, again = self.first(x, train=train), nn.remat(KernelNorm, static_argnums=(2,))
        return again(nn.Dense(6), "spectral", name="second")(x, train)


def test_in_a_network_parameters_have_the_names_and_bits_of_the_plain_layers():
    x = draw((8, 9, 3))
    nets: tuple[Any, Any] = Net(), Net(wrapped=False)
    found, plain = (net.init(jax.random.key(0), x) for net in nets)
    assert jax.tree.map(jnp.shape, found["norm_state"]) == {"second": {"reparam": {"u": (6,)}}}
    assert found["params"]["first"].pop("reparam")["gain"].shape == (6,)
    found["params"]["first"]["bias"] = plain["params"]["first"]["bias"]  # started from x
    jax.tree.map(np.testing.assert_array_equal, found["params"], plain["params"])


def test_under_scan_and_remat_it_is_the_loop():
    class Body(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            make = nn.remat(KernelNorm, static_argnums=(2,))
            return jnp.tanh(make(nn.Dense(6), "spectral", name="dense")(x, True)), None

    axes: Any = {"params": 0, "norm_state": 0}
    scanned: Any = nn.scan(Body, variable_axes=axes, split_rngs={"params": True}, length=3)()
    x, one = draw((5, 6)), KernelNorm(nn.Dense(6), "spectral")
    variables = scanned.init(jax.random.key(0), x, None)

    def in_one(params):
        (y, _), state = scanned.apply(variables | {"params": params}, x, None, mutable=MUTABLE)
        return jnp.sum(y * y), state

    def in_three(params):
        y, states = x, []
        for i in range(3):
            given = jax.tree.map(lambda leaf, i=i: leaf[i], variables | {"params": params})
            y, state = one.apply(
                {k: v["dense"] for k, v in given.items()}, y, True, mutable=MUTABLE
            )
            y, states = jnp.tanh(y), [*states, state["norm_state"]]
        return jnp.sum(y * y), {
            "norm_state": {"dense": jax.tree.map(lambda *s: jnp.stack(s), *states)}
        }

    both = [jax.jit(jax.grad(f, has_aux=True))(variables["params"]) for f in (in_one, in_three)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *both)


def test_partitioned_parameters_stay_so_and_half_precision_stays_half():
    x, init = draw((64, 6)), nn.initializers
    layer = nn.Dense(
        4,
        kernel_init=nn.with_partitioning(init.lecun_normal(), (None, "model")),
        bias_init=nn.with_partitioning(init.zeros, ("model",)),
    )
    variables: Any = KernelNorm(layer, "weight_norm").init(jax.random.key(0), x)
    assert variables["params"]["bias"].names == ("model",)
    assert np.any(variables["params"]["bias"].value != 0)
    half = KernelNorm(nn.Dense(4, param_dtype=jnp.bfloat16), "weight_norm")
    y, variables = half.init_with_output(jax.random.key(0), jnp.asarray(x, jnp.bfloat16))
    assert y.dtype == variables["params"]["kernel"].dtype == jnp.bfloat16
    assert variables["params"]["reparam"]["gain"].dtype == jnp.float32


def test_parameters_made_by_apply_and_a_layer_called_twice_start_as_by_init():
    """The second call of a layer takes the start of the first."""

    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = KernelNorm(nn.Dense(6), "weight_norm", name="dense")
            return layer(layer(x))

    x, key = draw((64, 6)), jax.random.key(0)
    once: Any = KernelNorm(nn.Dense(6), "weight_norm", name="dense")
    started = once.init(key, x)["params"]
    found = once.apply({}, x, mutable=["params"], rngs={"params": key})[1]["params"]
    jax.tree.map(np.testing.assert_array_equal, found, started)
    twice: Any = Twice().init(key, x)
    y = once.apply({"params": twice["params"]["dense"]}, x)
    np.testing.assert_allclose(np.asarray(y).std(0), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        (nn.LayerNorm(), {}, "no parameter 'kernel'; give one of bias, scale as `kernel`"),
        (nn.Dense(4), {"axis": 0}, r"outputs of shape \(64, 4\).* units of shape \(6,\)"),
        (nn.Dense(4), {"axis": 2}, "axis: axis 2 is out of bounds"),
        (nn.Dense(4), {"scheme": "spectral", "start": "norm"}, "'spectral' takes no start 'norm'"),
        (nn.Dense(4), {"scheme": "spectrum"}, "spectral"),
    ],
)
def test_what_it_refuses(layer, options, message):
    module = KernelNorm(layer, **{"scheme": "weight_norm"} | options)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), draw((64, 6)))


def test_a_traced_train_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"static_argnums=\(2,\)"):
        nn.remat(KernelNorm)(nn.Dense(4), "spectral").init(jax.random.key(0), draw((5, 6)), True)
