"""A data set that needs no files: random images labelled by a planted teacher."""

from __future__ import annotations

import numpy as np

from normlab.data.table import DATASETS

TEACHER_KEY, PIXEL_KEY = 1, 2
CANDIDATES = 5_000


def make_synthetic() -> tuple[np.ndarray, np.ndarray]:
    """The 3,000 examples: images uint8 [N, 64], labels int32 [N], 300 of each class.

    label = argmax_k (x - 128) . t_k, with ten random sign vectors t_k as the teacher. Of 5,000
    random images each class keeps the 300 with the widest margin to the second best class. So the
    classes are balanced and a small net can learn them (one hidden layer of 64: 97 %). All
    arithmetic is on integers and raw Philox words, so the images are bit-equal on every machine.
    """
    row = DATASETS["synthetic"]
    features = row.shape[0] * row.shape[1] * row.shape[2]
    teacher = 2 * (random_bytes(TEACHER_KEY, row.classes, features) & 1).astype(np.int64) - 1
    images = random_bytes(PIXEL_KEY, CANDIDATES, features)
    scores = (images.astype(np.int64) - 128) @ teacher.T
    labels = scores.argmax(axis=1).astype(np.int32)
    ranked = np.sort(scores, axis=1)
    rows = _widest(ranked[:, -1] - ranked[:, -2], labels, row.examples // row.classes)
    return images[rows], labels[rows]


def _widest(margin: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Row numbers, ascending, of the `count` widest margins of each class."""
    by_margin = np.argsort(-margin, kind="stable")
    classes = range(labels.max() + 1)
    return np.sort(np.concatenate([by_margin[labels[by_margin] == k][:count] for k in classes]))


def random_bytes(key: int | list[int], rows: int, columns: int) -> np.ndarray:
    """uint8 [rows, columns], uniform; columns is a multiple of 8, the bytes of one raw word."""
    words = np.random.Philox(key=key).random_raw(rows * columns // 8)
    return words.astype("<u8").view(np.uint8).reshape(rows, columns)
