"""Prepare a data set once on this machine; scripts/list.py data lists all of them.

Examples:
  python scripts/data.py --prepare=mnist --manual_dir=DIR    # DIR holds the four original files
  python scripts/data.py --prepare=cifar10 --manual_dir=DIR  # ... cifar-10-binary.tar.gz
  python scripts/data.py --prepare=fashion_mnist --download  # fetches what it needs
  python scripts/data.py --prepare=mnist --download --data_dir=/big/disk
  python scripts/data.py --prepare=imagenet --manual_dir=DIR # ... the two archives; takes 200 GB
  python scripts/data.py --prepare=imagenet_like             # made-up images of that shape

Prepared copies are tensorflow-datasets', in $TFDS_DATA_DIR or ~/tensorflow_datasets unless
--data_dir says otherwise. digits, synthetic and japanese_vowels need no preparing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # normlab need not be installed

from absl import flags

from normlab import cli, data
from normlab.runs.errors import StorageError

flags.DEFINE_string("prepare", None, "Data set to prepare.")
cli.define_path("manual_dir", None, "Directory that holds the original files.")
flags.DEFINE_bool("download", False, "Fetch the original files.")
cli.define_data_dir()
FLAGS = flags.FLAGS


def prepare(name: str, manual_dir: str | None, download: bool, data_dir: str | None) -> None:
    """Prepare a data set, then read it back, which also writes the cache."""
    start = time.perf_counter()
    folder = data.prepare(name, manual_dir, download, data_dir)
    print(f"{name}: prepared in {folder} ({time.perf_counter() - start:.1f} s)", flush=True)
    start = time.perf_counter()
    dataset = data.load(name, data_dir)
    seconds = time.perf_counter() - start
    print(f"{name}: read back {len(dataset.labels):,} examples ({seconds:.1f} s)")
    print(f"{name}: sha256 {dataset.sha256}")


def main() -> int:
    if not FLAGS.prepare:
        message = "--manual_dir and --download need --prepare=NAME (see scripts/list.py data)"
        raise data.DataError(message)
    try:
        prepare(FLAGS.prepare, FLAGS.manual_dir, FLAGS.download, FLAGS.data_dir)
    except OSError as error:
        message = f"{error}; free some space or choose another --data_dir"
        raise StorageError(message) from error
    return cli.OK


if __name__ == "__main__":
    cli.start(main)
