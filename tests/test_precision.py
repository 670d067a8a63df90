"""`model.dtype` and `model.precision`: which values have which type, and what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from small_runs import draw, small, train

from normlab.data import load
from normlab.models.build import build_model
from normlab.norms import NORMS
from normlab.runs.config import program_id, resolve, run_id
from normlab.runs.errors import ConfigError
from normlab.settings import Config
from normlab.training.program import with_products

NETS: dict[str, Config] = {
    "mlp": {"model.widths": (6,)},
    "cnn": {"model.name": "cnn", "model.widths": (4,)},
    "resnet": {"model.name": "resnet", "model.widths": (4,)},
}
SHORT = {"model.dtype": "bfloat16"}


def types_in(net: nn.Module, x: Any) -> dict[str, set[str]]:
    """Name of a layer -> the types of what it returns; `variables` -> those of all variables."""
    seen: dict[str, set[str]] = {}

    def note(call, arguments, options, context):
        out = call(*arguments, **options)
        if context.method_name == "__call__":
            seen.setdefault(context.module.name or "network", set()).add(str(out.dtype))
        return out

    def begin() -> Any:
        return net.init_with_output(jax.random.key(0), x, train=True)[1]

    with nn.intercept_methods(note):
        variables = jax.eval_shape(begin)
    return seen | {"variables": {str(leaf.dtype) for leaf in jax.tree.leaves(variables)}}


@pytest.mark.parametrize(
    ("net", "name"), [("mlp", "batch"), ("resnet", "batch"), *(("cnn", name) for name in NORMS)]
)
def test_layers_are_short_and_the_rest_is_not(net, name):
    config = resolve(small(NETS[net] | SHORT | {"norm.name": name})).config
    x = draw((4, 64) if net == "mlp" else (4, 8, 8, 1))
    found = types_in(build_model(config, 3, "lax"), x)
    assert found.pop("variables") - {"int32"} == {"float32"}
    assert found.pop("network") == found.pop("head") == {"float32"}
    assert len(found) >= 2 and all(types == {"bfloat16"} for types in found.values()), found


def test_a_short_run_is_another_one_that_ends_near():
    whole, short = (
        resolve(small(more | {"data.name": "digits", "optim.lr": 0.1, "train.steps": 40})).config
        for more in ({"norm.name": "batch"}, SHORT | {"norm.name": "batch"})
    )
    assert run_id(whole) != run_id(short) and program_id(whole) != program_id(short)
    losses = [train([c], load("digits"))[0][0].final["test_loss"] for c in (whole, short)]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model.name": "rnn"}, "'rnn' has products of its own"),
        ({"norm.kernel": "weight_norm"}, "norm.kernel = 'weight_norm': what that computes"),
        ({"eval.probes": "drift"}, "eval.probes = 'drift': what that computes"),
        ({"model.dtype": "float16"}, "not one of float32, bfloat16"),
        ({"model.dtype": "float32", "model.precision": "highest"}, "not one of float32, tf32"),
    ],
)
def test_what_is_not_there_is_refused(more, message):
    with pytest.raises(ConfigError, match=message):
        resolve(small(SHORT | {"data.name": "digits"} | more))


@pytest.mark.parametrize(("precision", "word"), [("float32", "HIGHEST"), ("tf32", "HIGH")])
def test_products_on_an_accelerator_say_their_precision(precision, word):
    product = jax.jit(with_products(jnp.dot, precision))
    text = product.trace(*[np.ones((2, 2), np.float32)] * 2).lower().as_text()
    assert f"precision = [{word}, {word}]" in text
