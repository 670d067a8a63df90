"""What a layer does where a statistic would be of one value."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from normlab.norms.builder import module_of
from normlab.testing.layer import GROUPS, LAYER, STATE, LayerUnderTest
from normlab.testing.result import Result, held, skipped


def check_degenerate(subject: LayerUnderTest) -> list[Result]:
    """A statistic over one value raises ValueError, unless asked for."""
    row, name = subject.row, "a statistic of one value is refused"
    if not row.over:
        return [skipped(name, "the row has no statistics")]
    sizes = {"N": 0, "H": 1, "W": 2, "C": 3}
    shape = [2, 2, 2, GROUPS if row.grouped else 8]
    for letter in set(row.over) & set(sizes):
        shape[sizes[letter]] = 1
    x = jnp.ones(shape)

    def trace(**options):
        layer = subject.layer(**options)

        def step():
            variables = layer.init(jax.random.key(0), x, train=True)
            return layer.apply(variables, x, train=True, mutable=STATE)

        return jax.eval_shape(step)

    layer = getattr(module_of(row.module), "__name__", LAYER)
    try:
        trace()
    except ValueError as error:
        text = str(error)
        names = str(tuple(shape)) in text and (LAYER in text or layer in text)
        note = f"the message names not both the layer and the shape {tuple(shape)}: {text}"
        results = [held(name, names, note)]
    else:
        results = [held(name, False, f"shape {tuple(shape)} raises no ValueError")]
    name = "allow_degenerate=True overrides"
    if "allow_degenerate" not in row.arguments:
        return [*results, skipped(name, "the row has no such argument")]
    trace(allow_degenerate=True)
    return [*results, Result(name, "pass")]
