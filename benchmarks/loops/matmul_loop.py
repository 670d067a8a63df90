"""The machine's rate of float32 matrix products: the floor under every step."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp

from benchmarks.loops.network import Job

SIZE = 2048
FLOPS = 2 * SIZE**3


class Loop:
    """SIZE x SIZE products, one after another."""

    def __init__(self, job: Job):
        del job
        self.x = jnp.full((SIZE, SIZE), 1 / SIZE, jnp.float32)
        self.multiply = jax.jit(jnp.matmul)
        self.run(1)

    def run(self, products: int) -> float:
        """Return the seconds that this number of products takes."""
        began = time.perf_counter()
        for _ in range(products):
            self.x = self.multiply(self.x, self.x)
        self.x.block_until_ready()
        return time.perf_counter() - began
