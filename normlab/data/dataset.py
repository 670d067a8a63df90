"""A data set in memory, loaded by name."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import cast

import numpy as np

from normlab.data.digits import read_digits
from normlab.data.outside import OutsideData, check_outside, read_outside
from normlab.data.prepared import check_prepared, read_prepared
from normlab.data.records import open_records
from normlab.data.split import Split, split_rows
from normlab.data.synthetic import make_synthetic
from normlab.data.table import DATASETS, row_of
from normlab.data.vowels import read_vowels

BUILT_IN = {
    "digits": read_digits,
    "synthetic": make_synthetic,
    "japanese_vowels": read_vowels,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """All examples of all splits.

    images: [N, H*W*C], flat, since on CPU a gather of flat rows is ten times faster than one of
        images. uint8 are pixels, and the network's input is pixel / 255. float32 are features of
        any scale, and the network's input as they are. Reshaped to `shape`. Of text int32 tokens.
        Records (records.py), which have its shape and are indexed alike, if a row is `on_disk`.
    labels: int32 [N]; of text the next tokens, [N, T]. shape: (H, W, C).
    sha256: of the images' bytes followed by the labels'.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    shape: tuple[int, int, int]
    classes: int
    sha256: str

    @property
    def chance(self) -> float:
        """The accuracy of always naming the most frequent class."""
        return float(np.bincount(self.labels.ravel()).max() / self.labels.size)

    @property
    def chance_loss(self) -> float:
        """The loss, in nats, of always predicting each class with its share of the labels."""
        counts = np.bincount(self.labels.ravel())
        shares = counts[counts > 0] / self.labels.size
        return float(-np.sum(shares * np.log(shares)))

    def split(self, seed: int, train: int = 0, validation: int = 0) -> Split:
        """The rows of each split, see split_rows. Raises DataError for a seed beyond 2**64-1."""
        return split_rows(DATASETS[self.name], seed, train, validation)


def check(name: str, data_dir: str | None = None) -> None:
    """Raises UnknownDataset or DataUnavailable unless `load` can be expected to work; 1 ms."""
    row = row_of(name)
    if row.prepared:
        check_prepared(name, row, data_dir)
    if isinstance(row, OutsideData):
        check_outside(name, row)


def load(name: str, data_dir: str | None = None) -> Dataset:
    """Reads a data set into memory; never downloads.

    data_dir: of prepared data sets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    Raises UnknownDataset, DataUnavailable.
    """
    row = row_of(name)
    if row.on_disk:
        records, labels, sha256 = open_records(name, row, data_dir)
        lazy = cast(np.ndarray, records)  # has what a stream needs of an array
        return Dataset(name, lazy, labels, row.shape, row.classes, sha256)
    if row.prepared:
        images, labels = read_prepared(name, row, data_dir)
    elif isinstance(row, OutsideData):
        images, labels = read_outside(name, row)
    else:
        images, labels = BUILT_IN[name]()
    digest = hashlib.sha256(images.data)
    digest.update(labels.data)
    return Dataset(name, images, labels, row.shape, row.classes, digest.hexdigest())
