"""8x8 digits, which come with the package: handwritten by 13 people.

By E. Alpaydin, C. Kaynak, 1998: the test set of Optical Recognition of Handwritten Digits; UCI
Machine Learning Repository, https://doi.org/10.24432/C50P49. Licence: CC BY 4.0,
https://creativecommons.org/licenses/by/4.0/. What was changed: the numbers are stored in another
format, and stretched when they are read.

FILE was made from `sklearn.datasets.load_digits` of scikit-learn 1.9.1: `pixels` uint8 [1797, 64]
from 0 to 16, `labels` uint8 [1797].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("digits.npz")


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """All 1,797 digits: images uint8 [N, 64], their pixels 0..16 stretched to 0..255; labels int32.

    Pixel p becomes round(255 p / 16), so the 17 levels stay distinct.
    """
    with np.load(FILE) as file:
        pixels, labels = file["pixels"], file["labels"]
    return np.rint(pixels * (255 / 16)).astype(np.uint8), labels.astype(np.int32)
