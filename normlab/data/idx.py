"""MNIST and Fashion-MNIST: what their four original idx files hold."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from normlab.data.table import DataError

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
UNSIGNED_BYTE = 8  # idx type code


def read(name: str, paths: dict[str, Path]) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """The class names, which the files do not contain, and of each split its examples in order."""
    del name
    return {}, {split: _examples(paths[a], paths[b]) for split, (a, b) in FILES.items()}


def parse_idx(content: bytes, where: str) -> np.ndarray:
    """The array in an uncompressed idx file of unsigned bytes: uint8, shaped as its header says.

    Header: two zero bytes, the type code, the number of axes, then one big-endian uint32 per axis.
    Raises DataError.
    """
    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTE]):
        raise DataError(f"{where}: begins with {content[:4].hex(' ')}, an idx file with 00 00 08")
    offset = 4 + 4 * content[3]
    if len(content) < offset:
        raise DataError(f"{where}: {len(content)} bytes are too few for an idx header of {offset}")
    shape = tuple(int(n) for n in np.frombuffer(content[4:offset], ">u4"))
    values = np.frombuffer(content, np.uint8, offset=offset)
    if values.size != np.prod(shape, dtype=np.int64):
        raise DataError(f"{where}: holds {values.size} values, its header says {shape}")
    return values.reshape(shape)


def _examples(images: Path, labels: Path) -> Iterator[dict[str, Any]]:
    pixels = parse_idx(gzip.decompress(images.read_bytes()), str(images))
    classes = parse_idx(gzip.decompress(labels.read_bytes()), str(labels))
    for image, label in zip(pixels, classes.tolist(), strict=True):
        yield {"image": image, "label": label}
