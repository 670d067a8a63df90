"""Tiny Shakespeare: what its original file holds, and its windows of characters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

FILE = "input.txt"
TRAIN = 0.9
"""Share of the characters that train; the rest is cut in half. The shares are those of tfds."""


def read(name: str, paths: dict[str, Path]) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """The class names, of which there are none, and of each split its one example."""
    del name
    text = paths[FILE].read_text(encoding="utf-8")
    train = int(len(text) * TRAIN)
    middle = train + (len(text) - train) // 2
    cuts = {"train": (0, train), "validation": (train, middle), "test": (middle, len(text))}
    return {}, {split: [{"text": text[a:b]}] for split, (a, b) in cuts.items()}


def windows(texts: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of `length` tokens, int32 [N, length], and the token after each of them.

    A token is the place of a character among all that occur, in order. Windows of a split share no
    token, and what is left at its end is dropped. So every token is predicted once.
    """
    names = sorted(set("".join(texts)))
    place = {name: token for token, name in enumerate(names)}
    inputs, targets = [], []
    for text in texts:
        tokens = np.array([place[c] for c in text], np.int32)
        count = (len(tokens) - 1) // length
        inputs.append(tokens[: count * length].reshape(count, length))
        targets.append(tokens[1 : count * length + 1].reshape(count, length))
    return np.concatenate(inputs), np.concatenate(targets)
