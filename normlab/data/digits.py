"""scikit-learn's 8x8 digits, which come with the library."""

from __future__ import annotations

import numpy as np


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """All 1,797 digits: images uint8 [N, 64], their pixels 0..16 stretched to 0..255; labels int32.

    Pixel p becomes round(255 p / 16), so the 17 levels stay distinct.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.rint(pixels * (255 / 16)).astype(np.uint8), labels.astype(np.int32)
