"""Data sets without a network: splits, the synthetic teacher, refusals, idx files."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib
import io
import socket
import struct
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workspace import run_fresh, run_script

from normlab import data
from normlab.data import build, cifar, idx, prepared, text
from normlab.data.split import permutation, split_rows
from normlab.data.vowels import MEAN, SD

ROOT = Path(__file__).resolve().parents[1]


def idx_bytes(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


@pytest.mark.parametrize("name", data.DATASETS)
def test_split_is_disjoint_and_complete(name):
    row = data.DATASETS[name]
    split = split_rows(row, seed=3)
    sizes = tuple(map(len, (split.train, split.validation, split.test)))
    assert sizes == (row.train, row.validation, row.test)
    rows = np.concatenate([split.train, split.validation, split.test])
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(np.sort(rows), np.arange(row.examples))


def test_seed_moves_digits_but_not_an_official_split():
    digits, mnist = data.DATASETS["digits"], data.DATASETS["mnist"]
    assert not np.array_equal(split_rows(digits, 0).test, split_rows(digits, 1).test)
    np.testing.assert_array_equal(split_rows(digits, 1).test, split_rows(digits, 1).test)
    np.testing.assert_array_equal(split_rows(mnist, 0).validation, split_rows(mnist, 1).validation)
    np.testing.assert_array_equal(split_rows(mnist, 0).test, np.arange(60_000, 70_000))


def test_permutation_is_pinned():
    """Old runs can be repeated only while these literals hold."""
    np.testing.assert_array_equal(permutation(8, seed=0), [0, 2, 1, 5, 4, 3, 6, 7])
    np.testing.assert_array_equal(permutation(8, seed=2**64 - 1), [0, 7, 4, 2, 6, 3, 1, 5])


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_outside_the_range_is_refused(seed):
    with pytest.raises(data.DataError, match=rf"seed = {seed} is outside"):
        permutation(8, seed)


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    digits = data.load("digits")
    pixels, labels = load_digits(return_X_y=True)
    assert (digits.images.shape, digits.images.dtype) == ((1797, 64), np.uint8)
    assert digits.labels.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(digits.labels), np.bincount(labels))
    np.testing.assert_array_equal(np.rint(digits.images * (16 / 255)), pixels)
    assert (digits.images.min(), digits.images.max()) == (0, 255)
    assert digits.sha256 == data.load("digits").sha256


def test_synthetic_is_pinned_balanced_and_fast():
    start = time.perf_counter()
    synthetic = data.load("synthetic")
    assert time.perf_counter() - start < 0.5
    assert synthetic.images.shape == (3000, 64)
    np.testing.assert_array_equal(np.bincount(synthetic.labels), np.full(10, 300))
    assert synthetic.sha256 == "ffc93f421735ac9cb77342447b8cd0de59dde3fe7cf0845e4e5fe77a98b1e647"


def test_synthetic_can_be_learned():
    from sklearn.linear_model import LogisticRegression

    synthetic = data.load("synthetic")
    split = synthetic.split(seed=0)
    x, y = synthetic.images / 255 - 0.5, synthetic.labels
    model = LogisticRegression(max_iter=300).fit(x[split.train], y[split.train])
    assert model.score(x[split.test], y[split.test]) > 0.9


def test_japanese_vowels_are_the_official_ones_standardized():
    vowels = data.load("japanese_vowels")
    assert vowels.sha256 == "5d701a59c0b94b7077df131a2d5b36b090dcf1b4e0cb135b91bed156f7cc9f0a"
    assert (vowels.images.dtype, vowels.labels.dtype) == (np.float32, np.int32)
    x, test = vowels.images.reshape(640, 29, 13), [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert np.array_equal(vowels.labels[:270], np.arange(9).repeat(30))
    assert np.array_equal(vowels.labels[270:], np.arange(9).repeat(test))
    valid = x[..., -1] > 0
    lengths = valid.sum(1)
    assert (lengths.min(), lengths.max(), lengths[:270].sum()) == (7, 29, 4274)
    assert np.array_equal(valid, np.arange(29) < lengths[:, None]) and not x[~valid].any()
    seen = x[:270][valid[:270]].astype(np.float64)
    np.testing.assert_allclose(seen[:, :12].mean(0), 0, atol=5e-4)
    np.testing.assert_allclose(seen[:, :12].std(0), 1, atol=1e-3)
    assert np.all(seen[:, 12] == 1)
    first = x[0, 0, :12] * np.array(SD) + MEAN
    expected = [1.860936, -0.207383, 0.261557]
    np.testing.assert_allclose(first[:3], expected, atol=1e-6)
    split = vowels.split(seed=5)
    assert {*split.train, *split.validation} == {*range(270)} and min(split.test) == 270


def test_unknown_name_lists_the_names():
    with pytest.raises(data.UnknownDataset) as refusal:
        data.check("mnits")
    assert all(name in str(refusal.value) for name in data.DATASETS)


@pytest.mark.parametrize("function", [data.check, data.load])
def test_unprepared_is_one_line_with_both_ways_within_a_second(function, tmp_path):
    start = time.perf_counter()
    with pytest.raises(data.DataUnavailable) as refusal:
        function("mnist", str(tmp_path))
    assert time.perf_counter() - start < 1
    message = str(refusal.value)
    assert "\n" not in message
    assert "python scripts/data.py --prepare=mnist --manual_dir=DIR" in message
    assert "--download" in message and f"--data_dir={tmp_path}" in message


def test_default_directory_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert data.data_root() == tmp_path
    assert data.data_root("/elsewhere") == Path("/elsewhere")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert data.data_root() == Path.home() / "tensorflow_datasets"


@pytest.mark.parametrize(
    "content, message",
    [('{"fileFormat": "tfrecord"}', "only TensorFlow reads"), ("{", "is damaged")],
)
def test_unreadable_copy_is_refused(content, message, tmp_path):
    folder = tmp_path / data.DATASETS["mnist"].folder
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(content)
    with pytest.raises(data.DataUnavailable, match=message):
        data.check("mnist", str(tmp_path))


def test_check_needs_neither_jax_nor_tfds(tmp_path):
    code = f"""
import sys
from normlab import data
try:
    data.check('mnist', {str(tmp_path)!r})
except data.DataUnavailable:
    print([m for m in ('jax', 'sklearn', 'tensorflow_datasets') if m in sys.modules])
"""
    assert run_fresh(code) == "[]"


PREPARED = [name for name, row in data.DATASETS.items() if row.prepared and not row.on_disk]
IDX_FILES = [file for pair in idx.FILES.values() for file in pair]


def files_of(name: str) -> list[str]:
    if name == "tiny_shakespeare":
        return [text.FILE]
    return [cifar.ARCHIVES[name].file] if name in cifar.ARCHIVES else IDX_FILES


@pytest.mark.parametrize("name", PREPARED)
def test_missing_and_corrupt_files_are_named_and_leave_nothing(name, tmp_path):
    originals, data_dir, files = tmp_path / "originals", tmp_path / "prepared", files_of(name)
    originals.mkdir()
    place: Any = {"manual_dir": str(originals), "data_dir": str(data_dir)}
    with pytest.raises(
        data.DataError, match=r"(\.gz|\.txt) is missing .* sha256 \w{64}"
    ) as refusal:
        data.prepare(name, **place)
    assert all(file in str(refusal.value) for file in files)
    for file in files:
        (originals / file).write_bytes(b"not the original")
    with pytest.raises(
        data.DataError, match=r"(\.gz|\.txt) .*sha256 found \w{64}, expected \w{64}"
    ):
        data.prepare(name, **place)
    assert not data_dir.exists()


def test_download_without_a_network_fails_at_once(monkeypatch, tmp_path):
    def refuse(address, timeout):
        assert timeout <= 3
        raise OSError("unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(data.DataUnavailable, match="no connection to .* give --manual_dir=DIR"):
        data.prepare("fashion_mnist", download=True, data_dir=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_prepare_refuses_bad_requests(tmp_path):
    with pytest.raises(data.DataError, match="needs no preparing"):
        data.prepare("digits", download=True)
    with pytest.raises(data.DataError, match="either --manual_dir=DIR"):
        data.prepare("mnist", data_dir=str(tmp_path))
    stray = tmp_path / data.DATASETS["mnist"].folder / "stray"
    stray.mkdir(parents=True)
    with pytest.raises(data.DataError, match="move them away"):
        data.prepare("mnist", download=True, data_dir=str(tmp_path))


def test_idx_is_parsed_and_bad_idx_refused():
    values = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(idx.parse_idx(idx_bytes(values), "f"), values)
    good = idx_bytes(values)
    for bad in (b"", good[:9], good[:-1], good + b"\0", b"\1" + good[1:]):
        with pytest.raises(data.DataError, match="^f: "):
            idx.parse_idx(bad, "f")


def tiny_source(folder: Path) -> dict[str, np.ndarray]:
    """Four idx files of a tiny data set: 30 training images of class i % 10, 20 test images."""
    rng = np.random.default_rng(0)
    arrays = {}
    for (images, labels), size in zip(idx.FILES.values(), (30, 20), strict=True):
        arrays[images] = rng.integers(0, 256, (size, 28, 28))
        arrays[labels] = np.arange(size) % 10
    for file, values in arrays.items():
        (folder / file).write_bytes(gzip.compress(idx_bytes(values)))
    return arrays


def trust_files(monkeypatch, name: str, folder: Path, address: str) -> None:
    """Makes a data set one of 30 and 20 examples, with the files in `folder` as its originals."""
    checksums = importlib.import_module("tensorflow_datasets.core.download.checksums")
    row = dataclasses.replace(data.DATASETS[name], train=20, validation=10, test=20)
    monkeypatch.setitem(data.DATASETS, name, row)
    infos = {}
    for path in folder.iterdir():
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        infos[f"{address}/{path.name}"] = checksums.UrlInfo(len(content), sha256, path.name)
    monkeypatch.setattr(checksums, "get_all_url_infos", lambda: dict(infos))
    monkeypatch.setattr(build, "_check_files", lambda *_: None)


@pytest.fixture
def tiny_mnist(monkeypatch, tmp_path):
    """A data set 'mnist' of 50 examples, prepared by tfds from files whose sha256 it is told."""
    arrays = tiny_source(tmp_path)
    trust_files(
        monkeypatch, "mnist", tmp_path, "https://storage.googleapis.com/cvdf-datasets/mnist"
    )
    return arrays, str(tmp_path), str(tmp_path / "prepared")


def test_prepared_copy_holds_the_images_of_the_idx_files(tiny_mnist):
    arrays, manual_dir, data_dir = tiny_mnist
    folder = data.prepare("mnist", manual_dir=manual_dir, data_dir=data_dir)
    assert folder == data.prepare("mnist", manual_dir=manual_dir, data_dir=data_dir)
    assert [path.name for path in Path(data_dir).iterdir()] == ["mnist"]
    dataset = data.load("mnist", data_dir)
    for (images, labels), rows in zip(
        idx.FILES.values(), (slice(0, 30), slice(30, 50)), strict=True
    ):
        wanted = sorted(
            (int(label), image.astype(np.uint8).tobytes())
            for image, label in zip(arrays[images], arrays[labels], strict=True)
        )
        found = zip(dataset.images[rows], dataset.labels[rows], strict=True)
        assert sorted((int(label), image.tobytes()) for image, label in found) == wanted


def test_damaged_cache_is_rebuilt_and_damaged_copy_refused(tiny_mnist):
    _, manual_dir, data_dir = tiny_mnist
    folder = data.prepare("mnist", manual_dir=manual_dir, data_dir=data_dir)
    sha256 = data.load("mnist", data_dir).sha256
    cache = folder / prepared.CACHE
    content = cache.read_bytes()
    for damaged in (b"", content[:1000], content[:500] + b"\xff\x00" + content[502:]):
        cache.write_bytes(damaged)
        assert data.load("mnist", data_dir).sha256 == sha256
        assert cache.read_bytes() == content
    cache.unlink()
    next(folder.glob("mnist-test*")).unlink()
    with pytest.raises(data.DataUnavailable, match="is damaged"):
        data.load("mnist", data_dir)


def test_wrong_checksum_inside_tfds_leaves_nothing(tiny_mnist):
    arrays, manual_dir, data_dir = tiny_mnist
    (Path(manual_dir) / next(iter(arrays))).write_bytes(b"changed after the first look")
    with pytest.raises(data.DataError, match="wrong checksum") as refusal:
        data.prepare("mnist", manual_dir=manual_dir, data_dir=data_dir)
    assert "\n" not in str(refusal.value)
    assert list(Path(data_dir).iterdir()) == []


def tiny_archive(name: str, folder: Path) -> np.ndarray:
    """An archive in the official layout, its files in no order; returns its records, the training
    ones first: label bytes, then one plane of 1,024 bytes for each color."""
    archive = cifar.ARCHIVES[name]
    records = np.random.default_rng(0).integers(0, 256, (50, len(archive.labels) + 3072), np.uint8)
    records[:, : len(archive.labels)] = np.arange(50)[:, None] % (10, 7)[: len(archive.labels)]
    if name == "cifar100":
        records[:, 1] += 50  # fine labels that no coarse one can be
    train = sorted(archive.splits["train"])
    files = dict(zip(train, np.split(records[:30], len(train)), strict=True))
    contents = {file: part.tobytes() for file, part in files.items()}
    contents |= {archive.splits["test"][0]: records[30:].tobytes(), "readme.html": b"<html>"}
    for (label, file), classes in zip(archive.labels.items(), CLASSES[name], strict=True):
        contents[file] = "".join(f"{label}_{k}\n" for k in range(classes)).encode() + b"\n"
    with tarfile.open(folder / archive.file, "w:gz") as tar:
        for file, content in sorted(contents.items(), reverse=True):
            member = tarfile.TarInfo(f"{archive.folder}/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return records


CLASSES = {"cifar10": (10,), "cifar100": (20, 100)}


@pytest.fixture(params=CLASSES)
def tiny_cifar(request, monkeypatch, tmp_path):
    records = tiny_archive(request.param, tmp_path)
    trust_files(monkeypatch, request.param, tmp_path, "https://www.cs.toronto.edu/~kriz")
    return request.param, records, str(tmp_path), str(tmp_path / "prepared")


def test_prepared_copy_holds_the_images_of_the_archive(tiny_cifar):
    """Pixel (row, column, color) of a record is its byte labels + 1024 color + 32 row + column."""
    name, records, manual_dir, data_dir = tiny_cifar
    folder = data.prepare(name, manual_dir=manual_dir, data_dir=data_dir)
    assert [path.name for path in Path(data_dir).iterdir()] == [name]
    dataset = data.load(name, data_dir)
    assert (dataset.images.shape, dataset.images.dtype) == ((50, 3072), np.uint8)
    labels = len(cifar.ARCHIVES[name].labels)
    where = labels + np.arange(32)[:, None] * 32 + np.arange(32)
    where = where[..., None] + 1024 * np.arange(3)  # [row, column, color]
    for rows in (slice(0, 30), slice(30, 50)):
        wanted = sorted((int(r[labels - 1]), r[where].tobytes()) for r in records[rows])
        found = zip(dataset.images[rows], dataset.labels[rows], strict=True)
        assert sorted((int(label), image.tobytes()) for image, label in found) == wanted
    names = (folder / "label.labels.txt").read_text().split()
    assert names == [f"label_{k}" for k in range(dataset.classes)]
    assert data.load(name, data_dir).sha256 == dataset.sha256


def test_tfds_reads_the_prepared_copy_as_its_own(tiny_cifar):
    tfds: Any = importlib.import_module("tensorflow_datasets")
    name, records, manual_dir, data_dir = tiny_cifar
    folder = data.prepare(name, manual_dir=manual_dir, data_dir=data_dir)
    builder = tfds.builder_from_directory(folder)
    assert (builder.name, str(builder.version)) == (name, "3.0.2")
    labels = list(cifar.ARCHIVES[name].labels)
    for split, first in (("train", 0), ("test", 30)):
        for example in builder.as_data_source(split=split):
            record = records[first + int(example["id"].decode().removeprefix(f"{split}_"))]
            assert [example[label] for label in labels] == record[: len(labels)].tolist()
            np.testing.assert_array_equal(example["image"][3, 5], record[len(labels) + 101 :: 1024])
    assert len(builder.as_data_source(split="test")) == 20


def test_incomplete_archives_are_refused(tmp_path):
    with pytest.raises(
        data.DataError, match="^f: 3074 bytes are no whole number of records of 3073"
    ):
        cifar.parse_records(bytes(3074), 1, "f")
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(data.DataError, match="holds no cifar-10-batches-bin/batches.meta.txt"):
        cifar.read("cifar10", {path.name: path})


@pytest.mark.parametrize(
    "flags, code, message",
    [
        (["--bogus"], 2, "Unknown command line flag 'bogus'"),
        (["mnist"], 2, "unexpected argument 'mnist'"),
        (["--download"], 2, "need --prepare=NAME"),
        (["--prepare=mnits", "--download"], 2, "choose one of"),
    ],
)
def test_script_refuses_bad_usage_in_one_line(flags, code, message):
    done = run_script("data", *flags)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_script_helps_and_shows_tracebacks_only_on_request():
    done = run_script("data", "--help")
    assert done.returncode == 0 and "Examples:" in done.stdout
    assert "Traceback" in run_script("data", "--prepare=mnits", "--debug").stderr


def test_chance_and_its_loss_are_those_of_the_shares_of_the_labels():
    labels = np.array([[2, 0, 2, 2], [1, 2, 1, 0]], np.int32)
    found = data.Dataset("digits", labels, labels, (4, 1, 1), 4, "")
    assert found.chance == 0.5
    assert found.chance_loss == pytest.approx(
        0.5 * np.log(2) + 0.5 * np.log(4)
    )  # class 3 is absent
