"""Diagnostics of a small batch-normalized network against float64 NumPy, which shares no code with
them; its gradients are complex steps of the forward pass."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normlab.diagnostics import curvature
from normlab.diagnostics.inputs import DiagnosticInputs
from normlab.diagnostics.names import NAMES
from normlab.diagnostics.table import DIAGNOSTICS, STATEFUL
from normlab.models.mlp import MLP
from normlab.norms.builder import build

EPSILON, RATE, BATCH = 1e-3, 0.2, 8
WIDTHS, CLASSES, FEATURES = (5, 6), 3, 4
KEY = jax.random.key(3)
LAYERS = ("dense_1", "dense_2", "head")
Arrays = dict[tuple[str, str], np.ndarray]

rng = np.random.default_rng(42)
X, HELD_OUT, MANY = rng.normal(0.3, 1.5, (3, 48, FEATURES)).astype(np.float32)
X, Y = X[:BATCH], np.arange(BATCH) % CLASSES


def draw_params() -> Arrays:
    sizes, params = (FEATURES, *WIDTHS, CLASSES), {}
    for i, layer in enumerate(LAYERS):
        params[layer, "kernel"] = rng.normal(0, 0.7, sizes[i : i + 2])
        params[layer, "bias"] = rng.normal(0, 0.3, sizes[i + 1])
    for i, width in enumerate(WIDTHS, 1):
        params[f"norm_{i}", "scale"] = rng.uniform(0.8, 1.3, width)
        params[f"norm_{i}", "bias"] = rng.normal(0, 0.15, width)
    params["norm_1", "scale"][1] = 0.0  # its normalized value cannot be told
    params["norm_2", "scale"][:3] = 6.0  # tanh of it has a standard deviation of nearly 1
    return {path: leaf.astype(np.float32) for path, leaf in params.items()}


PARAMS = draw_params()


def nested(arrays: Arrays) -> dict[str, dict[str, Any]]:
    tree: dict[str, dict[str, Any]] = {}
    for (module, leaf), value in arrays.items():
        tree.setdefault(module, {})[leaf] = jnp.asarray(value, jnp.float32)
    return tree


def wide(arrays: Arrays) -> Arrays:
    return {path: leaf.astype(np.float64) for path, leaf in arrays.items()}


def row(vector: np.ndarray) -> np.ndarray:
    return vector[..., None, :]


def forward(p: Arrays, x: np.ndarray, stats: dict[str, Any] | None = None) -> dict[str, Any]:
    """All that the network computes; leaves of `p` may have a leading axis. `stats`: norm -> (mean,
    var) in the place of the batch's. ("h", layer) in `p` is added to what that layer receives."""
    seen: dict[str, Any] = {"stats": {}}
    h: Any = x.astype(np.float64)
    for i, layer in enumerate(LAYERS, 1):
        h = h + p.get(("h", layer), 0.0)
        seen[layer] = h
        h = h @ p[layer, "kernel"] + row(p[layer, "bias"])
        if layer == "head":
            continue
        norm = f"norm_{i}"
        mean = h.mean(-2)
        mean, var = (mean, ((h - row(mean)) ** 2).mean(-2)) if stats is None else stats[norm]
        seen["stats"][norm] = mean, var
        seen[f"{norm}/x"] = h
        seen[f"{norm}/x_hat"] = (h - row(mean)) / np.sqrt(row(var) + EPSILON)
        h = seen[f"{norm}/x_hat"] * row(p[norm, "scale"]) + row(p[norm, "bias"])
        seen[f"{norm}/y"] = h
        h = np.tanh(h)
    seen["logits"] = h
    return seen


def loss(p: Arrays, stats: dict[str, Any] | None = None) -> Any:
    logits = forward(p, X, stats)["logits"]
    chosen = logits[..., np.arange(BATCH), Y]
    return (np.log(np.exp(logits).sum(-1)) - chosen).mean(-1)


def gradient(p: Arrays, stats: dict[str, Any] | None = None) -> Arrays:
    grads, step = {}, 1e-30
    for path, leaf in p.items():
        turned = leaf + 1j * step * np.eye(leaf.size).reshape(leaf.size, *leaf.shape)
        grads[path] = (loss({**p, path: turned}, stats).imag / step).reshape(leaf.shape)
    return grads


def flat(arrays: Arrays) -> np.ndarray:
    return np.concatenate([arrays[path].ravel() for path in sorted(arrays)])


def moved(p: Arrays, grads: Arrays, rate: float) -> Arrays:
    return {path: p[path] - rate * grads[path] for path in p}


WIDE = wide(PARAMS)
G = gradient(WIDE)
STATS = forward(WIDE, X)["stats"]
EXACT = forward(WIDE, MANY)["stats"]
OFFSET, FACTOR = 0.25, 1.5
"""What the running statistics are off by."""


def make(momentum: float) -> MLP:
    layers = build("batch", act=jnp.tanh, epsilon=EPSILON, momentum=momentum)
    init = jax.nn.initializers.zeros
    return MLP(layers=layers, widths=WIDTHS, classes=CLASSES, kernel_init=init)


def inputs_of(params: Any, state: Any) -> DiagnosticInputs:
    return DiagnosticInputs(
        net=make(0.9),
        whole=make(0.0),
        params=params,
        state=state,
        x=jnp.asarray(X),
        y=jnp.asarray(Y),
        held_out=jnp.asarray(HELD_OUT),
        stats_x=jnp.asarray(MANY),
        key=KEY,
        descend=lambda grads: jax.tree.map(lambda p, g: p - RATE * g, params, grads),
        rate=jnp.float32(RATE),
    )


@pytest.fixture(scope="module")
def found() -> dict[str, float]:
    """All diagnostics without a state, in one program."""
    stats = {
        norm: {
            "mean": jnp.asarray(mean + OFFSET / 2, jnp.float32),
            "mean_lo": jnp.full(len(mean), OFFSET / 2),
            "var": jnp.asarray(FACTOR * var, jnp.float32),
        }
        for norm, (mean, var) in EXACT.items()
    }
    state = {"batch_stats": stats, "norm_state": {}}

    @jax.jit
    def look(params, state):
        inputs, values = inputs_of(params, state), {}
        for name, observe in DIAGNOSTICS.items():
            new = observe(inputs)
            assert all(key.startswith(f"{name}.") for key in new)
            values |= new
        return values

    values = look(nested(PARAMS), state)
    assert {(v.shape, str(v.dtype)) for v in values.values()} == {((), "float32")}
    return {name: float(value) for name, value in values.items()}


def exactly(value: Any, rel: float = 2e-4) -> Any:
    return pytest.approx(float(value), rel=rel, abs=1e-6)


def size(x: np.ndarray) -> float:
    return float(np.sqrt((x**2).sum()))


def test_every_diagnostic_has_its_line_and_every_line_its_diagnostic(found):
    assert set(NAMES) == {*DIAGNOSTICS, *STATEFUL} and not {*DIAGNOSTICS} & {*STATEFUL}
    assert {key.split(".")[0] for key in found} == set(DIAGNOSTICS)


def test_gradients(found):
    received = forward(WIDE, X)
    zeros = {("h", layer): np.zeros_like(received[layer]) for layer in LAYERS}
    grads = gradient(WIDE | zeros)
    for layer in LAYERS:
        kernel, inputs = size(grads[layer, "kernel"]), size(grads["h", layer])
        assert found[f"gradients.kernel.{layer}"] == exactly(kernel)
        assert found[f"gradients.input.{layer}"] == exactly(inputs)
    first, last = (size(grads["h", layer]) for layer in LAYERS[1:])
    assert found["gradients.slope"] == exactly(np.log10(last / first))


def test_activations(found):
    seen = forward(WIDE, X)
    for norm in ("norm_1", "norm_2"):
        y = seen[f"{norm}/y"]
        assert found[f"activations.mean.{norm}"] == exactly(np.abs(y.mean(0)).mean())
        assert found[f"activations.std.{norm}"] == exactly(y.std(0).mean())
    for percent in (15, 50, 85):
        expected = np.percentile(seen["norm_2/y"][:, 0], percent)
        assert found[f"activations.p{percent}"] == exactly(expected)


def test_shift(found):
    after, cosines, relatives = moved(WIDE, G, RATE), [], []
    moves = {"dense_1": 0, "norm_1": 0, "dense_2": 1, "norm_2": 1, "head": 2}
    for i, layer in enumerate(LAYERS):
        mixed = {path: (after if moves[path[0]] < i else WIDE)[path] for path in WIDE}
        g, new = G[layer, "kernel"], gradient(mixed)[layer, "kernel"]
        cosine = (g * new).sum() / size(g) / size(new)
        cosines.append(cosine)
        relatives.append(size(new - g) / size(g))
        assert found[f"shift.distance.{layer}"] == exactly(size(new - g))
        assert found[f"shift.relative.{layer}"] == exactly(relatives[-1])
        assert found[f"shift.cosine.{layer}"] == exactly(cosine)
    assert found["shift.cosine"] == exactly(np.mean(cosines[1:]))
    assert found["shift.relative"] == exactly(np.mean(relatives[1:]))
    assert cosines[0] == pytest.approx(1) and min(cosines) < 0.99


def test_landscape(found):
    losses, changes, slopes = [], [], []
    for step in (0.5 * RATE, RATE, 2 * RATE, 4 * RATE):
        there = moved(WIDE, G, step)
        losses.append(float(loss(there)))
        changes.append(size(flat(gradient(there)) - flat(G)))
        slopes.append(changes[-1] / (step * size(flat(G))))
    assert found["landscape.loss_range"] == exactly(max(losses) - min(losses))
    assert found["landscape.predictiveness"] == exactly(max(changes))
    assert found["landscape.smoothness"] == exactly(max(slopes))


@pytest.mark.parametrize(("name", "stats"), [("relative", None), ("relative_frozen", STATS)])
def test_landscape_at_a_relative_step(found, name, stats):
    g = gradient(WIDE, stats)
    step = 0.01 * size(flat(WIDE)) / size(flat(g))
    change = size(flat(gradient(moved(WIDE, g, step), stats)) - flat(g))
    assert found[f"landscape.{name}"] == exactly(change / size(flat(g)), 2e-3)
    assert found["landscape.relative"] != pytest.approx(found["landscape.relative_frozen"], 0.05)


def test_curvature(found):
    rows, step = [], 1e-5
    for path in sorted(WIDE):
        for i in range(WIDE[path].size):
            shift = np.zeros(WIDE[path].size)
            shift[i] = step
            up, down = (
                flat(gradient({**WIDE, path: WIDE[path] + s * shift.reshape(WIDE[path].shape)}))
                for s in (1, -1)
            )
            rows.append((up - down) / (2 * step))
    hessian = np.stack(rows)
    assert np.abs(hessian - hessian.T).max() < 1e-6
    assert found["curvature.top"] == exactly(np.linalg.eigvalsh(hessian)[-1], 1e-3)
    keys = jax.random.split(jax.random.fold_in(KEY, curvature.SIGNS), curvature.SAMPLES)
    signs = [np.asarray(jax.random.rademacher(key, (1, len(hessian)), float)[0]) for key in keys]
    products = [v @ hessian @ v for v in signs]
    assert found["curvature.trace"] == exactly(np.mean(products), 1e-3)
    error = np.std(products) / np.sqrt(len(products))
    assert abs(np.mean(products) - np.trace(hessian)) < 3 * error


def test_rank(found):
    seen = forward(WIDE, X)
    for layer in LAYERS:
        h = seen[layer]
        values = np.linalg.svd(h, compute_uv=False) ** 2
        rows = h / np.linalg.norm(h, axis=1, keepdims=True)
        pairs = (rows @ rows.T)[~np.eye(BATCH, dtype=bool)]
        assert found[f"rank.stable.{layer}"] == exactly(values.sum() / values.max())
        assert found[f"rank.cosine.{layer}"] == exactly(pairs.mean())


def test_rotation(found):
    for layer in LAYERS:
        w, g = WIDE[layer, "kernel"], G[layer, "kernel"]
        new = w - RATE * g
        angle = np.arccos((w * new).sum() / size(w) / size(new))
        assert found[f"rotation.angle.{layer}"] == exactly(angle)
        assert found[f"rotation.effective_rate.{layer}"] == exactly(RATE / size(w) ** 2)
        if layer != "head":  # epsilon leaves a little of the gradient along the kernel
            right = np.arctan(RATE * size(g) / size(w))
            assert found[f"rotation.angle.{layer}"] == exactly(right, 0.01)


def test_statistics(found):
    for norm, (_, var) in EXACT.items():
        gap = (OFFSET / np.sqrt(var)).mean()
        assert found[f"statistics.mean.{norm}"] == exactly(gap, 1e-3)
        assert found[f"statistics.var.{norm}"] == exactly(np.log(FACTOR), 1e-3)


def test_health_and_dead_units(found):
    seen = forward(WIDE, X)
    for norm in ("norm_1", "norm_2"):
        x = seen[f"{norm}/x"]
        assert found[f"health.ratio.{norm}"] == exactly((np.abs(x.mean(0)) / x.std(0)).max())
    assert {key: found[key] for key in found if key.startswith("dead.")} == {
        "dead.share.dense_2": 0.0,
        "dead.share.head": 0.0,
    }


def test_moments(found):
    seen, exact = forward(WIDE, X), forward(WIDE, HELD_OUT, EXACT)
    is_known = np.concatenate([PARAMS["norm_1", "scale"] != 0, np.ones(WIDTHS[1], bool)])

    def near(arrays: list[np.ndarray]) -> np.ndarray:
        mean = np.concatenate([a.mean(0) for a in arrays])
        std = np.concatenate([a.std(0) for a in arrays])
        for distance in (np.abs(mean), np.abs(std - 1)):
            assert np.abs(distance - 0.1).min() > 1e-4  # none is a matter of rounding
        return (np.abs(mean) <= 0.1) & (np.abs(std - 1) <= 0.1)

    norms = ("norm_1", "norm_2")
    normalized = near([seen[f"{norm}/x_hat"] for norm in norms])[is_known].mean()
    evaluation = near([exact[f"{norm}/x_hat"] for norm in norms])[is_known].mean()
    scaled = near([seen[f"{norm}/y"] for norm in norms]).mean()
    received = near([seen[layer] for layer in LAYERS[1:]]).mean()
    shares = (evaluation, scaled, received)
    assert normalized == 1 and all(0 < s < 1 for s in shares) and len(set(shares)) == 3
    assert found["moments.normalized"] == exactly(normalized)
    assert found["moments.scaled"] == exactly(scaled)
    assert found["moments.received"] == exactly(received)
    assert found["moments.evaluation"] == exactly(evaluation)
