"""Data sets of your own: their rows join the table, and their examples are kept with the results.

A data set is named after its file and its content, as in `iris-1a2b3c4d`. The content alone is part
of a run's identity: the examples and labels in their order, and an official test split.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from normlab.data.readers import WHOLE, Examples, read_file
from normlab.data.table import DATASETS, DataError, DataUnavailable, Row

FEWEST = 2
"""Examples of the smallest split, and classes."""
LONGEST_NAME = 40
MOST = 2**31 - 1
KINDS = ("images", "features", "sequences")


@dataclass(frozen=True)
class OutsideData(Row):
    """A row for a file of yours."""

    file: str = ""
    sha256: str = ""
    """Of the content."""
    chance: float = 0.0
    """The share of the most frequent class."""
    kept: str = ""
    """The file with its examples in a results directory."""
    arrays: tuple[np.ndarray, np.ndarray] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )
    """uint8 [N, H, W, C] or float64 [N, D], and labels int32 [N], where the file was read.
    Sequences are float64 [N, T, D + 1]; the last feature is 1 at the steps of each."""

    def facts(self) -> dict[str, Any]:
        """All but the examples, for JSON."""
        return {n: value for n, value in vars(self).items() if n not in ("kept", "arrays")}

    @classmethod
    def from_facts(cls, facts: dict[str, Any], kept: str) -> OutsideData:
        """A row of `facts()`; raises ValueError or TypeError where they are damaged."""
        known: dict[str, Any] = facts | {"shape": tuple(facts["shape"]), "kept": kept}
        row = cls(**known)
        sizes = (*row.shape, row.classes, row.train, row.validation, row.test)
        if any(type(size) is not int or not 0 < size <= MOST for size in sizes):
            raise ValueError(f"its sizes are {str(sizes):.80}")
        texts = row.title, row.source, row.licence, row.file, row.sha256
        if len(row.shape) != 3 or any(type(text) is not str for text in texts):
            raise ValueError("its shape or a text is none")
        plain = dataclasses.replace(
            row, prepared=False, on_disk=False, official_validation=False, folder=""
        )
        if plain != row or row.kind not in KINDS or type(row.chance) is not float:
            raise ValueError("it is not of a file of yours")
        return row

    def line(self, name: str) -> str:
        """What it is, in one line."""
        return (
            f"{name}: {self.examples:,} examples, {self.classes} classes, {self.train} train, "
            f"{self.validation} validation, {self.test} test, chance {100 * self.chance:.1f} %; "
            f"{self.title}"
        )

    def kept_bytes(self) -> bytes:
        """The examples as an .npz file, which `add_data` reads as the same data set."""
        if self.arrays is None:
            raise ValueError("the examples of a kept row are in its file")
        arrays = dict(zip(WHOLE, self.arrays, strict=True))
        if self.kind == "sequences":
            x = self.arrays[0]
            arrays |= {"x": x[..., :-1], "lengths": x[..., -1].sum(1).astype(int)}
        cut, parts = self.train + self.validation, {"": slice(None)}
        if self.official_test:
            parts = {"_train": slice(cut), "_test": slice(cut, None)}
        named = {name + end: a[part] for name, a in arrays.items() for end, part in parts.items()}
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **named)
        return file.getvalue()


def outside_data() -> dict[str, OutsideData]:
    """The rows of the table that came from files of yours."""
    return {name: row for name, row in DATASETS.items() if isinstance(row, OutsideData)}


def add_data(file: str) -> str:
    """Reads a file, adds its row to the table and returns its name.

    Raises DataError, one line, for what is no data set; the table is then unchanged.
    """
    row = read_row(file)
    stem = re.sub(r"[^A-Za-z0-9_]+", "_", Path(file).resolve().stem)[:LONGEST_NAME].strip("_")
    name = f"{stem.removesuffix(f'_{row.sha256[:8]}') or 'data'}-{row.sha256[:8]}"
    DATASETS[name] = row
    return name


def read_row(file: str) -> OutsideData:
    """The row of a file, not yet in the table, with its examples; raises DataError."""
    try:
        found = read_file(Path(file))
        x = inputs(found.x) if found.lengths is None else sequences(found.x, found.lengths)
        y = labels(found.y)
        return row_with(found, x, y, str(Path(file).resolve()))
    except DataError as error:
        raise DataError(f"data {file!r}: {error}") from error
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"data {file!r} cannot be read ({reason})") from error
    except (Exception, SystemExit) as error:  # an external file: anything can be wrong
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"data {file!r} cannot be read ({reason})") from error


def row_with(found: Examples, x: np.ndarray, y: np.ndarray, file: str) -> OutsideData:
    """The facts of checked examples. Their splits are 60, 20 and 20 % by the seed. With an official
    test split they are 80 and 20 % of the others. Raises DataError."""
    n, counts = len(y), np.bincount(y)
    others = n - found.tests
    train = others * 4 // 5 if found.tests else n * 3 // 5
    test = found.tests or (n - train) // 2
    validation = n - train - test
    if min(train, validation, test) < FEWEST:
        sizes = f"{train} for training, {validation} for validation, {test} for the test"
        raise DataError(f"{n} examples are too few: {sizes}; at least {FEWEST} are needed of each")
    if len(counts) < FEWEST or len(counts) > n / 2:
        problem = "give at least 2" if len(counts) < FEWEST else "these are no classes"
        raise DataError(f"its {n} labels have {len(counts)} different values; {problem}")
    if found.tests and len(np.unique(y[:others])) < len(counts):
        raise DataError("a class of its test examples has no other example")
    kind, shape, title = kind_of(x)
    return OutsideData(
        title=f"{title}, {found.note}" if found.note else title,
        shape=shape,
        classes=len(counts),
        train=train,
        validation=validation,
        test=test,
        source="your own",
        licence="your own",
        official_test=found.tests > 0,
        kind=kind,
        file=file,
        sha256=content_sha256(x, y, found.tests),
        chance=float(counts.max() / n),
        arrays=(x, y),
    )


def kind_of(x: np.ndarray) -> tuple[Any, tuple[int, int, int], str]:
    """The kind of checked examples, their shape and what they are."""
    if x.dtype == np.uint8:
        shape = x.shape[1], x.shape[2], x.shape[3]
        return "images", shape, f"images of {'x'.join(map(str, shape))}"
    if x.ndim == 2:
        return "features", (1, 1, x.shape[1]), f"{x.shape[1]} features, standardized"
    lengths, features = x[..., -1].sum(1).astype(int), x.shape[2]
    steps = f"{lengths.min()} to {lengths.max()}" if lengths.min() < x.shape[1] else lengths.max()
    title = f"sequences of {steps} steps, {features - 1} features, standardized"
    return "sequences", (x.shape[1], features, 1), title


def content_sha256(x: np.ndarray, y: np.ndarray, tests: int) -> str:
    digest = hashlib.sha256(json.dumps([x.shape, x.dtype.str, tests]).encode())
    digest.update(x.data)
    digest.update(y.data)
    return digest.hexdigest()


def inputs(x: np.ndarray) -> np.ndarray:
    """Images as uint8 [N, H, W, C], features as float64 [N, D]. Raises DataError."""
    if x.dtype.kind not in "buif" or not x.size:
        raise DataError(f"its examples are {x.dtype} of shape {x.shape}; give numbers")
    if x.ndim == 2:
        features = np.ascontiguousarray(x, "<f8")
        for row, column in np.argwhere(~np.isfinite(features)):
            value = features[row, column]
            raise DataError(f"feature {column} of example {row} is {value}; every one is needed")
        return features
    if x.ndim not in (3, 4):
        raise DataError(f"its shape is {x.shape}; give [N, D], [N, H, W] or [N, H, W, C]")
    low, high = x.min(), x.max()
    if x.dtype.kind not in "ui" or low < 0 or high > 255:
        raise DataError(
            f"its examples of shape {x.shape} are {x.dtype} from {low:g} to {high:g}; images are "
            "integers from 0 to 255, features have the shape [N, D], and sequences [N, T, D] come "
            "with an array of their lengths"
        )
    images = x if x.ndim == 4 else x[..., None]
    if images.shape[3] > 4:
        raise DataError(
            f"its images have {images.shape[3]} channels; give at most 4, channels last"
        )
    return np.ascontiguousarray(images, np.uint8)


def sequences(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sequences as float64 [N, T, D + 1], T that of the longest. The last feature is 1 at the steps
    of an example. Behind them all features are 0, whatever was there. Raises DataError."""
    if x.dtype.kind not in "buif" or not x.size:
        raise DataError(f"its sequences are {x.dtype} of shape {x.shape}; give numbers")
    if lengths.dtype.kind not in "ui" or lengths.min() < 1 or lengths.max() > x.shape[1]:
        low, high = (lengths.min(), lengths.max()) if lengths.dtype.kind in "buif" else ("?", "?")
        raise DataError(
            f"its lengths are {lengths.dtype} from {low} to {high}; give whole numbers from 1 to "
            f"{x.shape[1]}, the steps of x"
        )
    x = x[:, : lengths.max()]
    valid = np.arange(x.shape[1]) < lengths[:, None]
    out = np.zeros((*x.shape[:2], x.shape[2] + 1))
    out[valid, :-1], out[valid, -1] = x[valid], 1
    for row, step, column in np.argwhere(~np.isfinite(out)):
        value = out[row, step, column]
        raise DataError(
            f"feature {column} of step {step} of example {row} is {value}; every one is needed up "
            f"to its length, {lengths[row]}"
        )
    return out


def labels(y: np.ndarray) -> np.ndarray:
    """Classes as int32 [N], numbered in sorted order. Raises DataError."""
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1:
        raise DataError(f"its labels have shape {y.shape}; give one for each example")
    if y.dtype.kind == "O" and all(isinstance(label, str) for label in y):
        y = y.astype(str)
    if y.dtype.kind not in "buifUS":
        raise DataError(f"its labels are {y.dtype}; give integers or texts")
    if y.dtype.kind == "f" and not np.array_equal(y, np.rint(y)):
        wrong = y[y != np.rint(y)][0]
        raise DataError(f"a label is {wrong}; give classes as integers or texts")
    return np.unique(y, return_inverse=True)[1].astype("<i4")


def check_outside(name: str, row: OutsideData) -> None:
    """Raises DataUnavailable where the examples are neither read nor kept."""
    if row.arrays is None and not Path(row.kept).is_file():
        raise DataUnavailable(f"{name}: its examples are not in {row.kept!r}; give --data=FILE")


def read_outside(name: str, row: OutsideData) -> tuple[np.ndarray, np.ndarray]:
    """What networks see: flat uint8 pixels or standardized float32 features, also of each step, and
    labels. Raises DataUnavailable, and DataError where kept examples have changed."""
    check_outside(name, row)
    known = row if row.arrays is not None else read_row(row.kept)
    if known.arrays is None or known.sha256 != row.sha256:
        raise DataError(f"{name}: {row.kept!r} is not what was kept; give --data=FILE again")
    x, y = known.arrays
    if row.kind == "sequences":
        valid = x[..., -1] > 0
        seen = x.astype(np.float32)
        seen[valid, :-1] = standardized(x[valid, :-1])
        return seen.reshape(len(x), -1), y.astype(np.int32)
    return (x.reshape(len(x), -1) if row.kind == "images" else standardized(x)), y.astype(np.int32)


def standardized(x: np.ndarray) -> np.ndarray:
    """(x - mean) / sd of each feature [N, D] over all rows, float32; 0 for a constant one."""
    x = x / np.maximum(np.abs(x).max(0), np.finfo(x.dtype).tiny)  # squares must not overflow
    away = x - x.mean(0)
    is_constant = (x == x[0]).all(0)
    sd = np.sqrt(np.square(away).mean(0))
    return np.where(is_constant, 0, away / np.where(is_constant, 1, sd)).astype(np.float32)
