"""MNIST and Fashion-MNIST: from the four original idx files to a tensorflow-datasets copy.

The stock tfds builders need TensorFlow to read gzip files and to write PNGs. This one keeps their
name, version, features, addresses and checksums, and does both without it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import socket
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from normlab.data.prepared import check_prepared, data_root
from normlab.data.table import DATASETS, DataError, DataUnavailable, row_of

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
UNSIGNED_BYTE = 8  # idx type code
CONNECT_SECONDS = 3.0  # tfds itself retries for 200 s without a network


def prepare(
    name: str,
    manual_dir: str | None = None,
    download: bool = False,
    data_dir: str | None = None,
) -> Path:
    """Builds the tfds copy of a data set once and returns its folder; 10 s, or nothing if present.

    manual_dir: holds the four original files; otherwise download=True fetches them.
    Every file's sha256 must be the one that tfds records. The copy appears by one rename.
    Raises DataError (bad request, wrong file), DataUnavailable (no network), OSError (disk).
    """
    _check_request(name, manual_dir, download)
    folder = data_root(data_dir) / DATASETS[name].folder
    if (folder / "dataset_info.json").exists():
        check_prepared(name, DATASETS[name], data_dir)
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{name}: {folder} holds no prepared copy but other files; move them away")
    builder_class = _builder_class(name)
    if manual_dir:
        _check_files(name, Path(manual_dir).expanduser(), builder_class.url_checksums)
    else:
        _check_network(name, builder_class.URL)
    data_root(data_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data_root(data_dir), prefix=".normlab-") as scratch:
        built = _build(name, builder_class, Path(scratch), manual_dir)
        _move(built, folder)
    return folder


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


def _check_request(name: str, manual_dir: str | None, download: bool) -> None:
    if not row_of(name).prepared:
        raise DataError(f"{name}: needs no preparing; it comes with the libraries")
    if bool(manual_dir) == download:
        raise DataError(
            f"{name}: give either --manual_dir=DIR, which holds the four original files, or"
            f" --download"
        )


def _check_files(name: str, manual_dir: Path, checksums: dict[str, str]) -> None:
    """Refuses files that are missing or wrong before anything is written."""
    for file, expected in checksums.items():
        path = manual_dir / file
        if not path.is_file():
            raise DataError(
                f"{name}: {path} is missing (found: no file; expected sha256 {expected});"
                f" --manual_dir must hold {', '.join(checksums)}"
            )
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            raise DataError(
                f"{name}: {path} is not the original file: sha256 found {found}, expected"
                f" {expected}; fetch it again"
            )


def _check_network(name: str, url: str) -> None:
    """Raises DataUnavailable unless the host of url, or the proxy for it, takes a connection."""
    scheme = urllib.parse.urlsplit(url).scheme
    target = urllib.parse.urlsplit(urllib.request.getproxies().get(scheme, url))
    port = target.port or {"http": 80, "https": 443}[target.scheme]
    try:
        socket.create_connection((target.hostname, port), CONNECT_SECONDS).close()
    except OSError as e:
        raise DataUnavailable(
            f"{name}: no connection to {target.hostname}:{port} in {CONNECT_SECONDS:.0f} s ({e});"
            f" fetch the four files elsewhere and give --manual_dir=DIR, or use the data set digits"
        ) from e


def _build(name: str, builder_class: Any, scratch: Path, manual_dir: str | None) -> Path:
    """Runs tfds below the scratch folder and returns the finished copy."""
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    config = tfds.download.DownloadConfig(
        manual_dir=manual_dir and Path(manual_dir).expanduser(),
        try_download_gcs=False,
        force_checksums_validation=True,
    )
    builder = builder_class(data_dir=scratch, file_format="array_record")
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # tfds announces the scratch folder
            builder.download_and_prepare(download_dir=scratch / "downloads", download_config=config)
    except NonMatchingChecksumError as e:
        raise DataError(f"{name}: {' '.join(str(e).split())}") from e
    except requests.exceptions.RequestException as e:
        raise DataUnavailable(f"{name}: the download failed: {' '.join(str(e).split())}") from e
    return Path(builder.data_dir)


def _move(built: Path, folder: Path) -> None:
    folder.parent.mkdir(exist_ok=True)
    try:
        os.replace(built, folder)
    except OSError:
        # another process may have finished the same copy meanwhile
        if not (folder / "dataset_info.json").exists():
            raise


def _builder_class(name: str) -> Any:
    """The stock tfds builder of this data set, reading and encoding without TensorFlow."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered
    from tensorflow_datasets.image_classification import mnist

    stock: Any = {"mnist": mnist.MNIST, "fashion_mnist": mnist.FashionMNIST}[name]
    with registered.skip_registration():

        class IdxBuilder(stock):
            VERSION = tfds.core.Version(Path(DATASETS[name].folder).name)
            url_checksums = {info.filename: info.checksum for info in stock.url_infos.values()}

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                urls = {
                    split: [urllib.parse.urljoin(stock.URL, file) for file in files]
                    for split, files in FILES.items()
                }
                paths = dl_manager.download(urls)
                return {split: _examples(*pair) for split, pair in paths.items()}

    IdxBuilder.name = name
    return IdxBuilder


def _examples(images: Path, labels: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(key, example) pairs as tfds wants them; the PNG bytes are stored as they are."""
    from PIL import Image

    pixels = parse_idx(gzip.decompress(images.read_bytes()), str(images))
    classes = parse_idx(gzip.decompress(labels.read_bytes()), str(labels))
    for i, label in enumerate(classes):
        png = io.BytesIO()
        Image.fromarray(pixels[i]).save(png, "PNG")
        yield i, {"image": png.getvalue(), "label": int(label)}
