"""Every scheme's training and evaluation step lowers for CUDA and for TPU, on a machine with a CPU.

This proves the lowering alone: that no operation of a step is without a translation for those
platforms, and that the form of the convolutions follows the argument, not the machine. It is no
claim that a step compiles, fits or runs there; TPUs have not been tried.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from small_runs import small

from normlab.layers.table import KERNELS
from normlab.models.build import build_model
from normlab.norms import NORMS
from normlab.training.state import hyper_of, init_state
from normlab.training.step import Batch, make_train_step

PLATFORMS = ("cuda", "tpu")
IMAGES = np.zeros((4, 4, 4, 1), np.float32)
CASES = [(name, "none") for name in NORMS] + [("none", kernel) for kernel in KERNELS]


def lowered(norm: str, kernel: str, conv_form: str) -> export.Exported:
    """One layer of a CNN: a training step, then the logits in evaluation mode."""
    config = small(model__name="cnn", model__widths=(8,), norm__name=norm, norm__kernel=kernel)
    net, hyper = build_model(config, classes=3, conv_form=conv_form), hyper_of(config)
    state = jax.eval_shape(lambda x: init_state(net, "momentum", hyper, x), IMAGES)
    step = make_train_step(net, "momentum", hyper)

    def run(state, batch):
        state, info = step(state, batch)
        return state, info, net.apply(state.variables, batch.x, train=False)

    batch = Batch(jnp.asarray(IMAGES), jnp.zeros(len(IMAGES), jnp.int32), jnp.ones(()))
    return export.export(jax.jit(run), platforms=PLATFORMS)(state, batch)


@pytest.mark.parametrize(("norm", "kernel"), CASES)
def test_steps_lower_for_accelerators(norm, kernel):
    exported = lowered(norm, kernel, "lax")
    assert exported.platforms == PLATFORMS
    # forward, backward to the kernel and the forward pass of the evaluation
    assert exported.mlir_module().count("stablehlo.convolution(") >= 3
    assert not exported.disabled_safety_checks


def test_the_form_of_the_convolutions_is_that_of_the_argument():
    assert "stablehlo.convolution" not in lowered("batch", "none", "patches").mlir_module()
