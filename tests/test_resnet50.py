"""ResNet-50: its size, its start, and its logits from nothing but lax."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_runs import draw, leaves_of, record, small

from normlab.models.build import build_model
from normlab.models.table import MODELS
from normlab.runs.config import ConfigError, resolve
from normlab.settings import Config
from normlab.training.state import Hyper, init_state

WIDTHS = (64, 128, 256, 512)
X = draw((4, 9, 10, 3))
HYPER = Hyper(seed=3, lr=1.0, momentum=0.9, weight_decay=0.01, gain=1.0, norm_scale=2.0)


def tiny(norm: str = "affine", widths: tuple[int, ...] = (4, 6)) -> Config:
    return small({"model.name": "resnet50", "model.widths": widths, "norm.name": norm})


def test_it_has_the_parameters_of_the_paper_and_our_biases():
    """25,557,032 with batch norm and 1,000 classes, as in other libraries; 53 convolutions."""
    net = build_model(tiny("batch", WIDTHS), 1000, "lax")
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=True), x)
    leaves = leaves_of(variables["params"])
    biases = sum(v.size for path, v in leaves.items() if "conv" in path and path.endswith("bias"))
    assert sum(v.size for v in leaves.values()) - biases == 25_557_032
    assert biases == 26_560
    assert sum("conv" in path and path.endswith("kernel") for path in leaves) == 53
    means = [v for path, v in leaves_of(variables["batch_stats"]).items() if path.endswith("/mean")]
    assert sum(v.size for v in means) == 26_560


def test_its_norms_receive_what_the_table_says():
    for widths, image in ((WIDTHS, (224, 224, 3)), ((4, 6), (9, 10, 3))):
        config = tiny("affine", widths)
        log = record(build_model(config, 10, "lax"), (2, *image))
        received = [shape for name, shape, _ in log if name.startswith("norm")]
        assert received == MODELS["resnet50"].shapes(config, image)
    assert received[0] == (5, 5, 4) and received[-1] == (2, 2, 24)


def test_the_last_norm_of_each_branch_starts_at_0():
    net = build_model(tiny(), 10, "patches")
    params = jax.jit(lambda x: init_state(net, "momentum", HYPER, x))(X).params
    scales = {p: v for p, v in leaves_of(params).items() if p.endswith("scale")}
    assert sum("norm_3_zero" in path for path in scales) == 7
    for path, scale in scales.items():
        assert np.all(scale == (0 if "norm_3_zero" in path else 2)), path


def forward(p: Any, x: Any) -> Any:
    """Logits of two stages, of 3 and 4 blocks."""

    def convolved(p: Any, x: Any, place: str, size: int, stride: int = 1, end: str = "") -> Any:
        kernel, norm = p[f"conv_{place}"], p[f"norm_{place}{end}"]
        sides = [(size // 2, size // 2)] * 2
        space = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, kernel["kernel"], (stride,) * 2, sides, None, None, space)
        return (y + kernel["bias"]) * norm["scale"] + norm["bias"]

    def relu(x: Any) -> Any:
        return jnp.maximum(x, 0)

    x = relu(convolved(p, x, "stem", 7, 2))
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # after relu 0 is no larger than the largest
    height, width = ((side - 3) // 2 + 1 for side in x.shape[1:3])
    windows = [x[:, i:, j:][:, ::2, ::2][:, :height, :width] for i in range(3) for j in range(3)]
    x = jnp.stack(windows).max(0)
    for stage, blocks in ((1, 3), (2, 4)):
        for i in range(1, blocks + 1):
            block, stride = p[f"stage_{stage}_block_{i}"], 2 if (stage, i) == (2, 1) else 1
            y = relu(convolved(block, x, "1", 1))
            y = relu(convolved(block, y, "2", 3, stride))
            y = convolved(block, y, "3", 1, 1, "_zero")
            x = convolved(block, x, "shortcut", 1, stride) if i == 1 else x
            x = relu(x + y)
    return x.mean((1, 2)) @ p["head"]["kernel"] + p["head"]["bias"]


def test_logits_are_those_of_plain_lax():
    net = build_model(tiny(), 10, "patches")
    state = jax.eval_shape(lambda x: init_state(net, "momentum", HYPER, x), X)
    leaves, tree = jax.tree.flatten(state.params)
    drawn = [0.3 * draw(v.shape, i) + (0.0 if v.ndim > 1 else 0.5) for i, v in enumerate(leaves)]
    params = jax.tree.unflatten(tree, drawn)
    found = jax.jit(lambda params: net.apply({"params": params}, X, train=False))(params)
    right = jax.jit(lambda params: forward(params, X))(params)
    assert np.std(right) > 0.1
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.widths": (8,) * 5}, "has 4 stages; give at most 4 widths"),
        ({"norm.name": "frn"}, "replaces the activation right after it"),
    ],
)
def test_what_is_no_resnet50_is_refused_in_one_line(changes, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        resolve({"model.name": "resnet50", "model.widths": (4, 6)} | changes)
    assert "\n" not in str(refusal.value)
