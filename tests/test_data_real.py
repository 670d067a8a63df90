"""Real data, where this machine has them: MNIST from its four original files, a text from its file,
and a CIFAR-10 that another builder than ours prepared."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workspace import run_script

from normlab import data
from normlab.data import idx

ROOT = Path(__file__).resolve().parents[1]
ORIGINALS = ROOT.parent / "shared" / "data" / "mnist"
TEXT = ORIGINALS.with_name("tinyshakespeare")
TRAIN_HISTOGRAM = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_HISTOGRAM = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]

CIFAR_TOOL = ROOT.parent / "shared" / "tools" / "prepare_cifar10.py"
CIFAR_SHEETS = ROOT.parent / "shared" / "data" / "cifar10_approx"

pytestmark = pytest.mark.shared
needs_mnist = pytest.mark.skipif(
    not ORIGINALS.is_dir(), reason=f"the original MNIST files are not in {ORIGINALS}"
)
needs_cifar = pytest.mark.skipif(
    not (CIFAR_TOOL.is_file() and CIFAR_SHEETS.is_dir()),
    reason=f"{CIFAR_TOOL} or the images in {CIFAR_SHEETS} are missing",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data directory into which the script prepared MNIST."""
    place = tmp_path_factory.mktemp("prepared")
    flags = ["--prepare=mnist", f"--manual_dir={ORIGINALS}", f"--data_dir={place}"]
    done = run_script("data", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    return str(place)


@needs_mnist
def test_sizes_and_histograms(data_dir):
    mnist = data.load("mnist", data_dir)
    assert (mnist.images.shape, mnist.images.dtype) == ((70_000, 784), np.uint8)
    assert np.bincount(mnist.labels[:60_000]).tolist() == TRAIN_HISTOGRAM
    assert np.bincount(mnist.labels[60_000:]).tolist() == TEST_HISTOGRAM
    split = mnist.split(seed=0)
    assert np.bincount(mnist.labels[split.test]).tolist() == TEST_HISTOGRAM
    assert set(split.train).isdisjoint(split.validation)
    assert max(split.train.max(), split.validation.max()) < 60_000


@needs_mnist
def test_test_split_is_the_multiset_of_the_idx_files(data_dir):
    mnist = data.load("mnist", data_dir)
    images, labels = (
        idx.parse_idx(gzip.decompress((ORIGINALS / file).read_bytes()), file)
        for file in idx.FILES["test"]
    )
    wanted = np.concatenate([images.reshape(-1, 784), labels[:, None]], axis=1)
    test = mnist.split(seed=0).test
    found = np.concatenate([mnist.images[test], mnist.labels[test, None]], axis=1)
    assert sorted(map(bytes, found.astype(np.uint8))) == sorted(map(bytes, wanted))


@needs_mnist
def test_directory_that_cannot_be_made_exits_with_7(tmp_path):
    (tmp_path / "file").touch()
    flags = ["--prepare=mnist", f"--manual_dir={ORIGINALS}", f"--data_dir={tmp_path}/file/below"]
    done = run_script("data", *flags)
    assert done.returncode == 7
    assert "error[storage]" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(not TEXT.is_dir(), reason=f"the original text is not in {TEXT}")
def test_windows_of_the_prepared_text_spell_its_file(tmp_path):
    flags = ["--prepare=tiny_shakespeare", f"--manual_dir={TEXT}", f"--data_dir={tmp_path}"]
    done = run_script("data", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    content = (TEXT / "input.txt").read_text()
    names, dataset = sorted(set(content)), data.load("tiny_shakespeare", str(tmp_path))
    assert (len(names), dataset.images.shape) == (dataset.classes, (17_427, 64))
    spelled = "".join(names[token] for token in dataset.images[:15_685].ravel())
    assert content.startswith(spelled) and len(content) * 0.9 - len(spelled) < 66
    following = "".join(names[token] for token in dataset.labels[15_685:16_556].ravel())
    assert following in content[len(spelled) :]
    again = data.load("tiny_shakespeare", str(tmp_path))
    assert again.sha256 == dataset.sha256


@needs_cifar
def test_cifar10_of_another_builder_is_read(monkeypatch, tmp_path):
    """Its first 300 training and 100 test images, as tensorflow-datasets orders them."""
    spec: Any = importlib.util.spec_from_file_location("prepare_cifar10", CIFAR_TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    images, labels = tool.images_and_labels()
    sizes = {"train": 300, "test": 100}
    every = tool.Cifar10._examples
    monkeypatch.setattr(tool, "images_and_labels", lambda: (images, labels))
    monkeypatch.setattr(
        tool.Cifar10,
        "_examples",
        lambda self, split, *arrays: itertools.islice(every(self, split, *arrays), sizes[split]),
    )
    tool.Cifar10(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    row = dataclasses.replace(data.DATASETS["cifar10"], train=200, validation=100, test=100)
    monkeypatch.setitem(data.DATASETS, "cifar10", row)
    cifar10 = data.load("cifar10", str(tmp_path))
    for rows, first in ((slice(0, 300), 0), (slice(300, 400), 50_000)):
        chosen = slice(first, first + rows.stop - rows.start)
        wanted = sorted(zip(map(bytes, images[chosen]), labels[chosen].tolist(), strict=True))
        found = zip(map(bytes, cifar10.images[rows]), cifar10.labels[rows].tolist(), strict=True)
        assert sorted(found) == wanted
