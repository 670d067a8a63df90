"""Images that stay in array_record files: prepared, read by row, refused when damaged, streamed."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_runs import small

from normlab import data
from normlab.data import DATASETS, imagenet
from normlab.data.records import INDEX, Records
from normlab.runs.config import ConfigError, resolve
from normlab.training.population import Population

pytestmark = pytest.mark.usefixtures("restored_datasets")


def shrink(name: str, train: int, validation: int, test: int) -> None:
    row = DATASETS[name]
    DATASETS[name] = dataclasses.replace(row, train=train, validation=validation, test=test)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> str:
    """A made-up data set of 50 examples."""
    row, folder = DATASETS["imagenet_like"], str(tmp_path_factory.mktemp("prepared"))
    shrink("imagenet_like", 30, 10, 10)
    data.prepare("imagenet_like", data_dir=folder)
    DATASETS["imagenet_like"] = row
    return folder


@pytest.fixture
def like(prepared) -> data.Dataset:
    shrink("imagenet_like", 30, 10, 10)
    return data.load("imagenet_like", prepared)


def test_made_up_images_are_read_by_row(like, prepared):
    """In any order, from both splits, as often as asked for."""
    assert isinstance(like.images, Records) and len(like.images) == 50
    assert (like.images.shape, like.images.nbytes) == ((50, 150_528), 50 * 150_528)
    made = imagenet.make_like()
    for split, rows in (("train", range(40)), ("test", range(40, 50))):
        expected = sorted((label, image.tobytes()) for image, label in made[split])
        images = like.images[np.array(rows)]
        found = zip(like.labels[rows].tolist(), map(bytes, images), strict=True)
        assert sorted(found) == expected
    whole = np.asarray(like.images)
    rows = np.array([49, 3, 3, 40, 39, 0])
    np.testing.assert_array_equal(like.images[rows], whole[rows])
    assert like.images[rows[:0]].shape == (0, 150_528)
    again = pickle.loads(pickle.dumps(like.images))  # as a cluster sends it: without the images
    assert len(pickle.dumps(again)) < 1000
    np.testing.assert_array_equal(again[rows], whole[rows])


def test_labels_and_hash_are_kept_and_made_again_where_damaged(like, prepared, monkeypatch):
    content = np.asarray(like.images).tobytes() + like.labels.tobytes()
    assert like.sha256 == hashlib.sha256(content).hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(Records, "read", None)  # no image is read when the data set is opened
        assert data.load("imagenet_like", prepared).sha256 == like.sha256
    index = Path(prepared) / "imagenet_like" / "1.0.0" / INDEX
    content = index.read_bytes()
    for damaged in (b"", content[:200]):
        index.write_bytes(damaged)
        found = data.load("imagenet_like", prepared)
        assert (found.sha256, found.labels.tolist()) == (like.sha256, like.labels.tolist())
        assert index.stat().st_size == len(content)


def test_a_damaged_copy_is_refused_in_one_line(like, prepared, tmp_path):
    folder = tmp_path / "imagenet_like" / "1.0.0"
    folder.mkdir(parents=True)
    for file in (Path(prepared) / "imagenet_like" / "1.0.0").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (shard,) = folder.glob("*test*")
    shard.write_bytes(shard.read_bytes()[:100_000])
    with pytest.raises(data.DataUnavailable, match="is damaged .*; remove that folder") as refusal:
        data.load("imagenet_like", str(tmp_path)).images[np.array([45])]
    assert "\n" not in str(refusal.value)
    shrink("imagenet_like", 31, 10, 10)
    with pytest.raises(data.DataUnavailable, match="train has 40 examples, not 41"):
        data.load("imagenet_like", prepared)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("imagenet_like", {"download": True}, "is prepared without --download; give none"),
        ("imagenet_like", {"manual_dir": "x"}, "is prepared without --download; give none"),
        ("imagenet", {"download": True}, "give --manual_dir=DIR, which holds ILSVRC2012_img_tr"),
        ("imagenet", {}, "give --manual_dir=DIR, which holds ILSVRC2012_img_train.tar and"),
        ("imagenet", {"manual_dir": "/no such"}, "img_train.tar is missing; --manual_dir must"),
    ],
)
def test_bad_requests_write_nothing(name, options, message, tmp_path):
    with pytest.raises(data.DataError, match=message):
        data.prepare(name, data_dir=str(tmp_path), **options)
    assert not list(tmp_path.iterdir())


def jpeg(color: tuple[int, int, int], size: tuple[int, int], kind: str = "JPEG") -> bytes:
    """An image whose outer quarters are white."""
    image = Image.new("RGB", size, (255, 255, 255))
    width, height = size
    image.paste(color, (width // 4, height // 4, width - width // 4, height - height // 4))
    file = io.BytesIO()
    (image.convert("CMYK") if kind == "CMYK" else image).save(file, kind.replace("CMYK", "JPEG"))
    return file.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def official(folder: Path) -> None:
    """The two archives in the official layout: 3 + 2 training images, 4 validation images."""
    with tarfile.open(folder / imagenet.FILES["train"], "w") as outer:
        for wnid, kinds in (("n01443537", ("JPEG", "CMYK", "PNG")), ("n01440764", ("JPEG",) * 2)):
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode="w") as inner:
                for i, kind in enumerate(kinds):
                    add(
                        inner, f"{wnid}_{i}.JPEG", jpeg((40 * i, 0, 200), (300 + 90 * i, 280), kind)
                    )
            add(outer, f"{wnid}.tar", file.getvalue())
    with tarfile.open(folder / imagenet.FILES["test"], "w") as tar:
        for i in (2, 0, 3, 1):  # the labels follow the names
            add(tar, f"ILSVRC2012_val_{i + 1:08d}.JPEG", jpeg((0, 60 * i, 0), (100, 200)))


def test_imagenet_is_read_from_its_archives(tmp_path):
    official(tmp_path)
    shrink("imagenet", 4, 1, 4)
    folder = str(tmp_path / "prepared")
    data.prepare("imagenet", manual_dir=str(tmp_path), data_dir=folder)
    found = data.load("imagenet", folder)
    images = np.asarray(found.images).reshape(-1, 224, 224, 3)
    assert sorted(found.labels[:5]) == [0, 0, 1, 1, 1]
    numbers, order = imagenet.class_names()
    assert (len(numbers), len(order), numbers["n01440764"]) == (1000, 50_000, 0)
    shades = [round(int(image[112, 112, 1]) / 60) for image in images[5:]]
    assert sorted(shades) == [0, 1, 2, 3]
    assert [numbers[order[shade]] for shade in shades] == found.labels[5:].tolist()
    # A square of 256, then its middle: of the outer quarter, 64 pixels, 48 are left.
    tall = images[5:][shades.index(0)]
    assert np.all(tall[:, [10, 40, 215]] > 240) and np.all(tall[:, 60:160] < 20)
    assert np.all(tall[[5, 218]][:, 100] < 20)  # 128 of 512 pixels are above the 224 that are kept


def test_a_network_with_time_is_refused(prepared):
    with pytest.raises(ConfigError, match="imagenet_like stays on the disk"):
        resolve({"data.name": "imagenet_like", "model.name": "rnn"}, prepared)


def test_a_stream_from_the_disk_gives_the_bits_of_images_in_memory(like):
    net: dict[str, Any] = {"model.widths": (4,), "data.name": "imagenet_like"}
    net |= {"data.batch": 2, "train.steps": 4, "host.chunk": 2}
    net |= {"eval.curve_examples": 4, "eval.stats_examples": 4, "eval.batch": 4}
    found = {}
    for stream in ("auto", "off"):
        population = Population([small(net | {"data.stream": stream, "norm.name": "batch"})], like)
        population.train(lambda progress: None)
        found[stream] = repr(population.outcomes)
        assert (population.stream is not None) == (stream == "auto")
    assert found["auto"] == found["off"]
