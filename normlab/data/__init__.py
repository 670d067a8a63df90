"""Data sets as flat arrays, their splits, and how to prepare them; does not import jax.

>>> from normlab import data
>>> data.load('synthetic').split(seed=0).train.shape
(2000,)
"""

from normlab.data.build import prepare
from normlab.data.dataset import Dataset, check, load
from normlab.data.outside import OutsideData, add_data, outside_data
from normlab.data.prepared import data_root
from normlab.data.sequences import as_sequences, sequence_shape
from normlab.data.split import Split
from normlab.data.table import (
    DATASETS,
    DataError,
    DataUnavailable,
    Row,
    UnknownDataset,
)

__all__ = [
    "DATASETS",
    "DataError",
    "DataUnavailable",
    "Dataset",
    "OutsideData",
    "Row",
    "Split",
    "UnknownDataset",
    "add_data",
    "as_sequences",
    "check",
    "data_root",
    "load",
    "outside_data",
    "prepare",
    "sequence_shape",
]
