"""Which rows a run sees and when: pure functions of its settings, computed on the host."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from normlab.data import DATASETS, Dataset, Split, as_sequences, load
from normlab.models.table import MODELS
from normlab.settings import Config
from normlab.training.evaluate import CURVE_PARTS, plan_scoring
from normlab.training.evaluation_steps import eval_steps
from normlab.training.optim import rate_shape
from normlab.training.program import ChunkBatches, ScheduleChunk


def data_key(config: Config) -> tuple[Any, ...]:
    """Return what the data of a run depend on, but for their splits."""
    kind = ("data.length", "data.length_spread", "data.patch", "data.length_law", "eval.long")
    kind += ("data.permuted",)
    has_time = MODELS[config["model.name"]].has_time
    return config["data.name"], has_time, *(config[name] for name in kind)


def load_data(
    config: Config, data_dir: str | None = None, loaded: Mapping[str, Dataset] | None = None
) -> Dataset:
    """Return the data set as the network of `config` takes it: images, sequences, or text.
    `loaded`: those in memory, by name. Raises DataError."""
    name, has_time, *kind = data_key(config)
    dataset = loaded[name] if loaded and name in loaded else load(name, data_dir)
    is_made_one = has_time and DATASETS[name].kind == "images"
    return as_sequences(dataset, *kind) if is_made_one else dataset


@functools.lru_cache(maxsize=256)
def shuffle_epoch(seed: int, epoch: int, examples: int) -> np.ndarray:
    """Return the order in which a run of `seed` visits its training examples in `epoch`.

    It ranks raw words of Philox, a stream that numpy promises to keep; key [seed, 0] is the split.
    """
    words = np.random.Philox(key=[seed, epoch + 1]).random_raw(examples)
    return np.argsort(words, kind="stable")


def batch_rows(
    split: Split,
    seed: int,
    batch: int,
    first: int,
    last: int,
    late: tuple[int, int] | None = None,
) -> np.ndarray:
    """Return the rows of the batches of steps first .. last - 1, int32 [T, B].

    Every epoch is a fresh permutation of the training split; its last partial batch is dropped.
    `late` = (batch, step): from that step on batches are that small, behind them zeros.
    """
    examples = len(split.train)
    late_batch, switch = late or (batch, last)
    epochs_before = -(-switch // (examples // batch)) if late else 0
    out = np.zeros((last - first, batch), np.int32)
    for i, step in enumerate(range(first, last)):
        is_late = step >= switch
        size = late_batch if is_late else batch
        epoch, position = divmod(step - switch if is_late else step, examples // size)
        order = shuffle_epoch(seed, epoch + (epochs_before if is_late else 0), examples)
        out[i, :size] = split.train[order[position * size : (position + 1) * size]]
    return out


def noisy_labels(
    labels: np.ndarray, rows: np.ndarray, seed: int, share: float, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels with that share of those at `rows` replaced by another class, and a mark for
    each of all labels that was. A pure function of the seed; key [seed, 2^64 - 1] of Philox."""
    noisy, is_replaced = labels.copy(), np.zeros(len(labels), bool)
    if not share:
        return labels, is_replaced
    key = np.array([seed, 2**64 - 1], np.uint64)
    words = np.random.Philox(key=key).random_raw(2 * len(rows))
    chosen = np.argsort(words[: len(rows)], kind="stable")[: round(share * len(rows))]
    shift = 1 + (words[len(rows) :][chosen] % np.uint64(classes - 1)).astype(labels.dtype)
    noisy[rows[chosen]] = (labels[rows[chosen]] + shift) % classes
    is_replaced[rows[chosen]] = True
    return noisy, is_replaced


def pad_rows(rows: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([rows, np.zeros((length - len(rows), *rows.shape[1:]), rows.dtype)])


class MemberBatches:
    """The rows of one member: its split, its scoring plan, its batches."""

    def __init__(self, config: Config, dataset: Dataset):
        self.config, seed = config, config["seed"]
        self.split = dataset.split(
            seed, config["data.train_examples"], config["data.validation_examples"]
        )
        train, validation, test = self.split.train, self.split.validation, self.split.test
        self.labels, is_replaced = noisy_labels(
            dataset.labels, train, seed, config["data.label_noise"], dataset.classes
        )
        curve, seen = config["eval.curve_examples"], train[: config["eval.train_examples"]]
        lists = (
            *(validation[:curve], validation[curve:], test),
            *(seen[~is_replaced[seen]], seen[is_replaced[seen]]),
            test + len(dataset.labels) // 2 if config["eval.long"] else test[:0],
        )
        parts = {part: rows for part, rows in enumerate(lists) if part < 3 or len(rows)}
        self.scoring = plan_scoring(parts, self.labels, config["eval.batch"])
        self.stats = train[: config["eval.stats_examples"]]
        self.held_out = test[: config["eval.stats_examples"]]

    @property
    def curve_batches(self) -> int:
        return int(np.sum(np.isin(self.scoring.parts, CURVE_PARTS)))

    def chunk(self, first: int, length: int) -> ChunkBatches:
        """Return the batches of steps first .. first + length - 1, padded behind the last step."""
        last = min(first + length, self.config["train.steps"])
        seed, batch = self.config["seed"], self.config["data.batch"]
        rows = batch_rows(self.split, seed, batch, first, last, late_of(self.config))
        rows = pad_rows(rows, length)
        stats_labels = self.labels[self.stats]
        return ChunkBatches(
            rows, self.labels[rows], self.stats, stats_labels, self.held_out, self.scoring
        )


def late_of(config: Config) -> tuple[int, int] | None:
    """Return the later batch and the step at which it begins, None where the batch stays."""
    late = config["train.late_batch"], config["train.late_from"]
    return late if late[0] else None


class Schedule:
    """What happens at each step of a run, cut into chunks."""

    def __init__(self, config: Config, curve_batches: int, all_batches: int):
        steps = config["train.steps"]
        self.points = eval_steps(steps, config["train.eval_every"], config["train.eval_growth"])
        self.rate = rate_shape(config["optim.schedule"], config["optim.warmup"], steps)
        self.is_late = np.zeros(steps, bool)
        if late := late_of(config):
            self.is_late[late[1] :] = True
            self.rate[self.is_late] *= np.float32(late[0] / config["data.batch"])
        self.scored = np.zeros(steps, np.int32)
        self.scored[np.array(self.points) - 1] = curve_batches
        self.scored[-1] = all_batches

    def chunk(self, first: int, length: int) -> ScheduleChunk:
        """Return the schedule of steps first .. first + length - 1, padded behind the last."""
        part = slice(first, first + length)
        return ScheduleChunk(
            rate=pad_rows(self.rate[part], length),
            is_step=np.arange(first, first + length) < len(self.rate),
            scored=pad_rows(self.scored[part], length),
            is_late=pad_rows(self.is_late[part], length),
            all_batches=self.scored[-1],
        )
