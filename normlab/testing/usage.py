"""How people use a layer outside of one compiled training step.

A scheme that derives from `normlab.norms.Scheme` gets most of this from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.errors import ModifyScopeVariableError

from normlab.norms.builder import build
from normlab.testing.layer import SHAPE, STATE, LayerUnderTest, draw
from normlab.testing.result import Result, held, skipped

VECTORS = (16, SHAPE[-1])


def compilations(call: Callable[[], Any]) -> int:
    """Return how many programs jax compiles during a call."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = logging.getLogger("jax"), Keep()
    is_shared, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            call()
    finally:
        logger.removeHandler(handler)
        logger.propagate = is_shared
    return sum("Finished XLA compilation" in message for message in messages)


def inputs(subject: LayerUnderTest) -> list[np.ndarray]:
    """Return an image batch and, if the scheme takes them, vectors."""
    shapes = (SHAPE,) if subject.row.needs_space else (SHAPE, VECTORS)
    return [draw(shape, mean=0.5) for shape in shapes]


def traced(subject: LayerUnderTest, x: Any) -> Any:
    """Return shapes and types of (variables, output, state) of one training call; not compiled."""

    def run(x):
        layer = subject.layer()
        variables = layer.init(jax.random.key(0), x, train=True)
        y, state = layer.apply(variables, x, train=True, mutable=STATE)
        return dict(variables), y, state

    return jax.eval_shape(run, x)


def refused(name: str, call: Callable[[], Any], *words: str) -> Result:
    """Return pass if the call raises ValueError with all these words."""
    try:
        call()
    except ModifyScopeVariableError:  # Flax refuses to change what is not mutable
        return Result(name, "pass")
    except ValueError as error:
        missing = [word for word in words if word not in str(error)]
        return held(name, not missing, f"the message lacks {missing}: {error}")
    return held(name, False, "no ValueError")


def check_eager(subject: LayerUnderTest) -> list[Result]:
    """Called outside jit, a layer compiles its programs at the first call only."""
    x = draw(mean=0.5)
    subject.forward(subject.variables, x)
    again = compilations(lambda: subject.forward(subject.variables, x))
    return [held("a second eager call compiles nothing", not again, f"{again} programs")]


def check_donation(subject: LayerUnderTest) -> list[Result]:
    """A step whose variables are donated would give one piece of memory away twice."""
    leaves = jax.tree.leaves(subject.layer().init(jax.random.key(0), inputs(subject)[0]))
    count = len({leaf.unsafe_buffer_pointer() for leaf in leaves})
    note = f"{len(leaves)} leaves in {count} arrays; make each with a call of its own"
    return [held("no two variables share an array", count == len(leaves), note)]


def check_types(subject: LayerUnderTest) -> list[Result]:
    """Integers and booleans are read as float32, complex numbers refused."""
    x = np.abs(20 * draw(mean=0.5))
    kinds = {kind: str(traced(subject, x.astype(kind))[1].dtype) for kind in ("uint8", "bool")}
    wrong = {kind: found for kind, found in kinds.items() if found != "float32"}
    variables, whole = subject.variables, x.astype("uint8")
    same = np.array_equal(
        subject.forward(variables, whole), subject.forward(variables, whole.astype(np.float32))
    )
    return [
        held("integers are read as float32", not wrong and same, f"{wrong or 'other values'}"),
        refused(
            "complex numbers are refused",
            lambda: traced(subject, x.astype("complex64")),
            "complex64",
        ),
    ]


def check_one_example(subject: LayerUnderTest) -> list[Result]:
    """A network may be initialized with one example, also outside of its axis name."""
    name = "one example is enough to initialize"
    options = {"axis_name": "devices"} if "axis_name" in subject.row.arguments else {}
    for x in inputs(subject):
        jax.eval_shape(lambda x=x: subject.layer().init(jax.random.key(0), x[:1], train=True))
        layer = subject.layer(**options)
        jax.eval_shape(lambda x=x, layer=layer: layer.init(jax.random.key(0), x[:1], train=True))
    return [Result(name, "pass")]


def check_mutable(subject: LayerUnderTest) -> list[Result]:
    """Training where the running statistics cannot move is refused."""
    name = "training without mutable statistics is refused"
    if not subject.row.running_statistics:
        return [skipped(name, "the row has none")]
    layer, x, variables = subject.layer(), inputs(subject)[0], subject.variables
    call = lambda: layer.apply(variables, x, train=True)  # noqa: E731
    return [refused(name, lambda: jax.eval_shape(call), "mutable")]


def check_ranks(subject: LayerUnderTest) -> list[Result]:
    """No rank is promoted, forwards and backwards, in training and evaluation."""

    def total(x):
        layer = subject.layer()
        variables = layer.init(jax.random.key(0), x)
        y, state = layer.apply(variables, x, train=True, mutable=STATE)
        return (y + layer.apply({**variables, **state}, x)).sum()

    with jax.numpy_rank_promotion("raise"):
        for x in inputs(subject):
            jax.eval_shape(jax.grad(total), x)
    return [Result("no rank is promoted", "pass")]


def check_wide_state(subject: LayerUnderTest) -> list[Result]:
    """State keeps its type for float64 inputs: a scan over steps needs that."""
    name = "the state keeps its type for float64"
    with jax.enable_x64(True):
        before, _, after = traced(subject, inputs(subject)[0].astype(np.float64))
    same = {
        kind: jax.tree.map(lambda a, b: a.dtype == b.dtype, before[kind], dict(after)[kind])
        for kind in after
    }
    return [held(name, all(jax.tree.leaves(same)), f"{same}")]


def check_symbolic(subject: LayerUnderTest) -> list[Result]:
    """Training and evaluation are exported with symbolic shapes."""
    for x in inputs(subject):
        layer = subject.layer()
        shapes = jax.eval_shape(lambda x=x, layer=layer: layer.init(jax.random.key(0), x))
        variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)

        def run(x, layer=layer, variables=variables):
            trained = layer.apply(variables, x, train=True, mutable=STATE)
            return trained, layer.apply(variables, x)

        symbols = jax.export.symbolic_shape("b,h,w,8" if x.ndim == 4 else "b,8")
        jax.export.export(jax.jit(run))(jax.ShapeDtypeStruct(symbols, jnp.float32))
    return [Result("symbolic shapes are exported", "pass")]


def check_empty(subject: LayerUnderTest) -> list[Result]:
    """An empty batch is empty in evaluation; statistics over it are refused."""
    x, variables = inputs(subject)[0][:0], subject.variables
    layer = subject.layer()
    found = jax.eval_shape(lambda: layer.apply(variables, x)).shape
    results = [held("an empty batch is empty in evaluation", found == x.shape, f"{found}")]
    if "N" in subject.row.over:
        train = lambda: layer.apply(variables, x, train=True, mutable=STATE)  # noqa: E731
        name = "training on an empty batch is refused"
        results.append(refused(name, lambda: jax.eval_shape(train), str(x.shape)))
    return results


def check_edges(subject: LayerUnderTest) -> list[Result]:
    """Single examples, rows, columns and positions: traced, or refused with layer and shape."""
    wrong = []
    for shape in ((1, *SHAPE[1:]), (8, 1, 2, 8), (8, 4, 1, 8), (8, 1, 1, 8), (1, 1, 1, 8)):
        variables = subject.variables
        for train in (True, False):

            def call(x, train=train, variables=variables):
                return subject.layer().apply(variables, x, train=train, mutable=STATE)[0]

            try:
                found = jax.eval_shape(call, np.ones(shape, np.float32)).shape
                wrong += [] if found == shape else [f"{shape} becomes {found}"]
            except ValueError as error:
                wrong += [] if str(shape) in str(error) else [f"{shape}: {error}"]
    return [held("sizes of 1 are computed or refused by shape", not wrong, "; ".join(wrong))]


def check_limits(subject: LayerUnderTest) -> list[Result]:
    """Values of epsilon and momentum that are none are refused at construction."""
    name, accepted = "options out of range are refused", []
    for option in {"epsilon", "momentum"} & set(subject.row.options):
        for value in (-0.1, float("nan"), float("inf"), *([1.5] if option == "momentum" else [])):
            result = refused("", lambda o=option, v=value: subject.layer(**{o: v}), option)
            accepted += [f"{option}={value}"] if result.status == "fail" else []
    return [held(name, not accepted, f"accepted: {', '.join(accepted)}")]


def check_builds(subject: LayerUnderTest) -> list[Result]:
    """Equal builds are equal, so that jit traces once for both."""
    one, two = (build(subject.name, noise=0.5) for _ in range(2))
    is_equal = one == two and hash(one) == hash(two)
    return [held("equal builds are equal", is_equal, "they are not")]


def check_masks(subject: LayerUnderTest) -> list[Result]:
    """Masks of numbers, and masks that fit two axes, are refused."""
    x = draw((8, 3, 2, 8), mean=0.5)
    variables = jax.eval_shape(lambda: subject.layer().init(jax.random.key(0), x))

    def call(mask):
        given = jax.tree.map(lambda v: jnp.ones(v.shape, v.dtype), variables)
        return lambda: jax.eval_shape(
            lambda: subject.layer().apply(given, x, train=True, mask=mask, mutable=STATE)
        )

    numbers = np.ones((8, 1, 1, 1), np.float32)
    return [
        refused("a mask of numbers is refused", call(numbers), "float32"),
        refused("a mask of two readings is refused", call(np.ones(8, bool)), "(8, 1, 1, 1)"),
    ]


def check_remat(subject: LayerUnderTest) -> list[Result]:
    """Under nn.remat a layer trains, its `train` given by position."""
    built: Any = build(subject.name).norm
    layer = nn.remat(built.make, static_argnums=(2,))(**dict(built.arguments))
    x = inputs(subject)[0]

    def slope(x):
        variables = layer.init(jax.random.key(0), x, True)
        return jax.grad(lambda x: layer.apply(variables, x, True, mutable=STATE)[0].sum())(x)

    return [held("under nn.remat", jax.eval_shape(slope, x).shape == x.shape, "another shape")]


def check_few_values(subject: LayerUnderTest) -> list[Result]:
    """One valid value has no variance, so it moves nothing; two do."""
    name = "one valid value moves no statistics"
    if not subject.row.running_statistics:
        return [skipped(name, "the row has none")]
    before, moved = jax.tree.leaves(subject.variables["batch_stats"]), []
    for valid in (1, 2):
        mask = np.zeros(SHAPE, bool)
        mask[0, 0, :valid] = True
        x = draw(mean=0.5)
        state = subject.step(subject.variables, x, x, mask).state
        pairs = zip(before, jax.tree.leaves(state["batch_stats"]), strict=True)
        moved.append(any((np.asarray(a) != np.asarray(b)).any() for a, b in pairs))
    return [held(name, moved == [False, True], f"of 1 and of 2 values: moved {moved}")]


def check_vmapped_examples(subject: LayerUnderTest) -> list[Result]:
    """With axis_name, vectors [C] of vmapped calls are the rows of a batch [N, C]."""
    name = "an example in each vmapped call"
    if "axis_name" not in subject.row.arguments or subject.row.spatial:
        return [skipped(name, "the row has no axis_name, or takes no vectors")]
    if subject.row.needs_space:
        return [skipped(name, "the row takes no vectors")]
    x = draw(VECTORS, mean=0.5)
    layer, whole = subject.layer(axis_name="calls"), subject.layer()

    @jax.jit
    def run(x):
        variables = whole.init(jax.random.key(0), x)
        train = lambda layer, x: layer.apply(variables, x, train=True, mutable=STATE)[0]  # noqa: E731
        mapped = jax.vmap(lambda row: train(layer, row), axis_name="calls")
        return mapped(x), train(whole, x)

    one, two = run(x)
    return [held(name, np.allclose(one, two, atol=1e-5), "not what the batch gives")]
