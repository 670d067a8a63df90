"""Images as sequences: of rows, of one length or of lengths that differ, of patches, of columns."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from normlab.data.dataset import Dataset

LENGTHS_KEY = 2**64 - 2
"""Draws the lengths: a key of Philox that no seed of a run has."""
STEPS_KEY = 2**64 - 3
"""Draws the order of permuted steps, as LENGTHS_KEY does the lengths."""


def lengths_of(examples: int, low: int, high: int, law: str = "even") -> np.ndarray:
    """The length of each example, int32 [N], from low to high. It is a property of the example:
    every run sees the same.

    law even: each length L is as frequent. log: the logarithm is even, so that the share of L is
    log((L + 1) / L) / log((high + 1) / low).
    """
    words = np.random.Philox(key=LENGTHS_KEY).random_raw(examples)
    if law == "log":
        ends = np.log(np.arange(low + 1, high + 1) / low) / np.log((high + 1) / low)
        above = np.searchsorted(ends, words / 2.0**64, side="right")
    else:
        above = (words % np.uint64(high - low + 1)).astype(np.int64)
    return (low + above).astype(np.int32)


def order_of(steps: int) -> np.ndarray:
    """Which step of the data comes at each place when steps are permuted, [T]: the same one random
    order for all examples of all runs. It ranks raw words of Philox."""
    words = np.random.Philox(key=STEPS_KEY).random_raw(steps)
    return np.argsort(words, kind="stable")


def as_sequences(
    dataset: Dataset,
    length: int = 0,
    spread: int = 0,
    patch: int = 0,
    law: str = "even",
    longer: int = 0,
    is_permuted: bool = False,
) -> Dataset:
    """The same examples as sequences [T, D + 1], T = length + spread, for networks with time.

    Step t is a row of the image, D = W * C, or a patch of it, D = patch * patch * C, in reading
    order. An example of L steps has its rows resampled linearly at L even places from the first to
    the last. So a length cuts nothing away. The last feature is 1 as the network sees it, 255 in
    uint8, at its L steps, and all features are 0 behind them. length 0: the rows or patches as they
    are. law natural: the steps are the columns of the image from the first to the last that is not
    blank. So an example has the length that was drawn, and T is the image's width.
    `longer`: behind all examples they follow once more, evenly 1 to `longer` steps longer than T.
    Rows of both kinds then have T + longer steps, while `shape` has the T of the first kind.
    `is_permuted`: the rows or patches come in the order of `order_of`.
    """
    images = patches(dataset, patch) if patch else dataset.images.reshape(-1, *dataset.shape)
    steps, labels = longest(dataset.shape, length, spread, patch, law), dataset.labels
    if law == "natural":
        images, lengths = columns(images)
    else:
        lengths = lengths_of(len(images), steps - 2 * spread, steps, law)
    images = images.reshape(*images.shape[:2], -1)
    if is_permuted:
        images = images[:, order_of(images.shape[1])]
    features = images.shape[2]
    if longer:
        more = lengths_of(len(images), steps + 1, steps + longer)
        lengths, labels = np.append(lengths, more), np.tile(labels, 2)
        images = np.tile(images, (2, 1, 1))
    out = np.zeros((len(images), steps + longer, features + 1), images.dtype)
    for n in range(lengths.min(), lengths.max() + 1):
        chosen = lengths == n
        now = images[chosen]
        out[chosen, :n, :features] = now[:, :n] if law == "natural" else resampled(now, n)
        out[chosen, :n, features] = 255 if images.dtype == np.uint8 else 1
    flat = out.reshape(len(images), -1)
    digest = hashlib.sha256(flat.data)
    digest.update(labels.data)
    shape = sequence_shape(dataset.shape, length, spread, patch, law)
    return dataclasses.replace(
        dataset, images=flat, labels=labels, shape=shape, sha256=digest.hexdigest()
    )


def longest(
    shape: tuple[int, int, int], length: int, spread: int, patch: int, law: str = "even"
) -> int:
    """T of the sequences that images [H, W, C] become."""
    height, width, _ = shape
    if law == "natural":
        return width
    own = height * width // patch**2 if patch else height
    return (length or own) + spread


def sequence_shape(
    shape: tuple[int, int, int], length: int, spread: int, patch: int, law: str = "even"
) -> tuple[int, int, int]:
    """(T, D + 1, 1) of the sequences that images [H, W, C] become."""
    height, width, channels = shape
    side = patch**2 if patch else height if law == "natural" else width
    return longest(shape, length, spread, patch, law), side * channels + 1, 1


def patches(dataset: Dataset, side: int) -> np.ndarray:
    """The patches of the images, [N, patches, side, side, C]."""
    height, width, channels = dataset.shape
    rows, columns = height // side, width // side
    tiles = dataset.images.reshape(-1, rows, side, columns, side, channels)
    return tiles.swapaxes(2, 3).reshape(-1, rows * columns, side, side, channels)


def columns(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The columns of images [N, H, W, C], [N, W, H, C]; the first that is not blank comes first.
    And the number of those up to the last that is not blank, int32 [N]; of a blank image 1."""
    images = images.swapaxes(1, 2)
    width = images.shape[1]
    is_drawn = images.reshape(*images.shape[:2], -1).max(2) > 0
    first, behind = is_drawn.argmax(1), width - is_drawn[:, ::-1].argmax(1)
    own = np.minimum(first[:, None] + np.arange(width), width - 1)
    lengths = np.where(is_drawn.any(1), behind - first, 1)
    return np.take_along_axis(images, own[:, :, None, None], 1), lengths.astype(np.int32)


def resampled(images: np.ndarray, steps: int) -> np.ndarray:
    """Rows [N, T, D] at `steps` even places, linear between neighbours, uint8 rounded."""
    if steps == images.shape[1]:
        return images
    places = np.linspace(0, images.shape[1] - 1, steps)
    before = places.astype(int)
    after = np.minimum(before + 1, images.shape[1] - 1)
    share = (places - before)[:, None]
    rows = images[:, before] * (1 - share) + images[:, after] * share
    return (np.rint(rows) if images.dtype == np.uint8 else rows).astype(images.dtype)
