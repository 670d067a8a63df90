"""How long one layer takes, beside Flax's, PyTorch's and a copy of the same bytes.

All contenders of one size take turns, so a drift of the machine meets them alike. The layers run
in training mode and return the new running statistics; backward is a VJP with a cotangent, for
the input and the parameters. Each runs in a compiled loop on its own output, in place, a few times
and many times: the difference is free of what it costs to get memory (first touch of 33 MB: 23 ms,
where a copy of them takes 1.4 ms; 2 cores, 2026-11-20). Small sizes run many times only.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import BadSelection, select
from benchmarks.page import Table, cores, machine
from benchmarks.reference_libraries import (
    OWN,
    Layer,
    Linen,
    find_peers,
    flax_layer,
    own_layer,
    torch_input,
    torch_module,
)
from normlab.norms.table import NORMS
from normlab.testing import cases

Shape = tuple[int, ...]
Work = Callable[[int], None]
"""Applies a layer that many times, and is done when it returns."""
Contenders = dict[tuple[str, str], Work]
"""(library, scheme) -> its work."""

SIZES: tuple[Shape, ...] = (
    (60, 100),
    (64, 8, 8, 32),
    (128, 32, 32, 64),
    (4096, 1024),
    (32, 56, 56, 256),
)
DTYPES = ("float32", "bfloat16")
MEMBERS = 16
LARGEST_IN_POPULATION = 64 * 8 * 8 * 32
"""Values of one member; larger ones are measured alone."""
VALUES = 2**23
"""Values that a measured loop handles, within 4 to 200 iterations."""
REPEATS = 15
DIRECTIONS = ("forward", "forward + backward")
COPY = "copy"


class Setup(NamedTuple):
    """One size: what all its contenders share."""

    shape: Shape
    dtype: str
    members: int = 1

    @property
    def lengths(self) -> tuple[int, int]:
        """Return the iterations of the short loop, 0 where memory costs nothing, and the long."""
        values = self.members * int(np.prod(self.shape))
        if values < 2**20:
            return 0, min(200, VALUES // values)
        more = max(4, VALUES // values)
        return more // 4, more // 4 + more

    @property
    def layer(self) -> Layer:
        channels = self.shape[-1]
        groups = next(g for g in (32, 16, 8, 4, 2, 1) if not channels % g and channels >= 4 * g)
        return Layer("", self.shape, self.dtype, groups=groups)

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Return input and cotangent of one member."""
        random = np.random.default_rng(0)
        x, cotangent = (random.standard_normal(self.shape, np.float32) for _ in range(2))
        return 1 + 2 * x, cotangent


class Timing(NamedTuple):
    """One scheme at one size in one direction."""

    setup: Setup
    direction: str
    scheme: str
    microseconds: float
    """Median, of one application to all members."""
    ratios: dict[str, float]
    """Library -> our time over its time."""


FACTOR = 1 + 2**-7
COPIED = Linen(
    {"norm_state": {"factor": np.float32(FACTOR)}},
    lambda variables, x: (x * variables["norm_state"]["factor"].astype(x.dtype), {}),
)
"""Reads every byte and writes every byte; its VJP does the same with the cotangent. The factor is
an input, so that XLA cannot fold two iterations into one."""


def jax_work(linen: Linen, setup: Setup, direction: str) -> Work:
    """Return the compiled loop of a layer, over all members at once."""
    state = dict(linen.variables)
    params = state.pop("params", {})

    def forward(params, carry):
        x, cotangent, state, slopes = carry
        y, moved = linen.apply({"params": params, **state}, x)
        return y, cotangent, {**state, **moved}, slopes

    def both(params, carry):
        x, cotangent, state, _ = carry

        def layer(params, x):
            return linen.apply({"params": params, **state}, x)

        y, backward, moved = jax.vjp(layer, params, x, has_aux=True)
        slopes, dx = backward(cotangent)
        return y, dx, {**state, **moved}, slopes

    once = forward if direction == DIRECTIONS[0] else both
    x, cotangent = (jnp.asarray(v, setup.dtype) for v in setup.draw())
    start = (params, (x, cotangent, state, jax.tree.map(jnp.zeros_like, params)))
    if setup.members > 1:
        once = jax.vmap(once)
        start = jax.tree.map(lambda v: jnp.stack([v] * setup.members), start)
    params, carry = jax.tree.map(jnp.copy, start)  # each contender gives its carry away

    def loop(params, carry, times):
        return lax.fori_loop(0, times, lambda _, carry: once(params, carry), carry)

    # A length that is known when compiling: otherwise a GPU asks the host after every iteration.
    program = jax.jit(loop, static_argnums=2, donate_argnums=1)

    def work(times: int) -> None:
        nonlocal carry
        carry = jax.block_until_ready(program(params, carry, times))

    return work


def torch_work(module: Any, setup: Setup, layer: Layer, direction: str) -> Work:
    """Return the same number of calls, one by one, on the same input."""
    torch = importlib.import_module("torch")
    x, cotangent = (torch_input(layer, v) for v in setup.draw())
    leaves = [x.requires_grad_(direction != DIRECTIONS[0]), *module.parameters()]

    def work(times: int) -> None:
        for _ in range(times):
            if direction == DIRECTIONS[0]:
                with torch.no_grad():
                    module(x)
            else:
                torch.autograd.grad(module(x), leaves, cotangent)

    return work


def gather(
    setup: Setup, direction: str, schemes: Sequence[str], against: Sequence[str]
) -> tuple[Contenders, list[str]]:
    """Return the contenders of a size, each scheme beside its peers, and a line for each scheme
    that refuses the size."""
    work: Contenders = {(COPY, ""): jax_work(COPIED, setup, direction)}
    refused = []
    for scheme in schemes:
        layer = setup.layer._replace(scheme=scheme)
        if len(setup.shape) == 2 and NORMS[scheme].needs_space:
            continue
        try:
            work[OWN, scheme] = jax_work(own_layer(layer), setup, direction)
        except ValueError as error:
            refused.append(f"{scheme} at {size_text(setup.shape)} is left out: {error}")
            continue
        flax = flax_layer(layer) if "flax" in against else None
        if flax:
            work["flax", scheme] = jax_work(flax, setup, direction)
        torch = torch_module(layer) if "torch" in against and setup.members == 1 else None
        if torch:
            work["torch", scheme] = torch_work(torch, setup, layer, direction)
    return work, refused


def take_turns(work: dict[Any, Work], lengths: tuple[int, int], repeats: int) -> dict[Any, float]:
    """Return the median seconds of one more iteration of each contender, in rounds over all of
    them after one of warm-up."""
    seconds: dict[Any, list[float]] = {name: [] for name in work}
    short, long = lengths
    for turn in range(repeats + 1):
        for name, run in work.items():
            spent = clocked(run, long)
            if short:
                spent -= clocked(run, short)
            if turn:
                seconds[name].append(spent / (long - short))
    return {name: statistics.median(times) for name, times in seconds.items()}


def clocked(run: Work, times: int) -> float:
    began = time.perf_counter()
    run(times)
    return time.perf_counter() - began


def measure(
    setup: Setup, direction: str, schemes: Sequence[str], against: Sequence[str], repeats: int
) -> tuple[list[Timing], list[str]]:
    """Return a timing for each scheme at one size, and the lines on what was left out."""
    work, refused = gather(setup, direction, schemes, against)
    seconds = take_turns(work, setup.lengths, repeats)
    timings = []
    for library, scheme in work:
        if library == OWN:
            ours = seconds[OWN, scheme]
            peers = [key for key in work if key[0] != OWN and key[1] in (scheme, "")]
            ratios = {key[0]: ours / seconds[key] for key in peers}
            timings.append(Timing(setup, direction, scheme, 1e6 * ours, ratios))
    return timings, refused


def setups(sizes: Sequence[Shape], dtypes: Sequence[str] = DTYPES) -> list[Setup]:
    """Return each size alone and, where it is small, in a population."""
    alone = [Setup(shape, dtype) for shape in sizes for dtype in dtypes]
    return [
        s._replace(members=members)
        for s in alone
        for members in (1, MEMBERS)
        if members == 1 or np.prod(s.shape) <= LARGEST_IN_POPULATION
    ]


def size_text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def parse_size(text: str) -> Shape:
    """Return "64x8x8x32" as a shape; raises BadSelection."""
    parts = text.split("x")
    if len(parts) < 2 or not all(p.isdigit() and int(p) for p in parts):
        raise BadSelection(f"size {text!r} is no shape; write [N, ..., C] like 64x8x8x32")
    return tuple(map(int, parts))


INTRODUCTION = """Microseconds of one layer in training mode, new running statistics included, and
the ratio of our time to that of Flax's default layer (fast variance), of PyTorch's and of a copy of
the same bytes (forward: x; backward: the cotangent too). Medians over rounds in which all
contenders take turns. Each runs in a compiled loop on its own output, in place; PyTorch is called
as often, one by one, on its own layout (channels second). `members`: inside a population under
`vmap`. XLA's default options."""
LIBRARIES = {"flax": "Flax", "torch": "PyTorch", COPY: "copy"}
COLUMNS = (
    "size",
    "dtype",
    "members",
    "scheme",
    *(text for d in DIRECTIONS for text in (f"{d}, us", *(f"/ {t}" for t in LIBRARIES.values()))),
)


def rows(timings: Sequence[Timing]) -> list[list[str]]:
    """Return a line for each size and scheme with both directions, as text."""
    found = {(t.setup, t.scheme, t.direction): t for t in timings}
    out = []
    for setup, scheme in dict.fromkeys((t.setup, t.scheme) for t in timings):
        line = [size_text(setup.shape), setup.dtype, str(setup.members), scheme]
        for direction in DIRECTIONS:
            t = found.get((setup, scheme, direction))
            line.append(f"{t.microseconds:.0f}" if t else "-")
            for name in LIBRARIES:
                line.append(f"{t.ratios[name]:.2f}" if t and name in t.ratios else "-")
        out.append(line)
    return out


class Plan(NamedTuple):
    setups: list[Setup]
    schemes: list[str]
    against: list[str]
    repeats: int


def plan(
    sizes: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    schemes: Sequence[str] = (),
    against: Sequence[str] | None = None,
    repeats: int = REPEATS,
) -> Plan:
    """Return what to measure, () being all there is; raises BadSelection.

    Schemes without statistics are measured where they are asked for by name.
    """
    select("dtype", list(dtypes), list(cases.DTYPES))
    select("scheme", list(schemes), list(NORMS))
    libraries = [name for name in LIBRARIES if name != COPY]
    return Plan(
        setups([parse_size(size) for size in sizes] or SIZES, dtypes or DTYPES),
        list(schemes) or [name for name, row in NORMS.items() if row.over],
        libraries if against is None else select("library", list(against), libraries),
        repeats,
    )


def run(plan: Plan, tell: Callable[[str], None]) -> str:
    """Measure; tell the progress and the table; return the section of the page."""
    peers, missing = find_peers(plan.against)
    lines, timings = list(missing), []
    if "torch" in peers and jax.default_backend() != "cpu":
        del peers["torch"]
        lines.append("PyTorch is left out: it is measured on a CPU only")
    if "torch" in peers:
        importlib.import_module("torch").set_num_threads(cores())
    for setup in plan.setups:
        for direction in DIRECTIONS:
            tell(f"{size_text(setup.shape)} {setup.dtype}, members {setup.members}, {direction}")
            some, refused = measure(setup, direction, plan.schemes, list(peers), plan.repeats)
            timings += some
            lines += [line for line in refused if line not in lines]
    where = machine([peer.package for peer in peers.values() if peer.package != OWN])
    table = Table("Layers", COLUMNS, rows(timings), f"{INTRODUCTION} {where}")
    tell("\n".join([*lines, "", where, table.terminal()]))
    return "\n\n".join([table.markdown(), *lines])
