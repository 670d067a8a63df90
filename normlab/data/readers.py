"""What a file or folder of your own holds: an .npz, a CSV, a folder of images, a Python reader."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from normlab.data.table import DataError
from normlab.outside import run_file

WHOLE = ("x", "y")
PARTS = ("x_train", "y_train", "x_test", "y_test")
"""Names of the arrays: all examples, or with an official test split."""
LENGTHS = {PARTS: ("lengths_train", "lengths_test"), WHOLE: ("lengths",)}
"""Names of the arrays that make sequences of them."""
RETURNED = {len(names): names for part in LENGTHS for names in (part, part + LENGTHS[part])}
LABELS = ("label", "class", "target", "y")
"""Names of the column of labels; without one of them it is the last column."""
ENDINGS = (".png", ".jpg", ".jpeg")


class Examples(NamedTuple):
    """What was found, unchecked."""

    x: np.ndarray
    """[N, ...]"""
    y: np.ndarray
    """[N]"""
    tests: int = 0
    """How many examples at the end are an official test split."""
    note: str = ""
    """What was guessed."""
    lengths: np.ndarray | None = None
    """[N], where examples are sequences [T, D]: how many of the T steps each has."""


def read_file(path: Path) -> Examples:
    """Reads a file by its ending, or a folder. Raises DataError, OSError, and what Python code and
    the libraries for arrays and images raise."""
    if path.is_dir():
        return read_folder(path)
    readers = {".npz": read_npz, ".csv": read_csv, ".tsv": read_csv, ".py": read_python}
    if path.suffix.lower() not in readers:
        raise DataError("it is no .npz, .csv, .tsv or .py file, and no folder of images")
    return readers[path.suffix.lower()](path)


def read_npz(path: Path) -> Examples:
    """The arrays x and y, or those of PARTS, in small or capital letters."""
    with np.load(path, allow_pickle=False) as found:
        return from_arrays({name.lower(): found[name] for name in found.files})


def read_python(path: Path) -> Examples:
    """What read() of a file of code returns: (x, y) or the four arrays of PARTS, then lengths if
    there are any. Without such a function its variables of these names are taken."""
    content = path.read_bytes()
    names = run_file(str(path), content, f"data_{hashlib.sha256(content).hexdigest()[:16]}")
    if "read" not in names:
        return from_arrays(names)
    found = names["read"]()
    if not isinstance(found, tuple) or len(found) not in RETURNED:
        raise DataError(
            "read() must return (x, y) or (x_train, y_train, x_test, y_test); of sequences "
            "(x, y, lengths) or the four arrays, lengths_train and lengths_test"
        )
    return from_arrays(dict(zip(RETURNED[len(found)], found, strict=True)))


def from_arrays(found: Mapping[str, Any]) -> Examples:
    """Examples of arrays by name; those of an official test split come last."""
    for names, ends in LENGTHS.items():
        if not found.keys() >= {*names}:
            continue
        parts = [
            one_part(*three, found) for three in zip(names[::2], names[1::2], ends, strict=True)
        ]
        if names == PARTS:
            return in_order(*parts)
        return parts[0]
    there = ", ".join(sorted(name for name in found if not name.startswith("_"))) or "nothing"
    raise DataError(
        f"it has neither x and y nor {', '.join(PARTS)}, but {there[:120]}; rename its arrays"
    )


def one_part(x_name: str, y_name: str, end_name: str, found: Mapping[str, Any]) -> Examples:
    """The examples of one pair of arrays, with lengths where they are given or where x is a list
    of sequences."""
    x, lengths = padded(found[x_name], x_name)
    y = np.asarray(found[y_name])
    lengths = np.asarray(found[end_name]) if found.get(end_name) is not None else lengths
    if x.ndim < 2 or y.ndim < 1 or len(x) != len(y):
        raise DataError(
            f"{x_name} has shape {x.shape} and its labels have {y.shape}; the first axis of both "
            "must count the examples"
        )
    if lengths is not None and (x.ndim != 3 or lengths.shape != x.shape[:1]):
        raise DataError(
            f"{end_name} has shape {lengths.shape} and {x_name} has {x.shape}; give one length for "
            "each sequence of x [N, T, D]"
        )
    return Examples(x, y, lengths=lengths)


def padded(x: Any, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """A list of sequences [T, D], of floats or of different T, as [N, T, D] and their lengths. All
    else is an array without lengths."""
    try:
        steps = [np.asarray(example) for example in x] if isinstance(x, (list, tuple)) else []
    except ValueError as error:
        raise DataError(f"{name} is a list of what are no arrays ({error})") from error
    if not steps or {example.ndim for example in steps} != {2}:
        return np.asarray(x), None
    if len({example.shape for example in steps}) == 1 and steps[0].dtype.kind != "f":
        return np.stack(steps), None
    if len({example.shape[1] for example in steps}) > 1:
        widths = sorted({example.shape[1] for example in steps})
        raise DataError(f"the sequences of {name} have {widths} features; give all the same")
    lengths = np.array([len(example) for example in steps])
    kind = np.result_type(*steps)
    out = np.zeros((len(steps), lengths.max(), steps[0].shape[1]), kind)
    for i, example in enumerate(steps):
        out[i, : len(example)] = example
    return out, lengths


def in_order(train: Examples, test: Examples) -> Examples:
    """Both parts, those of an official test split last; sequences padded to the longest."""
    x = [train.x, test.x]
    if (train.lengths is None) != (test.lengths is None):
        raise DataError(
            "only one of its two parts has lengths; give lengths_train and lengths_test"
        )
    if train.lengths is not None and test.lengths is not None:
        longest = max(part.shape[1] for part in x)
        x = [np.pad(p, ((0, 0), (0, longest - p.shape[1]), (0, 0))) for p in x]
    if x[0].shape[1:] != x[1].shape[1:]:
        raise DataError(f"x_test is of {x[1].shape[1:]}, x_train of {x[0].shape[1:]}")
    lengths = None
    if train.lengths is not None and test.lengths is not None:
        lengths = np.concatenate([train.lengths, test.lengths])
    y = np.concatenate([train.y, test.y])
    return Examples(np.concatenate(x), y, len(test.y), lengths=lengths)


def read_csv(path: Path) -> Examples:
    """A table with a line of names, a column of labels and numbers in all other columns. Columns
    are separated by commas, semicolons or tabs."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        lines = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
        header = [name.strip() for name in next(lines, [])]
        place = label_column(header)
        features, labels = [], []
        for line in filter(None, lines):
            if len(line) != len(header):
                raise DataError(
                    f"line {lines.line_num} has {len(line)} columns, the first has {len(header)}"
                )
            cells = [c.strip() for c in line]
            labels.append(cells.pop(place))
            names = header[:place] + header[place + 1 :]
            features.append(numbers(cells, names, lines.line_num))
            if not labels[-1]:
                raise DataError(f"line {lines.line_num}: the label {header[place]!r} is missing")
    try:
        y = np.array([float(text) for text in labels])
    except ValueError:
        y = np.array(labels)
    return Examples(np.array(features).reshape(len(y), -1), y, note=f"label {header[place]}")


def label_column(header: list[str]) -> int:
    """The place of the column of labels. Raises DataError for a first line that holds no names."""
    if len(header) < 2 or all(is_number(name) for name in header):
        raise DataError(
            f"its first line, {','.join(header)[:60]!r}, does not name at least two columns; give "
            "it a line of names"
        )
    known = [name.lower() for name in header]
    return next((known.index(name) for name in LABELS if name in known), len(header) - 1)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def numbers(cells: Iterable[str], names: Iterable[str], line: int) -> list[float]:
    """The features of one line. Raises DataError with the column of a cell that is no number."""
    found = []
    for cell, name in zip(cells, names, strict=True):
        if not is_number(cell) or not np.isfinite(float(cell)):
            is_missing = cell.lower() in ("", "na", "nan", "null", "none", "?")
            problem = "is missing; fill it in" if is_missing else "is no number; write it as one"
            raise DataError(f"line {line}, column {name!r} = {cell!r:.40} {problem}")
        found.append(float(cell))
    return found


def read_folder(path: Path) -> Examples:
    """PNG and JPG images of one size, in a folder for each class, or such folders in train/ and
    test/."""
    parts = {folder.name: folder for folder in folders(path)}
    if parts.keys() != {"train", "test"}:
        return Examples(*images(path, path))
    train, test = (images(parts[name], path) for name in ("train", "test"))
    return from_arrays(dict(zip(PARTS, (*train, *test), strict=True)))


def folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def images(path: Path, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images below a folder, gray or RGB as the first is, and the names of their folders."""
    arrays: list[np.ndarray] = []
    labels: list[str] = []
    for folder in folders(path):
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS)
        if not files:
            raise DataError(f"folder {str(folder.relative_to(root))!r} has no PNG or JPG image")
        for file in files:
            is_gray = arrays[0].ndim == 2 if arrays else None
            where, image = str(file.relative_to(root)), pixels_of(file, root, is_gray)
            first = arrays[0] if arrays else image
            if image.shape != first.shape:
                raise DataError(
                    f"{where!r} has {image.shape[1]} x {image.shape[0]} pixels, the first image "
                    f"{first.shape[1]} x {first.shape[0]}; resize all to one size"
                )
            arrays.append(image)
            labels.append(folder.name)
    if not arrays:
        raise DataError("it has no folders with PNG or JPG images, one for each class")
    return np.stack(arrays), np.array(labels)


def pixels_of(file: Path, root: Path, is_gray: bool | None) -> np.ndarray:
    """An image, uint8 [H, W] or [H, W, 3]; None: as it is. Raises DataError."""
    from PIL import Image

    where = str(file.relative_to(root))
    try:
        with Image.open(file) as image:
            mode = image.mode
            if is_gray is None:
                is_gray = mode in ("1", "L", "LA")
            pixels = np.asarray(image.convert("L" if is_gray else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{where!r} is no image that can be read ({error})") from error
    if mode.startswith(("I", "F")):
        raise DataError(f"{where!r} has more than 8 bits; save it with 8")
    return pixels
