"""Japanese Vowels, which come with the package: which of nine men speaks.

By M. Kudo, J. Toyama, M. Shimbo (Pattern Recognition Letters 20, 1999, pages 1103 to 1111); UCI
Machine Learning Repository, https://doi.org/10.24432/C5NS47. Licence: CC BY 4.0,
https://creativecommons.org/licenses/by/4.0/. What was changed: the numbers are stored in another
format and standardized when they are read.

FILE was made from JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts of aeon 1.6.0. Their sha256
are 68a430ea... and b3d41d6a..., and sktime has the same files. `values` int32 [9961, 12] are the
steps of all utterances in units of 1e-6. `lengths` and `speakers`, from 0, are uint8 [640].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from normlab.data.table import DATASETS

FILE = Path(__file__).with_name("japanese_vowels.npz")
UNIT = 1e-6
MEAN = (
    *(0.8691, -0.5545, 0.2461, -0.2673, 0.219, -0.2105),
    *(-0.1741, -0.0517, -0.2049, -0.1812, -0.0236, 0.0862),
)
SD = 0.4876, 0.3912, 0.3009, 0.3059, 0.2691, 0.1683, 0.1612, 0.1883, 0.1877, 0.1169, 0.0976, 0.1275
"""Of the steps of the 270 official training utterances. They are fixed, since the scale of the
input can turn a comparison of norms."""


def read_vowels() -> tuple[np.ndarray, np.ndarray]:
    """The 640 utterances: features float32 [N, 29 * 13], labels int32 [N], the official training
    examples first.

    Step t has the 12 LPC cepstrum coefficients as (value - MEAN) / SD, then a 1. Behind the end of
    an utterance all 13 are 0. Frames of 25.6 ms begin every 6.4 ms.
    """
    with np.load(FILE, allow_pickle=False) as kept:
        values, lengths, speakers = kept["values"], kept["lengths"], kept["speakers"]
    steps, features, _ = DATASETS["japanese_vowels"].shape
    x = np.zeros((len(lengths), steps, features), np.float32)
    valid = np.arange(steps) < lengths[:, None]
    x[valid, :-1] = (values * UNIT - MEAN) / SD
    x[valid, -1] = 1
    return x.reshape(len(x), -1), speakers.astype(np.int32)
