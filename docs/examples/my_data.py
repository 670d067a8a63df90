"""A reader of your own: points of three spirals, 450 examples of 2 features in 3 classes."""

import numpy as np


def read() -> tuple[np.ndarray, np.ndarray]:
    """Return x [N, D] or images [N, H, W, C], and a label for each example."""
    rng, arms, points = np.random.default_rng(0), 3, 150
    radius = np.tile(np.linspace(0.1, 1, points), arms)
    label = np.repeat(np.arange(arms), points)
    angle = 4 * radius + 2 * np.pi * label / arms + rng.normal(0, 0.35, arms * points)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), label
