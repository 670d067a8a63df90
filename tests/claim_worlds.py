"""For each claim about a difference, a world in which that is as large as one likes.

A world is made of the effect e and of w, by which it is larger in odd seeds and smaller in even
ones. `at` is what the claim is about: a target, a depth, a batch and a norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from normlab.runs.record import Record
from normlab.settings import Config
from tests.made_up_worlds import (
    STRANGE,
    Made,
    Make,
    Timed,
    arm_of_level,
    errors,
    exponent,
    finals,
    is_odd,
    norm,
    shared,
    times,
)


def faster(e: float, w: float, at: str) -> Make:
    target = float(at) / 100
    return times(
        norm,
        {
            "none": Timed(5.9 + e, -1.0, 0.4, w, target=target, others=e + 2),
            "batch": Timed(5.9, -0.5, 0.8, target=target),
        },
    )


def faster_in_seconds(e: float, w: float, at: str) -> Make:
    return faster(e + 0.5, w, at)  # a step with batch norm takes sqrt(2) times as long


def flatter(e: float, w: float, at: str) -> Make:
    """The slopes have different signs. At steps that do not count they are very large or small."""
    steps = (1, 2, 3, 5, 10, 30, 100, 300)
    along = {
        "none": (0.5, 70.0, 0.8, 0.02, 1.0, 4.0, 1.2, 0.01),
        "batch": (1.4, 0.03, 0.7, 80.0, 1.0, 0.2, 3.0, 90.0),
    }

    def arm(name: str, slope: float, best: float, wobble: float = 0.0) -> dict[int, Made]:
        found = {}
        for odd, by in ((0, -wobble), (1, wobble)):
            slopes = [math.copysign(abs(slope) + by, slope) * v for v in along[name]]
            found[odd] = Made(5, best, 0.5, columns={"step": steps, "gradients__slope": slopes})
        return found

    arms = {"none": arm("none", -0.3 - e, -1.0, w), "batch": arm("batch", 0.3, -0.5)}
    flat = {(name, odd): made for name, found in arms.items() for odd, made in found.items()}
    return errors(lambda c: (norm(c), c["seed"] % 2) if c["model.act"] == at else "", "one", flat)


def matched(key: str, value: Callable[[float], float], e: float, w: float, base: float) -> Make:
    """Arms differ by e - 0.01, e, e + 0.01 at the losses that count, and by 0.2 less elsewhere."""
    along = (-0.2, -0.2, -0.01, 0.0, 0.01, -0.2)

    def columns(effect: float) -> dict[str, Any]:
        further = {"landscape__relative_frozen": (1.0,) * 6} if "landscape" in key else {}
        return {key: [value(base + effect + (v if effect else 0)) for v in along]} | further

    arms = {("batch", odd): Timed(5.0, -0.5, 0.8, columns=columns(0)) for odd in (0, 1)}
    for odd, by in ((0, -w), (1, w)):
        arms["none", odd] = Timed(6.0, -1.0, 0.4, columns=columns(e + by))
    return times(lambda c: (norm(c), c["seed"] % 2), arms)


def steadier(e: float, w: float, at: str) -> Make:
    return matched("landscape__relative", lambda v: 10**v, e, w, base=-1.5)


def less_turning(e: float, w: float, at: str) -> Make:
    return matched("shift__cosine", lambda v: 1 - v, e, w, base=0.4)


def shift(c: Config) -> tuple[str, int]:
    return ("noisy" if c["norm.noise"] else norm(c)), c["seed"] % 2


def path(name: str, length: float) -> dict[str, Any]:
    """A path of this length between the losses 2.0 and 0.2, and a long way before and after."""
    parts = {"none": (0.1, 0.2, 0.7), "batch": (0.6, 0.3, 0.1), "noisy": (0.3, 0.4, 0.3)}[name]
    return {"drift__step": (900.0, 800.0, *(part * length for part in parts), 700.0)}


def shorter_path(e: float, w: float, at: str) -> Make:
    ends = {"none": lambda by: 3.0 * 2 ** (e + by), "batch": lambda by: 3.0, "noisy": lambda by: 1}
    arms = {
        (name, odd): Timed(6.0, best, 0.4, columns=path(name, ends[name](by)))
        for name, best in (("none", -1.0), ("batch", -0.5), ("noisy", -0.75))
        for odd, by in ((0, -w), (1, w))
    }
    return times(shift, arms)


def cost_of_noise(e: float, w: float, at: str, moves: float = 1.3) -> Make:
    """The gain is 1.8 octaves in even seeds and 2.2 in odd ones, of which the noise costs half,
    and e. It moves distributions `moves` times as far as no norm does."""
    target, arms = float(at) / 100, {}
    for odd, by in ((0, -1), (1, 1)):
        gain = 2.0 + 0.2 * by
        for name, value, best, length in (
            ("none", gain, -1.0, 2.0),
            ("noisy", gain / 2 + e + w * by, -0.75, 2.0 * moves),
            ("batch", 0.0, -0.5, 0.5),
        ):
            columns, others = path(name, length), 0.5 if name == "noisy" else 0.0
            timed = Timed(5.0 + value, best, 0.4, columns=columns, target=target, others=others)
            arms[name, odd] = timed
    return times(shift, arms)


def regularised(e: float, w: float, at: str) -> Make:
    arms = {"none": Made(9 + e, -1.1, 3.0, w), "batch": Made(9, -0.6, -2.0)}
    return errors(norm, "two", arms)


def by_statistics(more: int, fewer: int) -> Callable[[float, float, str], Make]:
    """The error with statistics over `more` examples is larger by e."""

    def world(e: float, w: float, at: str) -> Make:
        arms = {more: Made(8 + e, -1.0, 12.0, w), fewer: Made(8, -0.75, -6.0)}
        return errors(shared, "window", arms)

    return world


def memorised(e: float, w: float, at: str) -> Make:
    """Where 80, 90, 95 % of the others are learned; batch norm has learned 20 % at 90 %."""

    def columns(value: float, before: float) -> dict[str, Any]:
        learned = (0.01, before, value, 0.9)
        return {"train_set_accuracy": (0.5, 0.8, 0.9, 0.95), "replaced_accuracy": learned}

    arms: dict[tuple, Made] = {}
    for odd, by in ((0, -w), (1, w)):
        arms["none", odd] = Made(5, -1.0, 0.5, columns=columns(0.2 + (e + by) / 100, 0.02))
        arms["batch", odd] = Made(5, -0.5, 0.5, columns=columns(0.2, 0.1))
    return errors(lambda c: (norm(c), c["seed"] % 2), "one", arms)


def fits_better(e: float, w: float, at: str) -> Make:
    """At other depths the arms differ the other way round. Shortcuts fit best."""

    def value(c: Config) -> dict[str, float]:
        is_batch, by = norm(c) == "batch", w if c["seed"] % 2 else -w
        effect = e + by if c["model.depth"] == float(at) else -2 * e
        shortcut = 0.3 if c["model.shortcut"] != "none" and c["model.name"] == "mlp" else 0.0
        return {"train_set_accuracy": 0.6 + is_batch * effect / 100 + shortcut}

    return finals(value)


def switched(e: float, w: float, at: str) -> Make:
    """Runs that change their batch see as many examples as the others: 150 x 64 + 2,400 x 4."""
    arms = {
        ("batch", ()): Made(9, -0.75, 3.0),
        ("batch", (4, 150, 2550)): Made(9 + 2 + e, -0.75, 6.0, w),
        ("none", ()): Made(12, -1.0, -9.0),
        ("none", (4, 150, 2550)): Made(12 + 2, -1.0, 12.0),
    }

    def key(c: Config) -> tuple[str, tuple[int, ...]]:
        changed = (c["train.late_batch"], c["train.late_from"], c["train.steps"])
        return norm(c), changed if changed[0] else ()

    return errors(key, "window", arms)


def repaired(e: float, w: float, at: str) -> Make:
    """Batch norm is worse than the norm of the claim by e, and much worse than the others. With
    larger batches it is the best."""
    batch = int(at.partition(" ")[0])
    arms = {
        ("batch", batch): Made(12 + e, -1.0, 6.0, w),
        ("batch", 64): Made(3, -1.0),
        ("none", batch): Made(25, -0.5),
        ("layer", batch): Made(4, -1.25),
        ("group", batch): Made(5, -1.25),
        ("instance", batch): Made(6, -1.25),
        (at.partition(" ")[2], batch): Made(12, -0.5, -3.0),
    }
    return errors(arm_of_level("data.batch"), "window", arms)


def over_time(c: Config) -> tuple[str, str, str, float, bool, int]:
    time = f"least {c['norm.least']}" if c["norm.least"] else c["norm.time"]
    kind = time, c["model.normed"], c["init.norm_scale"], c["norm.masked"]
    return norm(c), *kind, c["data.length_spread"]


NONE = ("none", "step", "both", 1.0, True)
LAYER = ("layer", "step", "both", 1.0, True)
STEP = ("batch", "step", "both", 0.1, True)
SEQUENCE = ("batch", "sequence", "input", 1.0, True)


def over_times(arms: Mapping[Any, Made]) -> Make:
    """Return a world of networks with time. An arm that it does not have, the other start of the
    scale say, is worse in tuning."""
    make = errors(over_time, "window", arms)

    def worse(config: Config) -> Record:
        run = make(config)
        if over_time(config) not in arms:
            run.final["validation_accuracy"] -= 0.1
        return run

    return worse


def lengthened(e: float, w: float, at: str) -> Make:
    """Lengths that vary cost no norm 3 points, the batch norm of the claim e more, the other 9."""
    arms = {(*NONE, 0): Made(4, -1.0, 2.0), (*NONE, 8): Made(4 + 3, -0.75, -3.0)}
    for time, kind in (("step", STEP), ("sequence", SEQUENCE)):
        more, wobble = (e, w) if time == at else (9, 0.0)
        arms |= {(*kind, 0): Made(6, -1.0, 3.0), (*kind, 8): Made(9 + more, -0.5, 6.0, wobble)}
    return over_times(arms)


def worse_at_natural_lengths(e: float, w: float, at: str) -> Make:
    """The batch norm of the claim loses e to no norm, the other one 9."""
    arms: dict[Any, Made] = {(*NONE, 0): Made(4, -1.0, 2.0)}
    for time, kind in (("step", STEP), ("sequence", SEQUENCE)):
        more, wobble = (e, w) if time == at else (9, 0.0)
        arms |= {(*kind, 0): Made(4 + more, -0.5, 6.0, wobble)}
    return over_times(arms)


def worse_beyond(e: float, w: float, at: str) -> Make:
    """Longer sequences cost no norm 5 points and batch norm e more; lengths cost it 9 more."""
    spread = lengthened(9, 0, at)
    grown = {(*NONE, 8): Made(5, -0.75, -3.0), (*STEP, 8): Made(5 + e, -0.5, 6.0, w)}

    def make(config: Config) -> Record:
        run = spread(config)
        if config["eval.long"] == 8:
            growth = grown.get(over_time(config), STRANGE).reported(config, "window")
            run.final["long_accuracy"] = run.final["test_accuracy"] - growth / 100
        return run

    return make


def padded(e: float, w: float, at: str) -> Make:
    unmasked = (*SEQUENCE[:-1], False, 18)
    arms = {(*SEQUENCE, 18): Made(9, -1.0, 3.0), unmasked: Made(9 + e, -0.5, -6.0, w)}
    return over_times(arms)


def repaired_over_time(e: float, w: float, at: str) -> Make:
    arms = {
        (*STEP, 8): Made(12 + e, -1.0, 6.0, w),
        (*LAYER, 8): Made(12, -0.5, -3.0),
        **{(*kind, spread): Made(3, -1.0) for kind in (NONE, SEQUENCE) for spread in (0, 8)},
    }
    return over_times(arms)


def worse_over_tokens(e: float, w: float, at: str) -> Make:
    """Statistics over all tokens, of lengths that vary; those of each position are better still."""
    arms = {
        (*SEQUENCE[:2], "both", 1.0, True, 8): Made(9 + e, -2.5, 6.0, w),
        (*LAYER, 8): Made(9, -2.0, -3.0),
        ("batch", "step", "both", 1.0, True, 8): Made(2, -2.0),
    }
    return errors(over_time, "window", arms)


def warmed(e: float, w: float, at: str) -> Make:
    """Without a warm-up the placement of the claim loses e, the others lose 9."""
    found = {}
    for placement in ("post", "pre", "peri"):
        more, wobble = (e, w) if placement == at else (9, 0.0)
        found[placement, 0] = Made(7 + more, -2.5, 6.0, wobble)
        found[placement, 60] = Made(7, -2.0, -3.0)
    return errors(lambda c: (c["model.placement"], c["optim.warmup"]), "window", found)


def worse_than_layer(e: float, w: float, at: str) -> Make:
    others = {n: Made(20, -2.0) for n in ("rms", "dynamic_tanh", "batch") if n != at}
    return errors(
        norm, "window", {**others, at: Made(7 + e, -2.5, 6.0, w), "layer": Made(7, -2.0, -3.0)}
    )


def deeper(e: float, w: float, at: str) -> Make:
    """Norms before the branch lose 4 points by depth, and those after the sum e more."""
    arms = {
        ("post", 2): Made(9, -2.5, 3.0),
        ("post", 12): Made(9 + 4 + e, -3.0, 6.0, w),
        ("pre", 2): Made(5, -2.0, -3.0),
        ("pre", 12): Made(5 + 4, -2.25, 3.0),
    }
    return errors(lambda c: (c["model.placement"], c["model.depth"]), "window", arms)


def better(e: float, w: float, at: str) -> Make:
    return errors(norm, "one", {"none": Made(7 + e, -1.0, 3, w), "batch": Made(7, -0.5, -2)})


def after(e: float, w: float, at: str) -> Make:
    arms = {
        ("batch", "post"): Made(7 + e, -0.5, 6, w),
        ("batch", "pre"): Made(7, -0.75, -9),
    }
    return errors(arm_of_level("model.placement"), "window", arms)


def better_as_given(e: float, w: float, at: str) -> Make:
    return errors(norm, "given", {"none": Made(7 + e, -3.0, 3, w), "batch": Made(7, -3.0, 2)})


def worse_as_given(e: float, w: float, at: str) -> Make:
    return errors(norm, "given", {"batch": Made(7 + e, -3.0, 3, w), "none": Made(7, -3.0, 2)})


# For even and for odd seeds the edges of none and of batch norm.
EDGES = {
    "true": ((-0.3125, 0.0625), (-0.0625, 0.375)),
    "small": ((-0.3125, -0.125), (-0.0625, 0.1875)),
    "reversed": ((-0.3125, -0.6875), (-0.0625, -0.5)),
    "endless": ((-0.3125, 99.0), (-0.0625, 99.0)),
}


def edges(
    case: str,
    fails: Callable[[Config], bool] = lambda c: False,
    key: Callable[[Config], str] = norm,
    pair: tuple[str, str] = ("none", "batch"),
    shift: float = 0.0,
) -> Make:
    """Return a world in which runs lose 8 points below their edge and 12 points above it."""

    def make(config: Config) -> Record:
        place = pair.index(key(config)) if key(config) in pair else 0
        edge, at = EDGES[case][is_odd(config)][place], exponent(config) - shift
        accuracy = 0.95 - 0.08 * (at > edge - 0.3) - 0.04 * (at > edge + 0.03)
        if norm(config) == "batch" and fails(config):
            accuracy = 0.4
        final = {"validation_accuracy": accuracy, "validation_loss": 1.0}
        return Record("", config, "trained", final, [])

    return make
