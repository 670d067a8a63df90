"""What a layer costs, compared with two that everybody knows."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import numpy as np

from normlab.testing.layer import LayerUnderTest, draw
from normlab.testing.result import Result

SIZE = (64, 16, 16, 32)
ROUNDS = 15
KNOWN = ("batch", "layer")


def check_cost(subject: LayerUnderTest) -> list[Result]:
    """Forward and backward time, medians; the layers take turns, so a drift meets them alike."""
    x, cotangent = jax.device_put((draw(SIZE), draw(SIZE, seed=1)))
    names = [subject.name, *(name for name in KNOWN if name != subject.name)]

    def work(name: str) -> Callable[[], None]:
        layer = LayerUnderTest(name)
        variables = layer.init(x)
        return lambda: jax.block_until_ready(layer.step(variables, x, cotangent))

    runs = {name: work(name) for name in names}
    times = {name: [] for name in names}
    for _ in range(ROUNDS + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    median = {name: float(np.median(values[1:])) for name, values in times.items()}
    own = median[subject.name]
    size = "x".join(map(str, SIZE))
    results = [
        Result(
            f"forward and backward of {size}",
            "info",
            note=f"{own * 1e3:.2f} ms on {jax.devices()[0].device_kind}",
        )
    ]
    for name in names[1:]:
        note = f"that is {median[name] * 1e3:.2f} ms"
        ratio = own / median[name]
        results.append(Result(f"its time over that of {name!r}", "info", ratio, note=note))
    return results
