"""The data sets normlab knows: one row of facts each, readable without loading anything."""

from __future__ import annotations

import dataclasses
from typing import Literal


class DataError(ValueError):
    """Base of every data error; the message is one line."""


class UnknownDataset(DataError):
    """No data set has this name."""


class DataUnavailable(DataError):
    """The data set exists, but this machine has no readable copy of it."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Facts about one data set.

    kind: images of `shape` (H, W, C); features, shape (1, 1, D); sequences of their own lengths,
        shape (T, D + 1, 1), as those that as_sequences makes of images; or text, windows of T
        tokens of `classes`, shape (T, 1, 1), to be predicted from those before them.
    train, validation, test: sizes in examples.
    prepared: the data set must be prepared once on this machine; the others come with libraries.
    on_disk: images stay in the prepared copy and are read when they are needed.
    official_test: the test split is given, and train and validation do not depend on the seed;
        otherwise the seed permutes all examples before they are cut into splits.
    official_validation: the validation split is given too; the three follow one another.
    folder: of the prepared copy below the data directory: tensorflow-datasets' name/version.
    originals: what a prepared data set is made from; empty: it is made up.
    """

    title: str
    shape: tuple[int, int, int]
    classes: int
    train: int
    validation: int
    test: int
    source: str
    licence: str
    prepared: bool = False
    on_disk: bool = False
    official_test: bool = False
    official_validation: bool = False
    kind: Literal["images", "features", "sequences", "text"] = "images"
    folder: str = ""
    originals: str = ""

    @property
    def examples(self) -> int:
        """All examples of all splits."""
        return self.train + self.validation + self.test


DATASETS: dict[str, Row] = {
    "digits": Row(
        title="Handwritten digits, 8x8 (UCI, as shipped with scikit-learn)",
        shape=(8, 8, 1),
        classes=10,
        train=897,
        validation=300,
        test=600,
        source="sklearn.datasets.load_digits; test set of UCI optdigits (Alpaydin, Kaynak 1998)",
        licence="CC BY 4.0",
    ),
    "mnist": Row(
        title="MNIST handwritten digits, 28x28",
        shape=(28, 28, 1),
        classes=10,
        train=55_000,
        validation=5_000,
        test=10_000,
        source="LeCun, Cortes, Burges 1998; tensorflow-datasets mnist 3.0.1",
        licence="commonly given as CC BY-SA 3.0",
        prepared=True,
        official_test=True,
        folder="mnist/3.0.1",
        originals="the four original files",
    ),
    "fashion_mnist": Row(
        title="Fashion-MNIST, 28x28",
        shape=(28, 28, 1),
        classes=10,
        train=55_000,
        validation=5_000,
        test=10_000,
        source="Xiao, Rasul, Vollgraf, arXiv 1708.07747; tensorflow-datasets fashion_mnist 3.0.1",
        licence="MIT",
        prepared=True,
        official_test=True,
        folder="fashion_mnist/3.0.1",
        originals="the four original files",
    ),
    "synthetic": Row(
        title="Random 8x8 images labelled by a planted linear teacher",
        shape=(8, 8, 1),
        classes=10,
        train=2_000,
        validation=500,
        test=500,
        source="generated (normlab/data/synthetic.py)",
        licence="none needed",
    ),
    "japanese_vowels": Row(
        title="Japanese Vowels: which of nine men speaks, 7 to 29 steps of 12 coefficients",
        shape=(29, 13, 1),
        classes=9,
        train=200,
        validation=70,
        test=370,
        source="Kudo, Toyama, Shimbo 1999; UCI, doi 10.24432/C5NS47 (normlab/data/vowels.py)",
        licence="CC BY 4.0",
        official_test=True,
        kind="sequences",
    ),
    "cifar10": Row(
        title="CIFAR-10 photographs, 32x32, RGB",
        shape=(32, 32, 3),
        classes=10,
        train=45_000,
        validation=5_000,
        test=10_000,
        source="Krizhevsky 2009 (technical report); tensorflow-datasets cifar10 3.0.2",
        licence="none stated",
        prepared=True,
        official_test=True,
        folder="cifar10/3.0.2",
        originals="the archive cifar-10-binary.tar.gz",
    ),
    "cifar100": Row(
        title="CIFAR-100 photographs, 32x32, RGB; the 100 fine labels, not the 20 coarse ones",
        shape=(32, 32, 3),
        classes=100,
        train=45_000,
        validation=5_000,
        test=10_000,
        source="Krizhevsky 2009 (technical report); tensorflow-datasets cifar100 3.0.2",
        licence="none stated",
        prepared=True,
        official_test=True,
        folder="cifar100/3.0.2",
        originals="the archive cifar-100-binary.tar.gz",
    ),
    "imagenet": Row(
        title="ImageNet 2012 photographs, the middle 224x224 of a shorter side of 256, RGB",
        shape=(224, 224, 3),
        classes=1000,
        train=1_271_167,
        validation=10_000,
        test=50_000,
        source="Russakovsky et al., arXiv 1409.0575; the official validation images are the test",
        licence="non-commercial research",
        prepared=True,
        on_disk=True,
        official_test=True,
        folder="imagenet_224/1.0.0",
        originals="ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar",
    ),
    "imagenet_like": Row(
        title="Made-up images of ImageNet's shape: coloured squares and noise, 1,000 classes",
        shape=(224, 224, 3),
        classes=1000,
        train=800,
        validation=100,
        test=100,
        source="generated (normlab/data/imagenet.py)",
        licence="none needed",
        prepared=True,
        on_disk=True,
        official_test=True,
        folder="imagenet_like/1.0.0",
    ),
    "tiny_shakespeare": Row(
        title="Lines of Shakespeare's plays, in windows of 64 of 65 characters",
        kind="text",
        shape=(64, 1, 1),
        classes=65,
        train=15_685,
        validation=871,
        test=871,
        source="Karpathy 2015, github.com/karpathy/char-rnn; tensorflow-datasets "
        "tiny_shakespeare 1.0.0",
        licence="text: public domain; its repository: MIT",
        prepared=True,
        official_test=True,
        official_validation=True,
        folder="tiny_shakespeare/1.0.0",
        originals="the file input.txt",
    ),
}


def row_of(name: str) -> Row:
    """The row of a data set. Raises UnknownDataset, which lists the names."""
    if name not in DATASETS:
        raise UnknownDataset(f"{name!r} is no data set; choose one of {', '.join(DATASETS)}")
    return DATASETS[name]
