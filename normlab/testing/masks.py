"""Masks: what is not valid influences nothing, and is not counted."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from normlab.testing.contract import same
from normlab.testing.layer import ORDINARY, SHAPE, LayerUnderTest, Step, compiled, draw
from normlab.testing.result import Result, held, is_finite, measured, off, skipped, worst


def some_mask() -> np.ndarray:
    """Return a mask in which every statistic keeps valid values."""
    mask = np.ones(SHAPE, bool)
    mask[5] = mask[1, 2:] = mask[3, :, 1:] = False
    mask[6, 1, 0, ::3] = False
    return mask


def check_poison(subject: LayerUnderTest) -> list[Result]:
    """No bit depends on the values in masked positions, and the output is 0 there."""
    mask, x, cotangent = some_mask(), draw(mean=0.5), draw(seed=1)

    def run(value: Any) -> Step:
        return subject.step(subject.moved, np.where(mask, x, value), cotangent, mask)

    def valid(step: Step, name: str) -> Any:
        part = getattr(step, name)
        return np.asarray(part)[mask] if name in ("y", "dx") else part

    clean = run(np.float32(0.25))
    results = []
    for title, value in (("NaN", np.nan), ("1e30", 1e30)):
        found = run(np.float32(value))
        leaks = [n for n in Step._fields if not same(valid(clean, n), valid(found, n))]
        note = f"it reaches {', '.join(leaks)}"
        results.append(held(f"masked {title} reaches nothing", not leaks, note))
    is_zero = not np.asarray(clean.y, np.float64)[~mask].any()
    no_slope = not np.asarray(clean.dx, np.float64)[~mask].any()
    return [
        *results,
        held("masked outputs are 0", is_zero, "they are not"),
        held("masked inputs have slope 0", no_slope, "they have not"),
    ]


def check_padding(subject: LayerUnderTest) -> list[Result]:
    """Padding that is masked is as if it were not there: it is not counted either."""
    inner = [5, 3, SHAPE[2], 4 if "C" in subject.row.over else SHAPE[3]]
    box = tuple(slice(size) for size in inner)
    mask = np.zeros(SHAPE, bool)
    mask[box] = True
    x, cotangent = draw(mean=2.0), draw(seed=1)

    def cut(leaf):
        """A leaf [..., C] without the channels that are padding."""
        return leaf[..., : inner[-1]] if leaf.shape[-1:] == SHAPE[-1:] else leaf

    padded = subject.step(subject.moved, x, cotangent, mask)
    small = subject.step(jax.tree.map(cut, subject.moved), x[box], cotangent[box])
    found = Step(padded.y[box], padded.state, padded.slopes, padded.dx[box])
    parts = zip(Step._fields, jax.tree.map(cut, found), small, strict=True)
    errors = {name: worst(one, two) for name, one, two in parts}
    part = max(errors, key=lambda name: np.inf if np.isnan(errors[name]) else errors[name])
    note = f"{part} differs from that of the valid values alone"
    return [measured("masked padding is not counted", errors[part], ORDINARY, note)]


def check_shapes(subject: LayerUnderTest) -> list[Result]:
    """Masks of examples and of positions, broadcast by NumPy's rules."""
    x, cotangent = draw(mean=0.5), draw(seed=1)
    examples = (np.arange(SHAPE[0]) < 6).reshape(-1, 1, 1, 1)
    positions = np.arange(SHAPE[1] * SHAPE[2]).reshape(1, *SHAPE[1:3], 1) % 4 > 0
    masks = {"examples (N,1,1,1)": examples, "positions (1,H,W,1)": positions}
    outputs = compiled(lambda v, x: [subject.forward(v, x, m) for m in masks.values()])
    results = []
    for (name, mask), y in zip(masks.items(), outputs(subject.moved, x), strict=True):
        full = subject.step(subject.moved, x, cotangent, np.broadcast_to(mask, SHAPE))
        results.append(measured(f"a mask of {name}", off(y, full.y), ORDINARY))
    return results


def check_extremes(subject: LayerUnderTest) -> list[Result]:
    """A mask without any valid value, and one without any masked."""
    x, cotangent = draw(mean=0.5), draw(seed=1)
    none = subject.step(subject.moved, x, cotangent, np.zeros(SHAPE, bool))
    whole = subject.step(subject.moved, x, cotangent, np.ones(SHAPE, bool))
    plain = subject.step(subject.moved, x, cotangent)
    before = subject.moved.get("batch_stats", {})
    name = "nothing valid: running statistics do not move"
    stands = held(name, same(none.state.get("batch_stats", {}), before), "they moved")
    if not subject.row.running_statistics:
        stands = skipped(name, "the row has none")
    return [
        held("nothing valid: all is finite", is_finite(none), "outputs, slopes or state are not"),
        stands,
        measured("all valid: as without a mask", worst(whole, plain), ORDINARY),
    ]
