"""The compiled program of a population: start S members, and advance them by a chunk of steps."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from normlab.data.table import DATASETS
from normlab.models.build import build_model
from normlab.models.table import MODELS
from normlab.norms.table import find_norm
from normlab.settings import Config, program_key
from normlab.training.augment import augment_key, crop_and_flip
from normlab.training.diagnose import Diagnostics, make_diagnostics
from normlab.training.evaluate import Scores, Scoring, make_evaluate, train_loss
from normlab.training.mesh import AXIS, Spread, for_processes, over_batch, over_members
from normlab.training.state import Hyper, TrainState, init_state
from normlab.training.step import Batch, make_train_step

CPU_OPTIONS = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}
"""Half the compilation at the same speed.

Measured: 7.2 -> 3.1 s for a small CNN, 3.2 -> 0.7 s for drawing its weights, 746 -> 443 MB;
1363 -> 1276 us a step (one core, 2026-11-20).
"""


RUNS_ONCE = {"xla_backend_optimization_level": 0}
"""For drawing the weights: 0.78 -> 0.35 s."""


class Resident(NamedTuple):
    """All examples of a data set on the device, flat.

    Flat rows are gathered behind a barrier, before the arithmetic. A gather of 4-D images that is
    fused into it is about 10 times slower on a CPU.
    """

    images: Any
    shape: tuple[int, ...]

    def gather(self, rows: jax.Array) -> jax.Array:
        """Return x, [n, *shape]: uint8 pixels in 0..1, other features as they are."""
        x = lax.optimization_barrier(self.images[rows])[:, : math.prod(self.shape)]
        if x.dtype == jnp.uint8:
            x = x.astype(jnp.float32) / 255
        return x.reshape(-1, *self.shape)

    @property
    def longer(self) -> Resident | None:
        """The same with all steps of its rows; None where they have no more than `shape` says."""
        size, features = self.images.shape[1], self.shape[-1]
        is_more = size > math.prod(self.shape)
        return self._replace(shape=(size // features, features)) if is_more else None


class ScheduleChunk(NamedTuple):
    """What happens at each step of a chunk, [T]; the same for all members."""

    rate: Any
    """Rate relative to its peak."""
    is_step: Any
    """False for the padding of a run's last chunk."""
    scored: Any
    """How many batches of the scoring plan to score after this step; 0: no evaluation."""
    is_late: Any
    """Whether the step takes train.late_batch examples."""
    all_batches: Any
    """Scalar: how many batches the scoring plan has."""


class ChunkBatches(NamedTuple):
    """Which rows a member sees."""

    train: Any
    """[T, B]"""
    labels: Any
    """[T, B] their classes."""
    stats: Any
    """[n] training images that running statistics are re-estimated on. Diagnostics see the first
    B of them."""
    stats_labels: Any
    """[n] their classes."""
    held_out: Any
    """[m] test images that diagnostics see."""
    scoring: Scoring


class Trace(NamedTuple):
    """What a chunk returns of each step; zeros where nothing was scored."""

    loss: Any
    """[T]"""
    scores: Scores
    """Leaves [T, modes, parts]: re-estimated (or no) statistics, running ones, each batch's own."""
    diagnostics: dict[str, Any]
    """[T] by name."""


TrainStep = Callable[..., tuple[TrainState, jax.Array]]


class Program(NamedTuple):
    start: Callable[[Hyper, Any, Any, Any], TrainState]
    """(hyper [S], first rows [S, B], images) -> states [S]"""
    advance: Callable[..., tuple[TrainState, Trace]]
    """(states [S], hyper [S], batches [S], schedule, images) -> states [S], trace [S]"""
    home: Any = None
    """Where the images are to be: the default device, or a copy on each."""


def evaluation_networks(
    config: Config, classes: int, conv_form: str
) -> tuple[nn.Module | None, nn.Module | None]:
    """Return the network of which one pass leaves exactly the statistics of its images, and the one
    that scores every batch with its own.

    Both are None where there are no running statistics, the second where it is not asked for.
    """
    row = find_norm(config["norm.name"])
    if not row.running_statistics:
        return None, None
    last = {"momentum": 0.0, "average": "moving", "stats_batch": 0, "noise": 0.0}
    uncorrected = {"r_max": 1.0, "d_max": 0.0}  # of batch renormalization: as in evaluation
    last |= {option: value for option, value in uncorrected.items() if option in row.options}
    whole = build_model(config, classes, conv_form, **last)
    if not config["eval.batch_statistics"]:
        return whole, None
    return whole, build_model(config, classes, conv_form, use_running=False)


def has_text(config: Config) -> bool:
    """Whether the data of `config` are tokens."""
    return DATASETS[config["data.name"]].kind == "text"


def input_shape(config: Config, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in which the network of `config` takes an example of `shape`."""
    model = MODELS[config["model.name"]]
    if has_text(config):
        return shape[:1]
    if model.has_time:
        return shape[0], math.prod(shape[1:])
    return shape if model.is_convolutional else (math.prod(shape),)


def make_train(config: Config, train_step: TrainStep, data: Resident):
    """Return train(state, rows, labels, rate, is_late): one step on images gathered now."""

    def train(state: TrainState, rows, labels, rate) -> tuple[TrainState, jax.Array]:
        x = data.gather(rows)
        if config["data.augment"] == "crop_flip":
            x = crop_and_flip(augment_key(state.key, state.step), x)
        return train_step(state, Batch(x, labels, rate))

    def train_any(state: TrainState, rows, labels, rate, is_late) -> tuple[TrainState, jax.Array]:
        late = config["train.late_batch"]
        if not late:
            return train(state, rows, labels, rate)
        few = (state, rows[:late], labels[:late], rate)
        return lax.cond(is_late, lambda: train(*few), lambda: train(state, rows, labels, rate))

    return train_any


Branch = Callable[..., Any]
"""branch(shared, own, do, rest, *operands): do(*operands) where both predicates hold, else
rest(*operands). Members share `shared`, while `own` is the member's."""


def branch_of(mode: str) -> Branch:
    """Return the branch for members that run by `mode`.

    Under map, one lax.cond. Under vmap a member's predicate selects between both results. There a
    lax.cond would do so too, and first copy all that it reads to every member: the data set.
    """

    def mapped(shared, own, do, rest, *operands):
        return lax.cond(shared & own, do, rest, *operands)

    def vmapped(shared, own, do, rest, *operands):
        def select(*operands):
            pairs = do(*operands), rest(*operands)
            return jax.tree.map(lambda a, b: jnp.where(own, a, b), *pairs)

        return lax.cond(shared, select, rest, *operands)

    return vmapped if mode == "vmap" else mapped


def make_measure(
    config: Config, evaluate: Callable[..., Scores], diagnostics: Diagnostics, branch: Branch
):
    """Return measure(state, hyper, rate, scored, all batches, data, batches).

    It returns the state, the scores of the first `scored` batches of the plan, and the values of
    diagnostics. A run that reaches train.stop_at_loss is scored in full there, and ends.
    """

    def measure(
        state: TrainState, hyper: Hyper, rate, scored, every, data: Resident, batches: ChunkBatches
    ):
        def score(count) -> Scores:
            return evaluate(state, data, batches.stats, batches.scoring, count)

        scores = score(scored)
        if config["train.stop_at_loss"]:
            is_there = train_loss(scores) <= config["train.stop_at_loss"]
            scores = branch(scored < every, is_there, lambda: score(every), lambda: scores)
            state = state._replace(is_alive=state.is_alive & ~is_there)
        state, values = diagnostics.observe(state, hyper, rate, data, batches)
        return state, scores, values

    return measure


def member_functions(
    config: Config, shape: tuple[int, ...], classes: int, conv_form: str, mode: str
) -> tuple[Callable[..., TrainState], Callable[..., tuple[TrainState, Trace]]]:
    """Return start and advance of one member, to be mapped over a population."""
    net = build_model(config, classes, conv_form)
    whole, own = evaluation_networks(config, classes, conv_form)
    diagnostics = make_diagnostics(config, net, whole)
    branch = branch_of(mode)
    measure = make_measure(config, make_evaluate(net, whole, own), diagnostics, branch)
    inputs = input_shape(config, shape)

    def start(hyper: Hyper, rows, images) -> TrainState:
        x = Resident(images, inputs).gather(rows)
        state = init_state(net, config["optim.name"], hyper, x)
        return state._replace(diagnostic_state=diagnostics.start(state, hyper, x))

    def advance(
        state: TrainState, hyper: Hyper, batches: ChunkBatches, schedule: ScheduleChunk, images
    ):
        data = Resident(images, inputs)
        step = make_train_step(net, config["optim.name"], hyper, config["train.on_nonfinite"])
        train = make_train(config, step, data)

        def skip(state: TrainState, *_) -> tuple[TrainState, jax.Array]:
            return state, jnp.full((), jnp.nan)

        def see(state: TrainState, rate, scored):
            return measure(state, hyper, rate, scored, schedule.all_batches, data, batches)

        shapes = jax.eval_shape(see, state, schedule.rate[0], schedule.scored[0])[1:]
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def rest(state: TrainState, *_):
            return state, *nothing

        def body(state: TrainState, now):
            rows, labels, rate, is_step, scored, is_late = now
            given = (state, rows, labels, rate, is_late)
            state, loss = branch(is_step, state.is_alive, train, skip, *given)
            state, *seen = branch(scored > 0, state.is_alive, see, rest, state, rate, scored)
            return state, Trace(loss, *seen)

        per_step = (schedule.rate, schedule.is_step, schedule.scored, schedule.is_late)
        return lax.scan(body, state, (batches.train, batches.labels, *per_step))

    def advance_living(state: TrainState, *rest) -> tuple[TrainState, Trace]:
        # A member that is over, or padding, must not even scan: 17 us for each of its steps.
        shapes = jax.eval_shape(advance, state, *rest)[1]
        silence = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0, leaf.dtype), shapes)
        silence = silence._replace(loss=jnp.full(shapes.loss.shape, jnp.nan))
        return lax.cond(state.is_alive, advance, lambda s, *_: (s, silence), state, *rest)

    return start, advance if mode == "vmap" else advance_living


PRODUCTS = {"float32": "float32", "tf32": "tensorfloat32"}
"""model.precision -> the name of jax. Its default would be tf32 on recent GPUs."""


def with_products(function: Any, precision: str) -> Any:
    """Return `function` traced with products of that precision."""

    @functools.wraps(function)
    def traced(*arguments: Any) -> Any:
        with jax.default_matmul_precision(PRODUCTS[precision]):
            return function(*arguments)

    return traced


@functools.cache
def _compile(
    key: tuple, shape: tuple, classes: int, conv_form: str, mode: str, spread: Spread
) -> Program:
    start, advance = member_functions(dict(key), shape, classes, conv_form, mode)

    def start_all(hyper, rows, images):
        if mode == "vmap":
            return jax.vmap(start, (0, 0, None))(hyper, rows, images)
        return lax.map(lambda m: start(*m, images), (hyper, rows))

    def advance_all(states, hyper, batches, schedule, images):
        if mode == "vmap":
            axes = (0, 0, 0, None, None)
            return jax.vmap(advance, axes)(states, hyper, batches, schedule, images)
        return lax.map(lambda m: advance(*m, schedule, images), (states, hyper, batches))

    options = CPU_OPTIONS if jax.default_backend() == "cpu" else None
    if not options:  # a CPU has but one precision
        kind = dict(key)["model.precision"]
        start_all, advance_all = (with_products(f, kind) for f in (start_all, advance_all))
    starting: dict[str, Any] = {"compiler_options": options and options | RUNS_ONCE}
    advancing: dict[str, Any] = {"compiler_options": options, "donate_argnums": 0}
    if spread.kind == "none":
        return Program(jax.jit(start_all, **starting), jax.jit(advance_all, **advancing))
    everywhere = each = spread.sharding()
    if spread.kind == "members":
        each = spread.sharding(AXIS)
        start_all = over_members(start_all, spread, own=2, shared=1)
        advance_all = over_members(advance_all, spread, own=3, shared=2)
    batches = ChunkBatches(*(each,) * 5, scoring=cast(Any, each))
    if spread.kind == "batch":
        start_all, advance_all = (over_batch(f, spread) for f in (start_all, advance_all))
        divided = spread.sharding(None, None, AXIS)
        batches = batches._replace(train=divided, labels=divided)
    starting["in_shardings"] = (each, each, everywhere)
    advancing["in_shardings"] = (each, each, batches, everywhere, everywhere)
    started = jax.jit(start_all, out_shardings=each, **starting)
    advanced = jax.jit(advance_all, out_shardings=each, **advancing)
    return Program(
        for_processes(started, starting["in_shardings"]),
        for_processes(advanced, advancing["in_shardings"]),
        everywhere,
    )


def compile_program(
    config: Config, shape: tuple[int, ...], classes: int, conv_form: str, mode: str, spread: Spread
) -> Program:
    """Return the program of `config`, made once for all configurations that share it."""
    return _compile(program_key(config), shape, classes, conv_form, mode, spread)
