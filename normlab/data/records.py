"""Images that stay in the files of their prepared copy, and are read when they are needed.

The copy is tensorflow-datasets', in array_record files: a feature `image` of raw pixels, which need
no decoding, and a feature `label`. Labels and the hash of all content are kept next to it.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from normlab.data.prepared import check_prepared, damaged, data_root, write_arrays
from normlab.data.table import DataUnavailable, Row

INDEX = "normlab_index.npz"
READ = 512  # examples that are read at once
SPLITS = ("train", "test")


class Records:
    """uint8 [N, H*W*C] on a disk; `records[rows]` reads rows: the training examples, then the test.

    It is pickled as its place, so another process needs the same files.
    """

    def __init__(self, name: str, folder: Path, sizes: tuple[int, int], values: int):
        self.name, self.folder, self.sizes = name, folder, sizes
        self.shape, self.dtype = (sum(sizes), values), np.dtype(np.uint8)
        self.nbytes = sum(sizes) * values
        self.sources: list[Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Records, (self.name, self.folder, self.sizes, self.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.read(rows)[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return self[np.arange(len(self))].astype(dtype or self.dtype, copy=False)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images and labels at these rows. Raises DataUnavailable."""
        images = np.empty((len(rows), self.shape[1]), np.uint8)
        labels = np.empty(len(rows), np.int32)
        try:
            self.sources = self.sources or self._open()
            first = 0
            for source, size in zip(self.sources, self.sizes, strict=True):
                places = np.flatnonzero((first <= rows) & (rows < first + size))
                for start in range(0, len(places), READ):
                    chosen = places[start : start + READ]
                    found = source.__getitems__((rows[chosen] - first).tolist())
                    for place, example in zip(chosen, found, strict=True):
                        images[place], labels[place] = example["image"], example["label"]
                first += size
        except (OSError, ValueError, LookupError, RuntimeError) as e:
            raise e if isinstance(e, DataUnavailable) else damaged(self.name, self.folder, e) from e
        return images, labels

    def _open(self) -> list[Any]:
        import tensorflow_datasets as tfds

        builder: Any = tfds.builder_from_directory(self.folder)
        sources = [builder.as_data_source(split=split) for split in SPLITS]
        for split, source, size in zip(SPLITS, sources, self.sizes, strict=True):
            if len(source) != size:
                what = f"{split} has {len(source)} examples, not {size}"
                raise damaged(self.name, self.folder, what)
        return sources


def open_records(name: str, row: Row, data_dir: str | None) -> tuple[Records, np.ndarray, str]:
    """The images, their labels int32 [N], and the sha256 of the images' bytes followed by those of
    the labels. The first call reads all and keeps what it found. Raises DataUnavailable."""
    check_prepared(name, row, data_dir)
    folder = data_root(data_dir) / row.folder
    sizes = row.train + row.validation, row.test
    records = Records(name, folder, sizes, int(np.prod(row.shape)))
    kept = _read_index(folder / INDEX, len(records))
    if kept is None:
        kept = _make_index(records)
        write_arrays(folder / INDEX, labels=kept[0], sha256=np.array(kept[1]))
    return records, *kept


def _make_index(records: Records) -> tuple[np.ndarray, str]:
    digest, labels = hashlib.sha256(), []
    for start in range(0, len(records), READ):
        rows = np.arange(start, min(start + READ, len(records)))
        images, found = records.read(rows)
        digest.update(images.data)
        labels.append(found)
    every = np.concatenate(labels)
    digest.update(every.data)
    return every, digest.hexdigest()


def _read_index(path: Path, examples: int) -> tuple[np.ndarray, str] | None:
    """What is kept; None without it or where it is damaged (zip has a checksum)."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            labels, sha256 = arrays["labels"], str(arrays["sha256"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    fits = (labels.dtype, labels.shape, len(sha256)) == (np.dtype(np.int32), (examples,), 64)
    return (labels, sha256) if fits else None


def record_builder(
    name: str, row: Row, splits: Callable[[], dict[str, Iterable[tuple[np.ndarray, int]]]]
) -> Any:
    """A builder of tfds for pairs of pixels uint8 [H, W, C] and a label, by split."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    features: Any = tfds.features
    values = int(np.prod(row.shape))
    raw = features.Tensor(shape=(values,), dtype=np.uint8, encoding=features.Encoding.BYTES)
    with registered.skip_registration():

        class Builder(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version(Path(row.folder).name)
            pkg_dir_path = None  # it has no package with facts of its own

            def _info(self) -> Any:
                kinds = features.FeaturesDict({"image": raw, "label": features.Scalar(np.int32)})
                return tfds.core.DatasetInfo(builder=self, description=row.title, features=kinds)

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                del dl_manager
                return {split: self._generate_examples(found) for split, found in splits().items()}

            def _generate_examples(self, found: Any) -> Iterator[tuple[int, dict[str, Any]]]:
                for i, (image, label) in enumerate(found):
                    yield i, {"image": image.reshape(-1), "label": label}

    Builder.name = Path(row.folder).parent.name
    return Builder
