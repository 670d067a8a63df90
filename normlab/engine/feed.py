"""Which rows a run sees and when: pure functions of its settings, computed on the host."""

from __future__ import annotations

import functools

import numpy as np

from normlab.data import Dataset, Split
from normlab.engine.evaluate import plan_scoring
from normlab.engine.program import Feed, Timetable
from normlab.evaluations import eval_steps
from normlab.optim import rate_shape
from normlab.settings import Config


@functools.lru_cache(maxsize=256)
def shuffle_epoch(seed: int, epoch: int, examples: int) -> np.ndarray:
    """Return the order in which a run of `seed` visits its training examples in `epoch`.

    It ranks raw words of Philox, a stream that numpy promises to keep; key [seed, 0] is the split.
    """
    words = np.random.Philox(key=[seed, epoch + 1]).random_raw(examples)
    return np.argsort(words, kind="stable")


def batch_rows(split: Split, seed: int, batch: int, first: int, last: int) -> np.ndarray:
    """Return the rows of the batches of steps first .. last - 1, int32 [T, B].

    Every epoch is a fresh permutation of the training split; its last partial batch is dropped.
    """
    per_epoch = len(split.train) // batch
    out = np.empty((last - first, batch), np.int32)
    for i, step in enumerate(range(first, last)):
        epoch, position = divmod(step, per_epoch)
        order = shuffle_epoch(seed, epoch, len(split.train))
        out[i] = split.train[order[position * batch : (position + 1) * batch]]
    return out


def pad_rows(rows: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([rows, np.zeros((length - len(rows), *rows.shape[1:]), rows.dtype)])


class MemberFeed:
    """The rows of one member: its split, its scoring plan, its batches."""

    def __init__(self, config: Config, dataset: Dataset):
        self.config = config
        self.split = dataset.split(config["seed"])
        validation, curve = self.split.validation, config["eval.curve_examples"]
        self.scoring = plan_scoring(
            validation[:curve], validation[curve:], self.split.test, config["eval.batch"]
        )
        self.stats = self.split.train[: config["eval.stats_examples"]]

    @property
    def curve_batches(self) -> int:
        return int(np.sum(self.scoring.parts == 0))

    def chunk(self, first: int, length: int) -> Feed:
        """Return the feed of steps first .. first + length - 1, padded behind the last step."""
        last = min(first + length, self.config["train.steps"])
        rows = batch_rows(self.split, self.config["seed"], self.config["data.batch"], first, last)
        return Feed(pad_rows(rows, length), self.stats, self.scoring)


class Calendar:
    """The timetable of a run, cut into chunks."""

    def __init__(self, config: Config, curve_batches: int, all_batches: int):
        steps = config["train.steps"]
        self.points = eval_steps(steps, config["train.eval_every"], config["train.eval_growth"])
        self.rate = rate_shape(config["optim.schedule"], config["optim.warmup"], steps)
        self.batches = np.zeros(steps, np.int32)
        self.batches[np.array(self.points) - 1] = curve_batches
        self.batches[-1] = all_batches

    def chunk(self, first: int, length: int) -> Timetable:
        """Return the timetable of steps first .. first + length - 1, padded behind the last."""
        part = slice(first, first + length)
        return Timetable(
            rate=pad_rows(self.rate[part], length),
            is_step=np.arange(first, first + length) < len(self.rate),
            batches=pad_rows(self.batches[part], length),
        )
