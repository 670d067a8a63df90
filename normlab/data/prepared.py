"""Reading a copy that tensorflow-datasets prepared, without TensorFlow, through one cache file."""

from __future__ import annotations

import io
import json
import os
import shlex
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from normlab.data.table import DataUnavailable, Row
from normlab.data.text import windows
from normlab.lookup import local_path
from normlab.shipped import as_called

CACHE = "normlab_uint8.npz"
CHUNK = 4096  # examples decoded at once: 2.5 times faster than one by one


def data_root(data_dir: str | None = None) -> Path:
    """The directory of all prepared data sets: data_dir, $TFDS_DATA_DIR or the default of tfds.

    Raises DataUnavailable for an address, and where there is no home directory.
    """
    try:
        return Path(
            local_path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
        )
    except ValueError as e:
        raise DataUnavailable(f"data sets: {e}, --data_dir=DIR") from e


def check_prepared(name: str, row: Row, data_dir: str | None) -> None:
    """Raises DataUnavailable unless the folder looks like a copy that can be read."""
    folder = data_root(data_dir) / row.folder
    try:
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        file_format = info["fileFormat"]
    except (FileNotFoundError, NotADirectoryError):
        raise DataUnavailable(_how_to_prepare(name, row, folder, data_dir)) from None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise damaged(name, folder, e) from e
    if file_format != "array_record":
        raise DataUnavailable(
            f"{name}: {folder} holds {file_format} files, which only TensorFlow reads; array_record"
            f" is needed: prepare it in another place with --data_dir"
        )


def read_prepared(name: str, row: Row, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H*W*C] and labels int32 [N]: the official training examples, then the test.
    Of text, windows of tokens [N, T] and the token after each.

    Within a split the order is that of tfds, a fixed shuffle. The first call decodes PNGs for some
    seconds and leaves a cache in their folder. Raises DataUnavailable.
    """
    check_prepared(name, row, data_dir)
    folder = data_root(data_dir) / row.folder
    cached = _read_cache(folder / CACHE, row)
    if cached is not None:
        return cached
    read = _read_text if row.kind == "text" else _decode
    images, labels = read(name, row, folder)
    write_arrays(folder / CACHE, images=images, labels=labels)
    return images, labels


def _how_to_prepare(name: str, row: Row, folder: Path, data_dir: str | None) -> str:
    place = f" --data_dir={shlex.quote(data_dir)}" if data_dir else ""
    command = as_called(f"python scripts/data.py --prepare={name}")
    if row.on_disk:
        given, what = (
            (" --manual_dir=DIR", f" (DIR holds {row.originals})") if row.originals else ("", "")
        )
        return (
            f"{name}: no prepared copy in {folder}; prepare it once with `{command}{given}{place}`"
            f"{what}; the data set digits needs nothing"
        )
    return (
        f"{name}: no prepared copy in {folder}; prepare it once with `{command} --manual_dir=DIR"
        f"{place}` (DIR holds {row.originals}) or, with a network, `{command} --download"
        f"{place}`; the data set digits needs neither"
    )


def damaged(name: str, folder: Path, cause: Exception | str) -> DataUnavailable:
    """The error for a copy that cannot be read."""
    what = " ".join(str(cause).split())[:200]
    return DataUnavailable(
        f"{name}: the copy in {folder} is damaged ({what}); remove that folder and prepare it again"
    )


def _decode(name: str, row: Row, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds

    raw = {"image": tfds.decode.SkipDecoding()}
    images = np.empty((row.examples, int(np.prod(row.shape))), np.uint8)
    labels = np.empty(row.examples, np.int32)
    sizes = {"train": row.train + row.validation, "test": row.test}
    start = 0
    try:
        builder: Any = tfds.builder_from_directory(folder)
        for split, size in sizes.items():
            source = builder.as_data_source(split=split, decoders=raw)
            if len(source) != size:
                raise damaged(name, folder, f"{split} has {len(source)} examples, not {size}")
            _fill(source, images[start : start + size], labels[start : start + size])
            start += size
    except (OSError, ValueError, LookupError, RuntimeError) as e:
        raise e if isinstance(e, DataUnavailable) else damaged(name, folder, e) from e
    return images, labels


def _read_text(name: str, row: Row, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds

    texts = []
    try:
        builder: Any = tfds.builder_from_directory(folder)
        for split in ("train", "validation", "test"):
            (example,) = builder.as_data_source(split=split)
            texts.append(example["text"].decode())
    except (OSError, ValueError, LookupError, RuntimeError) as e:
        raise damaged(name, folder, e) from e
    images, labels = windows(texts, row.shape[0])
    if (len(images), labels.max() + 1) != (row.examples, row.classes):
        raise damaged(name, folder, f"{len(images)} windows of {labels.max() + 1} characters")
    return images, labels


def _fill(source: Any, images: np.ndarray, labels: np.ndarray) -> None:
    from PIL import Image

    for start in range(0, len(labels), CHUNK):
        rows = range(start, min(start + CHUNK, len(labels)))
        for i, example in zip(rows, source.__getitems__(list(rows)), strict=True):
            images[i] = np.asarray(Image.open(io.BytesIO(example["image"]))).ravel()
            labels[i] = example["label"]


def _read_cache(path: Path, row: Row) -> tuple[np.ndarray, np.ndarray] | None:
    """The cached arrays; None without a cache or with one that is damaged (zip has a checksum)."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    found = (images.dtype, images.shape, labels.dtype, labels.shape)
    n = row.examples
    shape, whole = (n, int(np.prod(row.shape))), np.dtype(np.int32)
    wanted = (np.dtype(np.uint8), shape, whole, (n,))
    if row.kind == "text":
        wanted = (whole, shape, whole, shape)
    return (images, labels) if found == wanted else None


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes an .npz file into a prepared copy."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".normlab-") as scratch:
            part = Path(scratch) / path.name
            np.savez(part, allow_pickle=False, **arrays)
            os.replace(part, path)
    except OSError:
        return  # a copy on a read-only or full disk is still usable, only slower to open
