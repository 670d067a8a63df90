"""Which rows train, validate and test: a pure function of the data set's sizes and the seed."""

from __future__ import annotations

import dataclasses

import numpy as np

from normlab.data.table import DataError, Row

VALIDATION_KEY = 0  # chooses the validation images of data sets with an official test split
MAX_SEED = 2**64 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Row numbers (int32) into the images and labels of a Dataset; the three are disjoint."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def permutation(n: int, seed: int) -> np.ndarray:
    """A permutation of 0..n-1, int32 [n].

    It ranks n raw words of the counter-based Philox generator. numpy promises that the raw stream
    never changes, which it does not promise of Generator.permutation.
    """
    if not 0 <= seed <= MAX_SEED:
        raise DataError(f"data split: seed = {seed} is outside 0..2**64-1; choose one inside")
    return np.argsort(np.random.Philox(key=seed).random_raw(n), kind="stable").astype(np.int32)


def split_rows(row: Row, seed: int, train: int = 0, validation: int = 0) -> Split:
    """Cuts the rows of a data set into train, validation and test.

    With an official test split, whose examples come last, the seed changes nothing. With an
    official validation split every part begins where the one before it ends. `train` and
    `validation` ask for fewer examples, 0 for the data set's; without an official test split those
    left over join the test.
    """
    train, validation = train or row.train, validation or row.validation
    if row.official_test:
        given = row.train + row.validation
        order = np.arange(given, dtype=np.int32)
        order = order if row.official_validation else permutation(given, VALIDATION_KEY)
        order = np.append(order, np.arange(order.size, row.examples, dtype=np.int32))
        begin, test = row.train, row.train + row.validation
    else:
        order = permutation(row.examples, seed)
        begin, test = train, train + validation
    return Split(
        train=order[:train], validation=order[begin : begin + validation], test=order[test:]
    )
