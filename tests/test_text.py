"""Text: windows and splits, a decoder and a recurrent network that predict the next token."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from time_networks import check_against, drawn, outputs, transformer_reference

from benchmarks.validation import text_parity
from normlab import data
from normlab.data.split import split_rows
from normlab.data.text import read, windows
from normlab.models.build import build_model
from normlab.models.time import TimeNorm
from normlab.norms.builder import build
from normlab.norms.table import NORMS
from normlab.runs.config import resolve
from normlab.runs.errors import ConfigError
from normlab.settings import Config
from normlab.training.flops import step_flops
from normlab.training.population import Population

N, T, C, HEADS, TOKENS = 5, 6, 8, 2, 7
TEXT = "to be or not to be, that is the question. " * 40
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.fixture(autouse=True)
def small_text(monkeypatch):
    """Make the row of the text that of TEXT in windows of T tokens, and present."""
    count = (len(TEXT) - 1) // T
    row = dataclasses.replace(
        data.DATASETS["tiny_shakespeare"],
        shape=(T, 1, 1),
        classes=len(set(TEXT)),
        **{"train": count - 80, "validation": 40, "test": 40},
    )
    monkeypatch.setitem(data.DATASETS, "tiny_shakespeare", row)
    monkeypatch.setattr("normlab.runs.config.check", lambda name, data_dir: row)
    return row


def dataset_of(row: data.Row) -> data.Dataset:
    inputs, targets = windows([TEXT], T)
    digest = hashlib.sha256(inputs.data).hexdigest()
    return data.Dataset("tiny_shakespeare", inputs, targets, row.shape, row.classes, digest)


def config_of(**settings: Any) -> Config:
    base = {"data.name": "tiny_shakespeare", "model.name": "decoder", "model.widths": (C,)}
    return resolve(base | {"model.heads": HEADS, "data.batch": N, **settings}).config


def net_of(norm: str = "layer", **settings: Any) -> Any:
    return build_model(config_of(**{"norm.name": norm, **settings}), TOKENS, "cpu")


def tokens(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, TOKENS, (N, T)).astype(np.int32)


def test_every_token_is_predicted_once_from_the_one_before_it():
    inputs, targets = windows(["abcabcab", "cab"], 3)
    assert inputs.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert targets.tolist() == [[1, 2, 0], [1, 2, 0]]
    assert inputs.dtype == targets.dtype == np.int32
    inputs, targets = windows(["abcd", "dcb"], 2)
    assert inputs.tolist() == [[0, 1], [3, 2]]
    assert targets.tolist() == [[1, 2], [2, 1]]


def test_the_text_is_cut_as_tfds_cuts_it(tmp_path):
    text = "".join(chr(97 + i % 7) for i in range(105))
    (tmp_path / "input.txt").write_text(text)
    _, splits = read("tiny_shakespeare", {"input.txt": tmp_path / "input.txt"})
    parts = [example["text"] for split in splits.values() for example in split]
    assert [*splits] == ["train", "validation", "test"]
    assert list(map(len, parts)) == [94, 5, 6] and "".join(parts) == text


def test_an_official_validation_split_keeps_its_place(small_text):
    for seed in (0, 5):
        split = split_rows(small_text, seed, 20, 10)
        assert split.train.tolist() == [*range(20)]
        assert split.validation.tolist() == [*range(small_text.train, small_text.train + 10)]
        assert split.test.tolist() == [*range(small_text.examples - 40, small_text.examples)]


@pytest.mark.parametrize(
    "norm, placement, settings",
    [
        ("none", "pre", {"model.tied": True}),
        ("layer", "pre", {"model.qk_norm": True, "model.depth": 2}),
        ("batch", "post", {}),
        ("rms", "peri", {"model.residual": "skipinit", "model.tied": True}),
    ],
)
def test_a_decoder_has_the_values_and_gradients_of_float64_formulas(norm, placement, settings):
    net, x = net_of(norm, **{"model.placement": placement, **settings}), tokens()
    expected = functools.partial(
        transformer_reference,
        x=x,
        norm=norm,
        placement=placement,
        time="step" if norm == "batch" else "sequence",
        **{"heads": HEADS, "lengths": [T] * N},
    )
    variables = drawn(net, x)
    assert ("head" in variables["params"]) is not settings.get("model.tied", False)
    check_against(expected, net, variables, x)


@pytest.mark.parametrize("settings", [{}, {"model.tied": True, "model.qk_norm": True}])
def test_a_decoder_has_the_parameters_of_the_formula(settings):
    net = net_of("layer", **{"model.depth": 2, **settings})
    shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=True), tokens())
    block = C * 3 * C + 3 * C + C * C + C + C * 4 * C + 4 * C + 4 * C * C + C + 2 * 2 * C
    block += 2 * 2 * (C // HEADS) if "model.qk_norm" in settings else 0
    head = 0 if "model.tied" in settings else C * TOKENS + TOKENS
    expected = TOKENS * C + T * C + 2 * block + 2 * C + head
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"norm.name": "batch"},
        {"norm.name": "layer", "norm.time": "sequence", "model.qk_norm": True},
        {"norm.name": "batch", "model.name": "rnn", "model.cell": "lstm"},
    ],
)
def test_no_output_depends_on_a_later_token(settings):
    net, x = net_of(**settings), tokens()
    variables = drawn(net, x)
    run = outputs(net, variables, np.ones((N, T, TOKENS)))
    first = run(x)[1][0]
    for t in range(1, T):
        other = x.copy()
        other[:, t] = (other[:, t] + 1) % TOKENS
        logits = run(other)[1][0]
        assert np.array_equal(logits[:, :t], first[:, :t])
        assert not np.array_equal(logits[:, t:], first[:, t:])


@pytest.mark.parametrize("name", [n for n, r in NORMS.items() if not (r.needs_space or r.act)])
def test_no_norm_of_steps_looks_ahead(name):
    """Of each norm that a decoder accepts, in training: what it puts out before a changed step."""
    assert config_of(**{"norm.name": name, "norm.groups": 2})
    options: Any = {"groups": 2} if NORMS[name].grouped else {}
    net = TimeNorm(build(name, **options), "step", True)
    x = np.random.default_rng(0).normal(size=(3, N, C)).astype(np.float32)
    variables = net.init(jax.random.key(0), x, None, np.arange(3))

    def apply(x):
        return net.apply(variables, x, None, np.arange(3), mutable=True)[0]

    run = jax.jit(apply, compiler_options=QUICK)
    changed = x.copy()
    changed[2] += np.linspace(0, 3, N * C).reshape(N, C)
    before, after = run(x), run(changed)
    assert np.array_equal(before[:2], after[:2]) and not np.array_equal(before[2], after[2])


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"norm.name": "batch", "norm.time": "sequence"}, "the tokens that it has to predict"),
        ({"norm.name": "batch", "norm.time": "sequence", "model.name": "rnn"}, "has to predict"),
        (
            {"model.name": "encoder"},
            "takes images or sequences, tiny_shakespeare is text; use one of rnn",
        ),
        ({"model.name": "mlp"}, "use one of rnn, decoder"),
        ({"data.name": "digits"}, "takes text, digits is images; use one of mlp"),
        ({"data.length": 12}, "lengths of its own; use 0"),
        ({"data.label_noise": 0.1}, "are its next tokens; use 0"),
        ({"data.augment": "crop_flip"}, "needs images"),
        ({"model.residual": "none"}, "use identity or skipinit"),
    ],
)
def test_what_text_refuses(settings, words):
    with pytest.raises(ConfigError, match=words) as caught:
        config_of(**settings)
    assert "\n" not in str(caught.value)


def test_a_recurrent_network_reads_embedded_tokens_as_features():
    net, x = net_of("batch", **{"model.name": "rnn"}), tokens()
    variables = drawn(net, x)
    others = dict(variables["params"])
    vectors = others.pop("embedding")["embedding"][x]
    features = np.concatenate([vectors, np.ones((N, T, 1), np.float32)], -1)
    wanted = net.apply({**variables, "params": others}, features, train=False)
    np.testing.assert_array_equal(net.apply(variables, x, train=False)[:, -1], wanted)


def test_a_run_learns_and_scores_every_token(small_text):
    config = config_of(
        **{"model.widths": (16,), "data.batch": 16, "optim.name": "adam", "optim.lr": 1e-2},
        **{"train.steps": 150, "train.eval_every": 150, "eval.batch": 30, "host.width": 1},
        **{"norm.name": "batch"},
    )
    dataset = dataset_of(small_text)
    population = Population([config], dataset)
    state = population.train(lambda progress: None)
    final = population.outcomes[0].final
    assert final["test_accuracy"] > 0.6 > 2 * dataset.chance
    net = build_model(config, dataset.classes, "cpu")
    params, stats = jax.tree.map(lambda leaf: leaf[0], (state.params, state.batch_stats))
    rows = dataset.split(0).test
    x = jnp.asarray(dataset.images[rows])
    logits: Any = net.apply({"params": params, "batch_stats": stats}, x, train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, dataset.labels[rows])
    np.testing.assert_allclose(final["running_test_loss"], losses.mean(), rtol=1e-5)
    hits = (logits.argmax(-1) == dataset.labels[rows]).mean()
    np.testing.assert_allclose(final["running_test_accuracy"], hits, rtol=1e-6)


def test_operations_are_counted_at_every_token(small_text):
    flops = step_flops(config_of(), small_text.shape, small_text.classes)
    block = 3 * C * C + C * C + 2 * 4 * C * C
    products = N * T * (block + C * small_text.classes) + 2 * N * T * T * C
    assert flops == 3 * 2 * products


@pytest.mark.peers("torch")
@pytest.mark.parametrize(
    "settings",
    [
        {"norm.name": "layer", "model.depth": 2, "optim.warmup": 3},
        {"norm.name": "none", "model.name": "rnn", "model.cell": "lstm"},
    ],
)
def test_pytorch_learns_the_same(settings, small_text):
    pytest.importorskip("torch")
    config = config_of(
        **{"data.batch": 16, "optim.name": "adam", "optim.lr": 1e-3, "optim.schedule": "cosine"},
        **{"train.steps": 30, **settings},
    )
    (pair,) = text_parity.compare(config, dataset_of(small_text), (3,))
    assert pair.early < text_parity.LIMIT
    assert pair.ours == pytest.approx(pair.theirs, abs=1e-3)


def test_parity_is_judged_by_first_losses_and_the_spread_of_seeds():
    def holds(early: float, *ours: float) -> bool | None:
        theirs = (2.0, 2.1, 2.2)
        pairs = [text_parity.Pair(early, a, b) for a, b in zip(ours, theirs, strict=True)]
        return text_parity.judge("gpt", pairs).holds

    assert holds(1e-5, 2.01, 2.09, 2.2)
    assert not holds(1e-3, 2.01, 2.09, 2.2)
    assert not holds(1e-5, 2.2, 2.3, 2.41)
    assert not holds(1e-5, 1.8, 1.9, 2.01)
