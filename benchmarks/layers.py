"""How long one layer takes, compared with Flax's, PyTorch's and a copy of the same bytes.

The layers run in training mode and return the new running statistics. Backward is a VJP with a
cotangent, for the input and the parameters. Each contender runs in a compiled loop on its own
output, in place, a few times and many times. The difference excludes the cost of getting memory.
The first touch of 33 MB takes 23 ms, a copy of them 1.4 ms (2 cores, 2026-11-20). On small sizes
memory costs nothing, and only the long loop runs. docs/benchmarks.md says how to read the table.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import runner
from benchmarks.reference_libraries import OWN, Layer, make_peer
from benchmarks.runner import BadSelection, Options, Ratio, emit
from normlab.norms.table import NORMS
from normlab.runs.provenance import available_cores
from normlab.testing import cases

Shape = tuple[int, ...]
Work = Callable[[int], None]
"""Applies a layer that many times, and is done when it returns."""
Contenders = dict[tuple[str, str], Work]
"""(library, scheme) -> its work."""

SIZES = ("60x100", "64x8x8x32", "128x32x32x64", "4096x1024", "32x56x56x256")
DTYPES = ("float32", "bfloat16")
MEMBERS = 16
"""Of a population under vmap."""
LARGEST_IN_POPULATION = 64 * 8 * 8 * 32
"""Values of one member; larger ones are measured alone."""
VALUES = 2**23
"""Values that a measured loop handles, within 4 to 200 iterations."""
REPEATS = 15
DIRECTIONS = FORWARD, _ = ("forward", "forward + backward")
COPY = "copy"
LIBRARIES = {"flax": "Flax", "torch": "PyTorch"}
RATIOS = {**LIBRARIES, COPY: "copy"}
COLUMNS = ["size", "dtype", "members", "scheme"]
COLUMNS += [text for d in DIRECTIONS for text in (f"{d}, us", *(f"/ {t}" for t in RATIOS.values()))]


class Setup(NamedTuple):
    """One size: what all its contenders share."""

    shape: Shape
    dtype: str
    members: int = 1

    @property
    def size(self) -> str:
        return "x".join(map(str, self.shape))

    @property
    def lengths(self) -> tuple[int, int]:
        """Return the iterations of the short loop, 0 where memory costs nothing, and the long."""
        values = self.members * int(np.prod(self.shape))
        if values < 2**20:
            return 0, min(200, VALUES // values)
        more = max(4, VALUES // values)
        return more // 4, more // 4 + more

    def layer(self, scheme: str) -> Layer:
        channels = self.shape[-1]
        groups = next(g for g in (32, 16, 8, 4, 2, 1) if not channels % g and channels >= 4 * g)
        return Layer(scheme, self.shape, self.dtype, groups=groups)

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Return input and cotangent of one member."""
        random = np.random.default_rng(0)
        x, cotangent = (random.standard_normal(self.shape, np.float32) for _ in range(2))
        return 1 + 2 * x, cotangent


def copied(variables: Any, x: jax.Array) -> tuple[jax.Array, Any]:
    """Read every byte and write every byte; its VJP does the same with the cotangent. The factor is
    an input, so that XLA cannot fold two iterations into one."""
    return x * variables["factor"].astype(x.dtype), {}


def jax_work(
    apply: Callable[..., Any], params: Any, state: Any, setup: Setup, direction: str
) -> Work:
    """Return the compiled loop of apply(variables, x) -> (y, the state it leaves), over all members
    at once."""

    def once(params, carry):
        x, cotangent, state, slopes = carry

        def layer(params, x):
            return apply({"params": params, **state}, x)

        if direction == FORWARD:
            y, moved = layer(params, x)
        else:
            y, backward, moved = jax.vjp(layer, params, x, has_aux=True)
            slopes, cotangent = backward(cotangent)
        return y, cotangent, {**state, **moved}, slopes

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


def torch_work(peer: Any, setup: Setup, direction: str) -> Work:
    """Return the same number of calls, one by one, on the same input."""
    x, cotangent = map(peer.tensor, setup.draw())
    module, torch = peer.layer, peer.torch
    leaves = [x.requires_grad_(direction != FORWARD), *module.parameters()]

    def work(times: int) -> None:
        for _ in range(times):
            if direction == FORWARD:
                with torch.no_grad():
                    module(x)
            else:
                torch.autograd.grad(module(x), leaves, cotangent)

    return work


def gather(
    setup: Setup, direction: str, schemes: Sequence[str], libraries: Sequence[str]
) -> tuple[Contenders, list[str]]:
    """Return the contenders of a size, each scheme with those of other libraries, and a line for
    each scheme that refuses the size."""
    factor = {"factor": np.float32(1 + 2**-7)}
    work: Contenders = {(COPY, ""): jax_work(copied, {}, factor, setup, direction)}
    refused, x = [], jax.ShapeDtypeStruct(setup.shape, setup.dtype)
    for scheme in schemes:
        if len(setup.shape) == 2 and NORMS[scheme].needs_space:
            continue
        for library in (OWN, *libraries):
            try:
                peer = make_peer(library, setup.layer(scheme))
                if library == OWN:  # trains on shapes: initializing accepts any number of examples
                    jax.eval_shape(peer.apply, {"params": peer.params, **peer.moving}, x)
            except ValueError as error:
                refused.append(f"{scheme} at {setup.size} is left out: {error}")
                break
            if peer is None or (library == "torch" and setup.members > 1):
                continue
            work[library, scheme] = (
                torch_work(peer, setup, direction)
                if library == "torch"
                else jax_work(peer.apply, peer.params, peer.moving, setup, direction)
            )
    return work, refused


def iteration(run: Work, lengths: tuple[int, int]) -> float:
    """Return the seconds of one more iteration of a loop."""

    def clocked(times: int) -> float:
        began = time.perf_counter()
        run(times)
        return time.perf_counter() - began

    short, long = lengths
    return (clocked(long) - (clocked(short) if short else 0)) / (long - short)


class Timing(NamedTuple):
    """One scheme at one size in one direction."""

    microseconds: float
    """Median, of one application to all members."""
    ratios: dict[str, Ratio]
    """Library -> our time over its time."""

    @property
    def cells(self) -> list[str]:
        ratios = [self.ratios[name].text if name in self.ratios else "-" for name in RATIOS]
        return [f"{self.microseconds:.0f}", *ratios]


def time_all(work: Contenders, lengths: tuple[int, int], repeats: int) -> dict[str, Timing]:
    """Return a timing for each of our schemes."""
    turns = {key: partial(iteration, run, lengths) for key, run in work.items()}
    seconds = runner.take_turns(turns, repeats, warm_up=1)
    timings = {}
    for scheme in [name for library, name in work if library == OWN]:
        ours = seconds[OWN, scheme]
        ratios = {
            library: runner.ratio_of(ours, theirs)
            for (library, name), theirs in seconds.items()
            if library != OWN and name in (scheme, "")
        }
        timings[scheme] = Timing(1e6 * statistics.median(ours), ratios)
    return timings


def setups(sizes: Sequence[str], dtypes: Sequence[str] = DTYPES) -> list[Setup]:
    """Return each size alone and, where it is small, in a population."""
    return [
        Setup(shape, dtype, members)
        for shape in map(parse_size, sizes)
        for dtype in dtypes
        for members in (1, MEMBERS)
        if members == 1 or np.prod(shape) <= LARGEST_IN_POPULATION
    ]


def parse_size(text: str) -> Shape:
    """Return "64x8x8x32" as a shape; raises BadSelection."""
    parts = text.split("x")
    if len(parts) < 2 or not all(p.isdigit() and int(p) for p in parts):
        raise BadSelection(f"size {text!r} is no shape; write [N, ..., C] like 64x8x8x32")
    return tuple(map(int, parts))


def run(options: Options) -> str:
    """Measure; print the progress and the table; return the section of the page.

    Schemes without statistics are measured where they are asked for by name.
    """
    dtypes = runner.select("dtype", options.dtypes, cases.DTYPES) if options.dtypes else DTYPES
    runner.select("scheme", options.schemes, NORMS)
    schemes = options.schemes or [name for name, row in NORMS.items() if row.over]
    wanted = setups(options.sizes or SIZES, dtypes)
    libraries, remarks = runner.find_libraries(options.against, LIBRARIES)
    if "torch" in libraries and jax.default_backend() != "cpu":
        libraries.remove("torch")
        remarks.append("PyTorch is left out: it is measured on a CPU only")
    if "torch" in libraries:
        importlib.import_module("torch").set_num_threads(len(available_cores()))
    lines, ratios = [], []
    for setup in wanted:
        found = {}
        for direction in DIRECTIONS:
            emit(f"{setup.size} {setup.dtype}, members {setup.members}, {direction}")
            work, refused = gather(setup, direction, schemes, libraries)
            found[direction] = time_all(work, setup.lengths, options.repeats or REPEATS)
            remarks += [line for line in refused if line not in remarks]
        for scheme in found[FORWARD]:
            timings = [found[direction][scheme] for direction in DIRECTIONS]
            names = [setup.size, setup.dtype, str(setup.members), scheme]
            lines.append([*names, *(cell for timing in timings for cell in timing.cells)])
            ratios += [ratio for timing in timings for ratio in timing.ratios.values()]
    head = [runner.machine(["flax", *libraries]), runner.spread_text(ratios), *remarks]
    return runner.publish(head, [runner.table("Layers", COLUMNS, lines)])
