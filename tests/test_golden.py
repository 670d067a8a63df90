"""Short runs give the numbers that they gave when `TRAINING_VERSION` was last raised.

`JAX_PLATFORMS=cpu python tests/test_golden.py` writes the numbers anew: those of a case that still
agrees stay as they are.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_runs import small, train

from normlab import data
from normlab.diagnostics.names import NAMES
from normlab.layers.table import KERNELS
from normlab.models.build import build_model
from normlab.models.table import MODELS
from normlab.norms.table import NORMS
from normlab.settings import SETTINGS, Config
from normlab.training.batches import MemberBatches
from normlab.training.diagnose import make_diagnostics
from normlab.training.program import Resident, evaluation_networks, input_shape
from normlab.training.state import hyper_of, init_state
from normlab.training.step import Batch, make_train_step
from normlab.training.version import TRAINING_VERSION

Numbers = dict[str, list[float]]
FILE = Path(__file__).with_name("golden.json")
RELATIVE = 1e-5
"""What another processor, or another version of the compiler, may change."""
STEPS, BATCH = 10, 16
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_llvm_disable_expensive_passes": True,
}
"""Compiler options that halve the compilation, nearly all of the time of these tests."""
HELP = """
If the change was meant to change what a run computes, raise TRAINING_VERSION in
normlab/training/version.py, say there why, and write the golden numbers anew with
    JAX_PLATFORMS=cpu python tests/test_golden.py
Finished runs then count as stale. If it was not meant (a rename, a move, another form of the same
formula), the change has a fault: find it, and leave the version and the golden numbers alone.
A new norm, network, optimiser or diagnostic changes no other run: write its numbers with the same
command and leave the version alone."""


def choices(setting: str) -> tuple[str, ...]:
    return SETTINGS[setting].choices


MLP = {"model.name": "mlp", "model.widths": (6, 6)}
CNN = {"model.name": "cnn", "model.widths": (4,)}
RESNET = {"model.name": "resnet", "model.widths": (4, 6), "norm.name": "affine"}
WIDTHS = {"encoder": (4, 4), "decoder": (4, 4)}
STEP_CASES: dict[str, Config] = {
    **{f"norm {n}": CNN | {"norm.name": n} for n in NORMS},
    **{f"kernel {k}": (MLP, CNN)[i % 2] | {"norm.kernel": k} for i, k in enumerate(KERNELS)},
    **{f"model {m}": {"model.name": m, "model.widths": WIDTHS.get(m, (4, 6))} for m in MODELS},
    # Of two features a norm knows little but the sign, so each head has eight.
    "queries and keys with a norm, scaled branches": {"model.name": "encoder", "norm.name": "layer"}
    | {"model.widths": (16,), "model.heads": 2}
    | {"model.qk_norm": True, "model.residual": "skipinit"},
    **{
        f"residual {r}": RESNET | {"model.residual": r}
        for r in choices("model.residual")
        if r != "identity"  # as "model resnet"
    },
    **{
        f"optimiser {o}": MLP | {"optim.name": o, "optim.lr": 0.02, "optim.weight_decay": 0.01}
        for o in choices("optim.name")
    },
    **{
        f"average {a}": MLP | {"norm.name": "batch", "norm.average": a}
        for a in choices("norm.average")
    },
    "ghost batches, unbiased variance": MLP
    | {"norm.name": "batch", "norm.stats_batch": 8, "norm.running_var": "unbiased"},
    "noise": MLP | {"norm.name": "layer", "norm.noise": 1.0},
    "tanh, norm after it, shortcut": MLP
    | {"model.act": "tanh", "model.placement": "post", "model.shortcut": "identity"}
    | {"norm.name": "layer", "init.kernel": "glorot_uniform"},
    "sigmoid, scaled shortcut": MLP | {"model.act": "sigmoid", "model.shortcut": "skipinit"},
    "resnet, norm before its convolutions": RESNET | {"model.block": "pre", "norm.name": "group"},
    "resnet50, ghost batches": {"model.name": "resnet50", "model.widths": (4, 6)}
    | {"norm.name": "batch", "norm.stats_batch": 8, "optim.weight_decay": 1e-4},
    "stride": CNN | {"model.stride": 2, "init.gain": 2.0},
}
"""Cases of the training step alone, each a program."""
RUN: Config = MLP | {
    "norm.name": "batch",
    "data.label_noise": 0.2,
    "eval.train_examples": 897,
    "train.eval_every": 4,
    "optim.warmup": 2,
    "host.width": 2,
}
RUN_CASES: dict[str, Config] = {
    **{
        f"schedule {s}, label noise": RUN | {"optim.schedule": s} for s in choices("optim.schedule")
    },
    "augmentation, late batch": CNN
    | {"norm.name": "batch", "data.augment": "crop_flip", "eval.batch_statistics": True}
    | {"train.late_batch": 6, "train.late_from": 5, "host.width": 2},
    "stop at a loss, skipped step": MLP
    | {"train.stop_at_loss": 2.31, "eval.train_examples": 100, "train.on_nonfinite": "skip"}
    | {"train.eval_every": 1, "host.width": 2},
}
"""Cases of whole runs: batches, rates, evaluation, records. All schedules share one program."""
DIAGNOSTICS = "diagnostics"
AVERAGES = {"norm.momentum": 0.9}
"""Ten steps move them visibly."""


def config_of(case: Config) -> Config:
    common = {"data.name": "digits", "data.batch": BATCH, "data.validation_examples": 100}
    common |= {"train.steps": STEPS, "norm.groups": 2, "host.chunk": STEPS, "eval.batch": 300}
    return small(common | {"train.eval_every": STEPS, "eval.stats_examples": 32} | AVERAGES | case)


def summary(tree: Any) -> list[float]:
    """Return the length of all numbers of a tree and their product with a fixed unit vector."""
    leaves = [np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)]
    values = np.concatenate([*leaves, np.zeros(0)])
    direction = np.cos(1.7 * np.arange(len(values)))
    length = np.linalg.norm(direction) or 1.0
    return [float(np.linalg.norm(values)), float(values @ direction / length)]


def make_inputs(config: Config, digits: data.Dataset) -> tuple[Resident, Any, Any]:
    """Return the images, sequences or tokens, and rows and labels of every step. A token is a pixel
    of a digit, of as many values as there are classes."""
    rows = np.arange(STEPS * BATCH).reshape(STEPS, BATCH)
    if config["model.name"] == "decoder":
        tokens = (digits.images[:, 10:17] // 26).astype(np.int32)
        return Resident(jnp.asarray(tokens[:, :-1]), (6,)), rows, tokens[rows, 1:]
    if MODELS[config["model.name"]].has_time:
        digits = data.as_sequences(digits, 6, 2)
    images = Resident(jnp.asarray(digits.images), input_shape(config, digits.shape))
    return images, rows, digits.labels[rows]


def compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    return jax.jit(function).lower(*arguments).compile(compiler_options=QUICK)(*arguments)


def take_steps(case: Config, digits: data.Dataset) -> Numbers:
    """Return losses, state and logits in evaluation mode of a run of STEPS steps."""
    config = config_of(case)
    net, hyper = build_model(config, digits.classes, "lax"), hyper_of(config)
    images, rows, labels = make_inputs(config, digits)

    def run(rows, labels):
        state = init_state(net, config["optim.name"], hyper, images.gather(rows[0]))
        step = make_train_step(net, config["optim.name"], hyper)

        def body(state, now):
            return step(state, Batch(images.gather(now[0]), now[1], jnp.ones(())))

        state, losses = lax.scan(body, state, (rows, labels))
        logits = net.apply(state.variables, images.gather(rows[0]), train=False)
        return {name: getattr(state, name) for name in KEPT}, losses, logits

    state, losses, logits = compiled(run, rows, labels)
    numbers = {name: summary(tree) for name, tree in state.items()}
    return numbers | {"loss": losses.tolist(), "logits": summary(logits)}


KEPT = ("params", "opt_state", "batch_stats", "norm_state")


def diagnose(digits: data.Dataset) -> Numbers:
    """Return the values of all diagnostics after each of the first steps of a run."""
    config = config_of(MLP | {"norm.name": "batch", "eval.probes": "+".join(NAMES)})
    net, hyper = build_model(config, digits.classes, "lax"), hyper_of(config)
    whole, _ = evaluation_networks(config, digits.classes, "lax")
    look = make_diagnostics(config, net, whole)
    images, rows, labels = make_inputs(config, digits)
    batches = MemberBatches(config, digits).chunk(0, 1)

    def run(rows, labels):
        x = images.gather(rows[0])
        state = init_state(net, "momentum", hyper, x)
        state = state._replace(diagnostic_state=look.start(state, hyper, x))
        step = make_train_step(net, "momentum", hyper)

        def body(state, now):
            state, _ = step(state, Batch(images.gather(now[0]), now[1], jnp.ones(())))
            return look.observe(state, hyper, 1.0, images, batches)

        return lax.scan(body, state, (rows, labels))[1]

    values = compiled(run, rows[:3], labels[:3])
    return {name: value.tolist() for name, value in values.items()}


def poison(digits: data.Dataset, config: Config) -> data.Dataset:
    """Return the images with a NaN that seed 0 meets at its third step, and nowhere else."""
    seen = MemberBatches(config, digits)
    rows = seen.chunk(0, STEPS).train
    others = {*rows[:2].ravel(), *rows[3:].ravel(), *seen.scoring.rows.ravel(), *seen.stats}
    images = np.asarray(digits.images, np.float32) / 255
    images[next(row for row in rows[2] if row not in others)] = np.nan
    return dataclasses.replace(digits, images=images)


def whole_run(case: Config, digits: data.Dataset) -> Numbers:
    """Return the records of two runs, the second with other traced settings."""
    config = config_of(case)
    if config["train.on_nonfinite"] == "skip":
        digits = poison(digits, config)
    second = {"seed": 0, "optim.lr": 0.05, "optim.momentum": 0.5, "optim.weight_decay": 0.01}
    outcomes, states = train([config, config | second | {"init.seed": 3}], digits)
    numbers = {"params": summary(states.params), "batch_stats": summary(states.batch_stats)}
    for i, outcome in enumerate(outcomes):
        for name in outcome.curve[0]:
            numbers[f"{i} {name}"] = [row[name] for row in outcome.curve]
        numbers |= {f"{i} final {name}": [value] for name, value in outcome.final.items()}
        numbers[f"{i} steps"] = [outcome.stopped_at or 0, outcome.skipped_steps]
    return numbers


def run_case(name: str, digits: data.Dataset) -> Numbers:
    if name == DIAGNOSTICS:
        return diagnose(digits)
    if name in RUN_CASES:
        return whole_run(RUN_CASES[name], digits)
    return take_steps(STEP_CASES[name], digits)


ALL_CASES = (*STEP_CASES, *RUN_CASES, DIAGNOSTICS)


def find_difference(found: Numbers, expected: Numbers) -> str:
    """Return the first quantity that differs, "" where all agree to RELATIVE of their largest."""
    if set(found) != set(expected):
        return f"other quantities: {sorted(set(found) ^ set(expected))}"
    for name, values in found.items():
        floor = RELATIVE * np.max(
            np.abs(expected[name]), initial=0, where=np.isfinite(expected[name])
        )
        same_size = len(values) == len(expected[name])
        if not same_size or not np.allclose(values, expected[name], RELATIVE, floor, True):
            return f"{name} = {values}, the golden numbers are {expected[name]}"
    return ""


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits")


@pytest.mark.parametrize("name", ALL_CASES)
def test_a_short_run_gives_its_golden_numbers(name, digits):
    golden = json.loads(FILE.read_text())["cases"]
    assert name in golden, f"no golden numbers of {name!r}.{HELP}"
    difference = find_difference(run_case(name, digits), golden[name])
    assert not difference, f"{name}: {difference}.{HELP}"


def test_the_golden_numbers_are_those_of_the_training_version():
    golden = json.loads(FILE.read_text())
    written_for = golden["training_version"]
    assert written_for == TRAINING_VERSION, (
        f"the golden numbers are of version {written_for}, TRAINING_VERSION is {TRAINING_VERSION}."
        f"{HELP}"
    )
    assert set(golden["cases"]) == set(ALL_CASES), f"cases and golden numbers differ.{HELP}"


def write() -> None:
    """Write the numbers of all cases; those that still agree stay."""
    digits, cases = data.load("digits"), {}
    old = json.loads(FILE.read_text())["cases"] if FILE.exists() else {}
    for name in ALL_CASES:
        found = run_case(name, digits)
        rounded = {k: [float(f"{v:.8g}") for v in values] for k, values in found.items()}
        is_same = name in old and not find_difference(found, old[name])
        cases[name] = old[name] if is_same else rounded
        print(f"{name}: {'as before' if is_same else 'written'}")
    lines = [f"{json.dumps(name)}: {json.dumps(cases[name])}" for name in cases]
    text = ",\n".join(lines)
    FILE.write_text(f'{{"training_version": {TRAINING_VERSION}, "cases": {{\n{text}\n}}}}\n')


if __name__ == "__main__":
    write()
