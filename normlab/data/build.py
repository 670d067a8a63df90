"""Building the tensorflow-datasets copy of a data set from its official files, once.

The stock tfds builders need TensorFlow to read their files and to write PNGs. Those made here keep
their name, version, features, addresses and checksums, and do both without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import socket
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from normlab.data import cifar, idx, imagenet, text
from normlab.data.prepared import check_prepared, data_root
from normlab.data.records import record_builder
from normlab.data.table import DATASETS, DataError, DataUnavailable, row_of

SOURCES: dict[str, Any] = {
    "mnist": idx,
    "fashion_mnist": idx,
    "cifar10": cifar,
    "cifar100": cifar,
    "tiny_shakespeare": text,
}
"""The module that reads each data set's official files: read(name, paths by file name) -> class
names of each label, examples of each split."""
CONNECT_SECONDS = 3.0  # tfds itself retries for 200 s without a network


def prepare(
    name: str,
    manual_dir: str | None = None,
    download: bool = False,
    data_dir: str | None = None,
) -> Path:
    """Builds the tfds copy of a data set once and returns its folder; 20 s, or nothing if present.

    manual_dir: holds the official files; otherwise download=True fetches them.
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
    builder_class = _builder_class(name, Path(manual_dir).expanduser() if manual_dir else None)
    if DATASETS[name].on_disk:
        _check_present(name, Path(manual_dir or ".").expanduser())
    elif manual_dir:
        _check_files(name, Path(manual_dir).expanduser(), builder_class.url_checksums)
    else:
        _check_network(name, next(iter(builder_class.urls.values())))
    data_root(data_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data_root(data_dir), prefix=".normlab-") as scratch:
        built = _build(name, builder_class, Path(scratch), manual_dir)
        _move(built, folder)
    return folder


def _check_request(name: str, manual_dir: str | None, download: bool) -> None:
    row = row_of(name)
    if not row.prepared:
        raise DataError(f"{name}: needs no preparing; it comes with the libraries")
    if row.on_disk and (download or bool(manual_dir) != bool(row.originals)):
        way = "--manual_dir=DIR, which holds " + row.originals if row.originals else "none"
        raise DataError(f"{name}: is prepared without --download; give {way}")
    if row.on_disk:
        return
    if bool(manual_dir) == download:
        raise DataError(
            f"{name}: give either --manual_dir=DIR, which holds {row.originals}, or --download"
        )


def _check_present(name: str, manual_dir: Path) -> None:
    """Refuses archives that are missing, for which tfds has no checksums."""
    for file in imagenet.FILES.values() if DATASETS[name].originals else ():
        if not (manual_dir / file).is_file():
            raise DataError(
                f"{name}: {manual_dir / file} is missing; --manual_dir must hold"
                f" {DATASETS[name].originals}"
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
        with path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
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
            f" fetch {row_of(name).originals} elsewhere and give --manual_dir=DIR, or use the data"
            f" set digits"
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


def _builder_class(name: str, manual_dir: Path | None) -> Any:
    """The stock tfds builder of this data set, reading and encoding without TensorFlow; or one of
    our own, of images that stay on the disk."""
    if (row := DATASETS[name]).on_disk:
        return record_builder(name, row, lambda: imagenet.splits_of(name, manual_dir))
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    source = SOURCES[name]
    stock: Any = tfds.builder_cls(name)
    with registered.skip_registration():

        class Builder(stock):
            VERSION = tfds.core.Version(Path(DATASETS[name].folder).name)
            urls = {info.filename: url for url, info in stock.url_infos.items()}
            url_checksums = {info.filename: info.checksum for info in stock.url_infos.values()}

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                paths = dl_manager.download(self.urls)
                names, splits = source.read(name, paths)
                for label, classes in names.items():
                    self.info.features[label].names = classes
                return {split: _encoded(examples) for split, examples in splits.items()}

    Builder.name = name
    if stock.pkg_dir_path:  # a package of its own, which holds its facts and checksums
        Builder.pkg_dir_path, Builder.url_infos = stock.pkg_dir_path, stock.url_infos
    return Builder


def _encoded(examples: Iterable[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(key, example) pairs as tfds wants them; the PNG bytes are stored as they are."""
    from PIL import Image

    for i, example in enumerate(examples):
        if "image" not in example:
            yield i, example
            continue
        png = io.BytesIO()
        Image.fromarray(example["image"]).save(png, "PNG")
        yield i, example | {"image": png.getvalue()}
