"""The idiomatic Flax loop over sequences: `nn.RNN` of a cell, with the lengths of the sequences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks.loops import flax_loop
from benchmarks.loops.network import CLASSES, Job
from benchmarks.loops.sequence import BIAS, GATES, HIDDEN, INPUT, features_and_lengths
from benchmarks.loops.stepwise import Stepwise

CELLS = {"": {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}, "plain": {"lstm": nn.LSTMCell}}


class Net(nn.Module):
    cell: Any
    size: int

    @nn.compact
    def __call__(self, batch: tuple[Any, Any], train: bool) -> jax.Array:
        x, lengths = batch
        rnn = nn.RNN(self.cell(self.size, name="cell"), return_carry=True)
        carry: Any = rnn(x, seq_lengths=lengths)[0]  # pyright: ignore
        return nn.Dense(CLASSES, name="head")(carry[1] if isinstance(carry, tuple) else carry)


class Loop(flax_loop.Loop):
    """`form` "plain": the LSTM with a product for each gate."""

    def __init__(self, job: Job, form: str = ""):
        Stepwise.__init__(self, job)
        self.cell = job.network.settings["model.cell"]
        self.x, self.lengths = features_and_lengths(job)
        self.labels = job.labels
        self.net = Net(CELLS[form][self.cell], job.network.widths[0])
        self.train_step = jax.jit(self._train_step, donate_argnums=(0, 1))
        self.load()

    def load(self) -> None:
        """Give each gate its part of our kernels. Flax's LSTM has its bias at the hidden product,
        and its GRU has one there too: it stays 0, as we have none."""
        weights, gates = self.job.weights, GATES[self.cell]
        split = {
            name: dict(zip(gates, np.split(value, len(gates), -1), strict=True))
            for name, value in (
                ("i", weights[INPUT]["kernel"]),
                ("h", weights[HIDDEN]["kernel"]),
                ("bias", weights[BIAS]["bias"]),
            )
        }
        cell = {f"{side}{g}": {"kernel": split[side][g]} for side in "ih" for g in gates}
        for g in gates:
            cell[f"i{g}" if self.cell == "gru" else f"h{g}"]["bias"] = split["bias"][g]
        if self.cell == "gru":
            cell["hn"]["bias"] = np.zeros_like(split["bias"]["n"])
        params = {"cell": cell, "head": weights["head"]}
        self._begin({"params": jax.tree.map(jnp.array, params)})

    def _apply(self, given: Any, x: Any) -> Any:
        params = given["params"]
        if self.cell == "gru":
            frozen = jax.tree.map(jax.lax.stop_gradient, {"bias": params["cell"]["hn"]["bias"]})
            cell = params["cell"] | {"hn": params["cell"]["hn"] | frozen}
            given = {**given, "params": params | {"cell": cell}}
        return super()._apply(given, x)

    def _gather(self, rows: np.ndarray) -> Any:
        return (self.x[rows], self.lengths[rows]), self.labels[rows]
