"""CIFAR-10 and CIFAR-100: what their official binary archives hold, read without unpacking them.

A record is one byte for each label, then 1,024 red, 1,024 green and 1,024 blue pixels, row by row
(https://www.cs.toronto.edu/~kriz/cifar.html). CIFAR-100 has a coarse label (20 classes) before the
fine one (100), and its `label` is the fine one, as in tensorflow-datasets.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from normlab.data.table import DataError

SIDE, CHANNELS = 32, 3


class Archive(NamedTuple):
    """What lies where in an archive."""

    file: str
    folder: str
    splits: dict[str, tuple[str, ...]]
    """Binary files of each split."""
    labels: dict[str, str]
    """Feature and file of class names of each label byte, in the order of the bytes."""


ARCHIVES = {
    "cifar10": Archive(
        file="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        splits={
            "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            "test": ("test_batch.bin",),
        },
        labels={"label": "batches.meta.txt"},
    ),
    "cifar100": Archive(
        file="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        splits={"train": ("train.bin",), "test": ("test.bin",)},
        labels={"coarse_label": "coarse_label_names.txt", "label": "fine_label_names.txt"},
    ),
}


def read(name: str, paths: dict[str, Path]) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """The class names of each label, and of each split its examples in the archive's order.

    Raises DataError for an archive without one of the files.
    """
    archive = ARCHIVES[name]
    contents = _unpack(paths[archive.file], archive)
    names = {label: contents[file].decode().split() for label, file in archive.labels.items()}
    splits = {
        split: _examples(split, list(archive.labels), [(file, contents[file]) for file in files])
        for split, files in archive.splits.items()
    }
    return names, splits


def parse_records(content: bytes, labels: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels uint8 [N, labels] and images uint8 [N, 32, 32, 3] of a binary file.

    Raises DataError for a file that is not made of whole records.
    """
    size = labels + CHANNELS * SIDE * SIDE
    if len(content) % size:
        raise DataError(f"{where}: {len(content)} bytes are no whole number of records of {size}")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    images = records[:, labels:].reshape(-1, CHANNELS, SIDE, SIDE)
    return records[:, :labels], np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def _examples(
    split: str, labels: list[str], files: list[tuple[str, bytes]]
) -> Iterator[dict[str, Any]]:
    i = 0
    for file, content in files:
        classes, images = parse_records(content, len(labels), file)
        for image, numbers in zip(images, classes.tolist(), strict=True):
            features = dict(zip(labels, numbers, strict=True))
            yield features | {"id": f"{split}_{i:05d}", "image": image}
            i += 1


def _unpack(path: Path, archive: Archive) -> dict[str, bytes]:
    """The contents of the files that the archive must hold, in one pass through it."""
    wanted = [*archive.labels.values(), *(f for files in archive.splits.values() for f in files)]
    contents: dict[str, bytes] = {}
    with tarfile.open(path, "r:gz") as tar:
        for member in tar:
            folder, _, file = member.name.rpartition("/")
            content = tar.extractfile(member)
            if content and folder == archive.folder and file in wanted:
                contents[file] = content.read()
    for file in wanted:
        if file not in contents:
            raise DataError(f"{path}: holds no {archive.folder}/{file}; it is no official archive")
    return contents
