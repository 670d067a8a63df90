"""ImageNet 2012 from its two official archives, and made-up images of the same shape.

Images are decoded once, when they are prepared. The shorter side is resized to 256 pixels, and the
middle 224 x 224 are kept.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from normlab.data.synthetic import random_bytes
from normlab.data.table import DATASETS, DataError

FILES = {"train": "ILSVRC2012_img_train.tar", "test": "ILSVRC2012_img_val.tar"}
SHORTER, SIDE = 256, 224
LIKE_KEY = 3
"""Draws the made-up images: a key of Philox, as in synthetic.py."""

Examples = Iterator[tuple[np.ndarray, int]]
"""Pairs of pixels uint8 [224, 224, 3] and a label."""


def read_imagenet(manual_dir: Path) -> dict[str, Examples]:
    """The examples of each split; classes are numbered in the order of their WordNet names. The
    official validation images are the test. Raises DataError."""
    return {
        "train": read_train(manual_dir / FILES["train"]),
        "test": read_test(manual_dir / FILES["test"]),
    }


def class_names() -> tuple[dict[str, int], list[str]]:
    """The number of each class, and the class of each validation image in the order of their names,
    from tensorflow-datasets."""
    import tensorflow_datasets as tfds

    folder = Path(tfds.__file__).parent / "datasets" / "imagenet2012"
    names, of_images = (
        (folder / f"{file}.txt").read_text().split() for file in ("labels", "validation_labels")
    )
    return {name: i for i, name in enumerate(names)}, of_images


def read_train(path: Path) -> Examples:
    """The archive holds one archive of JPEG files for each class, n01440764.tar ..."""
    numbers, _ = class_names()
    with tarfile.open(path, "r:") as outer:
        for part in outer:
            label = numbers.get(Path(part.name).stem)
            content = outer.extractfile(part)
            if label is None or content is None:
                raise DataError(f"{path}: holds {part.name!r}, which is no archive of a class")
            with tarfile.open(fileobj=content, mode="r|") as inner:
                for image in inner:
                    yield decode(inner.extractfile(image), f"{path}: {image.name}"), label


def read_test(path: Path) -> Examples:
    """The archive holds all JPEG files; the n-th by name has the n-th label."""
    numbers, labels = class_names()
    with tarfile.open(path, "r:") as tar:
        images = sorted((m for m in tar.getmembers() if m.isfile()), key=lambda m: m.name)
        for image, label in zip(images, labels, strict=False):  # a wrong number is found later
            yield decode(tar.extractfile(image), f"{path}: {image.name}"), numbers[label]


def decode(content: IO[bytes] | None, where: str) -> np.ndarray:
    """The middle of an image, uint8 [224, 224, 3]. Raises DataError."""
    from PIL import Image

    try:
        if content is None:
            raise ValueError("it is no file")
        with Image.open(content) as image:
            pixels = image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{where} is no image that can be read ({error})") from error
    scale = SHORTER / min(pixels.size)
    width, height = (max(SHORTER, round(side * scale)) for side in pixels.size)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(pixels.crop((left, top, left + SIDE, top + SIDE)))


def make_like() -> dict[str, Examples]:
    """Made-up images: squares of 32 pixels of one colour each under noise; labels in turn."""
    row = DATASETS["imagenet_like"]

    def examples(rows: range) -> Examples:
        for i in rows:
            noise = random_bytes([LIKE_KEY, i], SIDE, SIDE * 3).reshape(row.shape) >> 1
            squares = noise[::32, ::32].repeat(32, 0).repeat(32, 1)
            yield noise + squares, i % row.classes

    first = row.train + row.validation
    return {"train": examples(range(first)), "test": examples(range(first, row.examples))}


def splits_of(name: str, manual_dir: Path | None) -> dict[str, Any]:
    """The examples of each split of a data set that stays on the disk."""
    return (
        make_like() if name == "imagenet_like" or manual_dir is None else read_imagenet(manual_dir)
    )
